"""What is cut out of which photograph, and which split it goes to."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from partbox.data.part_json_types import PartDatasetError
from partbox.progress import Progress, track

from .coco_objects import LEFT_OUT
from .crop_geometry import clip_box
from .object_crops import Photo, SourceObject
from .options import SPLITS, KeptLabels, PrepareOptions
from .photo_files import PhotoError, open_photo
from .photo_reader import PhotoLabels, PhotoReader
from .photo_store import PhotoStore
from .worker_pool import ordered_map

FIX_IMAGE = "fix the image or take it out of the file"


def collect_photos(reader: PhotoReader, store: PhotoStore, options: PrepareOptions, *, workers: int) -> None:
    """Read the labels of all photographs into the store, without the objects that are not worth cutting out.

    Raises:
        PartDatasetError: labels are malformed, a photograph is absent, unreadable or of another size than its labels
            say, or no object is left.
    """
    work = partial(_read, reader=reader, options=options)
    with Progress(reader.count(), "reading", "image") as bar:
        for labels, size in ordered_map(work, reader.entries(), workers=workers):
            store.add(labels, size)
            bar.step()
    if not store.count_objects():
        reasons = sorted({reason for _, _, what, reason, _ in store.dropped() if what != "part"})
        why = f"none is left to be cut out ({'; '.join(reasons) or 'the labels name none'})"
        small = any(reason.startswith("shorter side") for reason in reasons)
        raise PartDatasetError(str(reader.image_root), "objects", why, "lower --min-side" if small else "")


def _read(entry: Any, reader: PhotoReader, options: PrepareOptions) -> tuple[PhotoLabels, int]:
    """The labels of a photograph, and its size in bytes (0 without an object, or where only labels are wanted)."""
    labels = reader.read(entry)
    photo, dropped = labels.photo, Counter(labels.dropped)
    kept = []
    for target in photo.objects:
        reason = _why_left_out(target, photo, options)
        if reason:
            dropped[target.class_name, "object", reason] += 1
            dropped[target.class_name, "part", LEFT_OUT] += len(target.parts)
        else:
            kept.append(replace(target, part_labels=_lesser(target.part_labels, options.labels)))
    size = 0
    if photo.objects and not options.labels_only:
        size = _check_file(photo, reader.image_root)
    return PhotoLabels(replace(photo, objects=tuple(kept)), dropped), size


def _why_left_out(target: SourceObject, photo: Photo, options: PrepareOptions) -> str:
    """Why an object is left out, "" if it is not."""
    if target.box is None:
        return ""
    inside = clip_box(target.box, photo.width, photo.height)
    if inside is None:
        return "outside its photograph"
    width, height = inside[2] - inside[0], inside[3] - inside[1]
    if min(width, height) < options.min_side:
        return f"shorter side below {options.min_side:g} pixels"
    if width * height < options.min_area_share * photo.width * photo.height:
        return f"below {100 * options.min_area_share:g} % of its photograph"
    return ""


def _lesser(given: KeptLabels, wanted: KeptLabels) -> KeptLabels:
    order: tuple[KeptLabels, ...] = ("none", "box", "mask")
    return min(given, wanted, key=order.index)


def _check_file(photo: Photo, image_root: Path) -> int:
    """Bytes of a photograph whose header is that of an image of the right size."""
    path = image_root / photo.name
    try:
        open_photo(path, (photo.width, photo.height))[0].close()
    except PhotoError as error:
        raise PartDatasetError(str(image_root), f"image {photo.name}", str(error), FIX_IMAGE) from error
    return path.stat().st_size


def plan_splits(
    store: PhotoStore, reader: PhotoReader, options: PrepareOptions, *, workers: int, say: Callable[[str], None]
) -> tuple[str, ...]:
    """Choose the split of each photograph, and which objects keep their labels.

    Returns:
        The names of the splits that are made.

    Raises:
        PartDatasetError: there are too few photographs for the splits, or the labels have no splits of their owner.
    """
    if not options.labels_only:
        copies = _note_copies(store, reader.image_root, workers)
        if copies:
            say(f"{copies} photographs are copies of others, byte for byte: each goes to the split of the first")
    splits = _own_splits(store, say) if options.fractions is None else _drawn_splits(store, options)
    if options.label_share < 1 and "train" in splits:
        store.keep_labels("train", options.label_share, options.label_seed)
    return splits


def _note_copies(store: PhotoStore, image_root: Path, workers: int) -> int:
    """Tell the store which photographs are the same, byte for byte; those whose size is unique are not read."""
    firsts: defaultdict[bytes, list[str]] = defaultdict(list)
    names = list(store.same_size())
    digests = ordered_map(partial(_digest, image_root=image_root), names, workers=workers)
    for name, digest in zip(names, track(digests, len(names), "looking for copies", "image"), strict=True):
        firsts[digest].append(name)
    copies = 0
    for first, *others in firsts.values():
        for name in others:
            store.set_copy(name, first)
            copies += 1
    return copies


def _digest(name: str, image_root: Path) -> bytes:
    with open(image_root / name, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _own_splits(store: PhotoStore, say: Callable[[str], None]) -> tuple[str, ...]:
    left_out = store.take_own_splits()
    if left_out:
        say(f"{left_out} photographs are in an earlier split, too, by name or byte for byte: left out")
    counts = store.count_by_split()
    if set(counts) - set(SPLITS):
        raise PartDatasetError("options", "--split", "the labels have no splits of their owner", "give three shares")
    return tuple(name for name in SPLITS if counts[name])


def _drawn_splits(store: PhotoStore, options: PrepareOptions) -> tuple[str, ...]:
    assert options.fractions is not None
    fractions = {name: share for name, share in zip(SPLITS, options.fractions, strict=True) if share > 0}
    try:
        store.split_by_source(fractions, options.seed)
    except ValueError as error:
        raise PartDatasetError("options", "--split", str(error)) from error
    counts = store.count_by_split()
    for name in fractions:
        if not counts[name]:
            reason = f"none of the {sum(counts.values())} photographs is left for {name}"
            raise PartDatasetError("options", "--split", reason, "give it a larger share, or 0")
    return tuple(fractions)
