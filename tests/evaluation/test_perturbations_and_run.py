"""The evaluation run: perturbations from configuration, records, summaries, evaluators."""

from __future__ import annotations

import json

import pytest
import torch
from small_models import DETECTOR_MODELS, MODELS, small_config

from partbox.attacks.folding import FoldedNetwork
from partbox.data.loader import build_test_loader
from partbox.data.mapper import PartDatasetMapper
from partbox.engine.build import build_classifier, check_attackable
from partbox.engine.checks import ConfigError
from partbox.evaluation import build_perturbation, build_perturbations, evaluate
from partbox.evaluation.guides import GuideBook
from partbox.evaluation.part_segmentation import PartSegmentationEvaluator
from partbox.evaluation.records import Record, read_records, write_records
from partbox.evaluation.subject import ClassifierSubject
from partbox.evaluation.summary import summarize

CLEAN = {"name": "clean"}


def pgd(eps: str, **settings) -> dict:
    return {"name": "pgd", "eps": eps, "steps": 5, **settings}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"name": "pdg", "eps": 1}, "unknown perturbation 'pdg'"),
        ({"eps": 1}, "with a name"),
        ("clean", "mapping"),
        ({"name": "pgd"}, "needs an eps"),
        ({"name": "pgd", "eps": "8/255", "epsilon": 1}, "no setting 'epsilon'"),
        ({"name": "clean", "eps": 1}, "no setting 'eps'"),
        ({"name": "pgd", "eps": "8/255", "norm": "l3"}, "unknown norm"),
        ({"name": "pgd", "eps": "8/255", "norm": "l1"}, "PGD knows linf and l2, not l1"),
        ({"name": "pgd", "eps": "8/255", "steps": 0}, "steps"),
        ({"name": "pgd", "eps": "8/255", "loss": "mse"}, "unknown attack loss"),
    ],
)
def test_wrong_perturbations_are_refused(spec, words):
    with pytest.raises(ValueError, match=words):
        build_perturbation(spec)


def test_clean_comes_first_and_names_differ():
    built = build_perturbations([pgd("8/255"), pgd("4/255")])
    assert [p.name for p in built] == ["clean", "pgd-5 linf 8/255", "pgd-5 linf 4/255"]
    with pytest.raises(ValueError, match="repeated"):
        build_perturbations([pgd("8/255"), pgd("8/255", step_size="1/255")])
    several = build_perturbations([pgd("8/255"), pgd("8/255", restarts=2), pgd("8/255", loss="margin")])
    assert [p.name for p in several[1:]] == ["pgd-5 linf 8/255", "pgd-5x2 linf 8/255", "pgd-5-margin linf 8/255"]


def record(image_id, perturbation, *, fooled, label=0, prediction=0) -> Record:
    return Record(image_id, perturbation, label, prediction, fooled, 1.0, 1, 0.0, False)


def test_robust_means_right_on_clean_and_under_every_attack():
    perturbations = build_perturbations([CLEAN, pgd("8/255"), pgd("8/255", steps=7), pgd("4/255")])
    clean, first, second, weaker = (p.name for p in perturbations)
    fooled = {
        clean: [False, False, False, True],
        first: [False, True, False, False],
        second: [False, False, True, True],
        weaker: [False, False, False, False],
    }
    records = [record(i, name, fooled=value) for name, values in fooled.items() for i, value in enumerate(values)]
    results = summarize(records, perturbations)
    assert results["clean_accuracy"] == 0.75
    # image 3 is wrong on the clean image: right under an attack does not make it robust
    assert results["by_perturbation"][first]["accuracy"] == 0.5
    assert results["by_perturbation"][weaker]["accuracy"] == 0.75
    # images 1 and 2 fall to one attack each; the threat model of the weaker attack is its own
    assert results["robust_accuracy"] == {"linf 8/255": 0.25, "linf 4/255": 0.75}


