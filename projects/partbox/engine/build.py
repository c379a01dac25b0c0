"""From configuration to the pieces of a training or evaluation run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from torch import nn
from torch.utils.data import DataLoader

from partbox.attacks import PGD, PartPGD, ThreatModel, parse_eps
from partbox.data.loader import build_test_loader, build_training_loader, share_records, subset
from partbox.data.mapper import PartDatasetMapper
from partbox.data.part_map import is_supervised
from partbox.data.pseudo_labels import is_predicted
from partbox.evaluation import Perturbation, build_perturbations
from partbox.evaluation.validate import ValidationResult, validate
from partbox.modeling import PartClassifier
from partbox.processes import is_main, rank, world_size
from partbox.progress import track
from partbox.suggestions import one_of

from .checkpoint import check_names, load_weights, read_checkpoint
from .checks import OBJECTIVES, ConfigError, check_registered, device_of
from .objectives import (
    AdversarialObjective,
    CleanObjective,
    FreeObjective,
    MartObjective,
    MixedObjective,
    NoisyFGSMObjective,
    PGDObjective,
    TradesObjective,
    TrainingObjective,
)
from .objectives.weight_perturbation import WeightPerturbation
from .setup import load_config, load_dataset

logger = logging.getLogger(__name__)


PROBED_IMAGES = 64
WEIGHTED: dict[str, Callable[..., AdversarialObjective]] = {
    "trades": TradesObjective,
    "mart": MartObjective,
    "mat": MixedObjective,
}


def build_classifier(cfg: CfgNode, weights: str | None = None) -> PartClassifier:
    """The model of the configuration, initialised from ``cfg.SEED``.

    Args:
        cfg: complete configuration.
        weights: checkpoint of the whole model, loaded completely or refused; default ``MODEL.WEIGHTS`` without what
            ``MODEL.WEIGHTS_EXCEPT`` names. With one, the backbone's pretrained weights are not needed and not looked
            for.

    Raises:
        ConfigError: the meta-architecture is no part classifier, or a setting is wrong.
        CheckpointError: the weights do not fit, or belong to other classes or parts.
    """
    check_registered(cfg)
    torch.manual_seed(max(cfg.SEED, 0))
    anew = list(cfg.MODEL.WEIGHTS_EXCEPT) if weights is None else []
    weights = cfg.MODEL.WEIGHTS if weights is None else weights
    stored = read_checkpoint(weights) if weights else None
    complete = cfg.clone()
    complete.defrost()
    complete.MODEL.DEVICE = device_of(cfg)
    if stored is not None:
        complete.MODEL.PART.BACKBONE.WEIGHTS = complete.MODEL.PART.HEAD.NETWORK_WEIGHTS = ""
    try:
        model = build_model(complete)
    except (ValueError, KeyError, OSError) as error:
        raise ConfigError(f"the model cannot be built: {error}") from error
    if not isinstance(model, PartClassifier):
        raise ConfigError(f"MODEL.META_ARCHITECTURE must be PartClassifier here, not {cfg.MODEL.META_ARCHITECTURE}")
    if stored is not None:
        if not anew:  # with new heads the classes may be others
            check_names(model, stored, weights)
        load_weights(model, stored["model"], weights, anew)
        logger.info("Weights of the whole model from %s%s", weights, f" except {', '.join(anew)}" if anew else "")
    return model.to(memory_format=torch.channels_last) if cfg.MODEL.PART.CHANNELS_LAST else model


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """SGD or AdamW with detectron2's parameter groups; the backbone's rate is scaled by ``SOLVER.BACKBONE_MULTIPLIER``.

    Embeddings have a weight decay of their own, ``SOLVER.WEIGHT_DECAY_EMBED``.

    Raises:
        ConfigError: unknown optimizer.
    """
    solver = cfg.SOLVER

    def rate(name: str) -> float:
        return solver.BACKBONE_MULTIPLIER if name.startswith("backbone.") else 1.0

    groups = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        lr_factor_func=rate,
    )
    groups = _with_decay_of_embeddings(groups, model, solver.WEIGHT_DECAY_EMBED)
    if solver.OPTIMIZER == "SGD":
        return with_gradient_clipping(cfg, torch.optim.SGD)(
            groups, lr=solver.BASE_LR, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV
        )
    if solver.OPTIMIZER == "ADAMW":
        return with_gradient_clipping(cfg, torch.optim.AdamW)(groups, lr=solver.BASE_LR)
    raise ConfigError(f"SOLVER.OPTIMIZER must be SGD or ADAMW, not {solver.OPTIMIZER!r}")


def _with_decay_of_embeddings(groups: list[dict[str, Any]], model: nn.Module, decay: float) -> list[dict[str, Any]]:
    """The groups with embeddings split off, at a weight decay of their own."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    split = []
    for group in groups:
        rest = [parameter for parameter in group["params"] if id(parameter) not in embeddings]
        tables = [parameter for parameter in group["params"] if id(parameter) in embeddings]
        split += [{**group, "params": rest}] if rest else []
        split += [{**group, "params": tables, "weight_decay": decay}] if tables else []
    return split


