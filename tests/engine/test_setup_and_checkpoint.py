"""Configuration and checkpoints: what is refused, and that what is written can be trusted."""

from __future__ import annotations

import pytest
import torch
import yaml
from small_models import MODELS, ORACLES, small_config

from partbox.attacks import parse_eps
from partbox.data.mapper import PartDatasetMapper
from partbox.engine.build import (
    build_classifier,
    build_optimizer,
    build_validation,
    check_attackable,
    check_supervision,
    check_true_parts,
)
from partbox.engine.checkpoint import CheckpointError, load_weights, read_checkpoint, save_weights
from partbox.engine.checks import ConfigError
from partbox.engine.dry_run import plan
from partbox.engine.evaluate import evaluate_and_save
from partbox.engine.evaluation_cost import cost, self_check_lines
from partbox.engine.run_folder import config_changes
from partbox.engine.setup import fill_names, load_config
from partbox.evaluation.perturbations import build_perturbation
from partbox.files import write_atomically


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["SOLVER.BASE_RL", "1"], "did you mean SOLVER.BASE_LR"),
        (["ADVERSARY.EPSILON", "1"], "ADVERSARY.EPS"),
        (["MODEL.PART.HEAD"], "stands alone"),
        (["SOLVER.MAX_ITER", "many"], "SOLVER.MAX_ITER|Type mismatch"),
    ],
)
def test_wrong_options_are_refused_with_the_nearest_right_one(options, words):
    with pytest.raises(ConfigError, match=words):
        load_config(None, options)


def test_wrong_keys_of_a_file_are_refused(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("MODEL:\n  PART:\n    HAED:\n      NAME: part_box\n")
    with pytest.raises(ConfigError, match=r"bad.yaml: unknown configuration key MODEL.PART.HAED.NAME"):
        load_config(path)
    path.write_text("MODEL: [")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(path)
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(tmp_path / "missing.yaml")


@pytest.mark.parametrize("eps", ["0.03", "1", "8/255", "3e-2"])
def test_eps_may_be_a_number_or_a_fraction(tmp_path, eps):
    path = tmp_path / "numbers.yaml"
    path.write_text(f"ADVERSARY:\n  EPS: {eps}\n  STEP_SIZE: 0.01\nSOLVER:\n  BASE_LR: 1\n")
    for cfg in (load_config(path), load_config(None, ["ADVERSARY.EPS", eps, "SOLVER.BASE_LR", "1"])):
        assert parse_eps(cfg.ADVERSARY.EPS) == pytest.approx(parse_eps(eps))
        assert cfg.SOLVER.BASE_LR == 1.0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SOLVER.IMS_PER_BATCH", "0"),
        ("ROBUST_EVAL.BATCH_SIZE", "0"),
        ("ROBUST_EVAL.NUM_IMAGES", "-5"),
        ("ROBUST_EVAL.EXAMPLES", "-1"),
        ("ROBUST_EVAL.EXAMPLE_SCORE", "1.5"),
        ("INPUT.FORMAT", "L"),
        ("ADVERSARY.CLEAN_ITERS", "-1"),
        ("ADVERSARY.VALIDATION_STEPS", "0"),
        ("ADVERSARY.OBJECTIVE", "fgsm"),
        ("INPUT.SIZE", "(64,)"),
        ("INPUT.RANDOM_FLIP", "diagonal"),
        ("INPUT.VERIFY_IMAGES", "glance"),
        ("MODEL.PART.EXTRACTOR.SUPERVISION", "points"),
        ("MODEL.DEVICE", "toaster"),
        ("SOLVER.LR_SCHEDULER_NAME", "Foo"),
    ],
)
def test_values_out_of_range_are_refused_by_name(key, value):
    with pytest.raises(ConfigError, match=key.replace(".", r"\.")):
        load_config(None, [key, value])


def test_the_device_stays_as_it_was_written():
    """A configuration from a GPU machine must work on one without."""
    assert load_config(None).MODEL.DEVICE == "auto"


def test_weights_for_classes_in_another_order_are_refused(example_dataset, tmp_path):
    path = tmp_path / "model.pth"
    save_weights(path, build_classifier(small_config(example_dataset)))
    cfg = small_config(example_dataset, "MODEL.WEIGHTS", str(path))
    build_classifier(cfg)
    cfg.MODEL.PART.CLASS_NAMES = list(reversed(cfg.MODEL.PART.CLASS_NAMES))
    with pytest.raises(CheckpointError, match="another order"):
        build_classifier(cfg)