def test_missing_images_are_noticed():
    perturbations = build_perturbations([CLEAN, pgd("8/255")])
    records = [record(i, "clean", fooled=False) for i in range(3)]
    records += [record(i, perturbations[1].name, fooled=False) for i in range(2)]
    with pytest.raises(ValueError, match="same images"):
        summarize(records, perturbations)
    with pytest.raises(ValueError, match="no images"):
        summarize([], perturbations)


def test_broken_runs_and_blind_attacks_are_warned_about():
    perturbations = build_perturbations([CLEAN, pgd("8/255")])
    records = [record(i, "clean", fooled=i > 0) for i in range(3)]
    blind = [record(i, perturbations[1].name, fooled=False) for i in range(3)]
    blind = [Record(**{**vars_of(r), "zero_gradient": True}) for r in blind]
    warnings = " ".join(summarize(records + blind, perturbations)["warnings"])
    assert "broken run" in warnings
    assert "zero gradients" in warnings


def vars_of(entry: Record) -> dict:
    return {name: getattr(entry, name) for name in Record.__dataclass_fields__}


def test_records_survive_the_file(tmp_path):
    records = [record(1, "clean", fooled=True), record("a", "clean", fooled=False)]
    write_records(tmp_path / "records.jsonl", records)
    assert read_records(tmp_path / "records.jsonl") == records
    assert all(json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines())


def run(dataset, name: str, specs: list[dict], *options: str, batch_size: int = 16):
    cfg = small_config(dataset, *MODELS[name], *options)
    model = build_classifier(cfg)
    loader = build_test_loader(
        dataset.records, PartDatasetMapper.from_config(cfg, is_train=False), batch_size=batch_size
    )
    evaluators = [PartSegmentationEvaluator(model.part_names)] if model.extractor is not None else []
    return evaluate(model, loader, build_perturbations(specs), evaluators, keep_examples=3, progress=False)


def test_an_untrained_model_is_at_chance(example_dataset):
    results = run(example_dataset, "normal", [CLEAN]).results
    assert results["chance"] == pytest.approx(1 / 11)
    # 66 images: chance plus four standard deviations
    assert results["clean_accuracy"] < 1 / 11 + 4 * (1 / 11 * 10 / 11 / 66) ** 0.5


def test_a_perfect_oracle_is_at_one(example_dataset):
    outcome = run(example_dataset, "part_to_class", [CLEAN], "MODEL.PART.EXTRACTOR.NAME", "oracle")
    assert outcome.results["clean_accuracy"] == 1.0
    segmentation = outcome.results["by_perturbation"]["clean"]["part_segmentation"]
    assert segmentation["mIoU"] == segmentation["mIoU_with_background"] == 1.0
    assert segmentation["images"] == 66


def test_an_oracle_under_attack_is_refused(example_dataset):
    with pytest.raises(ValueError, match="does not depend on the image"):
        run(example_dataset, "part_to_class", [pgd("8/255")], "MODEL.PART.EXTRACTOR.NAME", "oracle")


def test_results_do_not_depend_on_the_batch_size(example_dataset):
    specs = [CLEAN, pgd("8/255", step_size="4/255")]
    outcomes = [run(example_dataset, "part_box", specs, batch_size=size) for size in (1, 7, 66)]
    verdicts = [[(r.image_id, r.perturbation, r.fooled) for r in outcome.records] for outcome in outcomes]
    assert verdicts[0] == verdicts[1] == verdicts[2]
    ious = [o.results["by_perturbation"]["clean"]["part_segmentation"]["mIoU"] for o in outcomes]
    assert ious == pytest.approx([ious[0]] * 3, abs=1e-6)


def test_robust_accuracy_falls_to_zero_as_eps_grows(example_dataset):
    """A network that knows its 66 images by heart loses each of them."""
    cfg = small_config(example_dataset, *MODELS["normal"])
    model = build_classifier(cfg).train()
    mapper = PartDatasetMapper.from_config(cfg, is_train=False)
    loader = build_test_loader(example_dataset.records, mapper, batch_size=66)
    (batch,) = list(loader)
    images, targets = model.images_of(batch), model.targets_of(batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        model.losses(images, targets)["loss_class"].backward()
        optimizer.step()
    specs = [CLEAN, *[pgd(eps, steps=10) for eps in ("0", "1/255", "4/255", "64/255")]]
    outcome = evaluate(model.eval(), loader, build_perturbations(specs), progress=False)
    shares = [outcome.results["by_perturbation"][p.name]["accuracy"] for p in build_perturbations(specs)]
    assert shares[0] == shares[1] > 0.8
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] == 0