def with_gradient_clipping(
    cfg: CfgNode, optimizer: type[torch.optim.Optimizer]
) -> Callable[..., torch.optim.Optimizer]:
    """The optimizer with detectron2's clipping of each parameter (``norm``, ``value``), or of all of them together.

    ``SOLVER.CLIP_GRADIENTS.CLIP_TYPE full_model``, which Mask2Former's and Mask DINO's configurations use, scales the
    whole gradient so that its norm is at most ``CLIP_VALUE``.

    Raises:
        ConfigError: another norm than 2 with ``full_model``.
    """
    settings = cfg.SOLVER.CLIP_GRADIENTS
    if not settings.ENABLED or settings.CLIP_TYPE != "full_model":
        clipped: Callable[..., torch.optim.Optimizer] = maybe_add_gradient_clipping(cfg, optimizer)
        return clipped
    if settings.NORM_TYPE != 2.0:
        raise ConfigError(f"SOLVER.CLIP_GRADIENTS.NORM_TYPE must be 2.0 with full_model, not {settings.NORM_TYPE}")
    largest = float(settings.CLIP_VALUE)

    def step(self: torch.optim.Optimizer, closure: Any = None) -> Any:
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, largest)
        return optimizer.step(self, closure)

    return type(f"{optimizer.__name__}WithFullModelClipping", (optimizer,), {"step": step})


def check_supervision(cfg: CfgNode, model: PartClassifier, records: list[dict[str, Any]]) -> int:
    """Number of training images whose part labels the part term (an oracle: the head) uses; 0 where nothing does.

    Raises:
        ConfigError: the part term has a weight and not one image to learn from: a part model without parts.
    """
    supervision = cfg.MODEL.PART.EXTRACTOR.SUPERVISION
    usable = sum(is_supervised(record, supervision) for record in records)
    if model.extractor is not None and model.part_loss_weight > 0 and not usable:
        raise ConfigError(
            f"MODEL.PART.LOSS_WEIGHT is {model.part_loss_weight}, but none of the {len(records)} training images has "
            f"part labels that MODEL.PART.EXTRACTOR.SUPERVISION {supervision} can use; try auto or box, or weight 0"
        )
    predicted = [record for record in records if is_predicted(record)]
    if predicted and model.part_loss_weight > 0 and not any(is_supervised(one, supervision) for one in predicted):
        raise ConfigError(
            f"DATASETS.TRAIN: the predicted part labels of {len(predicted)} images are boxes, and "
            f"MODEL.PART.EXTRACTOR.SUPERVISION {supervision} uses none of them; set it auto or box, or predict masks"
        )
    check_true_parts(model, records, "DATASETS.TRAIN", supervision)
    learns = model.extractor is not None and not model.extractor.needs_part_maps
    if learns and model.part_loss_weight == 0 and cfg.MODEL.PART.HEAD.DETACH_MASKS and not cfg.MODEL.WEIGHTS:
        logger.warning(
            "Nothing teaches the part masks: MODEL.PART.LOSS_WEIGHT is 0, MODEL.PART.HEAD.DETACH_MASKS keeps the class "
            "from them, and MODEL.WEIGHTS brings none; the head reads masks of random weights"
        )
    reads = model.extractor is not None and (model.extractor.needs_part_maps or model.part_loss_weight > 0)
    return usable if reads else 0


