"""What a COCO file of part labels means: which categories are parts, of which class, and which parts form an object.

Files in the wild say it in four ways, and :func:`find_relations` tells which one a file uses:

* ``name``: categories are named ``class:part``, objects ``class`` (PACO);
* ``supercategory``: a part's supercategory is its class (PartImageNet); categories named like a class are objects;
* ``image``: a field of the image names the class of everything in it;
* ``single``: everything belongs to one class, whose name the caller gives.

With ``object`` a part belongs to the class of the object that it is linked to, whatever its category says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from partbox.data.part_json_entry import describe, near_matches
from partbox.data.part_json_types import PartDatasetError

from .coco_document import CocoAnnotation, CocoDocument

ClassesFrom = Literal["auto", "name", "supercategory", "image", "single", "object"]
CLASSES_FROM: tuple[ClassesFrom, ...] = get_args(ClassesFrom)

LINK_FIELDS = ("obj_ann_id", "object_id")
CLASS_FIELDS = ("label", "class_id", "class_name", "class")


@dataclass(frozen=True)
class RelationOptions:
    """What the caller says about the file; everything may be left to be found out.

    Attributes:
        classes_from: where the class of a part is written, see the module.
        class_name: the one class of a file that names none; implies "single".
        class_field: field of the images that names the class; implies "image".
        object_categories: names of the categories that are whole objects.
        object_field: field of the annotations that names a part's object; "none" for no such field, None to look for
            one of LINK_FIELDS.
        ignore_categories: names of categories to leave out.
    """

    classes_from: ClassesFrom = "auto"
    class_name: str | None = None
    class_field: str | None = None
    object_categories: tuple[str, ...] = ()
    object_field: str | None = None
    ignore_categories: tuple[str, ...] = ()


@dataclass
class Relations:
    """What the file means.

    Attributes:
        classes_from: never "auto".
        objects: ids of the categories that are objects -> class, None where the class is written elsewhere.
        parts: ids of the categories that are parts -> (class or None, name of the part).
        ignored: ids of the categories that are left out.
        class_field: of the images, where ``classes_from`` is "image".
        link_field: field of a part that names its object, None if there is none.
        notes: sentences that tell the user what was found.
    """

    classes_from: ClassesFrom
    objects: dict[int, str | None] = field(default_factory=dict)
    parts: dict[int, tuple[str | None, str]] = field(default_factory=dict)
    ignored: frozenset[int] = frozenset()
    class_field: str | None = None
    link_field: str | None = None
    notes: list[str] = field(default_factory=list)


def find_relations(document: CocoDocument, options: RelationOptions) -> Relations:
    """Tell what a COCO file of part labels means.

    Raises:
        PartDatasetError: if the file does not say, or in two ways that do not agree; the message names the option.
    """
    ignored = frozenset(_category_ids(document, options.ignore_categories, "--ignore-categories"))
    chosen = frozenset(_category_ids(document, options.object_categories, "--object-categories"))
    used = {annotation.category_id for annotation in document.annotations.values()} - ignored
    names = {i: entry.text("name") for i, entry in document.categories.items() if i not in ignored}
    form, why = _choose_form(document, options, names, used)
    relations = Relations(form, ignored=ignored, notes=[why])
    object_ids = _object_ids(document, form, names, chosen)
    if not object_ids & used:
        if chosen:
            raise PartDatasetError(document.file, "annotations", "none is of the --object-categories")
        if form != "name":  # a category without annotations marks no object
            object_ids = set()
    for category_id, name in names.items():
        if category_id in object_ids:
            relations.objects[category_id] = None if form in ("image", "single") else name
        else:
            relations.parts[category_id] = _class_and_part(document, form, category_id, name)
    if form == "single":
        relations.objects = dict.fromkeys(relations.objects, options.class_name)
        relations.parts = {i: (options.class_name, part) for i, (_, part) in relations.parts.items()}
    if form == "image":
        relations.class_field = options.class_field or _image_fields(document)[0]
    _find_links(document, options, relations, has_objects=bool(object_ids & used))
    return relations


def _category_ids(document: CocoDocument, names: Sequence[str], option: str) -> list[int]:
    known = {entry.text("name"): category_id for category_id, entry in document.categories.items()}
    for name in names:
        if name not in known:
            fix = near_matches(name, known) or f"the file has: {', '.join(known)}"
            raise PartDatasetError(document.file, option, f"no category is named {describe(name)}", fix)
    return [known[name] for name in names]


# ---------------------------------------------------------------- where the classes are written


def _choose_form(
    document: CocoDocument, options: RelationOptions, names: dict[int, str], used: set[int]
) -> tuple[ClassesFrom, str]:
    """Where the classes are written, and a sentence that says why."""
    implied: list[ClassesFrom] = ["single"] * (options.class_name is not None)
    implied += ["image"] * (options.class_field is not None)
    if options.classes_from != "auto":
        implied.append(options.classes_from)
    if len(set(implied)) > 1:
        raise PartDatasetError(document.file, "options", f"classes cannot come from both {' and '.join(implied)}")
    if implied:
        _check_form(document, options, implied[0])
        return implied[0], f"classes come from: {_FORM_TEXT[implied[0]]} (as asked)"
    found = _possible_forms(document, options, names, used)
    if not found:
        fix = "name it with --class-name CLASS, or the image field that does with --class-field FIELD"
        raise PartDatasetError(document.file, "categories", "nothing tells which class the parts belong to", fix)
    if len(found) > 1:
        ways = " or ".join(f"{_FORM_TEXT[form]} (--classes-from {form})" for form in found)
        raise PartDatasetError(document.file, "categories", f"classes may come from {ways}", "choose one")
    return found[0], f"classes come from: {_FORM_TEXT[found[0]]} (found out; --classes-from overrides)"


_FORM_TEXT: dict[ClassesFrom, str] = {
    "name": 'category names "class:part"',
    "supercategory": "the supercategory of each part",
    "image": "a field of each image",
    "single": "--class-name, one class for everything",
    "object": "the object that each part is linked to",
}


def _check_form(document: CocoDocument, options: RelationOptions, form: ClassesFrom) -> None:
    if form == "single" and not (options.class_name or "").strip():
        raise PartDatasetError(document.file, "options", "a single class needs a name", "add --class-name CLASS")
    if form == "image" and options.class_field is None and not _image_fields(document):
        raise PartDatasetError(document.file, "images", "no field names the class", "add --class-field FIELD")
    if options.class_field is not None:
        for image_id in dict.fromkeys(annotation.image_id for annotation in document.annotations.values()):
            image_class(document, image_id, options.class_field)
    if form == "object" and not options.object_categories:
        fix = "add --object-categories NAME,NAME"
        raise PartDatasetError(document.file, "options", "classes from objects need object categories", fix)


def _possible_forms(
    document: CocoDocument, options: RelationOptions, names: dict[int, str], used: set[int]
) -> list[ClassesFrom]:
    """The ways in which a file may tell classes; one, if it is clear."""
    if any(":" in name for name in names.values()):
        return ["name"]
    supers = {i: _supercategory(document, i) for i in names}
    object_names = set(options.object_categories) or (set(names.values()) & set(supers.values()))
    part_supers = {supers[i] for i, name in names.items() if name not in object_names and i in used}
    if object_names and part_supers and part_supers <= object_names:
        return ["supercategory"]
    if options.object_categories:
        return ["object"]
    found: list[ClassesFrom] = []
    if part_supers and "" not in part_supers:
        found.append("supercategory")
    if _image_fields(document) and not (found and _agree(document, supers)):
        found.append("image")
    return found


def _supercategory(document: CocoDocument, category_id: int) -> str:
    value = document.categories[category_id].value.get("supercategory")
    return value.strip() if isinstance(value, str) and value.strip().lower() != "none" else ""


def _image_fields(document: CocoDocument) -> list[str]:
    """Fields of CLASS_FIELDS that every image has."""
    entries = [image.entry.value for image in document.images.values()]
    return [name for name in CLASS_FIELDS if entries and all(type(e.get(name)) in (int, str) for e in entries)]


def image_class(document: CocoDocument, image_id: int | str, class_field: str) -> str:
    """The class that a field of an image names; integers are looked up in the file's ``classes``."""
    entry = document.images[image_id].entry
    value = entry.get(class_field)
    if type(value) is int:
        if document.class_names and value not in document.class_names:
            raise entry.error(f"{class_field} {value} is the id of none of the classes")
        return document.class_names.get(value, str(value))
    return entry.text(class_field).strip()


