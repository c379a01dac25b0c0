"""The original's experiment names."""

from __future__ import annotations

import pytest
from small_models import small_config

from partbox.engine.build import build_classifier
from partbox.engine.setup import load_config
from partbox.experiments import ExperimentError, experiment_config

KNOWN = [
    "normal",
    "part-wbbox",
    "part-wbbox-norm_img",
    "part-wbbox-norm_img-semi",
    "part-wbbox-norm_img-no_score-conv1d-semi",
    "part-pooling-4",
    "part-pooling-4-no_bg-semi",
    "part-pooling-8-nobg-bn-semi",
    "part-2heads_e-semi",
    "part-sim-learn_mask-semi",
    "part-pixel-logits_mask",
    "part-seq-semi",
    "part-seq-pool-sig-semi",
    "part-2heads-semi",
    "object-wbbox-semi",
    "object-pooling-4-semi",
    "object-sim-semi",
    "fg-wbbox-semi",
]


@pytest.mark.parametrize("name", KNOWN)
def test_known_names_build_a_model_and_every_key_is_obeyed(example_dataset, name):
    keys = experiment_config(name)
    cfg = load_config(None, [], experiment=name)
    for key, value in keys.items():
        node = cfg
        for step in key.split("."):
            node = node[step]
        assert node == value
    options = [str(item) for pair in keys.items() for item in pair]
    small = ["MODEL.DINO.HIDDEN_DIM", "64", "MODEL.DINO.ENC_LAYERS", "1", "MODEL.DINO.DIM_FEEDFORWARD", "32"]
    build_classifier(small_config(example_dataset, *small, *options))


@pytest.mark.parametrize(
    ("name", "token", "hint"),
    [
        ("part-wbbox-norm_imag-semi", "norm_imag", "norm_img"),
        ("part-wbox", "wbox", "wbbox"),
        ("parts-wbbox", "parts", "part"),
        ("part-pooling-4-no_background", "no_background", "no_bg"),
        ("part-wbbox-no_bg", "no_bg", "known here"),
        ("normal-semi", "semi", "normal"),
        ("part", "", "known here"),
        ("", "", "known here"),
        ("part-wbbox--semi", "", "known here"),
        ("Part-wbbox", "Part", "part"),
        ("part-seq-conv1d", "conv1d", "known here"),
        ("part-bbox-semi", "bbox", "use seq"),
        ("group-wbbox", "group", "meta-parts"),
        ("part-wbbox-hard", "hard", "blind"),
    ],
)
def test_unknown_tokens_are_errors_that_help(name, token, hint):
    with pytest.raises(ExperimentError) as caught:
        experiment_config(name)
    assert repr(token) in str(caught.value)
    assert hint in str(caught.value)


@pytest.mark.parametrize("name", ["part-pooling", "part-pooling-0", "part-pooling-four", "part-pooling-semi-4"])
def test_pooling_needs_its_cells(name):
    with pytest.raises(ExperimentError, match="pooling-4"):
        experiment_config(name)


def test_repeated_options_are_errors():
    with pytest.raises(ExperimentError, match="twice"):
        experiment_config("part-wbbox-semi-semi")


def test_both_spellings_of_no_background_mean_the_same():
    assert experiment_config("part-pooling-4-no_bg-semi") == experiment_config("part-pooling-4-nobg-semi")
    assert experiment_config("part-pooling-4-semi") != experiment_config("part-pooling-4-nobg-semi")


def test_semi_is_what_supervises_the_parts():
    assert experiment_config("part-wbbox")["MODEL.PART.LOSS_WEIGHT"] == 0.0
    assert experiment_config("part-wbbox-semi")["MODEL.PART.LOSS_WEIGHT"] == 0.5