def check_true_parts(
    model: PartClassifier, records: Sequence[Mapping[str, Any]], key: str, supervision: str = "auto"
) -> None:
    """Refuse images without part labels for an oracle, which would stop at the first of them.

    Args:
        model: any; others than those whose parts are the labels pass.
        records: of a dataset.
        key: of the configuration, that names it.
        supervision: which labels are used, see :func:`partbox.data.part_map.is_supervised`.

    Raises:
        ConfigError: naming the key and how many there are.
    """
    if model.extractor is None or not model.extractor.needs_part_maps:
        return
    without = sum(not is_supervised(record, supervision) for record in records)
    if without:
        raise ConfigError(
            f"{key}: the oracle's parts are the labels, and {without} of {len(records)} images have none that it can "
            "use (not labelled, outside the budget, or boxes under SUPERVISION mask): label them, or leave them out"
        )


def check_attackable(cfg: CfgNode, model: PartClassifier, *, training: bool) -> None:
    """Refuse attacks on labels that do not depend on the image (oracles), and on parts where there are none.

    Raises:
        ConfigError: naming the key to change.
    """
    on_parts = [perturbation.name for perturbation in perturbations_of(cfg) if perturbation.on_parts]
    if on_parts and model.extractor is None:
        raise ConfigError(f"ROBUST_EVAL.PERTURBATIONS: this model has no parts, so {on_parts[0]} has nothing to attack")
    if on_parts and model.extractor is not None and not model.extractor.gives_masks:
        raise ConfigError(f"ROBUST_EVAL.PERTURBATIONS: {on_parts[0]} attacks part masks, and this model has none")
    aims_at_parts = cfg.ADVERSARY.GOAL != "class" or cfg.ADVERSARY.REGION != "all"
    no_masks = model.extractor is None or not model.extractor.gives_masks
    if training and no_masks and cfg.ADVERSARY.OBJECTIVE != "clean" and aims_at_parts:
        raise ConfigError("ADVERSARY.GOAL and ADVERSARY.REGION need a model with part masks: leave them class and all")
    if model.evidence_is_given and on_parts:
        raise ConfigError(f"ROBUST_EVAL.PERTURBATIONS: {on_parts[0]} attacks part masks, and those of an oracle stay")
    if training and model.evidence_is_given and cfg.ADVERSARY.OBJECTIVE != "clean" and aims_at_parts:
        raise ConfigError("ADVERSARY.GOAL and ADVERSARY.REGION: an oracle's masks stay, leave them class and all")
    if model.attackable:
        return
    if training and cfg.ADVERSARY.OBJECTIVE != "clean":
        raise ConfigError("this oracle's answer does not depend on the attacked image: set ADVERSARY.OBJECTIVE clean")
    if any(perturbation.role == "attack" for perturbation in perturbations_of(cfg)):
        raise ConfigError(
            "this oracle's answer does not depend on the attacked image: set ROBUST_EVAL.PERTURBATIONS "
            "\"[{'name': 'clean'}]\""
        )


def perturbations_of(cfg: CfgNode, target: str = "classifier") -> list[Perturbation]:
    """The perturbations of ``ROBUST_EVAL``.

    Args:
        cfg: complete configuration.
        target: what the model is: ``classifier``, ``detector`` or ``segmenter``.

    Raises:
        ConfigError: one is wrong, or attacks another kind of model.
    """
    try:
        perturbations = build_perturbations(cfg.ROBUST_EVAL.PERTURBATIONS)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"ROBUST_EVAL.PERTURBATIONS: {error}") from error
    for one in perturbations:
        if one.role == "attack" and not one.attacks(target):
            raise ConfigError(
                f"ROBUST_EVAL.PERTURBATIONS: {one.name} attacks a {one.target}, and this model is a {target}"
            )
    return perturbations


def threat_model(cfg: CfgNode) -> ThreatModel:
    """The threat model that training assumes.

    Raises:
        ConfigError: another norm, no number, or grey levels.
    """
    try:
        return ThreatModel(cfg.ADVERSARY.NORM, cfg.ADVERSARY.EPS)
    except ValueError as error:
        given = f"ADVERSARY.EPS is {cfg.ADVERSARY.EPS}, ADVERSARY.NORM {cfg.ADVERSARY.NORM}"
        raise ConfigError(f"{given}: {error}") from error


