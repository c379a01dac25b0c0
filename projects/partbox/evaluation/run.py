"""One evaluation: a dataset under each perturbation, seen by each evaluator."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from detectron2.evaluation import DatasetEvaluators
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from partbox.attacks import AttackResult, attack_mode

from .part_predictions import part_predict
from .perturbations import Perturbation
from .records import Record
from .summary import summarize

Batch = Sequence[dict[str, Any]]


@dataclass
class Evaluation:
    """Outcome of an evaluation.

    Attributes:
        results: accuracies and the evaluators' metrics, plain values.
        records: one an image and perturbation.
        examples: the first few images of each perturbation, for pictures.
    """

    results: dict[str, Any]
    records: list[Record]
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


def evaluate(
    model: Any,
    batches: Iterable[Batch],
    perturbations: Sequence[Perturbation],
    evaluators: Sequence[Any] = (),
    *,
    seed: int = 0,
    keep_examples: int = 0,
    progress: bool = True,
) -> Evaluation:
    """Run every perturbation over all batches.

    Args:
        model: a torch module with ``attackable``, ``logits_for``, ``images_of`` and ``predict_batch`` as
            :class:`partbox.modeling.PartClassifier` has them; its mode is restored afterwards.
        batches: can be iterated once a perturbation; samples have ``image``, ``label`` and ``image_id``.
        perturbations: from :func:`partbox.evaluation.perturbations.build_perturbations`.
        evaluators: detectron2 evaluators; they see the predictions on the perturbed images.
        seed: of every random draw.
        keep_examples: images of each perturbation to keep with their predictions.
        progress: show a progress bar with the time left.

    Raises:
        ValueError: an attack on a model that does not look at the image (oracle extractor), or on the parts of one
            that has none.
    """
    _check_attackable(model, perturbations)
    records: list[Record] = []
    metrics: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    notes: dict[str, set[str]] = {}
    examples: dict[str, list[dict[str, Any]]] = {}
    together = DatasetEvaluators(list(evaluators))
    with attack_mode(model):
        for perturbation in perturbations:
            start = time.perf_counter()
            together.reset()
            kept = examples.setdefault(perturbation.name, [])
            for batch in tqdm(batches, desc=perturbation.name, unit="batch", disable=not progress):
                result, outputs = _one_batch(model, batch, perturbation, seed)
                together.process(batch, outputs)
                notes.setdefault(perturbation.name, set()).update(result.notes)
                records += _records(batch, outputs, result, perturbation, model.images_of(batch))
                for index in range(min(len(batch), keep_examples - len(kept))):
                    kept.append({"sample": batch[index], "image": result.images[index], **outputs[index]})
            metrics[perturbation.name] = together.evaluate() or {}
            seconds[perturbation.name] = time.perf_counter() - start
    results = summarize(records, perturbations)
    for perturbation in perturbations:
        entry = results["by_perturbation"][perturbation.name]
        entry.update(settings=perturbation.settings, seconds=seconds[perturbation.name])
        entry["notes"] = sorted(notes[perturbation.name])
        entry.update(metrics[perturbation.name])
    return Evaluation(results, records, examples)


def _check_attackable(model: Any, perturbations: Sequence[Perturbation]) -> None:
    """Raises ValueError for an attack that has nothing to attack in this model."""
    blind = [perturbation.name for perturbation in perturbations if perturbation.threat is not None]
    if blind and not model.attackable:
        raise ValueError(
            f"this model's answer does not depend on the image: {blind[0]} would say nothing; use clean only"
        )
    on_parts = [perturbation.name for perturbation in perturbations if perturbation.on_parts]
    if on_parts and model.extractor is None:
        raise ValueError(f"this model has no parts: {on_parts[0]} needs a part model")


def _one_batch(
    model: Any, batch: Batch, perturbation: Perturbation, seed: int
) -> tuple[AttackResult, list[dict[str, Any]]]:
    """Perturb a batch and ask the model about what came out."""
    images = model.images_of(batch)
    labels = torch.tensor([sample["label"] for sample in batch], device=images.device)
    ids = [sample["image_id"] for sample in batch]
    if perturbation.on_parts:
        result = _attack_parts(model, batch, perturbation, images, labels, seed)
    else:
        result = perturbation.apply(model.logits_for(batch), images, labels, image_ids=ids, seed=seed)
    with torch.no_grad():
        outputs = model.predict_batch(result.images, batch)
    return result, outputs


def _attack_parts(
    model: Any, batch: Batch, perturbation: Perturbation, images: Tensor, labels: Tensor, seed: int
) -> AttackResult:
    """An attack on the parts; an image without part labels is attacked on the parts that the model sees in it."""
    predict = part_predict(model)
    part_maps = model.level_map(model.targets_of(batch).part_maps)
    unlabelled = ~(part_maps > 0).flatten(1).any(dim=1)
    notes: tuple[str, ...] = ()
    if bool(unlabelled.any()):
        with torch.no_grad():
            seen = predict(images[unlabelled]).mask_logits.argmax(dim=1)
        enlarged = functional.interpolate(seen[:, None].double(), size=images.shape[-2:], mode="nearest")
        part_maps = part_maps.clone()
        part_maps[unlabelled] = enlarged[:, 0].to(part_maps)
        notes = ("images without part labels were attacked on the parts that the model sees in the clean image",)
    ids = [sample["image_id"] for sample in batch]
    result: AttackResult = perturbation.apply(predict, images, labels, part_maps, image_ids=ids, seed=seed)
    return replace(result, notes=(*result.notes, *notes))


def _records(
    batch: Batch, outputs: Sequence[dict[str, Any]], result: AttackResult, perturbation: Perturbation, clean: Tensor
) -> list[Record]:
    threat = perturbation.threat
    distances = threat.distance(clean, result.images).tolist() if threat is not None else [0.0] * len(batch)
    return [
        Record(
            image_id=sample["image_id"],
            perturbation=perturbation.name,
            label=sample["label"],
            prediction=output["label"],
            # A verdict that flips when the found image is seen again in another batch stays fooled: the attack won.
            fooled=bool(result.fooled[i]) or output["label"] != sample["label"],
            loss=None if result.loss is None else float(result.loss[i]),
            queries=int(result.queries[i]),
            distance=distances[i],
            zero_gradient=result.zero_gradient is not None and bool(result.zero_gradient[i]),
            fooled_by=result.fooled_by[i] if result.fooled_by else "",
        )
        for i, (sample, output) in enumerate(zip(batch, outputs, strict=True))
    ]
