"""The original's experiment names."""

from __future__ import annotations

import pytest
from conftest import REPOSITORY
from small_models import small_config

from partbox.engine.build import build_classifier
from partbox.engine.setup import load_config
from partbox.experiments import MODELS, OPTIONS, ExperimentError, experiment_config

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
    "part-wbbox-norm_img-centroid-semi",
    "part-2heads_d-semi",
    "part-mask",
    "part-mask-nobg-semi",
    "part-mask-inpt-no_bg-semi",
    "part-mask-hard-semi",
    "part-mask-detach-semi",
    "part-seg-semi",
    "part-seg-soft-group-nobg-semi",
    "part-cat-semi",
    "part-cat-mult-hard-group-no_bg-semi",
    "part-clean-semi",
    "part-clean-inpt-hard-nobg-detach-semi",
    "part-groundtruth",
    "part-groundtruth-inpt-nobg",
    "object-mask-semi",
    "group-wbbox-norm_img-semi",
    "group-pooling-4-semi",
    "group-sim-learn_mask-semi",
    "group-seg-semi",
    "group-2heads_d-semi",
    "fg-cat-semi",
    "part-seg-no_bg",
    "part-cat-nobg",
    "part-clean-no_bg",
    "part-groundtruth-no_bg",
    "part-seq-sort_dino_outputs",
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
        ("part", "part", "names no model: add -wbbox"),
        ("", "", "known here"),
        ("part-wbbox--semi", "", "known here"),
        ("Part-wbbox", "Part", "part"),
        ("part-seq-conv1d", "conv1d", "known here"),
        ("part-bbox-semi", "bbox", "use seq"),
        ("groups-wbbox", "groups", "group"),
        ("part-wbbox-hard", "hard", "blind"),
        ("part-pixel-detach", "detach", "blind"),
        ("part-fc-semi", "fc", "dropped"),
        ("part-seg_cat", "seg_cat", "dropped"),
        ("part-seg-only", "only", "train_detector.py"),
        ("part-cat-top5", "top5", "never implemented"),
        ("part-cat-topK", "topK", "never implemented"),
        ("part-cat-soft", "soft", "known here"),
        ("part-seg-mult", "mult", "known here"),
        ("part-seg-inpt", "inpt", "known here"),
        ("part-groundtruth-hard", "hard", "blind"),
        ("part-mask-group", "group", "known here"),
        ("part-2heads_d-nobg", "nobg", "known here"),
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


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("part-wbbox-centroid", "without semi"),
        ("fg-wbbox-centroid-semi", "level fg"),
        ("group-wbbox-centroid-semi", "several classes"),
        ("group-sim-semi", "several classes"),
        ("group-pixel", "several classes"),
        ("fg-seg-group", "level fg"),
        ("group-cat-group", "several classes"),
        ("object-cat-group", "one mask already"),
    ],
)
def test_options_that_mean_nothing_at_a_level_are_errors(name, words):
    with pytest.raises(ExperimentError, match=words):
        experiment_config(name)


HEAD, EXTRACTOR = "MODEL.PART.HEAD.", "MODEL.PART.EXTRACTOR."