def build_objective(cfg: CfgNode) -> TrainingObjective:
    """The training objective of ``ADVERSARY``.

    Raises:
        ConfigError: unknown objective or a setting out of range.
    """
    adversary = cfg.ADVERSARY
    name = adversary.OBJECTIVE
    try:
        _refuse_unread(adversary)
        if name == "clean":
            if adversary.AWP_GAMMA or adversary.GOAL != "class" or adversary.REGION != "all":
                raise ValueError("AWP_GAMMA, GOAL and REGION need an adversarial OBJECTIVE, not clean")
            return CleanObjective()
        if name == "free" and cfg.MODEL.PART.HEAD.DETACH_MASKS:
            raise ValueError("free attacks by the update's own gradient, which MODEL.PART.HEAD.DETACH_MASKS cuts")
        objective = _adversarial_objective(cfg)
        if adversary.AWP_GAMMA:
            objective.weight_perturbation = WeightPerturbation(adversary.AWP_GAMMA)
        if adversary.GOAL != "class" or adversary.REGION != "all":
            objective.part_attack = _part_attack(cfg, objective)
        return objective
    except ValueError as error:
        raise ConfigError(f"ADVERSARY: {error}") from error


def _refuse_unread(adversary: CfgNode) -> None:
    """Raises ValueError for a weight that was set and that the objective does not read."""
    defaults = load_config().ADVERSARY
    if adversary.BETA != defaults.BETA and adversary.OBJECTIVE not in WEIGHTED:
        raise ValueError(f"BETA belongs to {', '.join(WEIGHTED)}; {adversary.OBJECTIVE} does not read it")
    if adversary.REPLAYS != defaults.REPLAYS and adversary.OBJECTIVE != "free":
        raise ValueError(f"REPLAYS belongs to free; {adversary.OBJECTIVE} does not read it")
    if adversary.GOAL_PART_WEIGHT != defaults.GOAL_PART_WEIGHT and adversary.GOAL != "both":
        raise ValueError(f"GOAL_PART_WEIGHT belongs to GOAL both; GOAL {adversary.GOAL} does not read it")


def _part_attack(cfg: CfgNode, objective: AdversarialObjective) -> PartPGD:
    """Raises ValueError for what does not fit."""
    adversary = cfg.ADVERSARY
    if adversary.OBJECTIVE in ("trades", "n-fgsm"):
        raise ValueError(f"{adversary.OBJECTIVE} has an attack of its own: leave GOAL class and REGION all")
    goal, weight = ("both", 0.0) if adversary.GOAL == "class" else (adversary.GOAL, adversary.GOAL_PART_WEIGHT)
    return PartPGD(
        objective.threat, goal, objective.steps, objective.step_size, part_weight=weight, region=adversary.REGION
    )


def _adversarial_objective(cfg: CfgNode) -> AdversarialObjective:
    """Raises ValueError for what does not fit."""
    adversary = cfg.ADVERSARY
    name, seed = adversary.OBJECTIVE, max(cfg.SEED, 0)
    threat = threat_model(cfg)
    if name == "free":
        if adversary.AWP_GAMMA or adversary.GOAL != "class" or adversary.REGION != "all":
            raise ValueError("free moves the images by the update's own gradient: AWP_GAMMA, GOAL, REGION do not apply")
        defaults = load_config().ADVERSARY
        for key in ("STEPS", "STEP_SIZE", "RANDOM_START"):
            if adversary[key] != defaults[key]:
                raise ValueError(f"free steps by eps from a random start: leave {key} {defaults[key]!r}")
        return FreeObjective(threat, replays=adversary.REPLAYS, seed=seed)
    if name in ("fgsm-rs", "n-fgsm") and adversary.STEPS != 1:
        raise ValueError(f"{name} has one step: set STEPS 1, not {adversary.STEPS}")
    if name == "n-fgsm":
        if adversary.STEP_SIZE != "" or not adversary.RANDOM_START:
            raise ValueError('n-fgsm steps by eps from random noise: leave STEP_SIZE "" and RANDOM_START True')
        return NoisyFGSMObjective(threat, seed=seed)
    attack: dict[str, Any] = {
        "steps": adversary.STEPS,
        "step_size": None if adversary.STEP_SIZE == "" else parse_eps(adversary.STEP_SIZE, "ADVERSARY.STEP_SIZE"),
        "random_start": adversary.RANDOM_START,
        "seed": seed,
    }
    if name in ("pgd", "fgsm-rs"):
        return PGDObjective(threat, **attack)
    if name not in WEIGHTED:
        raise ValueError(one_of("OBJECTIVE", name, OBJECTIVES))
    return WEIGHTED[name](threat, beta=adversary.BETA, **attack)


