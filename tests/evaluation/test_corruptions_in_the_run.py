"""Corruptions as perturbations: from configuration to means, and any detectron2 dataset read through one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.evaluation import DatasetEvaluator, PascalVOCDetectionEvaluator, SemSegEvaluator
from detectron2.structures import BoxMode
from PIL import Image
from small_models import MODELS, small_config

from partbox.corruptions import ALEXNET_ERROR, BENCHMARK, KINDS, corrupt
from partbox.data.loader import ImageError
from partbox.data.mapper import PartDatasetMapper
from partbox.engine.build import build_classifier
from partbox.evaluation import build_perturbation, build_perturbations, evaluate
from partbox.evaluation.batches import RecordBatches
from partbox.evaluation.corruption_mapper import CorruptionMapper
from partbox.evaluation.image_evaluator import image_evaluators
from partbox.evaluation.records import Record
from partbox.evaluation.run import conclude
from partbox.evaluation.semantic_evaluator import SemanticEvaluator
from partbox.evaluation.store import RecordStore
from partbox.evaluation.summary import summarize
from partbox.evaluation.unattacked import corrupt_batch, corruption_seed


def test_a_family_stands_for_its_cells():
    built = build_perturbations([{"name": "pgd", "eps": "1/255"}, {"name": "corruptions"}])
    assert [one.name for one in built] == [
        "clean",
        *[f"{kind} {severity}" for kind in BENCHMARK for severity in (1, 2, 3, 4, 5)],
        "pgd-20 linf 1/255",
    ]
    everything = build_perturbations([{"name": "corruptions", "kinds": "all", "severities": [3]}])
    assert [one.corruption for one in everything[1:]] == [(kind, 3) for kind in KINDS]
    some = build_perturbations([{"name": "corruptions", "kinds": ["fog", "frost"], "severities": [1, 5]}])
    assert [one.name for one in some[1:]] == ["fog 1", "fog 5", "frost 1", "frost 5"]
    assert [one.name for one in build_perturbations([{"name": "corruptions", "kinds": "blur", "severities": [2]}])][
        1:
    ] == ["defocus_blur 2", "glass_blur 2", "motion_blur 2", "zoom_blur 2"]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"name": "corruption", "kind": "fog"}, "needs a severity"),
        ({"name": "corruption", "severity": 1}, "needs a kind"),
        ({"name": "corruption", "kind": "smog", "severity": 1}, "unknown corruption 'smog'"),
        ({"name": "corruption", "kind": "fog", "severity": 6}, "from 1 to 5"),
        ({"name": "corruption", "kind": "fog", "severity": 2, "seed": 1}, "no setting 'seed'"),
        ({"name": "corruptions", "kinds": "weathers"}, "one of benchmark"),
        ({"name": "corruptions", "severities": 3}, "a list"),
        ({"name": "corruptions", "severity": [3]}, "no setting 'severity'"),
        ({"name": "corruptions", "severities": [1, 1], "kinds": ["fog"]}, "repeated: fog 1"),
    ],
)
def test_wrong_corruptions_are_refused(spec, words):
    with pytest.raises(ValueError, match=words):
        build_perturbations([spec])


def test_the_model_sees_the_corrupted_image_whatever_the_batch(example_dataset):
    """Pixels as corrupt() makes them from the mapper's image, with a seed of (seed, image id) only."""
    cfg = small_config(example_dataset, *MODELS["normal"])
    model = build_classifier(cfg)
    mapper = PartDatasetMapper.from_config(cfg, is_train=False)
    records = example_dataset.records[:7]
    perturbations = build_perturbations([{"name": "corruption", "kind": "shot_noise", "severity": 4}])
    losses = []
    for size in (1, 3, 7):
        batches = RecordBatches(records, mapper, batch_size=size)
        outcome = evaluate(model, batches, perturbations, seed=5, keep_examples=7, progress=False)
        losses.append([one.loss for one in outcome.records])
        kept = {one.image_id: one.image for one in outcome.examples["shot_noise 4"]}
        assert len(kept) == 7
        for record in records:
            pixels = np.asarray(Image.open(record["file_name"]).convert("RGB"))
            wanted = corrupt(pixels, "shot_noise", 4, corruption_seed(5, record["image_id"]))
            np.testing.assert_array_equal(kept[record["image_id"]], wanted)
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert losses[0] == pytest.approx(losses[2], abs=1e-5)
    assert all(one.distance == 0 and one.queries == 1 for one in outcome.records)


