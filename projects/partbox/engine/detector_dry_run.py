"""One training step of a detector on made-up photographs, and what its training would take, without any data."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.solver import build_lr_scheduler
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor

from partbox.data import PartDatasetError

from .build import build_optimizer
from .checks import ConfigError
from .detector_batches import check_sampler
from .detector_training import DetectorTrainer
from .detectors import (
    build_detector,
    check_classes,
    check_perturbations,
    class_count,
    is_segmenter,
    labelled_records,
    mapper_of,
    records_of,
)
from .evaluation_cost import cost_lines, self_check_lines
from .training_records import detector_training_records

IMAGES = 2
OBJECTS = 3  # of each image


def detector_plan(cfg: CfgNode, *, size: int = 256) -> str:
    """Build model, optimizer and schedule, make one training step and look at one image; the run's plan as text.

    The photographs are noise of ``size`` x ``size`` pixels with three objects each, whatever sizes the configuration
    trains on. Weights and datasets that are not on this machine are named in the plan; they are no error here.

    Raises:
        ConfigError: something cannot be built, or an image gives fewer tokens than the model has queries.
        CheckpointError: the weights do not fit.
        TrainingDiverged: the loss is not finite.
    """
    _check_known_classes(cfg)
    check_sampler(cfg)
    weights = cfg.MODEL.WEIGHTS if cfg.MODEL.WEIGHTS and Path(cfg.MODEL.WEIGHTS).is_file() else ""
    model = build_detector(cfg, weights, cfg.MODEL.WEIGHTS_EXCEPT if weights else ())
    mapper_of(cfg, is_train=True)
    optimizer = build_optimizer(cfg, model)
    build_lr_scheduler(cfg, optimizer)
    samples = made_up_samples(cfg, size)
    start = time.perf_counter()
    _wake(model)
    losses = _one_step(cfg, model, optimizer, samples)
    seconds = time.perf_counter() - start
    model.eval()
    with torch.no_grad():
        model(samples[:1])
    # criteria add 0 * parameter, so that a gradient exists where nothing is learned
    blind = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    lines = [
        f"model: {cfg.MODEL.META_ARCHITECTURE}, {class_count(cfg)} classes, "
        f"{sum(p.numel() for p in model.parameters()):,} parameters, {learning:,} of them learn",
        _weights_line(cfg, weights),
        f"one step: {IMAGES} images of {size} x {size} in {seconds:.1f} s, total loss {sum(losses.values()):.2f} "
        f"of {len(losses)} terms",
    ]
    if blind:
        lines.append(f"parameters without a gradient: {len(blind)}, such as {blind[0]}")
    lines += [_dataset_line(cfg, key) for key in ("TRAIN", "TEST")]
    lines.append(f"training: {cfg.SOLVER.MAX_ITER:,} iterations of {cfg.SOLVER.IMS_PER_BATCH} images")
    kind = "segmenter" if is_segmenter(cfg) else "detector"
    perturbations = check_perturbations(cfg)
    images = _test_images(cfg)
    lines.append(f"evaluation of {f'{images:,} images' if images else 'each image'}:")
    lines += cost_lines(perturbations, images or 1, kind)
    checked = min(cfg.ROBUST_EVAL.SELF_CHECK_IMAGES, images or cfg.ROBUST_EVAL.SELF_CHECK_IMAGES)
    lines += self_check_lines(perturbations, checked, surrogate=bool(cfg.ROBUST_EVAL.SURROGATE), kind=kind)
    return "\n".join(lines)


def _test_images(cfg: CfgNode) -> int:
    """Number of images that an evaluation looks at; 0 where the dataset is not on this machine."""
    try:
        count = len(labelled_records(cfg, records_of(cfg.DATASETS.TEST, "DATASETS.TEST")))
    except (ConfigError, PartDatasetError):
        return 0
    return min(count, cfg.ROBUST_EVAL.NUM_IMAGES or count)


def _wake(model: torch.nn.Module) -> None:
    """Move parameters that start at zero: before such a head every gradient of a first step is zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.copy_(0.01 * torch.randn(parameter.shape, generator=generator))


