"""Oracles: evidence that no attack can change, whose it is, and that every result says so."""

from __future__ import annotations

import pytest
import torch
from small_models import MODELS, ORACLES, small_config

from partbox.attacks import APGD, PGD, Square, ThreatModel, attack_mode
from partbox.data.loader import build_test_loader
from partbox.data.mapper import PartDatasetMapper
from partbox.engine.build import build_classifier, build_objective, check_attackable
from partbox.engine.checks import ConfigError
from partbox.evaluation import RecordBatches, build_perturbations, evaluate
from partbox.evaluation.attacking import attack_batch
from partbox.evaluation.run import as_subject, self_checks
from partbox.evaluation.validate import validate
from partbox.modeling import PartEvidence

ATTACKED = ("oracle_concat", "clean_concat")
THREAT = ThreatModel("linf", 1.5 / 255)


def model_and_batch(dataset, name: str, *options: str, images: int = 12):
    """A model whose answers differ from image to image, and samples."""
    cfg = small_config(dataset, *{**MODELS, **ORACLES}[name], *options)
    mapper = PartDatasetMapper.from_config(cfg, is_train=False)
    model = build_classifier(cfg).eval()
    batch = [mapper(record) for record in dataset.records[:images]]
    with torch.no_grad():  # random weights answer every image alike: centre the logits, so that some of them fall
        logits = model.logits_for(batch)(model.images_of(batch))
        model.head.linear.weight /= logits.std(dim=0).mean()
        logits = model.logits_for(batch)(model.images_of(batch))
        model.head.linear.bias -= logits.mean(dim=0)
        labels = model.logits_for(batch)(model.images_of(batch)).argmax(dim=1)
    for sample, label in zip(batch, labels.tolist(), strict=True):
        sample["label"] = label
    return model, batch


def watch(model) -> list[tuple[PartEvidence, torch.Tensor]]:
    """What the head is shown from now on."""
    seen: list = []
    model.head.register_forward_hook(lambda _, inputs, __: seen.append((inputs[0], inputs[1].detach())))
    return seen


@pytest.mark.parametrize("name", ATTACKED)
@pytest.mark.parametrize("attack", [PGD(THREAT, 5, restarts=2), APGD(THREAT, 5), Square(THREAT, queries=10)])
def test_the_masks_of_an_image_stay_its_own_under_attack(example_dataset, name, attack):
    """Attacks drop and repeat images; whichever version of an image is asked about, the masks are its clean ones."""
    model, batch = model_and_batch(example_dataset, name)
    images = model.images_of(batch)
    own = model.run(images, model.targets_of(batch)).evidence.mask_logits
    labels = torch.tensor([sample["label"] for sample in batch])
    seen = watch(model)
    with attack_mode(model):
        result = attack_batch(model, batch, attack, images, labels, image_ids=range(len(batch)), seed=0)
    changed = 0
    for found, shown in seen:
        near = (shown[:1] - model.normalised(images)).abs().amax(dim=(1, 2, 3)).argmin()
        torch.testing.assert_close(found.mask_logits, own[near].expand(len(shown), -1, -1, -1), atol=1e-5, rtol=1e-5)
        changed += int((shown - model.normalised(images)[near]).abs().amax() > 1e-3)
    assert changed > len(batch), "the image beside them was attacked"
    assert 0 < int(result.fooled.sum()) < len(batch), "else nothing was dropped"
    # The verdicts are those of the images found beside the clean masks.
    with torch.no_grad():
        again = model.logits_for(batch)(result.images).argmax(dim=1) != labels
    assert torch.equal(again, result.fooled)


def test_without_the_oracle_the_masks_move(example_dataset):
    """The comparison that gives the test above its meaning."""
    model, batch = model_and_batch(example_dataset, "masks_concat")
    images = model.images_of(batch)
    labels = torch.tensor([sample["label"] for sample in batch])
    seen = watch(model)
    with attack_mode(model):
        attack_batch(model, batch, PGD(THREAT, 3), images, labels, image_ids=range(len(batch)), seed=0)
    assert float((seen[0][0].mask_logits - seen[1][0].mask_logits).abs().max()) > 1e-3