@pytest.mark.parametrize("level", ["object", "fg"])
def test_part_iou_at_other_levels(example_dataset, level):
    cfg = small_config(
        example_dataset,
        *MODELS["part_box"],
        *["MODEL.PART.EXTRACTOR.LEVEL", level, "MODEL.PART.EXTRACTOR.NAME", "oracle"],
    )
    model = build_classifier(cfg)
    names = model.class_names if level == "object" else ("foreground",)
    loader = build_test_loader(
        example_dataset.records, PartDatasetMapper.from_config(cfg, is_train=False), batch_size=16
    )
    evaluator = PartSegmentationEvaluator(names, model.level_map)
    results = evaluate(model, loader, build_perturbations([CLEAN]), [evaluator], progress=False).results
    segmentation = results["by_perturbation"]["clean"]["part_segmentation"]
    assert segmentation["mIoU"] == 1.0
    assert len(segmentation["IoU"]) == 1 + len(names)


def test_perturbations_stay_within_eps_and_examples_are_kept(example_dataset):
    outcome = run(example_dataset, "part_box", [CLEAN, pgd("8/255")])
    under_attack = outcome.results["by_perturbation"]["pgd-5 linf 8/255"]
    assert 0 < under_attack["largest_distance"] <= 8 / 255 + 1e-6
    assert under_attack["settings"]["steps"] == 5
    clean, attacked = outcome.examples.values()
    assert [one.image_id for one in clean] == [one.image_id for one in attacked]
    assert len(clean) == 3


def test_part_iou_accumulates_over_the_dataset_not_over_batches():
    """Two images whose own IoUs average to something else than the dataset's."""

    def probabilities(part_map: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(part_map, 3).permute(2, 0, 1).float()

    first = torch.zeros(4, 4, dtype=torch.int64)
    first[:, 0] = 1  # 4 pixels, all found
    second = torch.zeros(4, 4, dtype=torch.int64)
    second[:, :3] = 1  # 12 pixels, none found
    ignored = second.clone()
    ignored[3, 3] = -1
    evaluator = PartSegmentationEvaluator(["a", "b"])
    evaluator.process(
        [{"part_map": first}, {"part_map": ignored}],
        [
            {"part_probabilities": probabilities(first)},
            {"part_probabilities": probabilities(torch.zeros(4, 4, dtype=torch.int64))},
        ],
    )
    result = evaluator.evaluate()["part_segmentation"]
    assert result["IoU"]["a"] == pytest.approx(4 / 16)
    assert result["IoU"]["background"] == pytest.approx((12 + 3) / (12 + 15))
    assert "b" not in result["IoU"]
    assert result["mIoU"] == pytest.approx(4 / 16)
    evaluator.reset()
    assert evaluator.evaluate() is None


@pytest.mark.parametrize(
    ("spec", "name", "passes"),
    [
        ({"name": "apgd"}, "apgd-ce linf 8/255", 1 + 101 + 1),
        ({"name": "apgd", "loss": "dlr-targeted", "steps": 50}, "apgd-t linf 8/255", 1 + 9 * 51 + 1),
        ({"name": "fab", "targeted": True, "targets": 3}, "fab-t linf 8/255", 1 + 3 * 200 + 1),
        ({"name": "square", "queries": 100}, "square linf 8/255", 1 + 101 + 1),
        ({"name": "autoattack"}, "autoattack linf 8/255", 1 + 101 + 909 + 1800 + 5001 + 1),
        ({"name": "autoattack", "version": "rand"}, "autoattack-rand linf 8/255", 1 + 2 * (101 * 20 + 1) + 1),
    ],
)
def test_attacks_are_built_with_their_settings_and_cost(spec, name, passes):
    perturbation = build_perturbation({"eps": "8/255", **spec})
    assert (perturbation.name, perturbation.passes) == (name, passes)
    given = {key: value for key, value in spec.items() if key != "name"}
    assert given.items() <= perturbation.settings.items()
    assert json.loads(json.dumps(perturbation.settings)) == perturbation.settings


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"name": "apgd", "loss": "mse"}, "unknown loss"),
        ({"name": "fab", "queries": 5}, "no setting 'queries'"),
        ({"name": "square", "queries": 0}, "queries"),
        ({"name": "autoattack", "version": "custom"}, "version"),
        ({"name": "autoattack", "threat": "linf"}, "no setting 'threat'"),
        ({"name": "pgd", "random_start": "False"}, "random_start is true or false, not 'False'"),
        ({"name": "detector-pgd", "random_start": 0}, "random_start is true or false"),
        ({"name": "detector-pgd", "step_size": 0}, "never leaves the start"),
        ({"name": "segmentation-pgd", "step_size": "0/255"}, "never leaves the start"),
    ],
)
def test_wrong_attack_settings_are_refused(spec, words):
    with pytest.raises(ValueError, match=words):
        build_perturbation({"eps": "8/255", **spec})


