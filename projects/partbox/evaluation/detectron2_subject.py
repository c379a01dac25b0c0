"""Any detectron2 detector or semantic segmenter as the model under test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, detection_utils
from torch import Tensor, nn
from torch.nn import functional

from partbox.attacks import AttackError, DetectorAttackResult
from partbox.attacks.base import BlindAttackError
from partbox.attacks.detector import NEEDS_OBJECTS
from partbox.attacks.segmentation import saturated

from .corruption_mapper import CorruptionMapper
from .detectron2_checks import check_detectron2
from .examples import Example, detector_example, pixels_of, segmenter_example
from .found_objects import IOU, SCORE, match_objects, object_scores
from .perturbations import Perturbation
from .records import Record
from .self_checks import Check
from .subject import Batch, Mapper, Seen
from .training_losses import TrainingLosses
from .unattacked import noisy, pixels_in

NO_ADVERSARY = ("clean", "corruption", "noise")


def labelled_test_mapper(cfg: CfgNode) -> DatasetMapper:
    """detectron2's mapper with the test's resize and the training's labels; nothing random.

    detectron2's own test mapper drops the labels, which an attack needs.
    """
    plain = cfg.clone()
    plain.defrost()
    plain.MODEL.KEYPOINT_ON = False  # else it asks the training data what a mirrored keypoint is called
    options = DatasetMapper.from_config(plain, is_train=True)
    options["use_keypoint"] = cfg.MODEL.KEYPOINT_ON
    options["augmentations"] = detection_utils.build_augmentation(cfg, is_train=False)
    options["recompute_boxes"] = False
    return DatasetMapper(**{**options, "is_train": True})


class Detectron2Subject:
    """What detectors and segmenters share: corruptions of the photograph, noise, one image at a time.

    The threat model lives at the size and in the channel order (RGB or BGR) that the network sees, after the mapper's
    resize, with pixels in [0, 1]; the attacked image is not rounded to 8 bits. A corruption changes the photograph as
    it is read, before the resize.

    Args:
        model: a detectron2 meta-architecture.
        surrogate: another model of the same labels; the self-checks see whether images that are attacked on it do more
            harm than those that are attacked on the model itself.
    """

    kind = ""  # of the perturbations that it can be attacked with
    answer = ""  # what its output is called
    labels = ""  # what an attack needs of a sample

    def __init__(self, model: nn.Module, surrogate: Detectron2Subject | None = None) -> None:
        self.model, self.surrogate = model, surrogate

    @property
    def module(self) -> nn.Module:
        """The model."""
        return self.model

    def check(self, perturbations: Sequence[Perturbation]) -> None:
        """Raises ValueError for an attack on another kind of model."""
        for perturbation in perturbations:
            if perturbation.role == "attack" and not perturbation.attacks(self.kind):
                raise ValueError(
                    f"{perturbation.name} attacks a {perturbation.target}, and this model is a {self.kind}"
                )

    def mapper(self, mapper: Mapper, perturbation: Perturbation, seed: int) -> Mapper:
        """Reads the photograph through the perturbation's corruption, if it has one."""
        if perturbation.corruption is None:
            return mapper
        return CorruptionMapper(mapper, *perturbation.corruption, seed=seed)

    def see(self, batch: Batch, perturbation: Perturbation, seed: int) -> Seen:
        """Perturb each image and look at it again."""
        records, outputs, pictures = [], [], []
        for sample in batch:
            clean = pixels_in(sample, self.device)
            record, image = self.perturb(sample, clean, perturbation, seed)
            output = self.output(sample, image)
            if perturbation.threat is not None:
                distance = float(perturbation.threat.distance(clean[None], image[None]))
                record = replace(record, distance=distance)
            records.append(self.judge(record, sample, output))
            outputs.append(output)
            pictures.append(pixels_of(image))

        def examples(rows: Sequence[int]) -> list[Example]:
            return [self.example(batch[row], pictures[row], outputs[row], records[row]) for row in rows]

        return Seen(records, outputs, examples)

    def self_checks(
        self, samples: Batch, attacks: Sequence[Perturbation], robust: Sequence[bool], seed: int
    ) -> list[Check]:
        """Whether the result under the attacks of one threat model can be believed."""
        return check_detectron2(self, samples, attacks, seed=seed)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def output(self, sample: Mapping[str, Any], image: Tensor) -> dict[str, Any]:
        """The model's answer to an image (3, H, W) in [0, 1]."""
        with torch.no_grad():
            (output,) = self.model([{**sample, "image": image * 255}])
        if self.answer not in output:
            raise AttackError(
                f"a {type(self.model).__name__} answers with {', '.join(output)}, and a {self.kind} with {self.answer}"
            )
        return dict(output)

    def perturb(
        self, sample: Mapping[str, Any], clean: Tensor, perturbation: Perturbation, seed: int
    ) -> tuple[Record, Tensor]:
        """The perturbed image and what is known of it so far."""
        record = Record(sample["image_id"], perturbation.name, None, None, False, None, 1, 0.0, False)
        if perturbation.role == "noise":
            assert perturbation.threat is not None
            return record, noisy(perturbation.threat, clean, sample["image_id"], seed)
        if perturbation.role in NO_ADVERSARY:
            return record, clean
        if self.labels not in sample:
            raise AttackError(
                f"image {sample['image_id']} comes without {self.labels}, the labels that an attack needs: "
                "detectron2's test mapper drops them, use partbox.evaluation.labelled_test_mapper(cfg); a record "
                "without annotations has none"
            )
        return self.attack(record, sample, clean, perturbation, seed)

    def attack(
        self, record: Record, sample: Mapping[str, Any], clean: Tensor, perturbation: Perturbation, seed: int
    ) -> tuple[Record, Tensor]:
        """The attacked image and its record."""
        raise NotImplementedError

    def judge(self, record: Record, sample: Mapping[str, Any], output: Mapping[str, Any]) -> Record:
        """The record with the verdict on the model's output."""
        raise NotImplementedError

    def example(
        self, sample: Mapping[str, Any], image: np.ndarray, output: Mapping[str, Any], record: Record
    ) -> Example:
        """What is kept for pictures of an image (H, W, 3) uint8 in the model's channel order."""
        raise NotImplementedError

    def count_right(self, sample: Mapping[str, Any], output: Mapping[str, Any]) -> tuple[int, int]:
        """What is right, and of how many: labelled objects, or labelled pixels."""
        raise NotImplementedError

    def same_output(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        """Whether two answers to one image agree."""
        raise NotImplementedError

    def has_something_to_lose(self, sample: Mapping[str, Any]) -> bool:
        """Whether an image has labelled objects, or labelled pixels."""
        raise NotImplementedError

    def count_saturated(self, sample: Mapping[str, Any], image: Tensor) -> tuple[int, int]:
        """Right pixels whose cross-entropy has no gradient at all, and right pixels; (0, 0) of a detector."""
        return 0, 0


class DetectorSubject(Detectron2Subject):
    """A detector: Faster R-CNN, Mask R-CNN, RetinaNet, MaskDINO, ... attacked through its training losses.

    A record's ``found`` counts the labelled objects of which a prediction has the class, a score of at least 0.5 and an
    overlap of at least 0.5, and ``false_objects`` the predictions of that score which are no labelled object.
    ``fooled``: there are objects and none is found.

    Args:
        model: gives a dict of losses in training and ``instances`` in inference.
        num_classes: K.
        iou: smallest overlap of a found object.
        score: smallest score of a found object.
        surrogate: see :class:`Detectron2Subject`.
    """

    kind, answer, labels = "detector", "instances", "instances"

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        *,
        iou: float = IOU,
        score: float = SCORE,
        surrogate: DetectorSubject | None = None,
    ) -> None:
        super().__init__(model, surrogate)
        self.num_classes, self.iou, self.score = num_classes, iou, score

    @property
    def settings(self) -> dict[str, Any]:
        """What the verdicts depend on beside the model."""
        return {"num_classes": self.num_classes, "iou": self.iou, "score": self.score}

    def attack(
        self, record: Record, sample: Mapping[str, Any], clean: Tensor, perturbation: Perturbation, seed: int
    ) -> tuple[Record, Tensor]:
        if perturbation.gradient_free:
            return self._ask(record, sample, clean, perturbation, seed)
        losses = TrainingLosses(self.model, sample, self.num_classes, seed=seed)
        goal = perturbation.settings.get("goal")
        if goal in NEEDS_OBJECTS and not self.has_something_to_lose(sample):
            note = f"images without objects give the goal {goal} nothing to attack: they stayed clean"
            return replace(record, notes=(note,)), clean
        apply: Callable[..., DetectorAttackResult] = perturbation.apply
        try:
            found = apply(losses, clean, image_id=sample["image_id"], seed=seed)
        except BlindAttackError as error:  # of this image alone, such as losses that leave out images without objects
            note = f"images counted with zero gradients: {error}"
            return replace(record, zero_gradient=True, queries=perturbation.passes - 1, notes=(note,)), clean
        known = replace(record, loss=found.objective, queries=found.queries, zero_gradient=found.zero_gradient)
        if found.left_out:
            names = ", ".join(found.left_out)
            known = replace(known, notes=(f"losses that the goal {goal} leaves out, of unknown kind: {names}",))
        return known, found.image

    def _ask(
        self, record: Record, sample: Mapping[str, Any], clean: Tensor, perturbation: Perturbation, seed: int
    ) -> tuple[Record, Tensor]:
        """An attack without gradients: is the object that is found most surely on the clean image still found?"""
        truth = sample["instances"]
        scores = object_scores(truth, self.output(sample, clean)["instances"], iou=self.iou)
        if not len(scores) or float(scores.max()) < self.score:
            note = "no labelled object is found on the clean image: nothing to attack"
            return replace(record, notes=(note,)), clean
        target = int(scores.argmax())

        def still_found(images: Tensor) -> Tensor:
            """(B, 2): the object's score, and the smallest score of a found object."""
            answers = [object_scores(truth, self.output(sample, one)["instances"], iou=self.iou) for one in images]
            found = torch.stack([answer[target] for answer in answers])
            # Just below the threshold, so that a score of exactly the threshold is found.
            return torch.stack([found, torch.full_like(found, self.score - 1e-6)], dim=1).to(images)

        labels = torch.zeros(1, dtype=torch.int64, device=clean.device)
        result = perturbation.apply(still_found, clean[None], labels, image_ids=[sample["image_id"]], seed=seed)
        loss = None if result.loss is None else float(result.loss[0])
        return replace(record, loss=loss, queries=int(result.queries[0]), notes=result.notes), result.images[0]

    def check(self, perturbations: Sequence[Perturbation]) -> None:
        """Raises ValueError for an attack on another kind of model, or one that needs more classes."""
        super().check(perturbations)
        for perturbation in perturbations:
            if perturbation.settings.get("goal") == "mislabel" and self.num_classes < 2:
                raise ValueError(f"{perturbation.name} needs at least two classes, and this model has one")

    def judge(self, record: Record, sample: Mapping[str, Any], output: Mapping[str, Any]) -> Record:
        if "instances" not in sample:
            return record
        found, false = self._match(sample, output)
        objects = len(sample["instances"])
        return replace(record, objects=objects, found=found, false_objects=false, fooled=objects > 0 and found == 0)

    def example(
        self, sample: Mapping[str, Any], image: np.ndarray, output: Mapping[str, Any], record: Record
    ) -> Example:
        return detector_example(sample, image, output, record)

    def count_right(self, sample: Mapping[str, Any], output: Mapping[str, Any]) -> tuple[int, int]:
        return self._match(sample, output)[0], len(sample["instances"])

    def count_false(self, sample: Mapping[str, Any], output: Mapping[str, Any]) -> int:
        """Sure predictions that are no labelled object."""
        return self._match(sample, output)[1]

    def has_something_to_lose(self, sample: Mapping[str, Any]) -> bool:
        return len(sample["instances"]) > 0

    def _match(self, sample: Mapping[str, Any], output: Mapping[str, Any]) -> tuple[int, int]:
        return match_objects(sample["instances"], output["instances"], iou=self.iou, score=self.score)

    def same_output(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        first, second = one["instances"], other["instances"]
        return len(first) == len(second) and torch.allclose(first.scores, second.scores, atol=1e-4)


class SegmenterSubject(Detectron2Subject):
    """A semantic segmenter: DeepLabV3+, semantic FPN, MaskFormer, ...; attacked through its per-pixel scores.

    A record's ``loss`` is the mean cross-entropy of the labelled pixels at the network's input size; ``fooled``: no
    labelled pixel is right.

    Args:
        model: gives ``sem_seg`` (C, height, width) in inference.
        ignore: label of pixels that do not count.
        surrogate: see :class:`Detectron2Subject`.
    """

    kind, answer, labels = "segmenter", "sem_seg", "sem_seg"

    def __init__(self, model: nn.Module, *, ignore: int = 255, surrogate: SegmenterSubject | None = None) -> None:
        super().__init__(model, surrogate)
        self.ignore = ignore

    @property
    def settings(self) -> dict[str, Any]:
        """What the verdicts depend on beside the model."""
        return {"ignore": self.ignore}

    def check(self, perturbations: Sequence[Perturbation]) -> None:
        """Raises ValueError for an attack on another kind of model, or one that leaves out another label."""
        super().check(perturbations)
        for perturbation in perturbations:
            left_out = perturbation.settings.get("ignore", self.ignore)
            if left_out != self.ignore:
                raise ValueError(
                    f"{perturbation.name} leaves out pixels of label {left_out}, and the evaluation those of "
                    f"{self.ignore}: set ignore of both"
                )

    def scores(self, sample: Mapping[str, Any], images: Tensor) -> Tensor:
        """Images (1, 3, H, W) in [0, 1] -> scores (1, C, H, W) at the network's input size."""
        height, width = images.shape[-2:]
        (output,) = self.model([{**sample, "image": images[0] * 255, "height": height, "width": width}])
        scores: Tensor = output["sem_seg"]
        return scores[None]

    def attack(
        self, record: Record, sample: Mapping[str, Any], clean: Tensor, perturbation: Perturbation, seed: int
    ) -> tuple[Record, Tensor]:
        if not self.has_something_to_lose(sample):
            return replace(record, notes=("images without labelled pixels were not attacked",)), clean
        if perturbation.gradient_free:
            return self._ask(record, sample, clean, perturbation, seed)
        labels = sample["sem_seg"][None].to(clean.device).long()
        result = perturbation.apply(
            lambda images: self.scores(sample, images),
            clean[None],
            labels,
            image_ids=[sample["image_id"]],
            seed=seed,
        )
        assert result.loss is not None
        blind = result.zero_gradient is not None and bool(result.zero_gradient[0])
        known = replace(record, loss=float(result.loss[0]), queries=int(result.queries[0]), zero_gradient=blind)
        return known, result.images[0]

    def _ask(
        self, record: Record, sample: Mapping[str, Any], clean: Tensor, perturbation: Perturbation, seed: int
    ) -> tuple[Record, Tensor]:
        """An attack without gradients: how probable are the true classes, on the mean of the labelled pixels?"""
        labels = sample["sem_seg"].to(clean.device).long()
        labelled = labels != self.ignore
        safe = torch.where(labelled, labels, 0)[None]

        def sureness(images: Tensor) -> Tensor:
            """(B, 2): the mean probability of the true class, and 0, which it stays above."""
            with torch.no_grad():
                answers = [self.scores(sample, one[None])[0].softmax(dim=0).gather(0, safe)[0] for one in images]
            found = torch.stack([answer[labelled].mean() for answer in answers])
            return torch.stack([found, torch.zeros_like(found)], dim=1).to(images)

        zeros = torch.zeros(1, dtype=torch.int64, device=clean.device)
        result = perturbation.apply(sureness, clean[None], zeros, image_ids=[sample["image_id"]], seed=seed)
        return replace(record, queries=int(result.queries[0])), result.images[0]

    def judge(self, record: Record, sample: Mapping[str, Any], output: Mapping[str, Any]) -> Record:
        if "sem_seg" not in sample:
            return record
        right, labelled = self.count_right(sample, output)
        return replace(record, fooled=labelled > 0 and right == 0)

    def example(
        self, sample: Mapping[str, Any], image: np.ndarray, output: Mapping[str, Any], record: Record
    ) -> Example:
        return segmenter_example(sample, image, output)

    def count_right(self, sample: Mapping[str, Any], output: Mapping[str, Any]) -> tuple[int, int]:
        labels, scores = sample["sem_seg"].cpu(), output["sem_seg"].float().cpu()
        if scores.shape[-2:] != labels.shape:  # the model answers at the photograph's size
            scores = functional.interpolate(scores[None], size=labels.shape, mode="bilinear", align_corners=False)[0]
        found = scores.argmax(dim=0)
        labelled = labels != self.ignore
        return int((found == labels)[labelled].sum()), int(labelled.sum())

    def has_something_to_lose(self, sample: Mapping[str, Any]) -> bool:
        return bool((sample["sem_seg"] != self.ignore).any())

    def count_saturated(self, sample: Mapping[str, Any], image: Tensor) -> tuple[int, int]:
        labels = sample["sem_seg"][None].to(image.device).long()
        with torch.no_grad():
            scores = self.scores(sample, image[None])
        right = (scores.argmax(dim=1) == labels) & (labels != self.ignore)
        return int(saturated(scores, labels, self.ignore).sum()), int(right.sum())

    def same_output(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        return torch.allclose(one["sem_seg"], other["sem_seg"], atol=1e-3)