def test_corruption_seeds_depend_on_seed_and_image():
    seeds = {corruption_seed(seed, image_id) for seed in range(10) for image_id in range(100)}
    assert len(seeds) == 1000
    assert corruption_seed(0, 1) == corruption_seed(0, "1")
    images = torch.rand(3, 3, 40, 40)
    images[2] = images[0]
    labels = torch.zeros(3, dtype=torch.int64)
    result = corrupt_batch("gaussian_noise", 3, lambda x: x.mean(dim=(2, 3)), images, labels)
    assert torch.equal(result.images[0], result.images[2]), "without ids the content decides"
    assert not torch.equal(result.images[0] - images[0], result.images[1] - images[1])


def record(image_id: int, perturbation: str, fooled: bool) -> Record:
    return Record(image_id, perturbation, 0, int(fooled), fooled, 0.0, 1, 0.0, False)


def test_means_over_corruptions_count_plain_errors():
    """An image that is wrong when clean and right under a corruption counts as right there."""
    perturbations = build_perturbations([{"name": "corruptions"}])
    wrong = {"clean": {0}}
    for one in perturbations[1:]:
        kind, severity = one.corruption
        wrong[one.name] = set(range(1, severity)) if kind == "fog" else set()
    records = [record(i, one.name, i in wrong[one.name]) for one in perturbations for i in range(5)]
    results = summarize(records, perturbations)
    assert results["clean_accuracy"] == 0.8
    found = results["corruptions"]
    assert found["accuracy"]["fog"] == pytest.approx({"1": 1, "2": 0.8, "3": 0.6, "4": 0.4, "5": 0.2})
    assert found["accuracy"]["snow"] == dict.fromkeys("12345", 1.0)
    assert found["mean_error"] == pytest.approx(0.4 / 15)
    assert found["mean_corruption_error"] == pytest.approx(0.4 / ALEXNET_ERROR["fog"] / 15)
    assert found["mean_accuracy"] == pytest.approx(1 - 0.4 / 15)
    assert found["relative_accuracy"] == pytest.approx((1 - 0.4 / 15) / 0.8)
    assert found["kinds_averaged"] == list(BENCHMARK)
    assert results["robust_accuracy"] == {}, "corruptions are no adversary"


def test_means_need_every_benchmark_cell():
    perturbations = build_perturbations([{"name": "corruptions", "kinds": list(BENCHMARK[1:])}])
    records = [record(0, one.name, False) for one in perturbations]
    found = summarize(records, perturbations)["corruptions"]
    assert set(found) == {"accuracy"}
    assert summarize([record(0, "clean", False)], perturbations[:1])["corruptions"] is None


@pytest.mark.parametrize("channels", ["RGB", "BGR"])
def test_a_detectron2_dataset_is_read_through_a_corruption(tmp_path, channels):
    """At the photograph's size and in RGB, before the mapper's own steps; boxes stay; the mapper is as before."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    box = {"bbox": [8, 12, 20, 30], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    entry = {
        **{"file_name": str(tmp_path / "a.png"), "image_id": 4, "height": 60, "width": 80},
        "annotations": [box],
    }
    plain = DatasetMapper(is_train=True, augmentations=[T.Resize((120, 160))], image_format=channels)
    before = plain.augmentations
    corrupted = CorruptionMapper(plain, "snow", 3, seed=2)(entry)
    assert plain.augmentations is before
    wanted = corrupt(pixels, "snow", 3, corruption_seed(2, 4))
    wanted = np.ascontiguousarray(wanted if channels == "RGB" else wanted[:, :, ::-1])
    resized = T.Resize((120, 160)).get_transform(wanted).apply_image(wanted)
    np.testing.assert_array_equal(corrupted["image"].permute(1, 2, 0).numpy(), resized)
    assert corrupted["instances"].gt_boxes.tensor.tolist() == [[16, 24, 40, 60]]
    again = CorruptionMapper(plain, "snow", 3, seed=2)(entry)
    assert torch.equal(again["image"], corrupted["image"])
    assert not torch.equal(CorruptionMapper(plain, "snow", 3, seed=3)(entry)["image"], corrupted["image"])


def test_part_datasets_are_read_through_a_corruption_too(example_dataset):
    cfg = small_config(example_dataset, *MODELS["part_box"])
    mapper = PartDatasetMapper.from_config(cfg, is_train=False)
    entry = example_dataset.records[0]
    sample = CorruptionMapper(mapper, "contrast", 5)(entry)
    spreads = [one["image"].float().flatten(1).std(dim=1).mean() for one in (sample, mapper(entry))]
    assert spreads[0] < 0.1 * spreads[1]
    assert torch.equal(sample["part_map"], mapper(entry)["part_map"])


def test_what_cannot_be_read_through_a_corruption_is_refused():
    with pytest.raises(ValueError, match="augmentations and image_format"):
        CorruptionMapper(lambda entry: entry, "fog", 1)
    with pytest.raises(ValueError, match="unknown corruption"):
        CorruptionMapper(DatasetMapper(is_train=False, augmentations=[], image_format="RGB"), "smog", 1)


def test_a_corruption_costs_two_passes():
    assert build_perturbation({"name": "corruption", "kind": "fog", "severity": 1}).passes == 2


class Given(DatasetEvaluator):
    """Gives the numbers it was made with; mixed into detectron2's evaluators, it keeps what they are."""

    def __init__(self, found: dict) -> None:
        self.found = found

    def reset(self) -> None:
        pass

    def process(self, inputs, outputs) -> None:
        pass

    def evaluate(self) -> dict:
        return self.found


