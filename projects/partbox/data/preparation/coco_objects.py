"""Puts the annotations of a COCO file together: objects with their parts, ready to be cut out."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from typing import Literal

from partbox.data.part_json_entry import describe
from partbox.data.part_json_types import PartDatasetError

from .coco_document import CocoAnnotation, CocoDocument
from .coco_relations import Relations, image_class
from .crop_geometry import Box, clip_box, union_box
from .object_crops import PartLabels, SourceObject, SourcePart

Labels = Literal["auto", "mask", "box", "none"]

NO_OBJECT = "no object of its class around it"
IGNORED = "ignored category"
LEFT_OUT = "its object is left out"
NO_LABELS = "no labels"
SEVERAL_CLASSES = "objects of several classes"
SURELY_INSIDE = 0.5
"""Share of a part's box that an object's box covers from which on the part may be that object's."""


@dataclass
class SourceObjects:
    """All objects of a file.

    Attributes:
        by_image: image id -> objects, in the order of the file.
        labels: what labelled parts are labelled with.
        part_names: (class, part) of each ``SourcePart.category``.
        dropped: (image id, class or "", "photograph" | "object" | "part", reason) -> how many.
        notes: sentences that tell the user what was done.
    """

    by_image: dict[int | str, list[SourceObject]] = field(default_factory=dict)
    labels: PartLabels = "none"
    part_names: list[tuple[str, str]] = field(default_factory=list)
    dropped: Counter[tuple[int | str, str, str, str]] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


@dataclass
class _Group:
    """Annotations that form one object: its id, class, box (None: the union of the parts) and parts."""

    number: int
    class_name: str
    box: Box | None
    parts: list[CocoAnnotation] = field(default_factory=list)


def collect_objects(
    document: CocoDocument, relations: Relations, *, labels: Labels, whole_images: bool, empty_means_absent: bool
) -> SourceObjects:
    """Put annotations together as objects.

    Args:
        document: the file.
        relations: what it means.
        labels: "mask" asks for a segmentation of every part; "auto" is "mask" if all have one, else "box".
        whole_images: one "object" an image, which is the whole image, instead of one an object.
        empty_means_absent: an object without a part was looked at and shows none; otherwise nobody labelled it.

    Raises:
        PartDatasetError: naming the annotation that contradicts the rest.
    """
    result = SourceObjects()
    _count_dropped(document, relations, result)
    groups = _link(document, relations, result) if _has_objects(document, relations) else _group(document, relations)
    result.labels = kind = _label_kind(document, relations, labels, result)
    part_index: dict[tuple[str, str], int] = {}
    for position, image_id in enumerate(document.images, start=1):
        objects = [_source_object(group, relations, kind, part_index) for group in groups.get(image_id, [])]
        if whole_images:
            objects = _whole_image(document, relations, image_id, objects, position, kind, result)
        elif not objects:
            result.dropped[image_id, "", "photograph", NO_LABELS] += 1
        if not empty_means_absent:
            objects = [target if target.parts else replace(target, part_labels="none") for target in objects]
        result.by_image[image_id] = objects
    result.part_names = list(part_index)
    _note_unused(document, relations, result)
    return result


def _has_objects(document: CocoDocument, relations: Relations) -> bool:
    return any(annotation.category_id in relations.objects for annotation in document.annotations.values())


def _count_dropped(document: CocoDocument, relations: Relations, result: SourceObjects) -> None:
    for (image_id, category_id, reason), count in document.dropped.items():
        if category_id not in relations.ignored:
            class_name = relations.objects.get(category_id) or relations.parts.get(category_id, ("", ""))[0] or ""
            what = "object" if category_id in relations.objects else "part"
            result.dropped[image_id, class_name, what, reason] += count
    for annotation in document.annotations.values():
        if annotation.category_id in relations.ignored:
            result.dropped[annotation.image_id, "", "part", IGNORED] += 1
    if document.disagreeing_boxes:
        text = (
            "boxes differ by more than 2 pixels from their own polygons or masks: those of polygons and masks are used"
        )
        result.notes.append(f"{document.disagreeing_boxes} {text}")


def _class_of(document: CocoDocument, relations: Relations, annotation: CocoAnnotation) -> str | None:
    """The class of an annotation; None for a part whose object tells it."""
    if relations.class_field:
        return image_class(document, annotation.image_id, relations.class_field)
    if annotation.category_id in relations.objects:
        return relations.objects[annotation.category_id]
    return relations.parts[annotation.category_id][0]


# ---------------------------------------------------------------- objects that are annotated


def _link(document: CocoDocument, relations: Relations, result: SourceObjects) -> dict[int | str, list[_Group]]:
    """Link each part to one of the annotated objects."""
    groups: dict[int | str, list[_Group]] = defaultdict(list)
    by_id: dict[int, tuple[_Group, CocoAnnotation]] = {}
    for annotation in document.annotations.values():
        if annotation.category_id in relations.objects:
            group = _Group(annotation.id, _class_of(document, relations, annotation) or "", annotation.box)
            groups[annotation.image_id].append(group)
            by_id[annotation.id] = group, annotation
    unclear = 0
    for part in document.annotations.values():
        if part.category_id not in relations.parts:
            continue
        class_name = _class_of(document, relations, part)
        if relations.link_field:
            if _is_left_out(document, relations, part.entry.value[relations.link_field]):
                result.dropped[part.image_id, class_name or "", "part", LEFT_OUT] += 1
            else:
                _linked_group(part, relations.link_field, class_name, by_id).parts.append(part)
            continue
        found, several = _group_around(part, class_name, groups[part.image_id])
        unclear += several
        if found is None:
            result.dropped[part.image_id, class_name or "", "part", NO_OBJECT] += 1
        else:
            found.parts.append(part)
    if unclear:
        text = "parts lie in several objects: each was given to the one that covers most of it, the smaller where equal"
        result.notes.append(f"{unclear} {text}")
    return groups


