"""Writes example data sets: images and part-dataset files, the same bytes for the same parameters."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.random import PCG64, Generator, SeedSequence
from PIL import Image
from pycocotools import mask as mask_util

from partbox.data.example.anatomy import CLASSES, category_ids, category_records, class_records
from partbox.data.example.guide import example_guide
from partbox.data.example.render import ExampleImage, render_example
from partbox.data.example.style import ExampleStyle
from partbox.data.part_json_write import write_part_dataset
from partbox.files import write_text
from partbox.folder_readme import README
from partbox.progress import track

GENERATOR_VERSION = 1
"""Raised whenever the same parameters give other images than before."""

DEFAULT_NUM_IMAGES: Mapping[str, int] = {"train": 1320, "val": 220, "test": 440}
STAMP_NAME = "example.json"
_PROGRESS_FROM = 200
_PNG_COMPRESSION = 6
_SPLIT_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


class _Task(NamedTuple):
    """One image to be made."""

    split: str
    number: int


def generate_example_dataset(
    root: str | Path,
    *,
    seed: int = 0,
    num_images: Mapping[str, int] = DEFAULT_NUM_IMAGES,
    size: tuple[int, int] = (64, 64),
    style: ExampleStyle | None = None,
    workers: int = 0,
) -> dict[str, Path]:
    """Make an example data set: images of articulated objects, the 11 classes and 40 parts of PartImageNet.

    Writes ``<root>/images/<split>/<class>_<index>.png`` and ``<root>/<split>.json``, whole or not at all: the folder
    appears under its name when it is complete. A folder that was made with the same parameters is left as it is.

    An image depends on (seed, split, index), size and style only, so a larger data set begins with the images of a
    smaller one. Every run of 11 images holds each class once, in random order.

    Args:
        root: the folder of the data set; absent, empty, or made by an earlier call.
        seed: not negative. Another seed gives other images.
        num_images: how many images each split has; the keys become file and folder names.
        size: (height, width) of the images in pixels.
        style: how hard the images are.
        workers: processes to spread the work over; 0 works in this one. The result is the same.

    Returns:
        The part-dataset file of each split. The image root of all of them is ``<root>/images``.

    Raises:
        FileExistsError: if ``root`` holds something else, or example data of other parameters.
    """
    style = style or ExampleStyle()
    _check_arguments(seed, num_images, size, workers)
    root = Path(os.path.abspath(root))
    stamp = _stamp(seed, num_images, size, style)
    files = {split: root / f"{split}.json" for split in num_images}
    if _is_made(root, stamp):
        return files
    with _folder_made_whole(root, stamp) as folder:
        tasks = [_Task(split, number) for split, count in num_images.items() for number in range(count)]
        for split in num_images:
            (folder / "images" / split).mkdir(parents=True)
        make = partial(_make_image, folder=folder / "images", seed=seed, size=size, style=style)
        entries: dict[str, list[tuple[dict[str, Any], list[dict[str, Any]]]]] = {split: [] for split in num_images}
        for task, entry in zip(tasks, _progress(_map(make, tasks, workers), len(tasks)), strict=True):
            entries[task.split].append(entry)
        for split, images in entries.items():
            _write_split(folder / f"{split}.json", images)
        usual = style == ExampleStyle()
        guide = example_guide(STAMP_NAME, num_images, seed=seed, size=size, usual_style=usual)
        write_text(folder / README, guide)
    return files


def class_of_image(seed: int, split: str, index: int) -> int:
    """Class of an image: each run of 11 images is a random order of all classes."""
    block, place = divmod(index, len(CLASSES))
    return int(_generator(seed, split, block, "order").permutation(len(CLASSES))[place])


def example_image(
    seed: int, split: str, index: int, *, size: tuple[int, int] = (64, 64), style: ExampleStyle | None = None
) -> tuple[int, ExampleImage]:
    """Class and picture of the image ``index`` of a split."""
    label = class_of_image(seed, split, index)
    return label, render_example(_generator(seed, split, index, "image"), CLASSES[label], size=size, style=style)


def _generator(seed: int, split: str, index: int, purpose: str) -> Generator:
    key = [zlib.crc32(split.encode()), index, zlib.crc32(purpose.encode())]
    return Generator(PCG64(SeedSequence(entropy=seed, spawn_key=key)))


def _make_image(
    task: _Task, *, folder: Path, seed: int, size: tuple[int, int], style: ExampleStyle
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Draw and save an image; its image entry and annotation entries, still without ids."""
    label, example = example_image(seed, task.split, task.number, size=size, style=style)
    name = f"{task.split}/{CLASSES[label].name}_{task.number:06d}.png"
    Image.fromarray(example.image).save(folder / name, format="PNG", compress_level=_PNG_COMPRESSION)
    image = {"file_name": name, "width": size[1], "height": size[0], "class_id": label, "part_labels": "mask"}
    encoded = mask_util.encode(np.asfortranarray(example.masks.transpose(1, 2, 0), dtype=np.uint8))
    boxes, areas = mask_util.toBbox(encoded).tolist(), mask_util.area(encoded).tolist()
    ids = category_ids()
    annotations = [
        {
            "category_id": ids[CLASSES[label].name, part],
            "bbox": box,
            "area": area,
            "iscrowd": 0,
            "segmentation": {"size": list(size), "counts": rle["counts"].decode("ascii")},
        }
        for (part, _), box, area, rle in zip(example.parts, boxes, areas, encoded, strict=True)
    ]
    return image, annotations