def test_a_part_model_without_part_labels_is_refused(example_dataset):
    records = [{**record, "part_labels": "box"} for record in example_dataset.records]
    for supervision, expected in (("auto", 66), ("box", 66)):
        cfg = small_config(example_dataset, "MODEL.PART.EXTRACTOR.SUPERVISION", supervision)
        assert check_supervision(cfg, build_classifier(cfg), records) == expected
    cfg = small_config(example_dataset, "MODEL.PART.EXTRACTOR.SUPERVISION", "mask")
    with pytest.raises(ConfigError, match="none of the 66 training images"):
        check_supervision(cfg, build_classifier(cfg), records)
    without = small_config(
        example_dataset, *["MODEL.PART.EXTRACTOR.SUPERVISION", "mask", "MODEL.PART.LOSS_WEIGHT", "0"]
    )
    assert check_supervision(without, build_classifier(without), records) == 0


@pytest.mark.parametrize("options", [MODELS["normal"], ["MODEL.PART.LOSS_WEIGHT", "0"]])
def test_a_model_without_a_part_term_uses_no_part_labels(example_dataset, options):
    cfg = small_config(example_dataset, *options)
    assert check_supervision(cfg, build_classifier(cfg), example_dataset.records) == 0


def test_predicted_labels_that_nothing_uses_are_refused(example_dataset):
    """Boxes for a model of masks: it would learn from the annotated images alone, and no number would say so."""
    boxes = [{**r, "part_labels": "box", "label_source": "predicted"} for r in example_dataset.records[:60]]
    records = [*boxes, *example_dataset.records[60:]]
    assert records[-1]["part_labels"] == "mask"
    cfg = small_config(example_dataset, "MODEL.PART.EXTRACTOR.SUPERVISION", "mask")
    with pytest.raises(ConfigError, match="predicted part labels of 60 images are boxes"):
        check_supervision(cfg, build_classifier(cfg), records)
    for supervision in ("auto", "box"):
        cfg = small_config(example_dataset, "MODEL.PART.EXTRACTOR.SUPERVISION", supervision)
        assert check_supervision(cfg, build_classifier(cfg), records) == 66
    masks = [{**r, "label_source": "predicted"} for r in example_dataset.records]
    cfg = small_config(example_dataset, "MODEL.PART.EXTRACTOR.SUPERVISION", "mask")
    assert check_supervision(cfg, build_classifier(cfg), masks) == 66


def test_the_oracle_is_not_attacked(example_dataset):
    oracle = ["MODEL.PART.EXTRACTOR.NAME", "oracle", "MODEL.PART.HEAD.NAME", "part_to_class"]
    cfg = small_config(example_dataset, *oracle, "ADVERSARY.OBJECTIVE", "pgd")
    with pytest.raises(ConfigError, match="OBJECTIVE clean"):
        check_attackable(cfg, build_classifier(cfg), training=True)
    with pytest.raises(ConfigError, match="PERTURBATIONS"):
        check_attackable(cfg, build_classifier(cfg), training=False)


def test_an_oracle_is_refused_images_without_part_labels_before_it_starts(example_dataset):
    """It would stop at the first batch that has one, in the middle of training or of an evaluation."""
    cfg = small_config(example_dataset, *ORACLES["oracle_masks"])
    model, records = build_classifier(cfg), list(example_dataset.records)
    assert check_supervision(cfg, model, records) == 66
    check_true_parts(model, [{**record, "part_labels": "box"} for record in records], "DATASETS.TEST")
    records[7] = {**records[7], "part_labels": "none", "annotations": []}
    with pytest.raises(ConfigError, match=r"DATASETS\.TRAIN: .* 1 of 66 images"):
        check_supervision(cfg, model, records)
    with pytest.raises(ConfigError, match=r"DATASETS\.TEST: .* 1 of 66 images"):
        check_true_parts(model, records, "DATASETS.TEST")
    masks_only = small_config(example_dataset, *ORACLES["oracle_masks"], "MODEL.PART.EXTRACTOR.SUPERVISION", "mask")
    with pytest.raises(ConfigError, match=r"66 of 66 images"):
        check_supervision(masks_only, model, [{**record, "part_labels": "box"} for record in records])
    segmenter = small_config(example_dataset)
    check_true_parts(build_classifier(segmenter), records, "DATASETS.TEST")