def _check_known_classes(cfg: CfgNode) -> None:
    """Compare the classes of datasets whose names are known without their files, such as detectron2's COCO."""
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        if "thing_classes" in MetadataCatalog.get(name).as_dict():
            check_classes(cfg, name)


def made_up_samples(cfg: CfgNode, size: int) -> list[dict[str, Any]]:
    """Samples of noise with labels, as a mapper gives them."""
    generator = torch.Generator().manual_seed(max(cfg.SEED, 0))
    classes = class_count(cfg)
    samples = []
    for number in range(IMAGES):
        image = torch.randint(0, 256, (3, size, size), dtype=torch.uint8, generator=generator)
        sample: dict[str, Any] = {"image": image, "image_id": number, "height": size, "width": size}
        if is_segmenter(cfg):
            sample["sem_seg"] = torch.randint(0, classes, (size, size), generator=generator)
        else:
            sample["instances"] = _objects(size, classes, generator)
        samples.append(sample)
    return samples


def _objects(size: int, classes: int, generator: torch.Generator) -> Instances:
    """Boxes of a quarter to a half of the image, filled as masks."""
    sides = size * (0.25 + 0.25 * torch.rand(OBJECTS, 2, generator=generator))
    corners = (size - sides) * torch.rand(OBJECTS, 2, generator=generator)
    boxes = torch.cat([corners, corners + sides], dim=1)
    return Instances(
        (size, size),
        gt_boxes=Boxes(boxes),
        gt_classes=torch.randint(0, classes, (OBJECTS,), generator=generator),
        gt_masks=BitMasks(_filled(boxes, size)),
    )


def _filled(boxes: Tensor, size: int) -> Tensor:
    places = torch.arange(size) + 0.5
    across = (places >= boxes[:, 0, None]) & (places < boxes[:, 2, None])
    down = (places >= boxes[:, 1, None]) & (places < boxes[:, 3, None])
    return down[:, :, None] & across[:, None, :]


def _one_step(
    cfg: CfgNode, model: torch.nn.Module, optimizer: torch.optim.Optimizer, samples: list[dict[str, Any]]
) -> dict[str, float]:
    """The losses of one update."""
    trainer = DetectorTrainer(model, [samples], optimizer, mixed_precision=cfg.SOLVER.AMP.ENABLED)
    with EventStorage() as storage:
        trainer.iter, trainer.storage = 0, storage
        trainer.before_train()
        try:
            trainer.run_step()
        except (ValueError, IndexError) as error:
            raise ConfigError(f"one training step is not possible: {error}") from error
        latest = {name: float(value) for name, (value, _) in storage.latest().items() if name != "total_loss"}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not math.isfinite(float(parameter.grad.abs().sum())):
            raise ConfigError(f"the gradient of {name} is not finite in the first step")
    return latest


def _weights_line(cfg: CfgNode, found: str) -> str:
    if not cfg.MODEL.WEIGHTS:
        return "weights: random, MODEL.WEIGHTS is empty"
    anew = f", anew: {', '.join(cfg.MODEL.WEIGHTS_EXCEPT)}" if cfg.MODEL.WEIGHTS_EXCEPT else ""
    if found:
        return f"weights: {found} fits{anew}"
    return f"weights: {cfg.MODEL.WEIGHTS} is not on this machine, training needs it (random ones here){anew}"


def _dataset_line(cfg: CfgNode, key: str) -> str:
    names = cfg.DATASETS[key]
    try:
        records = detector_training_records(cfg) if key == "TRAIN" else records_of(names, "DATASETS.TEST")
        check_classes(cfg, names[0])
    except (ConfigError, PartDatasetError) as error:
        if isinstance(error, ConfigError) and "not on this machine" not in str(error):
            raise
        return str(error) if str(error).startswith("DATASETS.") else f"DATASETS.{key}: {error}"
    epochs = cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH / max(len(records), 1)
    return f"DATASETS.{key}: {names[0]}, {len(records):,} images" + (f", {epochs:.1f} epochs" * (key == "TRAIN"))