@pytest.mark.parametrize("name", ["pgd", "noise", "detector-pgd", "square"])
def test_an_eps_in_grey_levels_is_refused_with_the_fix(name):
    with pytest.raises(ValueError, match="8 grey levels are 8/255"):
        build_perturbation({"name": name, "eps": 8})
    assert build_perturbation({"name": name, "eps": 1}).threat.eps == 1
    assert build_perturbation({"name": name, "eps": 8, "norm": "l2"}).threat.eps == 8


def test_an_ensemble_in_the_run_names_who_fooled_and_what_was_replaced(example_dataset):
    """The run's records carry the ensemble's credit, and its notes reach the results."""
    cfg = small_config(example_dataset, *MODELS["normal"])
    model = build_classifier(cfg)
    mapper = PartDatasetMapper.from_config(cfg, is_train=False)
    loader = build_test_loader(example_dataset.records[:6], mapper, batch_size=4, workers=0)
    spec = {"name": "apgd", "eps": "64/255", "steps": 3, "loss": "dlr-targeted", "targets": 2}
    outcome = evaluate(model, loader, build_perturbations([CLEAN, spec]), progress=False)
    attacked = [one for one in outcome.records if one.perturbation != "clean"]
    assert {one.fooled_by for one in attacked if one.fooled} <= {"apgd-t", "clean"}
    assert all(bool(one.fooled_by) == one.fooled for one in attacked)
    assert all((one.loss > 0) == one.fooled for one in attacked)
    assert outcome.results["by_perturbation"]["apgd-t linf 64/255"]["notes"] == []


def learned_by_heart(dataset, name):
    """A model that has learned six images by heart, its mapper, and their samples."""
    cfg = small_config(dataset, *MODELS[name])
    model = build_classifier(cfg)
    mapper = PartDatasetMapper.from_config(cfg, is_train=False)
    batch = [mapper(record) for record in dataset.records[:6]]
    optimizer = torch.optim.AdamW(model.train().parameters(), 3e-3)
    for _ in range(60):
        losses = model.losses(model.images_of(batch), model.targets_of(batch))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    return model, mapper, batch


@pytest.mark.parametrize("goal", ["parts", "both", "two-stage"])
def test_part_attacks_move_parts_in_the_run(example_dataset, goal):
    """A model that has learned some images by heart loses its parts under attack, also where they are not labelled."""
    model, _, batch = learned_by_heart(example_dataset, "part_box")
    del batch[5]["part_map"]
    evaluator = PartSegmentationEvaluator(model.part_names)
    labelled = [sample for sample in batch if "part_map" in sample]
    perturbations = build_perturbations([CLEAN, {"name": "parts", "eps": "16/255", "steps": 8, "goal": goal}])
    outcome = evaluate(model, [labelled], perturbations, [evaluator], progress=False)
    scores = [entry["part_segmentation"]["mIoU"] for entry in outcome.results["by_perturbation"].values()]
    assert scores[1] < 0.8 * scores[0]
    name = perturbations[1].name
    assert name == f"parts-8-{goal} linf 16/255"
    assert outcome.results["by_perturbation"][name]["notes"] == []
    everything = evaluate(model, [batch], perturbations, progress=False)
    assert "without part labels" in everything.results["by_perturbation"][name]["notes"][0]
    distance = [one.distance for one in everything.records if one.perturbation == name]
    assert min(distance) > 0.5 * 16 / 255


