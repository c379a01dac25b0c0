"""Which photographs are cut, where they lie, and which split each goes to."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from partbox.data.part_json_types import PartDatasetError
from partbox.data.splits import split_by_source

from .coco_document import CocoDocument
from .coco_objects import LEFT_OUT, SourceObjects
from .crop_geometry import clip_box
from .object_crops import CropTask, Photo, SourceObject
from .options import SPLITS, PrepareOptions
from .photo_files import PhotoError, open_photo, photo_size

PATH_FIELDS = ("file_name", "path")
"""Fields of an image that may say where its file is, in the order in which they are tried."""

FIX_IMAGE = "fix the image or take it out of the file"


@dataclass(frozen=True)
class CropPlan:
    """What will be cut.

    Attributes:
        tasks: one a photograph, in the order of the file.
        splits: the names of the splits that are made.
        split_of: name of a photograph -> its split.
        source_of: name of a photograph -> name of the first one with the same bytes, mostly itself.
        names: image id -> name of the photograph, also of those of which nothing is cut.
    """

    tasks: list[CropTask]
    splits: tuple[str, ...]
    split_of: dict[str, str]
    source_of: dict[str, str]
    names: dict[int | str, str]


def plan_crops(
    document: CocoDocument,
    image_root: Path,
    found: SourceObjects,
    options: PrepareOptions,
    say: Callable[[str], None],
) -> CropPlan:
    """Choose what is cut and where it goes. Objects that are left out are counted in ``found.dropped``.

    Raises:
        PartDatasetError: if a photograph is absent, unreadable or of another size than the file says, or if there are
            too few for the splits.
    """
    names = _photo_names(document, image_root, found, say)
    photos = _photos(document, image_root, found, names, options)
    source_of = _first_with_same_bytes([photo.name for photo in photos], image_root)
    copies = sum(name != first for name, first in source_of.items())
    if copies:
        say(f"{copies} photographs are copies of others, byte for byte: each goes to the split of the first")
    split_of = _split(photos, source_of, options)
    tasks = [
        CropTask(photo, tuple(_crop_file(photo, target, split_of[photo.name], options) for target in photo.objects))
        for photo in photos
    ]
    splits = tuple(name for name, share in zip(SPLITS, options.fractions, strict=True) if share > 0)
    return CropPlan(tasks, splits, split_of, source_of, names)


def _photo_names(
    document: CocoDocument, image_root: Path, found: SourceObjects, say: Callable[[str], None]
) -> dict[int | str, str]:
    """Where the photographs with objects lie below the image root: the first of PATH_FIELDS that finds all."""
    if not image_root.is_dir():
        raise PartDatasetError(document.file, "--images", f"{image_root} is not a folder")
    needed = [image_id for image_id, objects in found.by_image.items() if objects]
    for key in PATH_FIELDS:
        names = {image_id: _relative_name(document.images[image_id].entry.value.get(key)) for image_id in needed}
        if all(name and (image_root / name).is_file() for name in names.values()):
            say(f"images: {len(names)} files found by their {key}")
            return names
    entries = (document.images[image_id].entry for image_id in needed)
    first = next(e for e in entries if not _is_file(image_root, e.value.get("file_name")))
    fix = "--images must be the folder that file_name (or path) starts from"
    raise first.error(f"there is no such file in {image_root}, neither by file_name nor by path", fix)


def _relative_name(value: object) -> str:
    """A path below the image root, normalised; "" if it is none."""
    name = str(PurePosixPath(value)) if isinstance(value, str) and value.strip() and "\0" not in value else ""
    return "" if name.startswith("/") or ".." in name.split("/") else name


def _is_file(image_root: Path, value: object) -> bool:
    name = _relative_name(value)
    return bool(name) and (image_root / name).is_file()


def _photos(
    document: CocoDocument,
    image_root: Path,
    found: SourceObjects,
    names: dict[int | str, str],
    options: PrepareOptions,
) -> list[Photo]:
    """The photographs with objects worth cutting out, each of the size that its labels are for."""
    photos: list[Photo] = []
    for image_id, name in tqdm(names.items(), desc="checking images", unit="image", disable=None):
        image = document.images[image_id]
        try:
            width, height = image.size or photo_size(image_root / name)
            open_photo(image_root / name, (width, height))[0].close()
        except PhotoError as error:
            raise image.entry.error(str(error), FIX_IMAGE) from error
        kept = []
        for target in found.by_image[image_id]:
            reason = _why_left_out(target, width, height, options.min_side)
            if reason:
                found.dropped[image_id, target.class_name, "object", reason] += 1
                found.dropped[image_id, target.class_name, "part", LEFT_OUT] += len(target.parts)
            else:
                kept.append(target)
        if kept:
            photos.append(Photo(name, width, height, tuple(kept)))
    if not photos:
        raise PartDatasetError(document.file, "annotations", "no object is left to be cut out", "lower --min-side")
    return photos


def _why_left_out(target: SourceObject, width: int, height: int, min_side: float) -> str:
    """Why an object of a (width, height) photograph is left out, "" if it is not."""
    if target.box is None:
        return ""
    inside = clip_box(target.box, width, height)
    if inside is None:
        return "outside its photograph"
    side = min(inside[2] - inside[0], inside[3] - inside[1])
    return f"shorter side below {min_side:g} pixels" if side < min_side else ""


def _first_with_same_bytes(names: list[str], image_root: Path) -> dict[str, str]:
    """Name of each file -> name of the first one with the same bytes. Files whose size is unique are not read."""
    by_size: dict[int, list[str]] = defaultdict(list)
    for name in dict.fromkeys(names):
        by_size[(image_root / name).stat().st_size].append(name)
    first_of: dict[str, str] = {}
    for group in by_size.values():
        firsts: dict[bytes, str] = {}
        for name in group:
            digest = hashlib.sha256((image_root / name).read_bytes()).digest() if len(group) > 1 else b""
            first_of[name] = firsts.setdefault(digest, name)
    return first_of


def _split(photos: list[Photo], source_of: dict[str, str], options: PrepareOptions) -> dict[str, str]:
    """Name of each photograph -> its split, balanced over classes."""
    fractions = {name: share for name, share in zip(SPLITS, options.fractions, strict=True) if share > 0}
    owners = [(source_of[photo.name], target.class_name) for photo in photos for target in photo.objects]
    try:
        splits = split_by_source([s for s, _ in owners], fractions, options.seed, [c for _, c in owners])
    except ValueError as error:
        raise PartDatasetError("options", "--split", str(error)) from error
    split_of_source = {owners[index][0]: name for name, indices in splits.items() for index in indices}
    for name in fractions:
        if name not in split_of_source.values():
            reason = f"none of the {len(split_of_source)} photographs is left for {name}"
            raise PartDatasetError("options", "--split", reason, "give it a larger share, or 0")
    return {photo.name: split_of_source[source_of[photo.name]] for photo in photos}


def _crop_file(photo: Photo, target: SourceObject, split: str, options: PrepareOptions) -> str:
    stem = re.sub(r"[^A-Za-z0-9._-]", "_", PurePosixPath(photo.name).stem)[:100]
    return f"{split}/{stem}_{target.number}.{options.crops.image_format}"