def _agree(document: CocoDocument, supers: dict[int, str]) -> bool:
    """Whether the class of each image is the supercategory of all its parts."""
    class_field = _image_fields(document)[0]
    return all(
        supers.get(annotation.category_id) == image_class(document, annotation.image_id, class_field)
        for annotation in document.annotations.values()
        if annotation.category_id in supers
    )


def _object_ids(document: CocoDocument, form: ClassesFrom, names: dict[int, str], chosen: frozenset[int]) -> set[int]:
    """Ids of the categories that are whole objects."""
    if chosen:
        return set(chosen)
    if form == "name":
        return {i for i, name in names.items() if ":" not in name}
    if form == "supercategory":
        supers = {_supercategory(document, i) for i, name in names.items() if _supercategory(document, i) != name}
        return {i for i, name in names.items() if name in supers}
    return set()


def _class_and_part(document: CocoDocument, form: ClassesFrom, category_id: int, name: str) -> tuple[str | None, str]:
    entry = document.categories[category_id]
    if form == "name":
        class_name, colon, part = (text.strip() for text in name.partition(":"))
        if not (class_name and colon and part):
            raise entry.error(f'name {describe(name)} is not "class:part"', "rename it, or use --ignore-categories")
        return class_name, part
    if form == "supercategory":
        class_name = _supercategory(document, category_id)
        if not class_name and any(a.category_id == category_id for a in document.annotations.values()):
            fix = "add it, or leave the category out with --ignore-categories"
            raise entry.error(f"category {describe(name)} has no supercategory to name its class", fix)
        return class_name, name
    return None, name


