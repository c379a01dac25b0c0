"""Training of small models in one or several processes, with everything written down that the processes must agree on.

Started as a script by ``test_several_processes.py``, once for all cases: most of the time goes into imports.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from small_detectors import detector_config
from small_models import DETECTOR_MODELS, MODELS, small_config

from partbox import processes
from partbox.data import load_part_dataset
from partbox.engine.build import (
    build_classifier,
    build_objective,
    build_optimizer,
    build_training_batches,
    build_validation,
    threat_model,
)
from partbox.engine.detector_batches import build_detector_batches
from partbox.engine.detector_training import DetectorTrainer
from partbox.engine.detectors import build_detector, records_of
from partbox.engine.hooks.best_checkpoint import BestWeights
from partbox.engine.hooks.ema import WeightAveraging
from partbox.engine.hooks.validation import ValidationUnderAttack
from partbox.engine.objectives import AdversarialObjective
from partbox.engine.trainer import PartTrainer

STEPS = 3
SYNCHRONISED = ["MODEL.PART.BATCH_NORM", "synchronised"]
PGD = ["ADVERSARY.OBJECTIVE", "pgd", "ADVERSARY.STEPS", "2", "ADVERSARY.EPS", "8/255"]
CASES: dict[str, list[str]] = {
    "clean": [*MODELS["normal"], *SYNCHRONISED, "ADVERSARY.OBJECTIVE", "clean"],
    "pgd": [*MODELS["part_box"], *SYNCHRONISED, *PGD],
    "pgd, masks at evidence resolution, focal": [
        *(*MODELS["part_pooling"], *SYNCHRONISED, *PGD),
        *("MODEL.PART.LOSS_RESOLUTION", "evidence", "MODEL.PART.FOCAL_GAMMA", "2.0"),
    ],
    "keypoints": [*MODELS["part_box"], *SYNCHRONISED, *PGD, "MODEL.PART.KEYPOINT_LOSS_WEIGHT", "0.5"],
    "trades": [*MODELS["part_pooling"], *SYNCHRONISED, *PGD[2:], "ADVERSARY.OBJECTIVE", "trades"],
    "mart": [*MODELS["two_head"], *SYNCHRONISED, *PGD[2:], "ADVERSARY.OBJECTIVE", "mart"],
    "awp": [*MODELS["part_box"], *SYNCHRONISED, *PGD, "ADVERSARY.AWP_GAMMA", "0.01"],
    "free": [
        *(*MODELS["part_box"], *SYNCHRONISED, "ADVERSARY.OBJECTIVE", "free"),
        *("ADVERSARY.REPLAYS", "2", "ADVERSARY.EPS", "8/255"),
    ],
    "auxiliary": [*MODELS["part_auxiliary"], *SYNCHRONISED, *PGD],
    "dino": [*DETECTOR_MODELS["dino_box_sequence"], *SYNCHRONISED, *PGD, "MODEL.DINO.USE_DN", "False"],
    "statistics of each process": [*MODELS["part_box"], "MODEL.PART.BATCH_NORM", "train", *PGD],
}


def train(root: Path, options: list[str], folder: Path) -> dict[str, Any]:
    """Train for a few steps in float64, where the order of sums cannot hide a difference; what came of it."""
    dataset = load_part_dataset(root / "example" / "train.json", root / "example" / "images")
    extra = ["DATASETS.TRAIN", "('example_train',)", "DATASETS.VALIDATION", "('example_val',)"]
    extra += ["OUTPUT_DIR", str(folder), "SOLVER.BASE_LR", "0.01", "ADVERSARY.VALIDATION_STEPS", "2"]
    extra += ["MODEL.SEM_SEG_HEAD.ASPP_DROPOUT", "0.0"]  # each process drops other activations
    cfg = small_config(dataset, *extra, *options)
    records = [without_parts(record) if number % 3 else record for number, record in enumerate(dataset.records)]
    model = build_classifier(cfg).double()
    optimizer = build_optimizer(cfg, model)
    objective = build_objective(cfg)
    seen = _watched(objective)
    trainer = PartTrainer(model, optimizer, objective, seed=3)
    averaging = WeightAveraging(model, decay=0.9)
    validation = ValidationUnderAttack(build_validation(cfg, averaging.module), period=2)
    best = BestWeights(folder, averaging.module, validation)
    losses: list[dict[str, float]] = []
    trainer.register_hooks([averaging, validation, best])
    trainer.read_from(build_training_batches(cfg, records))
    with EventStorage(0) as trainer.storage:
        trainer.max_iter = STEPS + 1  # no end: the final weights are compared here
        trainer.before_train()
        for trainer.iter in range(STEPS):
            trainer.before_step()
            trainer.run_step()
            latest = trainer.storage.latest()
            losses.append({name: value for name, (value, _) in latest.items() if "loss" in name})
            trainer.after_step()
            trainer.storage.step()
    return {
        "losses": losses,
        "adversarial": seen,
        "model": {name: value.clone() for name, value in model.state_dict().items()},
        "average": {name: value.clone() for name, value in averaging.module.state_dict().items()},
        "best": best.state_dict(),
        "validation": str(validation.latest),
        "objective": objective.state_dict() if hasattr(objective, "state_dict") else {},
    }


DETECTORS: dict[str, list[str]] = {
    "retinanet": ["MODEL.BACKBONE.FREEZE_AT", "0"],
    "faster_rcnn": ["ADVERSARY.OBJECTIVE", "free", "ADVERSARY.EPS", "8/255", "ADVERSARY.REPLAYS", "2"],
}


def train_detector(root: Path, name: str) -> dict[str, Any]:
    """Train one of detectron2's detectors for a few steps; what came of it."""
    cfg = detector_config(name, "SOLVER.MAX_ITER", str(STEPS), *DETECTORS[name], root=root)
    records = records_of(cfg.DATASETS.TRAIN, "DATASETS.TRAIN")
    model = build_detector(cfg)
    free = {"threat": threat_model(cfg), "replays": 2} if cfg.ADVERSARY.OBJECTIVE == "free" else {}
    trainer = DetectorTrainer(model, (), build_optimizer(cfg, model), seed=3, **free)
    seen: list[list[str]] = []

    def noted(batches: Any) -> Any:
        for batch in batches:
            seen.append([sample["file_name"] for sample in batch])
            yield batch

    trainer.read_from(noted(build_detector_batches(cfg, records)))
    trainer.train(0, STEPS)
    state = trainer.state_dict()
    losses = {name: value for name, (value, _) in trainer.storage.latest().items() if "loss" in name}
    return {
        "model": {key: value.clone() for key, value in model.state_dict().items()},
        "images": seen,
        "losses": losses,
        "perturbations": state["perturbations"],
        "normalizers": state["normalizers"],
    }


