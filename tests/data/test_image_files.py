"""Image files of a part dataset: what is refused at which level of verification, and which size counts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from detectron2.data.detection_utils import read_image
from part_dataset_files import valid_document, write_dataset
from PIL import Image

from partbox.data import PartDatasetError, load_part_dataset
from partbox.data.image_files import ImageFile, first_problem


def cut(path: Path, share: float = 0.6) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def flip_pixel_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 20] ^= 0xFF
    path.write_bytes(bytes(data))


def turn(path: Path) -> None:
    """Give a JPEG the EXIF orientation "turned by 90 degrees"."""
    with Image.open(path) as image:
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(path, exif=exif)


def link_out(path: Path) -> None:
    outside = path.parents[2] / "outside.png"
    path.rename(outside)
    path.symlink_to(outside)


def link_folder_out(path: Path) -> None:
    outside = path.parents[2] / "outside"
    path.parent.rename(outside)
    path.parent.symlink_to(outside)


IMAGE_REFUSALS = [
    # name, file, what happens to it, words, the levels that see it
    ("missing", "dogs/a.png", Path.unlink, "does not exist", "decode header none"),
    ("is_folder", "dogs/a.png", lambda path: (path.unlink(), path.mkdir()), "regular file", "decode header none"),
    ("is_pipe", "dogs/a.png", lambda path: (path.unlink(), os.mkfifo(path)), "regular file", "decode header none"),
    ("empty", "dogs/a.png", lambda path: path.write_bytes(b""), "is empty", "decode header none"),
    ("link_out", "dogs/a.png", link_out, "outside the image root", "decode header none"),
    ("folder_link_out", "dogs/a.png", link_folder_out, "outside the image root", "decode header none"),
    ("link_loop", "c.png", lambda path: (path.unlink(), path.symlink_to(path)), "cannot be read", "decode header none"),
    ("no_image", "dogs/a.png", lambda path: path.write_text("hello"), "header is damaged", "decode header"),
    ("other_size", "dogs/a.png", lambda path: Image.new("RGB", (16, 24)).save(path), "is 16 x 24", "decode header"),
    ("turned", "dogs/b.jpg", turn, "is 24 x 16 pixels after its EXIF orientation 6", "decode header"),
    ("truncated_png", "dogs/a.png", cut, "truncated", "decode header"),
    ("truncated_jpeg", "dogs/b.jpg", lambda path: cut(path, 0.9), "truncated", "decode header"),
    ("truncated_by_two", "dogs/b.jpg", lambda path: path.write_bytes(path.read_bytes()[:-2]), "end", "decode header"),
    ("corrupt_png", "dogs/a.png", flip_pixel_byte, "cannot be decoded", "decode"),
    ("16_bit", "e.png", lambda path: Image.new("I;16", (9, 7)).save(path), "do not fit 8 bits", "decode header"),
    ("gif", "e.png", lambda path: Image.new("L", (9, 7)).save(path, "GIF"), "is none of JPEG", "decode header"),
]


@pytest.mark.parametrize("level", ["decode", "header", "none"])
@pytest.mark.parametrize(
    ("name", "damage", "words", "levels"), [pytest.param(*refusal[1:], id=refusal[0]) for refusal in IMAGE_REFUSALS]
)
def test_refuses_image(
    tmp_path: Path, name: str, damage: Callable[[Path], object], words: str, levels: str, level: Any
) -> None:
    json_file, root = write_dataset(tmp_path, valid_document())
    damage(root / name)
    if level not in levels.split():
        assert len(load_part_dataset(json_file, root, verify_images=level).records) == 6
        return
    with pytest.raises(PartDatasetError) as caught:
        load_part_dataset(json_file, root, verify_images=level)
    assert caught.value.file == str(json_file)
    assert f'file_name "{name}"' in caught.value.entry
    assert words in caught.value.reason
    assert str(root / name) in caught.value.reason


def test_size_counts_after_orientation(tmp_path: Path) -> None:
    document = valid_document()
    json_file, root = write_dataset(tmp_path, document)
    turn(root / "dogs/b.jpg")
    document["images"][1].update(width=24, height=16)
    document["annotations"][3]["bbox"] = [8, 9, 8, 7]
    json_file.write_text(json.dumps(document))
    assert load_part_dataset(json_file, root).records[1]["width"] == 24


@pytest.mark.parametrize("level", ["decode", "header"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tiff"])
def test_size_is_what_detectron2_reads(tmp_path: Path, ending: str, orientation: int, level: Any) -> None:
    path = tmp_path / f"a.{ending}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (12, 8), "red").save(path, exif=exif)
    height, width = read_image(str(path), "RGB").shape[:2]
    assert first_problem([ImageFile(path.name, width, height)], tmp_path, level) is None
    assert first_problem([ImageFile(path.name, height, width)], tmp_path, level) is not None


def test_end_of_thumbnail_is_not_the_end(tmp_path: Path) -> None:
    json_file, root = write_dataset(tmp_path, valid_document())
    data = (root / "dogs/b.jpg").read_bytes()
    comment = b"\xff\xd8thumbnail\xff\xd9"
    segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
    (root / "dogs/b.jpg").write_bytes(data[:2] + segment + data[2:])
    load_part_dataset(json_file, root)
    (root / "dogs/b.jpg").write_bytes(data[:2] + segment + data[2:] + b"\0" * 100 + b"trailer of a camera" * 9)
    load_part_dataset(json_file, root)
    (root / "dogs/b.jpg").write_bytes(data[:2] + segment + data[2:-2])
    with pytest.raises(PartDatasetError, match="its end is missing"):
        load_part_dataset(json_file, root, verify_images="header")


def test_image_root_may_be_a_link(tmp_path: Path) -> None:
    json_file, root = write_dataset(tmp_path, valid_document())
    (tmp_path / "link").symlink_to(root)
    (root / "inner").symlink_to(root / "dogs")
    document = valid_document()
    document["images"][0]["file_name"] = "inner/a.png"
    json_file.write_text(json.dumps(document))
    dataset = load_part_dataset(json_file, tmp_path / "link")
    assert dataset.records[0]["file_name"] == str(tmp_path / "link/inner/a.png")


def test_first_bad_image_is_named(tmp_path: Path) -> None:
    document = valid_document()
    document["images"] += [
        {"id": 100 + i, "file_name": f"more/{i}.png", "width": 2, "height": 2, "class_id": 5} for i in range(700)
    ]
    json_file, root = write_dataset(tmp_path, document)
    for i in (650, 300, 420):
        (root / f"more/{i}.png").write_bytes(b"x")
    with pytest.raises(PartDatasetError, match=r"images\[306\]"):
        load_part_dataset(json_file, root)