def _write_split(json_file: Path, entries: list[tuple[dict[str, Any], list[dict[str, Any]]]]) -> None:
    images = [{"id": number, **image} for number, (image, _) in enumerate(entries, start=1)]
    parts = [(number, part) for number, (_, parts) in enumerate(entries, start=1) for part in parts]
    annotations = [
        {"id": number, "image_id": image_id, "object_id": image_id, **part}
        for number, (image_id, part) in enumerate(parts, start=1)
    ]
    write_part_dataset(
        json_file,
        classes=class_records(),
        categories=category_records(),
        images=images,
        annotations=annotations,
        info={"description": "partbox example data: schematic objects with the classes and parts of PartImageNet"},
    )


def _map(make: Any, tasks: list[_Task], workers: int) -> Iterator[Any]:
    """Results of ``make`` for each task, in order."""
    if workers == 0:
        yield from map(make, tasks)
        return
    with multiprocessing.get_context().Pool(workers) as pool:
        yield from pool.imap(make, tasks, chunksize=16)


def _progress(results: Iterable[Any], total: int) -> Iterable[Any]:
    return track(results, total, "example data", "image", shown=total > _PROGRESS_FROM)


def _check_arguments(seed: int, num_images: Mapping[str, int], size: tuple[int, int], workers: int) -> None:
    if seed < 0:
        raise ValueError(f"seed must not be negative, but is {seed}")
    if workers < 0:
        raise ValueError(f"workers must not be negative, but is {workers}")
    if not num_images:
        raise ValueError("num_images must name at least one split")
    for split, count in num_images.items():
        if not split or not set(split) <= _SPLIT_NAME_CHARACTERS or split == Path(STAMP_NAME).stem:
            raise ValueError(f"a split needs a name of letters, digits, _ and -, other than 'example', not {split!r}")
        if count < 1:
            raise ValueError(f"split {split!r} must have at least one image, not {count}")
    height, width = size
    if not (min(size) >= 16 and max(size) <= 4 * min(size)):
        raise ValueError(
            f"images must have sides of at least 16 pixels, the longer at most 4 times the shorter, not "
            f"{height} x {width}"
        )


# ---------------------------------------------------------------- the folder


def _stamp(seed: int, num_images: Mapping[str, int], size: tuple[int, int], style: ExampleStyle) -> dict[str, Any]:
    """The parameters that a data set is made from, as they read back from JSON."""
    stamp = {
        "generator_version": GENERATOR_VERSION,
        "seed": seed,
        "num_images": dict(num_images),
        "size": list(size),
        "style": dataclasses.asdict(style),
    }
    return json.loads(json.dumps(stamp))


def _is_made(root: Path, stamp: Mapping[str, Any]) -> bool:
    """Whether a complete data set of these parameters is there; False if nothing is."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = json.loads((root / STAMP_NAME).read_text())
    except (OSError, ValueError):
        raise FileExistsError(f"{root} is there and is not example data. Choose another folder") from None
    if found == stamp:
        return True
    differing = [key for key in stamp if not isinstance(found, dict) or found.get(key) != stamp[key]]
    shown = ", ".join(
        f"{key} {found.get(key)} there, {stamp[key]} wanted" for key in differing if isinstance(found, dict)
    )
    raise FileExistsError(
        f"{root} holds example data made with other parameters ({shown}). Delete the folder or choose another one"
    )


@contextmanager
def _folder_made_whole(root: Path, stamp: Mapping[str, Any]) -> Iterator[Path]:
    """A temporary folder beside ``root`` that takes its name when the block ends well and vanishes when it does not."""
    root.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=root.parent, prefix=f".{root.name}.", suffix=".tmp"))
    try:
        yield folder
        (folder / STAMP_NAME).write_text(json.dumps(stamp, indent=2) + "\n")
        umask = os.umask(0)
        os.umask(umask)
        folder.chmod(0o777 & ~umask)  # mkdtemp makes folders that only the owner can read
        try:
            folder.rename(root)
        except OSError:
            if not _is_made(root, stamp):  # unless another process was faster with the same parameters
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
