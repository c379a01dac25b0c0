"""The 11 classes and 40 parts of PartImageNet, each with the function that draws it.

Names are those of the published PartImageNet file; "Tier" is its spelling of tyre. Class ids count from 0 and
category ids from 1, both in alphabetical order of the classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from partbox.data.example import animals, things
from partbox.data.example.pose import Pose, Shape


class ObjectClass(NamedTuple):
    """A class: its name, its parts, and the function that draws one object of it."""

    name: str
    parts: tuple[str, ...]
    draw: Callable[[Pose], list[Shape]]


CLASSES: tuple[ObjectClass, ...] = (
    ObjectClass("Aeroplane", ("Head", "Body", "Engine", "Wing", "Tail"), things.aeroplane),
    ObjectClass("Bicycle", ("Head", "Body", "Seat", "Tier"), things.bicycle),
    ObjectClass("Biped", ("Head", "Body", "Hand", "Foot", "Tail"), animals.biped),
    ObjectClass("Bird", ("Head", "Body", "Wing", "Foot", "Tail"), animals.bird),
    ObjectClass("Boat", ("Body", "Sail"), things.boat),
    ObjectClass("Bottle", ("Mouth", "Body"), things.bottle),
    ObjectClass("Car", ("Body", "Tier", "Side Mirror"), things.car),
    ObjectClass("Fish", ("Head", "Body", "Fin", "Tail"), animals.fish),
    ObjectClass("Quadruped", ("Head", "Body", "Foot", "Tail"), animals.quadruped),
    ObjectClass("Reptile", ("Head", "Body", "Foot", "Tail"), animals.reptile),
    ObjectClass("Snake", ("Head", "Body"), animals.snake),
)


def class_records() -> list[dict[str, object]]:
    """The ``classes`` entry of the part-dataset file."""
    return [{"id": index, "name": entry.name} for index, entry in enumerate(CLASSES)]


def category_records() -> list[dict[str, object]]:
    """The ``categories`` entry of the part-dataset file: 40 parts, ids 1 to 40."""
    pairs = [(entry.name, part) for entry in CLASSES for part in entry.parts]
    return [
        {"id": index, "name": f"{name} {part}", "supercategory": name}
        for index, (name, part) in enumerate(pairs, start=1)
    ]


def category_ids() -> dict[tuple[str, str], int]:
    """Category id of each (class name, part name)."""
    pairs = [(entry.name, part) for entry in CLASSES for part in entry.parts]
    return {pair: index for index, pair in enumerate(pairs, start=1)}
