"""Makes a part dataset from anybody's COCO file of part labels."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from partbox.data.part_json_types import PartDatasetError

from .coco_document import CocoDocument, read_coco
from .coco_objects import Labels, SourceObjects, collect_objects
from .coco_relations import RelationOptions, Relations, find_relations
from .crop_plan import FIX_IMAGE
from .object_crops import Photo
from .options import PrepareOptions
from .photo_files import PhotoError, photo_size
from .photo_reader import PhotoLabels, Reason
from .prepare import prepare_photos
from .report import PreparationReport

PATH_FIELDS = ("file_name", "path")
"""Fields of an image that may say where its file is, in the order in which they are tried."""


@dataclass(frozen=True)
class CocoOptions:
    """What a COCO file means.

    Attributes:
        relations: which categories are parts, of which class, and which parts form an object; as far as one says.
        crop: "objects" makes one image an object, "none" keeps whole images.
        labels: what parts are labelled with; "auto" takes masks if every part has one.
        empty: what an object without any part label is: "unlabelled", or "absent" (looked at, no part visible).
    """

    relations: RelationOptions = field(default_factory=RelationOptions)
    crop: Literal["objects", "none"] = "objects"
    labels: Labels = "auto"
    empty: Literal["unlabelled", "absent"] = "unlabelled"


def prepare_parts(
    annotations: Path,
    image_root: Path,
    output: Path,
    meaning: CocoOptions,
    options: PrepareOptions,
    *,
    workers: int = 1,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> PreparationReport:
    """Make a part dataset from a COCO file of part labels, which is held in memory.

    Args:
        annotations: the file.
        image_root: the folder that the file's image names start from.
        meaning: what the file means.
        output, options, workers, overwrite, say: as for :func:`.prepare.prepare_photos`.

    Raises:
        PartDatasetError, OSError: as there.
    """
    reader = CocoReader(annotations, image_root, meaning, say)
    return prepare_photos(reader, output, options, workers=workers, overwrite=overwrite, say=say)


Labelled = tuple[Photo, tuple[int, int] | None, Counter[Reason]]


class CocoReader:
    """A COCO file as labelled photographs.

    Args:
        annotations, image_root, meaning, say: as for :func:`prepare_parts`.

    Raises:
        PartDatasetError: the file cannot be used as it is.
    """

    numbered = True
    class_names: Sequence[str] = ()

    def __init__(self, annotations: Path, image_root: Path, meaning: CocoOptions, say: Callable[[str], None]) -> None:
        document = read_coco(annotations)
        relations = find_relations(document, meaning.relations)
        found = collect_objects(
            document,
            relations,
            labels=meaning.labels,
            whole_images=meaning.crop == "none",
            empty_means_absent=meaning.empty == "absent",
        )
        for note in (*relations.notes, *found.notes):
            say(note)
        self.image_root = image_root
        self.part_names: Sequence[tuple[str, str]] = tuple(found.part_names)
        self._description = _describe(document, relations, found, meaning)
        self._photos = _labelled(document, found, _photo_names(document, image_root, found, say))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_photos": []}  # workers get their entries

    def describe(self) -> dict[str, Any]:
        return self._description

    def count(self) -> int:
        return len(self._photos)

    def entries(self) -> Iterator[Labelled]:
        yield from self._photos

    def read(self, entry: Labelled) -> PhotoLabels:
        photo, size, dropped = entry
        if size is None and photo.objects:
            try:
                size = photo_size(self.image_root / photo.name)
            except PhotoError as error:
                raise PartDatasetError(str(self.image_root), f"image {photo.name}", str(error), FIX_IMAGE) from error
        width, height = size or (0, 0)
        return PhotoLabels(Photo(photo.name, width, height, photo.objects), dropped)


def _describe(
    document: CocoDocument, relations: Relations, found: SourceObjects, meaning: CocoOptions
) -> dict[str, Any]:
    """Options that were left open stand there as they were decided."""
    return {
        "annotations": Path(document.file).name,
        "annotations_sha256": document.sha256,
        "meaning": {
            "classes_from": relations.classes_from,
            "objects": {document.categories[i].text("name"): name for i, name in relations.objects.items()},
            "parts": {
                document.categories[i].text("name"): f"{class_name or '*'}:{part}"
                for i, (class_name, part) in relations.parts.items()
            },
            "class_field": relations.class_field,
            "link_field": relations.link_field,
            "crop": meaning.crop,
            "labels": found.labels,
            "empty": meaning.empty,
        },
    }


def _labelled(document: CocoDocument, found: SourceObjects, names: dict[int | str, str]) -> list[Labelled]:
    """What :meth:`CocoReader.entries` gives."""
    dropped: defaultdict[int | str, Counter[Reason]] = defaultdict(Counter)
    for (image_id, class_name, what, reason), count in found.dropped.items():
        dropped[image_id][class_name, what, reason] += count
    photos = []
    for image_id, objects in found.by_image.items():
        size = document.images[image_id].size
        photos.append((Photo(names.get(image_id, ""), 0, 0, tuple(objects)), size, dropped[image_id]))
    return photos


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
