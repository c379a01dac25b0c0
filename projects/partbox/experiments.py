"""The original system's experiment names, ``<level>-<model>[-option...]``, as configuration keys.

The original tested options as substrings of the whole name, so a misspelt or merely documented option was silently
ignored (its ``no_bg`` never removed a background, the code asked for ``nobg``). Here every token is looked up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .suggestions import nearest

LEVELS = ("part", "object", "group", "fg")
Keys = dict[str, Any]

HEAD = "MODEL.PART.HEAD."
EXTRACTOR = "MODEL.PART.EXTRACTOR."

FINE: Keys = {"MODEL.PART.BACKBONE.OUTPUT_STRIDE": 32}  # a detector reads the strides 8, 16 and 32
DETACHED: Keys = {f"{HEAD}DETACH_MASKS": True}
HARD: Keys = {f"{HEAD}HARD_MASKS": True, **DETACHED}
SOFT: Keys = {f"{HEAD}HARD_MASKS": False, f"{HEAD}DETACH_MASKS": False}
MASKED: Keys = {
    f"{HEAD}NAME": "masked_image",
    f"{HEAD}KEEP_BACKGROUND": True,
    **SOFT,
    f"{HEAD}SUM_BY_CLASS": False,
}
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
    # The hidden units of the Ancestor; the later code has 128.
    "2heads_d": {f"{HEAD}NAME": "two_head_decoder", f"{HEAD}HIDDEN": 100},
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
    "mask": {**MASKED, f"{HEAD}COMBINE": "masks"},
    # The original's one-hot masks cut the gradient, so the class taught its segmenter nothing.
    "seg": {**MASKED, **HARD, f"{HEAD}COMBINE": "multiply"},
    "cat": {**MASKED, f"{HEAD}COMBINE": "concat"},
    "clean": {**MASKED, **DETACHED, f"{HEAD}COMBINE": "masks", f"{EXTRACTOR}FROM_CLEAN_IMAGE": True},
    "groundtruth": {**MASKED, f"{HEAD}COMBINE": "masks", f"{EXTRACTOR}NAME": "oracle"},
}

NO_BACKGROUND: Keys = {f"{HEAD}KEEP_BACKGROUND": False}
WITHOUT: Mapping[str, Keys] = {"no_bg": NO_BACKGROUND, "nobg": NO_BACKGROUND}
WITH_IMAGE: Mapping[str, Keys] = {"inpt": {f"{HEAD}COMBINE": "concat"}}
BY_CLASS: Mapping[str, Keys] = {"group": {f"{HEAD}SUM_BY_CLASS": True}}
OPTIONS: Mapping[str, Mapping[str, Keys]] = {
    "wbbox": {
        # The original's keypoint loss takes the place of the pixels' cross-entropy.
        "centroid": {"MODEL.PART.KEYPOINT_LOSS_WEIGHT": 1.0, "MODEL.PART.PIXEL_LOSS_WEIGHT": 0.0},
        "norm_img": {f"{HEAD}NORMALIZED_BOXES": True},
        "no_score": {f"{HEAD}SCORE": False},
        "conv1d": {f"{HEAD}PART_CONV": True},
    },
    "pooling": {**WITHOUT, "bn": {f"{HEAD}POOL_NORM": True}},
    "2heads_e": {},
    "2heads_d": {},
    "2heads": {},
    "seq": {
        "sort_dino_outputs": {f"{HEAD}QUERY_ORDER": "sort"},
        "pool": {f"{HEAD}QUERY_ORDER": "pool"},
        "sig": {f"{HEAD}QUERY_SCORES": "sigmoid"},
    },
    "sim": {"learn_mask": {f"{HEAD}LEARNED": True}},
    "pixel": {"logits_mask": {f"{HEAD}PIXEL_WEIGHT": "foreground"}},
    "mask": {**WITHOUT, **WITH_IMAGE, "hard": HARD, "detach": DETACHED},
    "seg": {**WITHOUT, **BY_CLASS, "soft": SOFT},
    "cat": {**WITHOUT, **BY_CLASS, "hard": HARD, "mult": {f"{HEAD}COMBINE": "multiply"}},
    "clean": {**WITHOUT, **WITH_IMAGE, "hard": HARD, "detach": DETACHED},
    "groundtruth": {**WITHOUT, **WITH_IMAGE},
}
# What an option needs beside it to mean anything.
NEEDS = {"centroid": "semi"}
# With ``semi`` the original trained (1 - c) class + c parts, c = 0.5 in its scripts; without it the class alone.
SUPERVISED: Keys = {"MODEL.PART.LOSS_WEIGHT": 0.5}
UNSUPERVISED: Keys = {"MODEL.PART.LOSS_WEIGHT": 0.0}
# What a configuration file below the name may have changed, and only a token of the name may.
PLAIN: Keys = {
    "MODEL.PART.PIXEL_LOSS_WEIGHT": 1.0,
    "MODEL.PART.KEYPOINT_LOSS_WEIGHT": 0.0,
    f"{EXTRACTOR}FROM_CLEAN_IMAGE": False,
}

# Tokens of the original that mean something there and have no counterpart here.
KNOWN_ELSEWHERE = {
    "seg_cat": "it is dropped: image x hard masks side by side on the channels of one network is what seg does with a "
    "shared network; use seg or cat",
    "fc": "it is dropped: its layers have the sizes of one experiment (14 masks, 224 pixels) written into the code; "
    "use pooling or mask",
    "only": "a segmenter or detector alone is trained by tools/train_detector.py",
    "bbox": "its softmax over the queries and their fixed order are a mistake; use seq",
    "bbox_2heads_d": "use 2heads",
    "hard": "with this model attacks on hard masks would be blind; mask, cat and clean have them",
    "detach": "with this model attacks on detached masks would be blind; mask and clean have them",
    "softmax_mask": "use logits_mask",
    "toy": "the original read this token and never used it",
}
TOP = re.compile(r"top(\d*|[kK])")  # the original read it and stopped


class ExperimentError(ValueError):
    """An experiment name with a token that means nothing, or nothing here."""


def _refuse(name: str, token: str, known: list[str]) -> ExperimentError:
    if token in KNOWN_ELSEWHERE:
        return ExperimentError(f"experiment {name!r}: {token!r} is the original's, but {KNOWN_ELSEWHERE[token]}")
    if TOP.fullmatch(token):
        return ExperimentError(f"experiment {name!r}: {token!r} was never implemented in the original, nor is it here")
    near = nearest(token, known, most=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return ExperimentError(f"experiment {name!r}: unknown token {token!r}{hint} (known here: {', '.join(known)})")


def experiment_config(name: str) -> Keys:
    """Configuration keys, dotted, that an experiment name stands for.

    ``normal`` is the plain classifier. ``part``, ``object``, ``group`` or ``fg`` is the part level, followed by a model
    (``wbbox``, ``pooling-<k>``, ``2heads_e``, ``2heads_d``, ``sim``, ``pixel``, ``mask``, ``seg``, ``cat``, the oracles
    ``clean`` and ``groundtruth``; on DINO ``seq``, ``2heads``) and its options; ``semi`` adds the part term.

    Raises:
        ExperimentError: a token that is unknown, repeated, of another model, or not supported.
    """
    tokens = name.split("-")
    if tokens[0] == "normal":
        if len(tokens) > 1:
            raise _refuse(name, tokens[1], ["normal"])
        return {**PLAIN, f"{EXTRACTOR}NAME": "none", f"{HEAD}NAME": "linear"}
    if tokens[0] not in LEVELS:
        raise _refuse(name, tokens[0], [*LEVELS, "normal"])
    if len(tokens) < 2:
        raise ExperimentError(f"experiment {name!r} names no model: add -wbbox, or another of {', '.join(MODELS)}")
    if tokens[1] not in MODELS:
        raise _refuse(name, tokens[1], list(MODELS))
    model, rest = tokens[1], tokens[2:]
    keys: Keys = {**PLAIN, f"{EXTRACTOR}NAME": "segmenter", f"{EXTRACTOR}LEVEL": tokens[0]}
    keys.update({**MODELS[model], **UNSUPERVISED})
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
    for token, needed in NEEDS.items():
        if token in rest and needed not in rest:
            raise ExperimentError(
                f"experiment {name!r}: {token!r} is a loss on the parts and does nothing without {needed}"
            )
    _check_level(name, tokens[0], model, rest)
    return keys


def _check_level(name: str, level: str, model: str, options: list[str]) -> None:
    """Refuse models and options that need masks of one class each at levels that have none."""
    votes = model in ("sim", "pixel") or "centroid" in options or ("group" in options)
    if votes and level == "fg":
        raise ExperimentError(f"experiment {name!r}: at level fg no mask belongs to a class")
    if votes and level == "group" and "learn_mask" not in options:
        raise ExperimentError(f"experiment {name!r}: at level group a mask may belong to several classes")
    if "group" in options and level == "object":
        raise ExperimentError(f"experiment {name!r}: at level object the parts of a class are one mask already")


def describe_experiment(name: str) -> str:
    """One ``KEY: value`` line a key."""
    return "\n".join(f"{key}: {value}" for key, value in experiment_config(name).items())