def _is_left_out(document: CocoDocument, relations: Relations, object_id: int) -> bool:
    """Whether an object was kept out (a crowd, an empty box) or is to be ignored."""
    owner = document.annotations.get(object_id)
    return object_id in document.dropped_ids or (owner is not None and owner.category_id in relations.ignored)


def _linked_group(
    part: CocoAnnotation, link_field: str, class_name: str | None, by_id: dict[int, tuple[_Group, CocoAnnotation]]
) -> _Group:
    value = part.entry.value[link_field]
    if value not in by_id:
        fix = "it must be the id of an annotation that is an object; --object-field names another field"
        raise part.entry.error(f"{link_field} {describe(value)} is no object", fix)
    group, owner = by_id[value]
    if owner.image_id != part.image_id:
        raise part.entry.error(f"{link_field} {value} is an object of image {describe(owner.image_id)}, not of its own")
    if class_name is not None and class_name != group.class_name:
        raise part.entry.error(f"the part belongs to class {class_name!r}, its object {value} to {group.class_name!r}")
    return group


def _group_around(part: CocoAnnotation, class_name: str | None, groups: list[_Group]) -> tuple[_Group | None, bool]:
    """The object whose box covers most of a part's, and whether another one may own the part as well."""
    found: list[tuple[float, float, int]] = []
    for index, group in enumerate(groups):
        if class_name in (None, group.class_name) and group.box is not None:
            share = _covered_share(part.box, group.box)
            if share > 0:
                found.append((-round(share, 6), _area(group.box), index))
    if not found:
        return None, False
    found.sort()
    return groups[found[0][2]], len(found) > 1 and -found[1][0] >= SURELY_INSIDE


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _covered_share(box: Box, by: Box) -> float:
    """Share of a box's area that another one covers."""
    moved = clip_box((box[0] - by[0], box[1] - by[1], box[2] - by[0], box[3] - by[1]), by[2] - by[0], by[3] - by[1])
    return _area(moved) / _area(box) if moved else 0.0


# ---------------------------------------------------------------- objects that are unions of parts


def _group(document: CocoDocument, relations: Relations) -> dict[int | str, list[_Group]]:
    """One object for each class, or each value of the link field, of an image."""
    found: dict[tuple[int | str, int | str, str], _Group] = {}
    groups: dict[int | str, list[_Group]] = defaultdict(list)
    for part in document.annotations.values():
        if part.category_id not in relations.parts:
            continue
        class_name = _class_of(document, relations, part) or ""
        link = part.entry.value[relations.link_field] if relations.link_field else ""
        key = part.image_id, link, class_name if not relations.link_field else ""
        if key not in found:
            found[key] = _Group(0, class_name, None)
            groups[part.image_id].append(found[key])
        if found[key].class_name != class_name:
            other = found[key].class_name
            raise part.entry.error(f"the part belongs to class {class_name!r}, others of its object to {other!r}")
        found[key].parts.append(part)
    number = 0
    for image_id in document.images:
        for group in groups.get(image_id, []):
            number += 1
            group.number = number
            group.box = union_box([part.box for part in group.parts])
    return groups


# ---------------------------------------------------------------- the result


def _label_kind(document: CocoDocument, relations: Relations, labels: Labels, result: SourceObjects) -> PartLabels:
    parts = [a for a in document.annotations.values() if a.category_id in relations.parts]
    without = [part for part in parts if part.segmentation is None]
    if labels == "auto":
        kind: PartLabels = "mask" if parts and not without else "box"
        share = f"{len(parts) - len(without)} of {len(parts)} parts have polygons or masks"
        result.notes.append(f"labels: {kind} ({share}; --labels overrides)")
        return kind
    if labels == "mask" and without:
        reason = f"{len(without)} parts have no segmentation, this is the first"
        raise without[0].entry.error(reason, "use --labels box, or add the polygons")
    return labels


def _source_object(
    group: _Group, relations: Relations, kind: PartLabels, part_index: dict[tuple[str, str], int]
) -> SourceObject:
    parts = []
    for part in group.parts:
        key = group.class_name, relations.parts[part.category_id][1]
        parts.append(SourcePart(part_index.setdefault(key, len(part_index)), part.box, part.segmentation))
    return SourceObject(group.number, group.class_name, group.box, tuple(parts), kind)


def _whole_image(
    document: CocoDocument,
    relations: Relations,
    image_id: int | str,
    objects: list[SourceObject],
    number: int,
    kind: PartLabels,
    result: SourceObjects,
) -> list[SourceObject]:
    """The image's objects as one that is the whole image; none if it has no class or several."""
    classes = {target.class_name for target in objects}
    if relations.class_field:
        classes = {image_class(document, image_id, relations.class_field)}
    elif relations.classes_from == "single":
        classes = {name for name, _ in relations.parts.values() if name}
    if len(classes) != 1:
        result.dropped[image_id, "", "photograph", SEVERAL_CLASSES if classes else NO_LABELS] += 1
        return []
    parts = tuple(replace(part, object_id=target.number) for target in objects for part in target.parts)
    return [SourceObject(number, classes.pop(), None, parts, kind)]


def _note_unused(document: CocoDocument, relations: Relations, result: SourceObjects) -> None:
    if not result.part_names:
        raise PartDatasetError(document.file, "annotations", "no part is labelled", "parts need annotations")
    used = {annotation.category_id for annotation in document.annotations.values()}
    unused = [document.categories[i].text("name") for i in (*relations.objects, *relations.parts) if i not in used]
    if unused:
        result.notes.append(f"categories without a label, left out: {', '.join(unused)}")