def test_an_evaluation_and_a_plan_of_an_oracle_look_at_all_its_labels(example_dataset, tmp_path, monkeypatch):
    oracle = [*ORACLES["oracle_masks"], "ROBUST_EVAL.PERTURBATIONS", "[{'name': 'clean'}]"]
    options = ["OUTPUT_DIR", str(tmp_path / "run"), "DATASETS.VALIDATION", "('any',)"]
    cfg = small_config(example_dataset, *oracle, *options)
    monkeypatch.setitem(example_dataset.records[-1], "part_labels", "none")
    monkeypatch.setattr("partbox.engine.evaluate.load_dataset", lambda *_: example_dataset)
    monkeypatch.setattr("partbox.engine.dry_run.load_dataset", lambda *_: example_dataset)
    monkeypatch.setattr("partbox.engine.build.load_dataset", lambda *_: example_dataset)
    for work in (
        lambda: evaluate_and_save(cfg, build_classifier(cfg).eval(), weights=""),
        lambda: plan(cfg, eval_only=True),
        lambda: build_validation(cfg, build_classifier(cfg)),
    ):
        with pytest.raises(ConfigError, match="the oracle's parts are the labels, and 1 of 66 images have none"):
            work()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], True),
        (["MODEL.PART.LOSS_WEIGHT", "0.5"], False),
        (["MODEL.PART.HEAD.DETACH_MASKS", "False"], False),
        (["MODEL.WEIGHTS", "teacher.pth"], False),
    ],
)
def test_masks_that_nothing_teaches_are_named(example_dataset, caplog, options, said):
    """``part-seg`` without ``semi`` is meant for a segmenter that has learned already."""
    nobody = ["MODEL.PART.LOSS_WEIGHT", "0", "MODEL.PART.HEAD.DETACH_MASKS", "True"]
    cfg = small_config(example_dataset, "MODEL.PART.HEAD.NAME", "masked_image", *nobody, *options)
    check_supervision(cfg, build_classifier(cfg, ""), example_dataset.records)
    assert ("Nothing teaches the part masks" in caplog.text) == said


def test_the_true_parts_take_no_share_of_the_loss(example_dataset):
    """With the default weight of the part term, half of the classification would be lost to a number."""
    cfg = small_config(example_dataset, *ORACLES["oracle_masks"])
    model = build_classifier(cfg)
    mapper = PartDatasetMapper.from_config(cfg, is_train=False)
    batch = [mapper(record) for record in example_dataset.records[:4]]
    images, targets = model.images_of(batch), model.targets_of(batch)
    whole = model.classification_loss(model.run(images, targets).logits, targets)
    torch.testing.assert_close(sum(model.losses(images, targets).values()), whole)


def test_order_is_file_then_experiment_then_options(tmp_path):
    path = tmp_path / "good.yaml"
    path.write_text(yaml.safe_dump({"MODEL": {"PART": {"HEAD": {"NAME": "two_head", "HIDDEN": 7}}}}))
    cfg = load_config(path, ["MODEL.PART.HEAD.POOL_SIZE", "8"], experiment="part-pooling-4-no_bg-semi")
    head = cfg.MODEL.PART.HEAD
    assert (head.NAME, head.HIDDEN, head.POOL_SIZE, head.KEEP_BACKGROUND) == ("part_pooling", 7, 8, False)


def test_a_dataset_with_other_parts_is_refused(example_dataset):
    cfg = small_config(example_dataset)
    fill_names(cfg, example_dataset)  # the same again is fine
    cfg.MODEL.PART.PART_NAMES = list(reversed(cfg.MODEL.PART.PART_NAMES))
    with pytest.raises(ConfigError, match="PART_NAMES"):
        fill_names(cfg, example_dataset)