def without_parts(record: dict[str, Any]) -> dict[str, Any]:
    """The record of an image whose parts nobody has labelled."""
    return {**record, "annotations": [], "part_labels": "none"}


def _watched(objective: Any) -> dict[str, torch.Tensor]:
    """What the attack makes of each image of the first step, by the id that its draws depend on."""
    seen: dict[str, torch.Tensor] = {}
    if not isinstance(objective, AdversarialObjective):
        return seen
    attack = objective.perturb

    def perturb(predict: Any, images: torch.Tensor, labels: torch.Tensor, ids: Any) -> torch.Tensor:
        found = attack(predict, images, labels, ids)
        seen.update({one: image for one, image in zip(ids, found.detach(), strict=True) if one.startswith("0|")})
        return found

    objective.perturb = perturb  # type: ignore[method-assign]
    return seen


def in_process(rank: int, root: Path, output: Path, number: int) -> None:
    """Train all cases as one of several processes."""
    torch.set_num_threads(1)
    address = f"file://{output / 'meeting'}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=number, timeout=timedelta(seconds=120))
    comm.create_local_process_group(number)
    assert processes.world_size() == number
    found = {case: train(root, options, output / "runs") for case, options in CASES.items()}
    found |= {name: train_detector(root, name) for name in DETECTORS}
    torch.save(found, output / f"process{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    where, result, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    mp.spawn(in_process, args=(where, result, count), nprocs=count)
