"""Part levels: whether a mask channel stands for a part, a class's parts, the parts of one name, or all parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from partbox.data.part_map import IGNORE
from partbox.suggestions import did_you_mean, unknown

LEVELS = ("part", "object", "group", "fg")
Groups = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class PartLevel:
    """What the mask channels stand for.

    Attributes:
        name: ``part``, ``object``, ``group`` or ``fg``.
        channels: names of the mask channels, without background.
        of_part: index in ``channels`` of each part.
    """

    name: str
    channels: tuple[str, ...]
    of_part: tuple[int, ...]


def part_level(
    name: str,
    class_names: Sequence[str],
    part_names: Sequence[str],
    part_to_class: Sequence[int],
    groups: Groups = (),
) -> PartLevel:
    """The level of a model.

    Args:
        name: see :class:`PartLevel`.
        class_names: of the K classes.
        part_names: of the P parts, as ``class:part``.
        part_to_class: class index of each part.
        groups: of level ``group``, ``{"name": ..., "parts": [...]}`` each, see :func:`given_groups`; none = parts of
            the same name in different classes (``dog:head`` and ``cat:head``) are one group.

    Raises:
        ValueError: unknown level, or groups that do not hold every part exactly once.
    """
    if name not in LEVELS:
        raise ValueError(unknown("part level", name, LEVELS))
    if groups and name != "group":
        raise ValueError(f"MODEL.PART.EXTRACTOR.GROUPS belongs to the part level group; the level is {name!r}")
    if name == "part":
        return PartLevel(name, tuple(part_names), tuple(range(len(part_to_class))))
    if name == "object":
        return PartLevel(name, tuple(class_names), tuple(part_to_class))
    if name == "fg":
        return PartLevel(name, ("foreground",), (0,) * len(part_to_class))
    plain = [plain_name(part, class_names[owner]) for part, owner in zip(part_names, part_to_class, strict=True)]
    if groups:
        channels, of_part = given_groups(groups, part_names, plain)
    else:
        channels = list(dict.fromkeys(plain))
        of_part = [channels.index(part) for part in plain]
    return PartLevel(name, tuple(channels), tuple(of_part))


def plain_name(part_name: str, class_name: str) -> str:
    """Name of a part without its class, in lower case: ``head`` of ``dog:head`` and of ``Bird:Bird Head``.

    PartImageNet repeats the class in the names of its parts.
    """
    part = part_name.removeprefix(f"{class_name}:").lower()
    owner = class_name.lower()
    for mark in (" ", "_", "-"):
        part = part.removeprefix(owner + mark)
    return part


def given_groups(groups: Groups, part_names: Sequence[str], plain: Sequence[str]) -> tuple[list[str], list[int]]:
    """Names of the groups that a configuration gives, and the group of each part.

    Args:
        groups: ``{"name": "limb", "parts": ["leg", "dog:paw"]}`` each; a part is named with its class (``dog:paw``), or
            without it (``leg``), which means the parts of that name in all classes.
        part_names: of the P parts, as ``class:part``.
        plain: their names without class.

    Raises:
        ValueError: a group of another form, a part that does not exist, is in two groups, or in none.
    """
    key = "MODEL.PART.EXTRACTOR.GROUPS"
    names: list[str] = []
    of_part: dict[int, int] = {}
    for index, group in enumerate(groups):
        if not isinstance(group, Mapping) or set(group) != {"name", "parts"} or not isinstance(group["parts"], list):
            strange = [one for one in group if one not in ("name", "parts")] if isinstance(group, Mapping) else []
            hint = did_you_mean(strange[0], ("name", "parts")) if strange else ""
            raise ValueError(f"{key}: a group is {{name: limb, parts: [leg, dog:paw]}}, not {group!r}{hint}")
        if group["name"] in names:
            raise ValueError(f"{key}: two groups are called {group['name']!r}")
        names.append(group["name"])
        for wanted in group["parts"]:
            # A name with its class is that part alone, even where another class has a part of the plain name.
            found = [i for i, part in enumerate(part_names) if part == wanted]
            found = found or [i for i, part in enumerate(plain) if part == str(wanted).lower()]
            if not found:
                hint = did_you_mean(wanted, [*part_names, *plain])
                raise ValueError(f"{key}: group {group['name']!r} names {wanted!r}, and no part is called so{hint}")
            for i in found:
                if i in of_part:
                    raise ValueError(f"{key}: {part_names[i]} is in {names[of_part[i]]!r} and in {group['name']!r}")
                of_part[i] = index
        if not group["parts"]:
            raise ValueError(f"{key}: group {group['name']!r} has no parts")
    missing = [part for i, part in enumerate(part_names) if i not in of_part]
    if missing:
        raise ValueError(f"{key}: {len(missing)} parts are in no group, the first is {missing[0]}")
    return names, [of_part[i] for i in range(len(part_names))]


def channels_to_class(
    level: PartLevel, part_to_class: Sequence[int], num_classes: int, *, shared: bool = False
) -> Tensor:
    """Matrix (channels, K): the class that each mask channel votes for; each row sums to 1.

    Args:
        level: of the channels.
        part_to_class: class index of each part.
        num_classes: K.
        shared: a group with parts of several classes votes for each of them alike; else it is refused.

    Raises:
        ValueError: a channel belongs to no class (level ``fg``), or to several.
    """
    if level.name == "fg":
        raise ValueError("at part level 'fg' no mask belongs to a class: use another head or part level")
    if level.name == "object":
        return torch.eye(num_classes)
    matrix = torch.zeros(len(level.channels), num_classes)
    for channel, owner in zip(level.of_part, part_to_class, strict=True):
        matrix[channel, owner] = 1
    several = [level.channels[i] for i in (matrix.sum(dim=1) > 1).nonzero().flatten().tolist()]
    if several and not shared:
        raise ValueError(
            f"at part level 'group', {several[0]!r} ({len(several)} of {len(matrix)} groups) has parts of several "
            "classes and so votes for none: use another part level, or MODEL.PART.HEAD.LEARNED True with part_to_class"
        )
    return matrix / matrix.sum(dim=1, keepdim=True)


class LevelMap:
    """Turns part maps (0 = background, 1 + p = part p, -1 = not labelled) into maps of a level's channels."""

    def __init__(self, level: PartLevel) -> None:
        # The last entry is reached by index -1, so that IGNORE stays IGNORE.
        self.table = torch.tensor([0, *(1 + i for i in level.of_part), IGNORE])

    def __call__(self, part_maps: Tensor) -> Tensor:
        """(..., H, W) int64 -> (..., H, W) int64."""
        return self.table.to(part_maps.device)[part_maps]