def test_attacks_on_parts_need_parts(example_dataset):
    perturbations = build_perturbations([{"name": "parts", "eps": "8/255"}])
    model = build_classifier(small_config(example_dataset, *MODELS["normal"]))
    with pytest.raises(ValueError, match="has no parts"):
        evaluate(model, [], perturbations, progress=False)
    cfg = small_config(example_dataset, *MODELS["normal"])
    cfg.ROBUST_EVAL.PERTURBATIONS = [{"name": "parts", "eps": "8/255"}]
    with pytest.raises(ConfigError, match="has no parts"):
        check_attackable(cfg, model, training=False)
    guided = build_perturbations([{"name": "parts", "eps": "8/255", "goal": "guided"}])
    with pytest.raises(ValueError, match="needs guides"):
        evaluate(build_classifier(small_config(example_dataset, *MODELS["part_box"])), [], guided, progress=False)
    inverse = build_perturbations([{"name": "parts", "eps": "8/255", "goal": "inverse"}])
    with pytest.raises(ValueError, match="does not read part masks"):
        evaluate(build_classifier(small_config(example_dataset, *MODELS["two_head"])), [], inverse, progress=False)
    detections = build_classifier(small_config(example_dataset, *DETECTOR_MODELS["maskdino_box_sequence"]))
    with pytest.raises(ValueError, match="does not read part masks"):
        evaluate(detections, [], inverse, progress=False)
    boxes = build_classifier(small_config(example_dataset, *DETECTOR_MODELS["dino_part_box"]))
    with pytest.raises(ValueError, match="extractor gives none"):
        evaluate(boxes, [], perturbations, progress=False)


def test_attacks_on_masks_that_the_label_does_not_read_are_noted(example_dataset):
    cfg = small_config(example_dataset, *MODELS["two_head"])
    model = build_classifier(cfg).eval()
    mapper = PartDatasetMapper.from_config(cfg, is_train=False)
    loader = build_test_loader(example_dataset.records[:2], mapper, batch_size=2)
    attack = build_perturbations([{"name": "parts", "eps": "8/255", "steps": 1}])
    outcome = evaluate(model, loader, attack, progress=False)
    notes = outcome.results["by_perturbation"][attack[1].name]["notes"]
    assert any("do not decide the label" in note for note in notes)


def test_guides_are_of_another_class_and_depend_on_seed_and_image_only(example_dataset):
    mapper = PartDatasetMapper.from_config(small_config(example_dataset, *MODELS["part_box"]), is_train=False)
    book = GuideBook(example_dataset.records, mapper)
    samples = [mapper(record) for record in example_dataset.records[:12]]
    classes = example_dataset.part_to_class.tolist()
    guides = [book.guide(sample, 0) for sample in samples]
    for sample, guide in zip(samples, guides, strict=True):
        assert torch.equal(guide, book.guide(sample, 0))
        for other in [guide, *[book.guide(sample, seed) for seed in range(1, 6)]]:  # 72 draws, one in 11 by chance
            parts = other[other > 0].unique() - 1
            assert len(parts)
            assert sample["label"] not in {classes[part] for part in parts.tolist()}
    assert any(not torch.equal(guide, book.guide(sample, 1)) for sample, guide in zip(samples, guides, strict=True))
    assert len({tuple(guide.flatten().tolist()) for guide in guides}) > 1
    with pytest.raises(ValueError, match="another class"):
        GuideBook([], mapper).guide(samples[0], 0)