@pytest.mark.parametrize("name", ORACLES)
def test_the_clean_image_must_be_given(example_dataset, name):
    model, batch = model_and_batch(example_dataset, name)
    images = model.images_of(batch)
    with pytest.raises(ValueError, match=r"part labels|clean image"):
        model.logits(images)
    predict = model.logits_for(batch)
    assert predict(images).shape == (12, 11)
    with pytest.raises(ValueError, match="one image at a time"):
        predict(images[:5])
    one = model.logits_for(batch[3:4])
    torch.testing.assert_close(
        one(images[3:4].expand(4, -1, -1, -1)), predict(images)[3:4].expand(4, -1), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("name", ORACLES)
def test_oracles_that_see_no_attacked_image_are_not_attacked(example_dataset, name):
    cfg = small_config(example_dataset, *ORACLES[name], "ADVERSARY.OBJECTIVE", "pgd")
    model = build_classifier(cfg)
    assert model.attackable == (name in ATTACKED)
    if model.attackable:
        check_attackable(cfg, model, training=True)
        return
    with pytest.raises(ConfigError, match="OBJECTIVE clean"):
        check_attackable(cfg, model, training=True)
    with pytest.raises(ConfigError, match="PERTURBATIONS"):
        check_attackable(cfg, model, training=False)


@pytest.mark.parametrize("name", ATTACKED)
def test_masks_of_an_oracle_cannot_be_attacked_themselves(example_dataset, name):
    cfg = small_config(example_dataset, *ORACLES[name], "ADVERSARY.OBJECTIVE", "pgd", "ADVERSARY.GOAL", "parts")
    model = build_classifier(cfg)
    with pytest.raises(ConfigError, match="an oracle's masks stay"):
        check_attackable(cfg, model, training=True)
    parts = [{"name": "parts", "eps": "8/255"}]
    cfg.ROBUST_EVAL.PERTURBATIONS = parts
    with pytest.raises(ConfigError, match="those of an oracle stay"):
        check_attackable(cfg, model, training=False)
    with pytest.raises(ValueError, match="those of an oracle stay"):
        evaluate(model, [], build_perturbations(parts), progress=False)


@pytest.mark.parametrize("name", ATTACKED)
def test_an_oracle_cannot_be_folded_and_that_is_said_before_work_starts(example_dataset, name):
    model = build_classifier(small_config(example_dataset, *ORACLES[name]))
    folded = [{"name": "pgd", "eps": "8/255", "steps": 1, "fold_batch_norm": True}]
    with pytest.raises(ValueError, match="an oracle is a function of its batch"):
        evaluate(model, [], build_perturbations(folded), progress=False)


def outcome_of(dataset, name: str, batch_size: int, *, checks: int = 0):
    cfg = small_config(dataset, *{**MODELS, **ORACLES}[name])
    model = build_classifier(cfg)
    batches = RecordBatches(
        dataset.records[:6], PartDatasetMapper.from_config(cfg, is_train=False), batch_size=batch_size
    )
    perturbations = build_perturbations(
        [{"name": "pgd", "eps": "24/255", "steps": 2}, {"name": "corruption", "kind": "fog", "severity": 3}]
    )
    outcome = evaluate(model, batches, perturbations, progress=False)
    if checks:
        self_checks(as_subject(model), batches, perturbations, outcome, images=checks)
    return outcome


@pytest.mark.parametrize("name", [*ATTACKED, "masks_hard", "part_box"])
def test_every_result_under_attack_says_what_the_model_is(example_dataset, name):
    outcome = outcome_of(example_dataset, name, 6, checks=2)
    results, attack = outcome.results, "pgd-2 linf 24/255"
    words = {"oracle_concat": "the labels", "clean_concat": "the clean image", "masks_hard": "straight-through"}
    said = [warning for warning in results["warnings"] if words.get(name, "upper bound") in warning]
    notes = results["by_perturbation"][attack]["notes"]
    checks = [check for check in results["self_checks"]["linf 24/255"] if check["name"] == "declared"]
    if name == "part_box":
        assert (said, notes, checks) == ([], [], [])
        assert "oracle" not in results
        return
    assert said[0] == notes[0] == checks[0]["reason"]
    assert not checks[0]["passed"]
    assert any(words[name] in reason for reason in results["unreliable"])
    assert ("oracle" in results) == (name in ATTACKED)
    assert results["by_perturbation"]["clean"]["notes"] == []
    names = {check["name"] for check in results["self_checks"]["linf 24/255"]}
    assert {"deterministic", "gradients", "large eps", "more steps", "black box", "noise"} <= names
    deterministic = next(c for c in results["self_checks"]["linf 24/255"] if c["name"] == "deterministic")
    assert deterministic["passed"], deterministic


@pytest.mark.parametrize("name", ATTACKED)
def test_self_checks_of_an_oracle_attack_each_image_beside_its_own_masks(example_dataset, name):
    """As many fall in a check as in an evaluation with the same attack and seed."""
    model, batch = model_and_batch(example_dataset, name, images=6)
    images, ids = model.images_of(batch), [sample["image_id"] for sample in batch]
    labels = torch.tensor([sample["label"] for sample in batch])
    spec = {"name": "pgd", "eps": 1.5 / 255, "steps": 3}
    (_, attack) = build_perturbations([spec])
    with attack_mode(model):
        expected = attack_batch(model, batch, PGD(THREAT, 3), images, labels, image_ids=ids, seed=1).fooled
        assert 0 < int(expected.sum()) < 6
        checks = as_subject(model).self_checks(batch, [attack], (~expected).tolist(), seed=0)
    (monotone,) = [check for check in checks if check.name == "monotone"]
    assert monotone.values["fooled"][1] == int(expected.sum())


@pytest.mark.parametrize("name", ATTACKED)
def test_verdicts_of_an_oracle_do_not_depend_on_the_batch(example_dataset, name):
    found = [outcome_of(example_dataset, name, size).records for size in (1, 4)]
    keys = [[(one.image_id, one.perturbation, one.prediction, one.fooled) for one in records] for records in found]
    assert keys[0] == keys[1]


def test_a_clean_evaluation_of_an_oracle_is_marked_too(example_dataset):
    cfg = small_config(example_dataset, *ORACLES["oracle_masks"])
    loader = build_test_loader(
        example_dataset.records[:4], PartDatasetMapper.from_config(cfg, is_train=False), batch_size=4
    )
    results = evaluate(build_classifier(cfg), loader, build_perturbations([{"name": "clean"}]), progress=False).results
    assert "upper bound" in results["oracle"]
    assert results["oracle"] in results["warnings"]
    hard = build_classifier(small_config(example_dataset, *MODELS["masks_hard"]))
    results = evaluate(hard, loader, build_perturbations([{"name": "clean"}]), progress=False).results
    assert not any("estimate" in warning for warning in results["warnings"]), "nothing was attacked"


@pytest.mark.parametrize("name", ATTACKED)
def test_validation_attacks_an_oracle(example_dataset, name):
    model, batch = model_and_batch(example_dataset, name)
    batch[0]["label"] = (batch[0]["label"] + 1) % 11  # one is wrong before, and leaves the batch
    result = validate(model, [batch], PGD(THREAT, 4))
    assert result.clean_accuracy == pytest.approx(11 / 12)
    assert 0 < result.robust_accuracy < result.clean_accuracy
    assert validate(model, [batch], PGD(THREAT.scaled(0), 1)).robust_accuracy == result.clean_accuracy


@pytest.mark.parametrize("name", ATTACKED)
@pytest.mark.parametrize("objective", ["pgd", "trades", "free"])
def test_adversarial_training_holds_the_masks(example_dataset, name, objective):
    """The class is learned beside clean masks; with the same masks of another image the loss would be another."""
    options = ["ADVERSARY.OBJECTIVE", objective, "ADVERSARY.EPS", "24/255"]
    steps = [] if objective == "free" else ["ADVERSARY.STEPS", "2"]
    model, batch = model_and_batch(example_dataset, name, *options, *steps, images=8)
    training = build_objective(small_config(example_dataset, *ORACLES[name], *options, *steps))
    own = model.run(model.images_of(batch), model.targets_of(batch)).evidence.mask_logits
    seen = watch(model.eval())
    losses = training(model, batch, 0)
    assert all(bool(torch.isfinite(loss)) for loss in losses.values())
    for found, _ in seen:
        torch.testing.assert_close(found.mask_logits, own)
    last = seen[-1][1] - model.normalised(model.images_of(batch))
    assert float(last.abs().max()) > 0.1, "the image beside them was attacked"