# ---------------------------------------------------------------- which parts form an object


def _find_links(document: CocoDocument, options: RelationOptions, relations: Relations, *, has_objects: bool) -> None:
    """Set ``link_field`` and tell the user how parts are put together."""
    parts = [a for a in document.annotations.values() if a.category_id in relations.parts]
    if options.object_field is None:
        relations.link_field = next((name for name in LINK_FIELDS if any(name in p.entry.value for p in parts)), None)
    elif options.object_field != "none":
        relations.link_field = options.object_field
    if relations.link_field:
        for part in parts:
            _check_link(part, relations.link_field)
    overridable = " (--object-field overrides)" if options.object_field is None else ""
    if has_objects:
        names = ", ".join(document.categories[i].text("name") for i in relations.objects)
        how = f"by {relations.link_field}" if relations.link_field else "by overlap, no field links them"
        relations.notes.append(f"objects: categories {names}; parts linked {how}{overridable}")
    elif relations.link_field:
        relations.notes.append(f"objects: parts of one {relations.link_field}, boxes are their union{overridable}")
    else:
        relations.notes.append("objects: one an image and class, boxes are the union of its parts")


def _check_link(part: CocoAnnotation, link_field: str) -> None:
    if type(part.entry.value.get(link_field)) not in (int, str):
        fix = "add it, or pass --object-field none to link parts without it"
        raise part.entry.error(f"{link_field} must be an id, is {describe(part.entry.value.get(link_field))}", fix)