def build_training_batches(cfg: CfgNode, records: list[dict[str, Any]], start: int = 0) -> DataLoader:
    """Endless training batches from iteration ``start`` on; of several processes each gets its share."""
    return build_training_loader(
        records,
        PartDatasetMapper.from_config(cfg, is_train=True),
        batch_size=cfg.SOLVER.IMS_PER_BATCH,
        seed=max(cfg.SEED, 0),
        start=start,
        workers=cfg.DATALOADER.NUM_WORKERS,
        repeats=cfg.ADVERSARY.REPLAYS if cfg.ADVERSARY.OBJECTIVE == "free" else 1,
        share=(rank(), world_size()),
    )


def build_overfitting_probe(
    cfg: CfgNode, model: PartClassifier, objective: TrainingObjective, records: list[dict[str, Any]]
) -> Callable[[], tuple[float, float]] | None:
    """A function that measures accuracy under the training attack and under PGD on a few training images.

    None where training does not rest on a single step, or ``ADVERSARY.PROBE_PERIOD`` is 0. Both attack at full eps.
    """
    single = isinstance(objective, AdversarialObjective) and objective.steps == 1
    if not single or not cfg.ADVERSARY.PROBE_PERIOD:
        return None
    assert isinstance(objective, AdversarialObjective)
    probed = subset(records, PROBED_IMAGES, seed=0)
    mapper = PartDatasetMapper.from_config(cfg, is_train=False, part_maps=_label_needs_part_maps(model))
    batches = list(build_test_loader(probed, mapper, batch_size=PROBED_IMAGES, workers=0))
    step = PGD(objective.threat, 1, min(objective.step_size, objective.threat.eps), random_start=False)
    thorough = PGD(objective.threat, 10)

    def measure() -> tuple[float, float]:
        return validate(model, batches, step).robust_accuracy, validate(model, batches, thorough).robust_accuracy

    return measure


def _label_needs_part_maps(model: PartClassifier) -> bool:
    return model.label_needs_evidence and model.extractor is not None and model.extractor.needs_part_maps


def build_validation(cfg: CfgNode, model: nn.Module) -> Callable[[], ValidationResult] | None:
    """A function that measures ``model`` on the validation dataset; None where ``DATASETS.VALIDATION`` is empty."""
    if not cfg.DATASETS.VALIDATION:
        return None
    dataset = load_dataset(cfg, cfg.DATASETS.VALIDATION, "DATASETS.VALIDATION")
    records = subset(dataset.records, cfg.ADVERSARY.VALIDATION_IMAGES, seed=0)
    # Only the oracle's label depends on the part maps.
    maps_needed = isinstance(model, PartClassifier) and _label_needs_part_maps(model)
    drawn = cfg.TRACKING.IMAGES if is_main() else 0
    if isinstance(model, PartClassifier):
        check_true_parts(model, records, "DATASETS.VALIDATION")
    mapper = PartDatasetMapper.from_config(cfg, is_train=False, part_maps=maps_needed)
    workers = cfg.DATALOADER.NUM_WORKERS
    shared = share_records(records, workers)
    attack = None
    if cfg.ADVERSARY.OBJECTIVE != "clean":
        attack = PGD(threat_model(cfg), cfg.ADVERSARY.VALIDATION_STEPS)

    size = cfg.ROBUST_EVAL.BATCH_SIZE
    mine = range(rank(), -(-len(records) // size), world_size())  # whole batches: the same numbers as in one process

    def measure() -> ValidationResult:
        loader = build_test_loader(shared, mapper, batch_size=size, workers=workers, batches=mine)
        watched = track(loader, len(mine), "validation", "batch", shown=rank() == 0)
        if not drawn or not isinstance(model, PartClassifier):
            return validate(model, watched, attack, shared=True)
        from .tracking.adversarial_pictures import AdversarialPictures  # and matplotlib

        pictures = AdversarialPictures(model, drawn)
        return replace(validate(model, watched, attack, shared=True, look=pictures), picture=pictures.picture())

    return measure
