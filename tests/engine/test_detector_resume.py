"""A detector's training goes on with the images, and ends in the bits, of a run that was never interrupted."""

from __future__ import annotations

import random
import shutil
from functools import partial
from itertools import islice

import numpy as np
import pytest
import torch
from detectron2.data.common import AspectRatioGroupedDataset
from detectron2.data.samplers import TrainingSampler
from nested_differences import differences
from small_detectors import REPOSITORY, SMALL_DETECTOR, SMALL_TRANSFORMER, detector_config

from partbox.engine.build import build_optimizer
from partbox.engine.checks import ConfigError
from partbox.engine.detector_batches import SampledBatches, build_detector_batches
from partbox.engine.detector_dry_run import made_up_samples
from partbox.engine.detector_training import DetectorTrainer
from partbox.engine.detectors import build_detector, records_of

ANCHORS = ["MODEL.ANCHOR_GENERATOR.SIZES", "[[8, 11], [12, 16], [16, 22], [24, 33], [40, 56]]"]
FREE = ["ADVERSARY.OBJECTIVE", "free", "ADVERSARY.EPS", "8/255", "ADVERSARY.REPLAYS", "3"]
SHORT = [
    *[*SMALL_DETECTOR, "SOLVER.MAX_ITER", "6", "SOLVER.CHECKPOINT_PERIOD", "2", "ROBUST_EVAL.NUM_IMAGES", "2"],
    *["INPUT.MIN_SIZE_TRAIN", "(48, 56, 64)", "INPUT.RANDOM_FLIP", "horizontal"],
    *["ROBUST_EVAL.PERTURBATIONS", "[{'name': 'clean'}]"],
]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("faster_rcnn", []),
        ("retinanet", ANCHORS),  # divides its loss by a running mean that is no weight
        ("faster_rcnn", FREE),  # iteration 4 is the second replay of a batch
        ("dino", SMALL_TRANSFORMER),
        ("faster_rcnn", ["SOLVER.AMP.ENABLED", "True"]),  # in float16, which scales its losses
    ],
    ids=["faster_rcnn", "retinanet", "free", "dino", "float16"],
)
def test_an_interrupted_training_ends_in_the_same_bits(run_tool, tmp_path, monkeypatch, name, options):
    monkeypatch.setattr("partbox.engine.evaluate.evaluate_subject", lambda *_, **__: None)
    monkeypatch.setattr("partbox.engine.detector_training.mixed_precision_type", lambda _: torch.float16)
    monkeypatch.setattr("torch.amp.GradScaler", partial(torch.amp.GradScaler, init_scale=64.0, growth_interval=3))
    config = ["--config-file", REPOSITORY / f"configs/car_parts/{name}.yaml", *SHORT, *options]
    whole, folder = tmp_path / "whole", tmp_path / "run"
    run_tool("train_detector", *config, "OUTPUT_DIR", whole)
    shutil.copytree(whole, folder)
    for file in ("model_final.pth", "resume_final.pth"):
        (folder / file).unlink()
    newest = folder / "resume_0000005.pth"
    newest.write_bytes(newest.read_bytes()[:-1])
    (folder / "last_checkpoint").write_text(newest.name)
    random.seed(5), np.random.seed(5), torch.manual_seed(5)  # nothing may depend on what ran before
    run_tool("train_detector", *config, "--resume", "OUTPUT_DIR", folder, "DATALOADER.NUM_WORKERS", "1")
    assert (folder / "resume_0000005.pth.damaged").exists()
    for file in ("model_final.pth", "resume_final.pth"):
        one, other = (torch.load(path / file, weights_only=True) for path in (folder, whole))
        assert differences(one, other) == [], file
    assert len(one["trainer"]["normalizers"]) == 1, "one process"
    assert bool(one["trainer"]["normalizers"][0]) == (name == "retinanet")
    assert one["trainer"]["scaler"].get("scale") == (256.0 if "SOLVER.AMP.ENABLED" in options else None)


@pytest.mark.parametrize("name", ["faster_rcnn", "mask_rcnn", "maskdino", "dino"])
def test_every_draw_of_a_step_follows_from_seed_and_iteration(example_root, name):
    """Proposals, points of masks, denoising queries: whatever the global generators were before."""
    cfg = detector_config(name, root=example_root)
    seen = {}
    for seed, start in ((3, 7), (3, 7), (3, 8), (4, 7)):
        torch.manual_seed(0)
        model = build_detector(cfg)
        trainer = DetectorTrainer(model, [made_up_samples(cfg, 64)], build_optimizer(cfg, model), seed=seed)
        for number, other in enumerate((random.seed, np.random.seed, torch.manual_seed)):
            other(len(seen) * 10 + number)
        trainer.train(start, start + 1)
        state = torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])
        if (seed, start) in seen:
            assert torch.equal(seen[seed, start], state)
        seen[seed, start] = state
    assert not torch.equal(seen[3, 7], seen[3, 8])
    assert not torch.equal(seen[3, 7], seen[4, 7])