@pytest.mark.parametrize("goal", ["guided", "inverse"])
def test_guided_and_inverse_attacks_in_the_run(example_dataset, goal):
    """Learned by heart, then moved: towards the guide's parts, or to masks that the head misreads."""
    model, mapper, batch = learned_by_heart(example_dataset, "part_pooling")
    subject = ClassifierSubject(model, guides=GuideBook(example_dataset.records, mapper))
    attack = {"name": "parts", "eps": "24/255", "steps": 12, "goal": goal}
    perturbations = build_perturbations([CLEAN, attack])
    outcome = evaluate(subject, [batch], perturbations, [PartSegmentationEvaluator(model.part_names)], progress=False)
    scores = [entry["part_segmentation"]["mIoU"] for entry in outcome.results["by_perturbation"].values()]
    # an image that is misclassified is left alone, so the inverse goal moves the parts no further than it needs to
    assert scores[1] < (0.9 if goal == "guided" else 1.0) * scores[0], "the parts move"
    if goal == "inverse":
        accuracy = [entry["accuracy"] for entry in outcome.results["by_perturbation"].values()]
        assert accuracy[1] < accuracy[0]


@pytest.mark.parametrize("name", ["normal", "part_box", "masks_multiply", "two_head_decoder"])
def test_a_search_with_folded_batch_norm(example_dataset, name):
    """Part classifiers of timm's and detectron2's layers can be folded, and the run gives the same verdicts."""
    cfg = small_config(example_dataset, *MODELS[name])
    torch.manual_seed(0)
    model = build_classifier(cfg).eval()
    mapper = PartDatasetMapper.from_config(cfg, is_train=False)
    batch = [mapper(record) for record in example_dataset.records[:6]]
    with torch.no_grad():  # statistics that are no identity, and labels that the model knows
        model.train()
        for _ in range(20):
            model.logits(model.images_of(batch))
        model.eval()
        for sample, label in zip(batch, model.logits(model.images_of(batch)).argmax(1).tolist(), strict=True):
            sample["label"] = label
    folded = FoldedNetwork(model.logits, model.images_of(batch))
    norms = [m for m in folded._folded.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(folded.pairs) > 10
    assert len(norms) <= 1, "each BatchNorm behind a convolution is gone"
    attack = {"name": "pgd", "eps": "8/255", "steps": 5}
    perturbations = build_perturbations([CLEAN, attack, {**attack, "fold_batch_norm": True}])
    assert perturbations[2].name == "pgd-5 (folded) linf 8/255"
    outcome = evaluate(ClassifierSubject(model), [batch], perturbations, progress=False)
    verdicts = [[r.fooled for r in outcome.records if r.perturbation == one.name] for one in perturbations]
    assert verdicts[1] == verdicts[2]
    assert not any(verdicts[0])


def test_attacks_on_classifiers_can_search_in_lower_precision_and_others_cannot():
    [_, attack] = build_perturbations([{"name": "square", "eps": "4/255", "precision": "bfloat16"}])
    assert attack.name == "square (bfloat16) linf 4/255"
    assert attack.settings["precision"] == "bfloat16"
    assert attack.attacks("classifier")
    assert not attack.attacks("detector")
    plain = build_perturbation({"name": "square", "eps": "4/255", "precision": "float32", "compiled": False})
    assert plain.attacks("detector")
    assert "precision" not in plain.settings
    with pytest.raises(ValueError, match="unknown precision 'half'"):
        build_perturbation({"name": "pgd", "eps": "4/255", "precision": "half"})
    with pytest.raises(ValueError, match="true or false"):
        build_perturbation({"name": "pgd", "eps": "4/255", "compiled": "yes"})
    with pytest.raises(ValueError, match="fold_batch_norm is true or false"):
        build_perturbation({"name": "pgd", "eps": "4/255", "fold_batch_norm": 1})
    for name in ("parts", "detector-pgd", "segmentation-pgd"):
        with pytest.raises(ValueError, match="no setting 'precision'"):
            build_perturbation({"name": name, "eps": "4/255", "precision": "bfloat16"})
