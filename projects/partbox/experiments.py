"""The original system's experiment names, ``<level>-<model>[-option...]``, as configuration keys.

The original tested options as substrings of the whole name, so a misspelt or merely documented option was silently
ignored (its ``no_bg`` never removed a background, the code asked for ``nobg``). Here every token is looked up.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

LEVELS = ("part", "object", "fg")
Keys = dict[str, Any]

HEAD = "MODEL.PART.HEAD."
EXTRACTOR = "MODEL.PART.EXTRACTOR."

FINE: Keys = {"MODEL.PART.BACKBONE.OUTPUT_STRIDE": 32}  # a detector reads the strides 8, 16 and 32
# Defaults that the original's models have when no option changes them.
MODELS: Mapping[str, Keys] = {
    "wbbox": {
        f"{HEAD}NAME": "part_box",
        f"{HEAD}NORMALIZED_BOXES": False,
        f"{HEAD}SCORE": True,
        f"{HEAD}PART_CONV": False,
    },
    "pooling": {f"{HEAD}NAME": "part_pooling", f"{HEAD}KEEP_BACKGROUND": True, f"{HEAD}POOL_NORM": False},
    "2heads_e": {f"{HEAD}NAME": "two_head"},
    "2heads": {f"{EXTRACTOR}NAME": "dino", f"{HEAD}NAME": "two_head", **FINE},
    # The original reads queries in the detector's own order, which means nothing; here they are sorted or pooled.
    "seq": {
        f"{EXTRACTOR}NAME": "dino",
        f"{HEAD}NAME": "box_sequence",
        f"{HEAD}QUERY_ORDER": "sort",
        f"{HEAD}QUERY_SCORES": "softmax",
        f"{HEAD}HIDDEN": 64,
        **FINE,
    },
    "sim": {f"{HEAD}NAME": "part_to_class", f"{HEAD}LEARNED": False, f"{HEAD}PIXEL_WEIGHT": "uniform"},
    "pixel": {f"{HEAD}NAME": "part_to_class", f"{HEAD}LEARNED": False, f"{HEAD}PIXEL_WEIGHT": "uniform"},
}

NO_BACKGROUND: Keys = {f"{HEAD}KEEP_BACKGROUND": False}
OPTIONS: Mapping[str, Mapping[str, Keys]] = {
    "wbbox": {
        "norm_img": {f"{HEAD}NORMALIZED_BOXES": True},
        "no_score": {f"{HEAD}SCORE": False},
        "conv1d": {f"{HEAD}PART_CONV": True},
    },
    "pooling": {"no_bg": NO_BACKGROUND, "nobg": NO_BACKGROUND, "bn": {f"{HEAD}POOL_NORM": True}},
    "2heads_e": {},
    "2heads": {},
    "seq": {
        "sort_dino_outputs": {f"{HEAD}QUERY_ORDER": "sort"},
        "pool": {f"{HEAD}QUERY_ORDER": "pool"},
        "sig": {f"{HEAD}QUERY_SCORES": "sigmoid"},
    },
    "sim": {"learn_mask": {f"{HEAD}LEARNED": True}},
    "pixel": {"logits_mask": {f"{HEAD}PIXEL_WEIGHT": "foreground"}},
}
# With ``semi`` the original trained (1 - c) class + c parts, c = 0.5 in its scripts; without it the class alone.
SUPERVISED: Keys = {"MODEL.PART.LOSS_WEIGHT": 0.5}
UNSUPERVISED: Keys = {"MODEL.PART.LOSS_WEIGHT": 0.0}

# Tokens of the original that mean something there and have no counterpart here.
KNOWN_ELSEWHERE = {
    "group": "meta-parts are not supported as a part level",
    "centroid": "the keypoint loss is not supported",
    "seg": "part-masked images are not supported as evidence",
    "seg_cat": "part-masked images are not supported as evidence",
    "cat": "masks concatenated to the image are not supported as evidence",
    "mask": "masks as input of a second network are not supported",
    "clean": "use MODEL.PART.EXTRACTOR.NAME oracle for evidence that cannot be attacked",
    "groundtruth": "use MODEL.PART.EXTRACTOR.NAME oracle for the true parts",
    "fc": "the fully connected mask head is not supported",
    "2heads_d": "two heads on the decoder are not supported; 2heads_e has them on the encoder",
    "bbox": "its softmax over the queries and their fixed order are a mistake; use seq",
    "bbox_2heads_d": "use 2heads",
    "hard": "hard masks have no gradient, so attacks on them would be blind",
    "detach": "detached masks have no gradient, so attacks on them would be blind",
    "softmax_mask": "use logits_mask",
    "toy": "the original read this token and never used it",
}


class ExperimentError(ValueError):
    """An experiment name with a token that means nothing, or nothing here."""


def _refuse(name: str, token: str, known: list[str]) -> ExperimentError:
    if token in KNOWN_ELSEWHERE:
        return ExperimentError(f"experiment {name!r}: {token!r} is the original's, but {KNOWN_ELSEWHERE[token]}")
    near = difflib.get_close_matches(token, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return ExperimentError(f"experiment {name!r}: unknown token {token!r}{hint} (known here: {', '.join(known)})")


def experiment_config(name: str) -> Keys:
    """Configuration keys, dotted, that an experiment name stands for.

    ``normal`` is the plain classifier. ``part``, ``object`` or ``fg`` is the part level, followed by a model
    (``wbbox``, ``pooling-<k>``, ``2heads_e``, ``sim``, ``pixel``; on DINO ``seq``, ``2heads``) and its options;
    ``semi`` adds the part term.

    Raises:
        ExperimentError: a token that is unknown, repeated, of another model, or not supported.
    """
    tokens = name.split("-")
    if tokens[0] == "normal":
        if len(tokens) > 1:
            raise _refuse(name, tokens[1], ["normal"])
        return {f"{EXTRACTOR}NAME": "none", f"{HEAD}NAME": "linear"}
    if tokens[0] not in LEVELS:
        raise _refuse(name, tokens[0], [*LEVELS, "normal"])
    if len(tokens) < 2 or tokens[1] not in MODELS:
        raise _refuse(name, tokens[1] if len(tokens) > 1 else "", list(MODELS))
    model, rest = tokens[1], tokens[2:]
    keys: Keys = {f"{EXTRACTOR}NAME": "segmenter", f"{EXTRACTOR}LEVEL": tokens[0], **MODELS[model], **UNSUPERVISED}
    if model == "pooling":
        if not rest or not rest[0].isdecimal() or not 1 <= int(rest[0]) <= 64:
            raise ExperimentError(f"experiment {name!r}: pooling needs its number of cells, such as pooling-4")
        keys[f"{HEAD}POOL_SIZE"] = int(rest.pop(0))
    options = {**OPTIONS[model], "semi": SUPERVISED}
    for index, token in enumerate(rest):
        if token not in options:
            raise _refuse(name, token, list(options))
        if token in rest[:index]:
            raise ExperimentError(f"experiment {name!r}: {token!r} is given twice")
        keys.update(options[token])
    if model in ("sim", "pixel") and tokens[0] == "fg":
        raise ExperimentError(f"experiment {name!r}: at level fg no mask belongs to a class")
    return keys


def describe_experiment(name: str) -> str:
    """One ``KEY: value`` line a key."""
    return "\n".join(f"{key}: {value}" for key, value in experiment_config(name).items())
