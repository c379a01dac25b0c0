"""Part-dataset files: COCO instances JSON of object parts, read and checked before any work starts::

    {"classes": [{"id", "name"}],
     "categories": [{"id", "name", "supercategory": name of a class}],
     "images": [{"id", "file_name", "width", "height", "class_id", "source_image"?, "part_labels"?,
                 "label_source"?}],
     "annotations": [{"id", "image_id", "category_id", "bbox": [x, y, w, h], "segmentation"?, "object_id"?, "score"?}]}

``part_labels`` is "mask", "box" or "none" (not labelled); :func:`partbox.data.part_json_checks.infer_part_labels` says
what is assumed where it is absent. ``label_source`` is "annotated" (the default) or "predicted": by a model, with a
``score`` for each annotation. Keys that COCO or a tool adds (info, area, iscrowd...) may be there.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode

from .image_files import VERIFY_LEVELS, ImageFile, VerifyLevel, first_problem
from .part_json_checks import CheckedDocument, check_document
from .part_json_entry import Entry
from .part_json_keys import check_repeated_keys, count_keys_in_text
from .part_json_masks import compress_rle
from .part_json_types import PartDataset, PartDatasetError


def load_part_dataset(
    json_file: str | Path, image_root: str | Path, *, verify_images: VerifyLevel = "decode"
) -> PartDataset:
    """Read and check a part-dataset file and its images.

    Args:
        json_file: the part-dataset file.
        image_root: the folder that ``file_name`` of the images starts from. It may itself be a symbolic link, but no
            image may lead out of it.
        verify_images: "decode" finds every truncated or corrupt image; "header" reads format, size and end marker;
            "none" only looks whether the files are there. Sizes count after EXIF orientation.

    Raises:
        PartDatasetError: naming file, entry and reason of the first thing that is wrong.
    """
    if verify_images not in VERIFY_LEVELS:
        raise ValueError(f"verify_images must be one of {VERIFY_LEVELS}, is {verify_images!r}")
    file, root = str(json_file), Path(os.path.abspath(image_root))
    if not root.is_dir():
        raise PartDatasetError(file, "image root", f"{root} is not a folder")
    with _collector_paused():
        document, written_keys = _read(file)
        checked = check_document(document, file)
        check_repeated_keys(document, written_keys, file)
        _verify_images(document, checked, root, verify_images, file)
        records = _build_records(document, checked, root)
    return PartDataset(
        json_file=Path(json_file),
        image_root=root,
        class_names=checked.class_names,
        class_ids=checked.class_ids,
        categories=checked.categories,
        records=records,
    )


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Keep Python's cyclic garbage collector from walking millions of new objects again and again; none is cyclic."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _read(file: str) -> tuple[Any, int]:
    """The parsed file, and the number of keys that its text holds.

    By the standard library: orjson is twice as fast but needs four times the text's size on top while it parses. NaN
    and Infinity, which Python's writers leave in files, come through and are refused at the entry they stand in.
    """
    try:
        text = Path(file).read_bytes()
    except FileNotFoundError:
        raise PartDatasetError(file, "file", "does not exist") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        raise PartDatasetError(file, "file", f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    try:
        return json.loads(text.decode()), count_keys_in_text(text)
    except json.JSONDecodeError as error:
        fix = "the file may be truncated" if error.pos >= len(error.doc.rstrip()) - 1 else ""
        place = f"line {error.lineno}, column {error.colno}"
        raise PartDatasetError(file, place, f"is not valid JSON: {error.msg}", fix) from error
    except UnicodeDecodeError as error:
        reason = f"is not valid JSON: byte {error.start} is not UTF-8"
        raise PartDatasetError(file, "file", reason) from error
    except RecursionError as error:
        raise PartDatasetError(file, "file", "is nested too deeply") from error
    except ValueError as error:  # an integer of thousands of digits
        raise PartDatasetError(file, "file", f"is not valid JSON: {error}") from error


def _verify_images(document: Any, checked: CheckedDocument, root: Path, level: VerifyLevel, file: str) -> None:
    sizes = checked.images.sizes.astype(int).tolist()
    images = [ImageFile(name, *size) for name, size in zip(checked.images.names, sizes, strict=True)]
    found = first_problem(images, root, level)
    if found:
        index, problem = found
        raise Entry(file, "images", index, document["images"][index]).error(f"{problem} ({root / images[index].name})")


def _build_records(document: Any, checked: CheckedDocument, root: Path) -> list[dict[str, Any]]:
    """Turn a checked document into detectron2's records. Consumes the document's annotations to save memory."""
    records: list[dict[str, Any]] = []
    labels, names = checked.images.class_index.tolist(), checked.images.names
    for index, image in enumerate(document["images"]):
        records.append(
            {
                "file_name": f"{root}/{names[index]}",
                "image_id": image["id"],
                "height": image["height"],
                "width": image["width"],
                "label": labels[index],
                "part_labels": checked.part_labels[index],
                "label_source": checked.images.label_sources[index],
                "source_image": image.get("source_image"),
                "annotations": [],
            }
        )
    columns = checked.annotations
    annotations: list[dict[str, Any]] = document["annotations"]
    annotations.reverse()
    rows, categories = columns.image_row.tolist(), columns.category.tolist()
    indices = list(range(len(checked.categories)))  # one int object a category, not one an annotation
    for row, category, box in zip(rows, categories, map(lambda box: box.tolist(), columns.boxes), strict=True):
        annotation = annotations.pop()
        part: dict[str, Any] = {
            "bbox": box,
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": indices[category],
            "iscrowd": 0,
        }
        if "segmentation" in annotation:
            part["segmentation"] = compress_rle(annotation["segmentation"])
        if "object_id" in annotation:
            part["object_id"] = annotation["object_id"]
        if records[row]["label_source"] == "predicted":
            part["score"] = float(annotation["score"])
        records[row]["annotations"].append(part)
    return records