class GivenSemSeg(Given, SemSegEvaluator):
    pass


class GivenPascal(Given, PascalVOCDetectionEvaluator):
    pass


class GivenShares(SemanticEvaluator):
    def combine(self, measurements) -> dict:
        return {"sem_seg": {"mIoU": 0.4}}


@pytest.mark.parametrize(
    ("evaluator", "name", "score"),
    [
        (GivenSemSeg({"sem_seg": {"mIoU": 40.0, "pACC": 90.0}}), "sem_seg mIoU", 0.4),
        (GivenSemSeg({"sem_seg": {"mIoU": 0.4}}), "sem_seg mIoU", 0.004),
        (GivenPascal({"bbox": {"AP": 20.0, "AP50": 40.0, "AP75": 10.0}}), "bbox AP50", 0.4),
        (GivenShares(["a", "b"]), "sem_seg mIoU", 0.4),
        (Given({"bbox": {"AP": 4000.0}}), "bbox AP", None),
        (Given({"bbox": {"AP": -1.0}}), "bbox AP", None),
    ],
)
def test_the_unit_of_a_score_is_its_evaluators(evaluator, name, score):
    """Up to the end of an evaluation, which a score out of range must not lose."""
    perturbations = build_perturbations([{"name": "corruptions"}])
    ready = image_evaluators([evaluator], [{"image_id": 0}])
    store = RecordStore()
    for one in perturbations:
        kept = {ready[0].name: {"image_id": 0, "output": {}}}
        store.append((one.name, 0), [Record(0, one.name, None, None, False, None, 1, 0.0, False, measurements=kept)])
    results = conclude(1, perturbations, ready, store).results
    (table,) = results["performance_under_corruptions"].items()
    assert table[0] == name
    if score is None:
        assert table[1]["mPC"] is None
        assert any(f"{name} under corruptions is not averaged" in warning for warning in results["warnings"])
    else:
        assert table[1]["mPC"] == pytest.approx(score)
        assert table[1]["rPC"] == pytest.approx(1)
        assert not results["warnings"]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("damage", ["truncated", "missing", "tiny", "text", "size"])
def test_an_image_of_a_detectron2_dataset_that_cannot_be_used_is_named(tmp_path, damage, workers):
    entries = []
    for number in range(2):
        path, side = tmp_path / f"{number}.png", 31 if number and damage == "tiny" else 40
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, 40, 3), dtype=np.uint8)).save(path)
        entries.append({"file_name": str(path), "image_id": f"id{number}", "height": side, "width": 40})
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:2000])
    elif damage == "missing":
        path.unlink()
    elif damage == "text":
        path.write_text("no image")
    elif damage == "size":
        entries[1]["height"] = 50
    plain = DatasetMapper(is_train=False, augmentations=[T.Resize((40, 40))], image_format="BGR")
    batches = RecordBatches(entries, plain, batch_size=1, workers=workers)
    loaded = iter(batches.load([0, 1], CorruptionMapper(plain, "contrast", 1)))
    assert next(loaded)[0]["image_id"] == "id0"
    with pytest.raises(ImageError, match=r"image id1 of the dataset, .*1\.png") as caught:
        next(loaded)
    assert (caught.value.image_id, caught.value.file_name) == ("id1", str(path))
