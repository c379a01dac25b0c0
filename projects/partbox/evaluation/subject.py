"""What an evaluation asks of the model under test; and part classifiers as such."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from partbox.attacks import AttackResult

from .attacking import attack_batch, is_oracle, predict_of_rows
from .examples import Example, classifier_example
from .guides import GuideBook
from .part_predictions import mask_head, part_predict
from .perturbations import Perturbation
from .records import Record
from .self_checks import Check, check_classifier

Batch = Sequence[dict[str, Any]]
Mapper = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Seen:
    """What came of one batch under one perturbation.

    Attributes:
        records: one an image, without measurements.
        outputs: the model's output for each perturbed image.
        examples: makes the examples of the images with these numbers in the batch, in the channel order of the model.
    """

    records: list[Record]
    outputs: list[dict[str, Any]]
    examples: Callable[[Sequence[int]], list[Example]]


class Subject(Protocol):
    """A model under test.

    Attributes:
        kind: what it is to an attack: ``classifier``, ``detector`` or ``segmenter``.
    """

    kind: str

    @property
    def module(self) -> torch.nn.Module:
        """The network, which is put into evaluation mode and its parameters frozen."""

    def check(self, perturbations: Sequence[Perturbation]) -> None:
        """Raises ValueError for a perturbation that would say nothing about this model."""

    def mapper(self, mapper: Mapper, perturbation: Perturbation, seed: int) -> Mapper:
        """How images are read for this perturbation: ``mapper`` itself, or one that changes the photograph first."""

    def see(self, batch: Batch, perturbation: Perturbation, seed: int) -> Seen:
        """Perturb a batch and look at the result."""

    def self_checks(
        self, samples: Batch, attacks: Sequence[Perturbation], robust: Sequence[bool], seed: int
    ) -> list[Check]:
        """Whether the result under the attacks of one threat model can be believed, on a few images.

        ``robust``: right when clean and under every attack with gradients, an entry an image.
        """


class ClassifierSubject:
    """A part classifier: perturbed at the size of the network's input.

    Args:
        model: a torch module with ``attackable``, ``logits_for``, ``images_of`` and ``predict_batch`` as
            :class:`partbox.modeling.PartClassifier` has them; ``evidence_is_given``, ``oracle`` and ``remarks`` may be
            missing.
        guides: gives the part map of another image, for guided attacks; None refuses them.
        surrogate: another model of the same kind; the self-checks see whether adversarial images made on it are
            stronger than those made on the model itself.
    """

    kind = "classifier"

    def __init__(self, model: Any, surrogate: Any = None, guides: GuideBook | None = None) -> None:
        self.model, self.surrogate, self.guides = model, surrogate, guides

    @property
    def module(self) -> torch.nn.Module:
        """The classifier."""
        module: torch.nn.Module = self.model
        return module

    @property
    def oracle(self) -> str:
        """Why the result is an upper bound and no defence; empty where it is none."""
        return str(getattr(self.model, "oracle", ""))

    @property
    def remarks(self) -> tuple[str, ...]:
        """What has to be said beside every number of this model under attack."""
        return tuple(getattr(self.model, "remarks", ()))

    def check(self, perturbations: Sequence[Perturbation]) -> None:
        """Raises ValueError for an attack that has nothing to attack in this model."""
        for perturbation in perturbations:
            if perturbation.target != "classifier":
                raise ValueError(f"{perturbation.name} attacks a {perturbation.target}, and this model is a classifier")
        blind = [perturbation.name for perturbation in perturbations if perturbation.role == "attack"]
        if blind and not self.model.attackable:
            raise ValueError(
                f"this model's answer does not depend on the image: {blind[0]} would say nothing; use clean only"
            )
        on_parts = [perturbation.name for perturbation in perturbations if perturbation.on_parts]
        if on_parts and self.model.extractor is None:
            raise ValueError(f"this model has no parts: {on_parts[0]} needs a part model")
        if on_parts and not self.model.extractor.gives_masks:
            raise ValueError(f"{on_parts[0]} attacks part masks, and this model's extractor gives none")
        if on_parts and is_oracle(self.model):
            raise ValueError(f"{on_parts[0]} attacks part masks, and those of an oracle stay what they are")
        folded = [perturbation.name for perturbation in perturbations if perturbation.settings.get("fold_batch_norm")]
        if folded and is_oracle(self.model):
            raise ValueError(f"{folded[0]}: fold_batch_norm needs a network, and an oracle is a function of its batch")
        for perturbation in perturbations:
            goal = perturbation.settings.get("goal") if perturbation.on_parts else None
            if goal == "guided" and self.guides is None:
                raise ValueError(f"{perturbation.name} needs guides: the part maps of other images")
            if goal == "inverse" and not self.model.reads_masks:
                raise ValueError(f"{perturbation.name}: this model's head does not read part masks")
            if goal == "inverse" and not self.model.evidence_is_the_only_path:
                raise ValueError(f"{perturbation.name}: this model's head looks at the image beside the part masks")

    def mapper(self, mapper: Mapper, perturbation: Perturbation, seed: int) -> Mapper:
        return mapper

    def see(self, batch: Batch, perturbation: Perturbation, seed: int) -> Seen:
        """Perturb a batch and ask the model about what came out."""
        clean = self.model.images_of(batch)
        labels = torch.tensor([sample["label"] for sample in batch], device=clean.device)
        ids = [sample["image_id"] for sample in batch]
        if perturbation.on_parts:
            result = self._attack_parts(batch, perturbation, clean, labels, seed)
        elif perturbation.role == "attack":
            result = attack_batch(self.model, batch, perturbation.apply, clean, labels, image_ids=ids, seed=seed)
        else:
            result = perturbation.apply(self.model.logits_for(batch), clean, labels, image_ids=ids, seed=seed)
        if perturbation.role == "attack":
            result = replace(result, notes=(*result.notes, *self.remarks))
        with torch.no_grad():
            outputs: list[dict[str, Any]] = self.model.predict_batch(result.images, batch)
        return Seen(
            _records(batch, outputs, result, perturbation, clean),
            outputs,
            lambda rows: [classifier_example(batch[row], result.images[row], outputs[row]) for row in rows],
        )

    def self_checks(
        self, samples: Batch, attacks: Sequence[Perturbation], robust: Sequence[bool], seed: int
    ) -> list[Check]:
        """See :func:`partbox.evaluation.self_checks.check_classifier`."""
        images = self.model.images_of(samples)
        threat = attacks[0].threat
        assert threat is not None
        checks = check_classifier(
            self.model.logits_for(samples),
            images,
            torch.tensor([sample["label"] for sample in samples], device=images.device),
            torch.tensor(list(robust), device=images.device),
            threat,
            image_ids=[sample["image_id"] for sample in samples],
            steps=max(int(attack.settings.get("steps", 20)) for attack in attacks),
            seed=seed,
            surrogate=None if self.surrogate is None else self.surrogate.logits,
            predict_of_rows=predict_of_rows(self.model, samples),
        )
        return [*checks, *(Check("declared", False, remark) for remark in self.remarks)]

    def _attack_parts(
        self, batch: Batch, perturbation: Perturbation, images: Tensor, labels: Tensor, seed: int
    ) -> AttackResult:
        """An attack on the parts; an image without part labels is attacked on the parts that the model sees in it."""
        predict = part_predict(self.model)
        part_maps = self.model.level_map(self.model.targets_of(batch).part_maps)
        unlabelled = ~(part_maps > 0).flatten(1).any(dim=1)
        notes: tuple[str, ...] = ()
        if bool(unlabelled.any()):
            with torch.no_grad():
                seen = predict(images[unlabelled]).mask_logits.argmax(dim=1)
            enlarged = functional.interpolate(seen[:, None].double(), size=images.shape[-2:], mode="nearest")
            part_maps = part_maps.clone()
            part_maps[unlabelled] = enlarged[:, 0].to(part_maps)
            notes = ("images without part labels were attacked on the parts that the model sees in the clean image",)
        if not self.model.reads_masks:
            notes += ("the masks that are attacked do not decide the label: the head reads something else",)
        ids = [sample["image_id"] for sample in batch]
        more: dict[str, Any] = {}
        if perturbation.settings["goal"] == "guided" and self.guides is not None:
            guides = torch.stack([self.guides.guide(sample, seed) for sample in batch]).to(images.device)
            more["guides"] = self.model.level_map(guides)
        if perturbation.settings["goal"] == "inverse":
            more["head"] = mask_head(self.model, (images.shape[2], images.shape[3]))
        result: AttackResult = perturbation.apply(predict, images, labels, part_maps, image_ids=ids, seed=seed, **more)
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
            notes=result.notes,
        )
        for i, (sample, output) in enumerate(zip(batch, outputs, strict=True))
    ]