@pytest.mark.parametrize(
    ("without", "token", "changes"),
    [
        ("part-mask", "nobg", {f"{HEAD}KEEP_BACKGROUND": False}),
        ("part-mask", "inpt", {f"{HEAD}COMBINE": "concat"}),
        ("part-mask", "hard", {f"{HEAD}HARD_MASKS": True, f"{HEAD}DETACH_MASKS": True}),
        ("part-mask", "detach", {f"{HEAD}DETACH_MASKS": True}),
        ("part-seg", "soft", {f"{HEAD}HARD_MASKS": False, f"{HEAD}DETACH_MASKS": False}),
        ("part-seg", "group", {f"{HEAD}SUM_BY_CLASS": True}),
        ("part-seg", "no_bg", {f"{HEAD}KEEP_BACKGROUND": False}),
        ("part-cat", "mult", {f"{HEAD}COMBINE": "multiply"}),
        ("part-cat", "hard", {f"{HEAD}HARD_MASKS": True, f"{HEAD}DETACH_MASKS": True}),
        ("part-cat", "group", {f"{HEAD}SUM_BY_CLASS": True}),
        ("part-clean", "inpt", {f"{HEAD}COMBINE": "concat"}),
        ("part-clean", "hard", {f"{HEAD}HARD_MASKS": True}),
        ("part-groundtruth", "inpt", {f"{HEAD}COMBINE": "concat"}),
        ("part-groundtruth", "nobg", {f"{HEAD}KEEP_BACKGROUND": False}),
        ("part-wbbox-semi", "centroid", {"MODEL.PART.KEYPOINT_LOSS_WEIGHT": 1.0, "MODEL.PART.PIXEL_LOSS_WEIGHT": 0.0}),
        ("part-wbbox", "norm_img", {f"{HEAD}NORMALIZED_BOXES": True}),
        ("part-wbbox", "no_score", {f"{HEAD}SCORE": False}),
        ("part-wbbox", "conv1d", {f"{HEAD}PART_CONV": True}),
        ("part-pooling-4", "bn", {f"{HEAD}POOL_NORM": True}),
        ("part-sim", "learn_mask", {f"{HEAD}LEARNED": True}),
        ("part-pixel", "logits_mask", {f"{HEAD}PIXEL_WEIGHT": "foreground"}),
        ("part-seq", "sig", {f"{HEAD}QUERY_SCORES": "sigmoid"}),
        ("part-seq", "pool", {f"{HEAD}QUERY_ORDER": "pool"}),
        ("part-seq", "sort_dino_outputs", {}),
        ("part-clean", "detach", {}),
    ],
)
def test_what_each_option_changes(without, token, changes):
    """Exactly these keys; the last two are what their models do in any case."""
    before, after = experiment_config(without), experiment_config(f"{without}-{token}")
    assert {key: value for key, value in after.items() if before.get(key) != value} == changes


def test_what_each_masked_model_is():
    def values(name: str) -> tuple:
        keys = experiment_config(name)
        found = [keys[f"{HEAD}{key}"] for key in ("COMBINE", "HARD_MASKS", "DETACH_MASKS")]
        return keys[f"{EXTRACTOR}NAME"], keys[f"{EXTRACTOR}FROM_CLEAN_IMAGE"], *found

    assert values("part-mask") == ("segmenter", False, "masks", False, False)
    assert values("part-seg") == ("segmenter", False, "multiply", True, True)
    assert values("part-cat") == ("segmenter", False, "concat", False, False)
    assert values("part-clean") == ("segmenter", True, "masks", False, True)
    assert values("part-groundtruth") == ("oracle", False, "masks", False, False)


def test_every_option_of_every_model_is_tested():
    """A token that a name of KNOWN does not hold would be documented and untried, as ``no_bg`` once was."""
    tried = {(name.split("-")[1], token) for name in KNOWN[1:] for token in name.split("-")[2:]}
    for model, options in OPTIONS.items():
        missing = [token for token in options if (model, token) not in tried]
        assert not missing, (model, missing)
    assert {name.split("-")[1] for name in KNOWN[1:]} == set(MODELS)


@pytest.mark.parametrize("stem", ["oracle_clean", "part_box_keypoints"])
@pytest.mark.parametrize("name", ["part-wbbox-semi", "part-pooling-4-semi", "group-sim-learn_mask-semi", "normal"])
def test_a_name_over_a_file_does_not_keep_its_oracle_or_its_keypoint_loss(stem, name):
    """An oracle's robustness, or another loss, under the name of a model that has neither."""
    part = load_config(REPOSITORY / f"configs/example/{stem}.yaml", [], experiment=name).MODEL.PART
    assert not part.EXTRACTOR.FROM_CLEAN_IMAGE
    assert (part.PIXEL_LOSS_WEIGHT, part.KEYPOINT_LOSS_WEIGHT) == (1.0, 0.0)


FILES = {
    "masks": "part-mask-semi",
    "masked_images": "part-seg-soft-group-semi",
    "image_and_masks": "part-cat-nobg-semi",
    "oracle_clean": "part-clean-inpt-nobg-semi",
    "oracle_masks": "part-groundtruth",
    "two_head_decoder": "part-2heads_d-semi",
    "part_box_keypoints": "part-wbbox-norm_img-centroid-semi",
    "part_box_groups": "group-wbbox-norm_img-semi",
}


@pytest.mark.parametrize("stem", FILES)
def test_files_are_what_the_model_table_calls_them(stem):
    """docs/training.md names an experiment for each; the name over the file changes nothing."""
    path = REPOSITORY / f"configs/example/{stem}.yaml"
    assert load_config(path, [], experiment=FILES[stem]) == load_config(path)
    assert f"{stem}.yaml" in (REPOSITORY / "docs/training.md").read_text()