def test_weights_load_completely_or_not_at_all(example_dataset, tmp_path):
    model = build_classifier(small_config(example_dataset))
    path = tmp_path / "model.pth"
    save_weights(path, model, iteration=3)
    stored = read_checkpoint(path)
    assert stored["iteration"] == 3
    load_weights(model, stored["model"], "itself")
    for change, words in (
        (lambda state: state.pop("head.classifier.1.weight"), "is missing"),
        (lambda state: state.update(extra=torch.zeros(1)), "not expected"),
        (lambda state: state.update({"head.classifier.1.weight": torch.zeros(2, 2)}), "has shape"),
    ):
        state = dict(stored["model"])
        change(state)
        before = model.state_dict()["head.classifier.1.weight"].clone()
        with pytest.raises(CheckpointError, match=words):
            load_weights(model, state, "changed")
        assert torch.equal(model.state_dict()["head.classifier.1.weight"], before)


def test_model_weights_of_another_model_are_refused_by_the_builder(example_dataset, tmp_path):
    path = tmp_path / "model.pth"
    save_weights(path, build_classifier(small_config(example_dataset)))
    with pytest.raises(CheckpointError, match=r"config\.yaml"):
        build_classifier(small_config(example_dataset, "MODEL.PART.HEAD.HIDDEN", "60", "MODEL.WEIGHTS", str(path)))


def test_what_training_starts_anew_is_named(example_dataset, tmp_path):
    """The head is new, everything else comes from the file; evaluation loads everything."""
    path = tmp_path / "model.pth"
    given = build_classifier(small_config(example_dataset, "MODEL.PART.HEAD.HIDDEN", "60"))
    with torch.no_grad():
        for parameter in given.parameters():
            parameter.add_(1.0)
    save_weights(path, given)
    cfg = small_config(example_dataset, "MODEL.WEIGHTS", str(path), "MODEL.WEIGHTS_EXCEPT", "['head.*']")
    plain, model = build_classifier(small_config(example_dataset)), build_classifier(cfg)
    for name, tensor in model.state_dict().items():
        source = plain if name.startswith("head.") else given
        assert torch.equal(tensor, source.state_dict()[name]), name
    with pytest.raises(CheckpointError, match="has shape"):
        build_classifier(cfg, str(path))
    missing = small_config(example_dataset, "MODEL.WEIGHTS", str(path), "MODEL.WEIGHTS_EXCEPT", "['heads.*']")
    with pytest.raises(CheckpointError, match=r"no parameter of the model is called 'heads\.\*'"):
        build_classifier(missing)


def test_embeddings_have_their_own_weight_decay(example_dataset):
    cfg = small_config(example_dataset, "SOLVER.WEIGHT_DECAY", "0.5", "SOLVER.WEIGHT_DECAY_EMBED", "0.25")
    model = torch.nn.Sequential(torch.nn.Embedding(3, 2), torch.nn.Linear(2, 2))
    optimizer = build_optimizer(cfg, model)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert [decay[id(p)] for p in model.parameters()] == [0.25, 0.5, 0.5]


def test_truncated_and_foreign_checkpoints_are_refused_by_name(example_dataset, tmp_path):
    path = tmp_path / "model.pth"
    save_weights(path, build_classifier(small_config(example_dataset)))
    whole = path.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"model\.pth"):
            read_checkpoint(path)
    torch.save({"weights": 1}, path)
    with pytest.raises(CheckpointError, match="'model'"):
        read_checkpoint(path)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    torch.save({"model": {"a": Attack()}}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path / "evil.pth")
    assert not (tmp_path / "written").exists()


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(file):
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_optimizer_groups(example_dataset):
    cfg = small_config(
        example_dataset,
        *["SOLVER.BASE_LR", "0.1", "SOLVER.BACKBONE_MULTIPLIER", "0.5", "SOLVER.WEIGHT_DECAY_NORM", "0.0"],
        *["SOLVER.WEIGHT_DECAY", "0.01", "SOLVER.OPTIMIZER", "ADAMW"],
    )
    model = build_classifier(cfg)
    optimizer = build_optimizer(cfg, model)
    assert isinstance(optimizer, torch.optim.AdamW)
    names = {id(p): name for name, p in model.named_parameters()}
    norms = {
        id(p)
        for module in model.modules()
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
        for p in module.parameters()
    }
    seen = 0
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            seen += 1
            expected = 0.05 if names[id(parameter)].startswith("backbone.") else 0.1
            assert group["lr"] == pytest.approx(expected)
            if id(parameter) in norms:
                assert group["weight_decay"] == 0
    assert seen == len(names)
    with pytest.raises(ConfigError, match=r"SOLVER\.OPTIMIZER"):
        small_config(example_dataset, "SOLVER.OPTIMIZER", "LION")


