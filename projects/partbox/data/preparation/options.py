"""What a preparation may be told, whatever the labels come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from partbox.data.part_json_types import PartDatasetError

from .object_crops import CropSettings

SPLITS = ("train", "val", "test")

KeptLabels = Literal["mask", "box", "none"]


@dataclass(frozen=True)
class PrepareOptions:
    """What to make of labelled photographs.

    Attributes:
        labels: the most that is kept of each part's label: "mask" keeps what there is, "box" the boxes, "none" nothing.
        min_side: objects whose shorter side is below are left out, in pixels of the photograph.
        min_area_share: objects whose box covers less of the photograph are left out, in [0, 1].
        crops: how crops are cut and saved.
        fractions: share of the photographs that train, val and test get; 0 leaves a split out. None takes the owner's
            own splits.
        seed: of the split.
        label_share: share of the training objects with part labels that keep them, in [0, 1], class by class; the
            others are "none". Larger shares hold smaller ones.
        label_seed: of the choice of these.
        labels_only: write the labels and cut nothing: no photograph is needed, and no copy of one is noticed.
    """

    labels: KeptLabels = "mask"
    min_side: float = 16.0
    min_area_share: float = 0.0
    crops: CropSettings = field(default_factory=CropSettings)
    fractions: tuple[float, float, float] | None = (0.7, 0.15, 0.15)
    seed: int = 0
    label_share: float = 1.0
    label_seed: int = 0
    labels_only: bool = False

    def refuse_seeds_of_nothing(self) -> None:
        """Refuse a seed of a choice that is not made.

        Raises:
            PartDatasetError: naming the option.
        """
        if self.fractions is None and self.seed:
            raise PartDatasetError("options", "--seed", "draws splits, and the owner's are taken", "leave it out")
        if self.label_share == 1 and self.label_seed:
            raise PartDatasetError("options", "--label-seed", "chooses among labels, and all are kept", "leave it out")
