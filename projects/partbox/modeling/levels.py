"""Part levels: whether a mask channel stands for a part, for all parts of a class, or for the foreground."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from partbox.data.part_map import IGNORE

LEVELS = ("part", "object", "fg")


def level_of_parts(level: str, part_to_class: Sequence[int]) -> list[int]:
    """Index (from 0, without background) of the channel that each part belongs to at a level.

    Raises:
        ValueError: unknown level.
    """
    if level == "part":
        return list(range(len(part_to_class)))
    if level == "object":
        return list(part_to_class)
    if level == "fg":
        return [0] * len(part_to_class)
    raise ValueError(f"unknown part level {level!r}; known: {', '.join(LEVELS)}")


def num_channels(level: str, part_to_class: Sequence[int], num_classes: int) -> int:
    """Number of mask channels without background."""
    return {"part": len(part_to_class), "object": num_classes, "fg": 1}[level]


def channels_to_class(level: str, part_to_class: Sequence[int], num_classes: int) -> Tensor:
    """0/1 matrix (channels, K): the class that each mask channel votes for; each row sums to 1.

    Raises:
        ValueError: at level ``fg`` a channel belongs to no class.
    """
    if level == "fg":
        raise ValueError("at part level 'fg' no mask belongs to a class: use another head or part level")
    owners = torch.tensor(part_to_class if level == "part" else range(num_classes), dtype=torch.int64)
    return torch.nn.functional.one_hot(owners, num_classes).float()


class LevelMap:
    """Turns part maps (0 = background, 1 + p = part p, -1 = not labelled) into maps of a level's channels."""

    def __init__(self, level: str, part_to_class: Sequence[int]) -> None:
        # The last entry is reached by index -1, so that IGNORE stays IGNORE.
        self.table = torch.tensor([0, *(1 + i for i in level_of_parts(level, part_to_class)), IGNORE])

    def __call__(self, part_maps: Tensor) -> Tensor:
        """(..., H, W) int64 -> (..., H, W) int64."""
        return self.table.to(part_maps.device)[part_maps]