def test_the_plan_says_what_is_not_known_about_a_cost():
    boundary = build_perturbation({"name": "foolbox", "attack": "BoundaryAttack", "norm": "l2", "eps": 1.0})
    assert cost(boundary, 5).startswith("at least 15 passes")
    pgd = build_perturbation({"name": "pgd", "eps": "4/255", "steps": 3})
    assert cost(pgd, 5) == "at most 30 passes over an image"
    (line,) = self_check_lines([pgd, build_perturbation({"name": "clean"})], 5, surrogate=False)
    assert line.startswith("  self-checks, linf 4/255: at most ")
    assert self_check_lines([pgd], 0, surrogate=False) == []


@pytest.mark.parametrize("optimizer", ["SGD", "ADAMW"])
def test_full_model_clipping_scales_the_whole_gradient(example_dataset, optimizer):
    clip = ["SOLVER.CLIP_GRADIENTS.ENABLED", "True", "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full_model"]
    value = ["SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "0.5", "SOLVER.CLIP_GRADIENTS.NORM_TYPE"]
    cfg = small_config(example_dataset, "SOLVER.OPTIMIZER", optimizer, *clip, *value, "2.0")
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    made = build_optimizer(cfg, model)
    for number, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, 1.0 + number)
    before = [parameter.grad.clone() for parameter in model.parameters()]
    made.step()
    after = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    assert after.norm().item() == pytest.approx(0.5, rel=1e-4)
    shares = [(parameter.grad / one).unique() for parameter, one in zip(model.parameters(), before, strict=True)]
    assert torch.allclose(torch.cat(shares), shares[0][0])  # one factor for all
    assert isinstance(made, torch.optim.SGD if optimizer == "SGD" else torch.optim.AdamW)
    with pytest.raises(ConfigError, match="NORM_TYPE must be 2"):
        build_optimizer(small_config(example_dataset, *clip, *value, "1.0"), model)


def test_what_differs_from_the_defaults_is_told_with_both_values():
    cfg = load_config(None, ["SOLVER.BASE_LR", "0.3", "ADVERSARY.EPS", "4/255", "MODEL.PART.CLASS_NAMES", "['a', 'b']"])
    assert config_changes(cfg) == {
        "ADVERSARY.EPS": {"value": "4/255", "default": load_config().ADVERSARY.EPS},
        "MODEL.PART.CLASS_NAMES": {"value": ["a", "b"], "default": []},
        "SOLVER.BASE_LR": {"value": 0.3, "default": load_config().SOLVER.BASE_LR},
    }
    assert config_changes(load_config()) == {}


def test_how_a_detectron2_model_reads_pixels_is_not_left_to_our_defaults(tmp_path):
    """Those of detectron2 are others, and no checkpoint would tell: such a model finds nothing and says nothing."""
    written = {"INPUT.FORMAT": "BGR", "MODEL.PIXEL_MEAN": "[103.5, 116.3, 123.7]", "MODEL.PIXEL_STD": "[1.0, 1.0, 1.0]"}
    file, base = tmp_path / "faster_rcnn.yaml", tmp_path / "base.yaml"
    file.write_text("_BASE_: base.yaml\nMODEL:\n  META_ARCHITECTURE: GeneralizedRCNN\n")
    base.write_text("VERSION: 2\n")
    with pytest.raises(ConfigError, match=r"INPUT.FORMAT and MODEL.PIXEL_MEAN and MODEL.PIXEL_STD.* are BGR, \[103.5"):
        load_config(file)
    base.write_text("VERSION: 2\nMODEL:\n  PIXEL_MEAN: [103.5, 116.3, 123.7]\n")
    with pytest.raises(ConfigError, match=r"does not set INPUT.FORMAT and MODEL.PIXEL_STD,"):
        load_config(file)
    cfg = load_config(file, [word for pair in written.items() for word in pair])
    assert (cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_STD) == ("BGR", [1.0, 1.0, 1.0])
    complete = tmp_path / "config.yaml"
    complete.write_text(cfg.dump())
    assert load_config(complete).MODEL.PIXEL_MEAN == [103.5, 116.3, 123.7]
    file.write_text("MODEL:\n  META_ARCHITECTURE: PartClassifier\n")
    assert load_config(file).INPUT.FORMAT == "RGB"
