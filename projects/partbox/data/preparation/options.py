"""What a preparation may be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .coco_objects import Labels
from .coco_relations import RelationOptions
from .object_crops import CropSettings

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class PrepareOptions:
    """What to make of a file of part labels.

    Attributes:
        relations: what the file means, as far as the caller says so.
        crop: "objects" cuts one image an object, "none" keeps whole images.
        labels: what parts are labelled with; "auto" takes masks if every part has one.
        empty: what an object without any part label is: "unlabelled", or "absent" (looked at, no part visible).
        min_side: objects whose shorter side is below are left out, in pixels of the photograph.
        crops: how crops are cut and saved.
        fractions: share of the photographs that train, val and test get; 0 leaves a split out.
        seed: of the split.
    """

    relations: RelationOptions = field(default_factory=RelationOptions)
    crop: Literal["objects", "none"] = "objects"
    labels: Labels = "auto"
    empty: Literal["unlabelled", "absent"] = "unlabelled"
    min_side: float = 16.0
    crops: CropSettings = field(default_factory=CropSettings)
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    seed: int = 0
