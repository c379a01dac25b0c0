"""Errors of training."""

from __future__ import annotations

import types
import zipfile
from pathlib import Path
from typing import Any

import torch
from detectron2.utils.events import EventStorage
from torch import nn

from partbox.attacks import PGD, AttackError, ThreatModel
from partbox.data import load_part_dataset
from partbox.data.worker_watch import WorkerWatch
from partbox.engine.checkpoint import CheckpointError, RunCheckpointer, read_checkpoint
from partbox.engine.checks import ConfigError
from partbox.engine.detectors import check_classes
from partbox.engine.hooks.catastrophic_overfitting import CatastrophicOverfitting
from partbox.engine.hooks.validation import ValidationUnderAttack
from partbox.engine.run_folder import evaluation_folder, training_folder
from partbox.engine.setup import fill_names, load_config
from partbox.engine.user_errors import sentence_of
from partbox.evaluation.validate import ValidationResult

from .data import dataset
from .provoking import CPU, entry, logged, said


@entry("A configuration key is misspelt or at the wrong place")
def _() -> str:
    return said(ConfigError, lambda: load_config(None, ["LOSS_WEIGHT", "0.3"]))


@entry("A key is written with an equals sign")
def _() -> str:
    return said(ConfigError, lambda: load_config(None, ["SOLVER.MAX_ITER=20"]))


@entry("There is no GPU")
def _() -> str:
    return said(ConfigError, lambda: load_config(None, ["MODEL.DEVICE", "xpu"])).replace("xpu", "cuda")


@entry("The folder holds a training already")
def _() -> str:
    cfg = load_config(None, [*CPU, "OUTPUT_DIR", "output/part_box"])
    Path("output/part_box").mkdir(parents=True)
    Path("output/part_box/last_checkpoint").write_text("resume_0000099.pth")
    return said(ConfigError, lambda: training_folder(cfg, resume=False).__enter__())


@entry("The folder holds a run with another configuration")
def _() -> str:
    cfg = load_config(None, [*CPU, "OUTPUT_DIR", "output/part_box", "SOLVER.BASE_LR", "0.1"])
    Path("output/part_box").mkdir(parents=True)
    Path("output/part_box/config.yaml").write_text(cfg.dump())
    Path("output/part_box/last_checkpoint").write_text("resume_0000099.pth")
    cfg.SOLVER.BASE_LR = 0.05
    return said(ConfigError, lambda: training_folder(cfg, resume=True).__enter__())


@entry("Another process writes to the folder")
def _() -> str:
    cfg = load_config(None, [*CPU, "OUTPUT_DIR", "output/part_box"])
    with evaluation_folder(cfg, part=(0, 1), after_training=True):
        return said(ConfigError, lambda: evaluation_folder(cfg, part=(0, 1), after_training=True).__enter__())


def checkpointer() -> RunCheckpointer:
    Path("output/part_box").mkdir(parents=True, exist_ok=True)
    return RunCheckpointer(nn.Linear(2, 2), "output/part_box")


@entry("A checkpoint is damaged and an earlier one is taken")
def _() -> str:
    run = checkpointer()
    for name in ("resume_0000099", "resume_0000199"):
        run.save(name)
    path = Path("output/part_box/resume_0000199.pth")
    path.write_bytes(path.read_bytes()[:100])
    return logged(run.resume)


@entry("No checkpoint can be read")
def _() -> str:
    run = checkpointer()
    run.save("resume_0000099")
    path = Path("output/part_box/resume_0000099.pth")
    with zipfile.ZipFile(path) as archive:
        place = max(archive.infolist(), key=lambda one: one.file_size).header_offset + 200
    data = bytearray(path.read_bytes())
    data[place] ^= 255
    path.write_bytes(data[: len(data) // 2])
    return said(CheckpointError, run.resume)


@entry("The weights' file does not exist")
def _() -> str:
    checkpointer().save("model_best")
    return said(CheckpointError, lambda: read_checkpoint("output/part_box/model_bset.pth"))


@entry("The data has other classes or parts than the model")
def _() -> str:
    cfg = load_config(None, CPU)
    cfg.MODEL.PART.CLASS_NAMES = ["cat", "dog"]
    data = load_part_dataset(dataset(), "datasets_root/my_parts/images", verify_images="none")
    return said(ConfigError, lambda: fill_names(cfg, data))


@entry("A segmenter has one class too few")
def _() -> str:
    from detectron2.data import MetadataCatalog

    MetadataCatalog.get("trouble_parts").thing_classes = [f"part {i}" for i in range(18)]
    options = [*CPU, "MODEL.META_ARCHITECTURE", "SemanticSegmentor", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "18"]
    text = said(ConfigError, lambda: check_classes(load_config(None, options), "trouble_parts"))
    MetadataCatalog.remove("trouble_parts")
    return text.replace("trouble_parts", "car_parts_train")


@entry("A model of detectron2 leaves its pixels to the defaults")
def _() -> str:
    Path("faster_rcnn.yaml").write_text("MODEL:\n  META_ARCHITECTURE: GeneralizedRCNN\n")
    return said(ConfigError, lambda: load_config("faster_rcnn.yaml"))


def hooked(hook: Any, iteration: int) -> str:
    """What a hook warns of after an iteration."""
    with EventStorage(iteration) as storage:
        hook.trainer = types.SimpleNamespace(iter=iteration, max_iter=iteration + 1, storage=storage)
        return logged(hook.after_step)


@entry("Catastrophic overfitting")
def _() -> str:
    hook = CatastrophicOverfitting(lambda: (0.97, 0.02), period=100)
    hook.best = (0.61, 0.48)
    return hooked(hook, 1_199)


@entry("The run looks broken")
def _() -> str:
    result = ValidationResult(0.31, 0.05, 0.18, 500, True)
    return hooked(ValidationUnderAttack(lambda: result, period=500), 999)


@entry("The loss is not finite")
def _() -> str:
    from partbox.engine.trainer import PartTrainer, TrainingDiverged

    class Diverged:
        passes = 1

        def __call__(self, model: Any, batch: Any, iteration: int) -> dict[str, torch.Tensor]:
            return {"loss_class": next(model.parameters()).sum() * torch.tensor(float("nan"))}

    model = nn.Linear(1, 1)
    model.device = torch.device("cpu")
    trainer = PartTrainer(model, torch.optim.SGD(model.parameters(), 0.1), Diverged(), seed=0)
    trainer.read_from([[]])
    trainer.iter = 812
    with EventStorage(812) as trainer.storage:
        return said(TrainingDiverged, trainer.run_step)


@entry("A data worker was killed")
def _() -> str:
    watch = WorkerWatch(1, [{"file_name": "datasets_root/my_parts/images/train/a.jpg", "image_id": 17}])
    watch.table[0] = torch.tensor([4242, 0, 1])
    from partbox.data.worker_watch import named_death

    error = named_death(RuntimeError("DataLoader worker (pid 4242) is killed by signal: Killed. "))
    assert error is not None
    return sentence_of(error)


class Flat(nn.Module):
    """A network without a gradient."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images.mean(dim=(1, 2, 3), keepdim=False)[:, None] * 4).round() * torch.tensor([1.0, -1.0])


IMAGES = torch.full((4, 3, 8, 8), 0.5)
LABELS = torch.zeros(4, dtype=torch.int64)


@entry("The attack in training is blind")
def _() -> str:
    attack = PGD(ThreatModel("linf", "8/255"), 2)
    return said(AttackError, lambda: attack.perturb(Flat(), IMAGES, LABELS, image_ids=range(4), seed=0))