def keys(cfg, records, start: int, count: int) -> list:
    return list(islice(build_detector_batches(cfg, records, start).batch_sampler, count))


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["DATALOADER.ASPECT_RATIO_GROUPING", "False"],
        ["DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler", "DATALOADER.REPEAT_THRESHOLD", "0.5"],
    ],
)
def test_batches_are_those_of_an_uninterrupted_run_from_any_on(example_root, options):
    cfg = detector_config("faster_rcnn", *options, root=example_root)
    records = records_of(cfg.DATASETS.TRAIN, "DATASETS.TRAIN")
    records = [{**record, "width": record["width"] + number % 2} for number, record in enumerate(records)]
    records[0]["annotations"] = [{**records[0]["annotations"][0], "category_id": 99}]
    whole = keys(cfg, records, 0, 60)
    for start in (1, 17, 40):
        assert keys(cfg, records, start, 20) == whole[start : start + 20]
    positions = [position for batch in whole for _, position in batch]
    assert len(set(positions)) == len(positions)
    wide = [[records[index]["width"] > records[index]["height"] for index, _ in batch] for batch in whole]
    mixed = any(len(set(batch)) > 1 for batch in wide)
    assert mixed == ("DATALOADER.ASPECT_RATIO_GROUPING" in options)
    other = cfg.clone()
    other.SEED = 2
    assert keys(other, records, 0, 60) != whole
    used = {index for batch in whole for index, _ in batch}
    assert used == set(range(66))
    counts = np.bincount([index for batch in whole for index, _ in batch])
    assert (counts[0] > 1.5 * counts[1:].mean()) == ("RepeatFactorTrainingSampler" in options), "a rare category"


def test_groups_are_detectron2s():
    sizes = [(40, 30), (30, 40), (30, 30), (50, 20), (10, 90), (64, 48), (48, 64)]
    samples = [{"width": w, "height": h, "index": i} for i, (w, h) in enumerate(sizes)]
    stream = [samples[index] for index in islice(TrainingSampler(len(sizes), seed=3), 300)]
    theirs = [[sample["index"] for sample in batch] for batch in AspectRatioGroupedDataset(stream, 4)]
    groups = [int(w <= h) for w, h in sizes]
    ours = SampledBatches(list(islice(TrainingSampler(len(sizes), seed=3), 300)), 4, groups=groups)
    assert [[index for index, _ in batch] for batch in ours] == theirs


def test_samples_do_not_depend_on_workers_or_the_start(example_root):
    cfg = detector_config(
        "faster_rcnn", "INPUT.MIN_SIZE_TRAIN", "(40, 48, 56, 64)", "INPUT.RANDOM_FLIP", "horizontal", root=example_root
    )
    records = records_of(cfg.DATASETS.TRAIN, "DATASETS.TRAIN")

    def batches(start: int, workers: int) -> list:
        cfg.DATALOADER.NUM_WORKERS = workers
        found = islice(build_detector_batches(cfg, records, start), 6 - start)
        return [[(s["image_id"], s["image"], s["instances"].gt_boxes.tensor) for s in batch] for batch in found]

    whole = batches(0, 0)
    assert len({tuple(image.shape) for batch in whole for _, image, _ in batch}) > 2, "nothing was drawn"
    assert differences(batches(0, 2), whole) == []
    assert differences(batches(4, 1), whole[4:]) == []


@pytest.mark.parametrize("name", ["NoSuchSampler", "WeightedTrainingSampler", "RandomSubsetTrainingSampler"])
def test_another_sampler_is_refused(run_tool, tmp_path, name):
    config = ["--config-file", REPOSITORY / "configs/car_parts/faster_rcnn.yaml", *SHORT]
    for more in (["OUTPUT_DIR", tmp_path / "run"], ["--dry-run"]):
        with pytest.raises(ConfigError, match=f"SAMPLER_TRAIN must be one of .*{name}"):
            run_tool("train_detector", *config, "DATALOADER.SAMPLER_TRAIN", name, *more)


def test_records_without_sizes_cannot_be_grouped(example_root):
    cfg = detector_config("faster_rcnn", root=example_root)
    records = [{"file_name": "a.png", "image_id": 1, "annotations": []}]
    with pytest.raises(ConfigError, match="ASPECT_RATIO_GROUPING"):
        build_detector_batches(cfg, records)
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    build_detector_batches(cfg, records)
    with pytest.raises(ConfigError, match="no image"):
        build_detector_batches(cfg, [])
