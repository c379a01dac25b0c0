"""Trained models that are asked about images, one image at a time, as an evaluation would ask them."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, overload

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.modeling.postprocessing import detector_postprocess
from PIL import Image
from torch import Tensor, nn

from partbox.attacks import attack_mode
from partbox.data.loader import drawn_at
from partbox.data.mapper import PartDatasetMapper
from partbox.engine.checks import ConfigError
from partbox.engine.detectors import is_segmenter, mapper_of
from partbox.evaluation.detectron2_subject import DetectorSubject, Detectron2Subject, SegmenterSubject
from partbox.evaluation.found_objects import SCORE
from partbox.modeling import PartClassifier

from .images import ImageInput, ImageInputError, check_image, pixels_of, said_channels
from .prediction import Part, Prediction, parts_of_instances, parts_of_regions


class Model(ABC):
    """A trained model, from :func:`partbox.load`: ask its method ``predict``, or hand it to :func:`partbox.evaluate`.

    Attributes:
        cfg: its complete configuration.
        module: the torch module, a detectron2 meta-architecture. ``module.logits`` of a part classifier is what attacks
            take.
        weights: the file that they come from; "" where they are random.
    """

    def __init__(self, cfg: CfgNode, module: nn.Module, weights: str, mapper: Any) -> None:
        if mapper.image_format not in ("RGB", "BGR"):
            raise ConfigError(f"INPUT.FORMAT must be RGB or BGR, not {mapper.image_format}")
        self.cfg, self.module, self.weights = cfg, module.eval(), weights
        self._mapper = mapper

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the classes that label an image; none of a detector or segmenter."""
        return ()

    @property
    @abstractmethod
    def part_names(self) -> tuple[str, ...]:
        """Of what :attr:`Prediction.parts` may hold."""

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.module.parameters()).device

    @property
    def channels(self) -> str:
        """The order in which the network, and so :meth:`preprocess`, has them: "rgb" or "bgr"."""
        order: str = self._mapper.image_format.lower()
        return order

    def __repr__(self) -> str:
        names = f"{len(self.class_names)} classes, " * bool(self.class_names) + f"{len(self.part_names)} kinds of parts"
        return f"{type(self).__name__}({self.weights or 'random weights'}: {names}, on {self.device})"

    @overload
    def predict(
        self, images: ImageInput, *, channels: str | None = ..., min_score: float | None = ...
    ) -> Prediction: ...

    @overload
    def predict(
        self, images: list[Any] | tuple[Any, ...], *, channels: str | None = ..., min_score: float | None = ...
    ) -> list[Prediction]: ...

    def predict(
        self, images: Any, *, channels: str | None = None, min_score: float | None = None
    ) -> Prediction | list[Prediction]:
        """What the model says about an image, or about each of a list.

        An image is read, turned and resized as in an evaluation, and seen alone: a list gives what its images give one
        by one, to the last bit, and takes as long; :func:`partbox.evaluate` works in batches. All are checked before
        the first is looked at.

        Args:
            images: a file, a PIL image, an array (H, W, 3) or a tensor (3, H, W), uint8 or floats in [0, 1], RGB; or a
                list or tuple of them.
            channels: "rgb", or "bgr" where arrays and tensors are in OpenCV's order, which cannot be seen. Where
                nothing is said they are read as RGB, with a warning.
            min_score: parts with a lower score are left out. Where nothing is said, of boxes that a detector found
                those below 0.5; a region of masks has won against all other parts already, and none is left out.

        Raises:
            ImageInputError: not an image, or an ambiguous one.
            ConfigError: a model that cannot answer without labels (oracle), or whose answers are not finite.
        """
        if min_score is not None and not 0 <= min_score <= 1:
            raise ImageInputError(f"min_score must lie in [0, 1], not {min_score}")
        several = isinstance(images, list | tuple)
        given = images if several else [images]
        for index, image in enumerate(given):
            with _numbered(index if several else None):
                check_image(image, channels="rgb" if channels is None else channels)
        order = said_channels(given, channels, callers=1)
        if self._not_without_labels:
            raise ConfigError(self._not_without_labels)
        found = []
        with attack_mode(self.module), torch.no_grad():
            for index, image in enumerate(given):
                with _numbered(index if several else None):
                    pixels = pixels_of(image, channels=order)
                    seen = self._resized(pixels)
                height, width = pixels.shape[:2]
                found.append(self._predict_one(seen, (height, width), min_score))
        return found if several else found[0]

    def preprocess(self, image: ImageInput, *, channels: str | None = None) -> Tensor:
        """What the network sees of an image: (3, h, w) float in [0, 1] on its device, in its own channel order.

        Such an image goes back to ``predict`` with ``channels=model.channels``.

        Raises:
            ImageInputError: as ``predict`` says.
        """
        order = said_channels([image], channels, callers=1)
        return _in_unit_range(self._resized(pixels_of(image, channels=order)), self.device)

    def _predict_one(self, image: Tensor, size: tuple[int, int], min_score: float | None) -> Prediction:
        try:
            label, probabilities, parts = self._ask(image, size, min_score)
        except FloatingPointError as error:
            raise ConfigError(f"{self.weights or 'random weights'}: {error}") from error
        return Prediction(label, probabilities, parts, size)

    @property
    def _not_without_labels(self) -> str:
        """Why the model cannot answer to an image without labels; empty where it can."""
        return ""

    @abstractmethod
    def _ask(
        self, image: Tensor, size: tuple[int, int], min_score: float | None
    ) -> tuple[str | None, dict[str, float], tuple[Part, ...]]:
        """Label, probabilities and parts of an image as the network sees it, (3, h, w) uint8 or float in [0, 1].

        ``size``: (height, width) of the image that was given. Raises FloatingPointError for what is not finite.
        """

    def _resized(self, pixels: np.ndarray) -> Tensor:
        """Pixels (H, W, 3) RGB -> what the network sees, (3, h, w) uint8 or float32 in [0, 1], in its channel order."""
        ordered = pixels if self._mapper.image_format == "RGB" else pixels[:, :, ::-1]
        eight_bits = ordered if ordered.dtype == np.uint8 else np.zeros(ordered.shape, dtype=np.uint8)
        seen = T.AugInput(eight_bits)
        try:
            with drawn_at(0, 0):  # detectron2's resize draws its size from one choice; the caller's generators stay
                steps = self._mapper.augmentations(seen)
        except ValueError as error:  # of Pillow: a side of no pixel
            height, width = pixels.shape[:2]
            raise ImageInputError(
                f"the image of {width} x {height} pixels is too narrow: the resize leaves nothing of it ({error})"
            ) from error
        resized = seen.image if ordered.dtype == np.uint8 else _resized_floats(ordered, steps)
        return torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))


@contextmanager
def _numbered(index: int | None) -> Iterator[None]:
    """Around code that looks at an image of a list: what is wrong with it says which it is."""
    try:
        yield
    except ImageInputError as error:
        if index is None:
            raise
        raise ImageInputError(f"images[{index}]: {error}") from error


def _resized_floats(image: np.ndarray, steps: T.Transform) -> np.ndarray:
    """Floats (H, W, 3) through what was done to 8 bits, by the same filter and without rounding; (h, w, 3)."""
    for step in steps.transforms:
        if isinstance(step, T.NoOpTransform):
            continue
        if not isinstance(step, T.ResizeTransform):
            raise ImageInputError(f"this model's {type(step).__name__} takes 8 bits alone: give uint8")
        size = (step.new_w, step.new_h)
        if size == (step.w, step.h):
            continue
        planes = [Image.fromarray(np.ascontiguousarray(image[:, :, channel])) for channel in range(3)]
        image = np.stack([np.asarray(plane.resize(size, step.interp)) for plane in planes], axis=2)
    return image


def _in_unit_range(image: Tensor, device: torch.device) -> Tensor:
    """uint8, or float in [0, 1] -> float32 in [0, 1], as evaluation divides."""
    moved = image.to(device)
    return moved.float() / 255 if image.dtype == torch.uint8 else moved


class PartClassifierModel(Model):
    """A part classifier. Its parts are regions of its masks, or the detections of an extractor without masks."""

    module: PartClassifier

    def __init__(self, cfg: CfgNode, module: PartClassifier, weights: str) -> None:
        super().__init__(cfg, module, weights, PartDatasetMapper.from_config(cfg, is_train=False, part_maps=False))

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.module.class_names

    @property
    def part_names(self) -> tuple[str, ...]:
        found = self.module.extractor is not None and not self.module.extractor.training_only
        return self.module.channel_names if found else ()

    @property
    def _not_without_labels(self) -> str:
        if self.module.extractor is None or not self.module.extractor.needs_part_maps:
            return ""
        return (
            "MODEL.PART.EXTRACTOR.NAME oracle: the parts of this model are the labels of an image, which predict does "
            "not have; evaluate it on a part dataset, partbox.evaluate"
        )

    def _ask(
        self, image: Tensor, size: tuple[int, int], min_score: float | None
    ) -> tuple[str | None, dict[str, float], tuple[Part, ...]]:
        # The label is never looked at; an extractor that sees the clean image sees this one: nobody has attacked it.
        sample = {"image": image if image.dtype == torch.uint8 else image * 255, "label": 0}
        (output,) = self.module.predict_batch(_in_unit_range(image, self.device)[None], [sample])
        probabilities = output["probabilities"].tolist()
        if not np.isfinite(probabilities).all():
            raise FloatingPointError("the model predicts values that are not finite: its training has diverged")
        names = self.class_names
        label = names[output["label"]]
        return label, dict(zip(names, probabilities, strict=True)), self._parts(output, size, min_score)

    def _parts(self, output: dict[str, Any], size: tuple[int, int], min_score: float | None) -> tuple[Part, ...]:
        if "part_probabilities" in output:
            return parts_of_regions(output["part_probabilities"], size, self.part_names, min_score or 0.0)
        if "instances" in output:
            scaled = detector_postprocess(copy.deepcopy(output["instances"]), *size)
            return parts_of_instances(scaled, self.part_names, SCORE if min_score is None else min_score)
        return ()


class DetectorModel(Model):
    """A detector of detectron2's kind, or a semantic segmenter: it has no label, and its parts are what it found.

    Args:
        names: of the classes; of a segmenter without the background, which is its class 0.
    """

    def __init__(self, cfg: CfgNode, module: nn.Module, weights: str, names: Sequence[str]) -> None:
        super().__init__(cfg, module, weights, mapper_of(cfg, is_train=False))
        self._names = tuple(names)
        subject: Detectron2Subject = (
            SegmenterSubject(module) if is_segmenter(cfg) else DetectorSubject(module, len(names))
        )
        self._output: Callable[..., dict[str, Any]] = subject.output  # its answer to a sample, as in an evaluation

    @property
    def part_names(self) -> tuple[str, ...]:
        return self._names

    def _ask(
        self, image: Tensor, size: tuple[int, int], min_score: float | None
    ) -> tuple[str | None, dict[str, float], tuple[Part, ...]]:
        sample = {"height": size[0], "width": size[1]}
        output = self._output(sample, _in_unit_range(image, self.device))
        if "instances" in output:
            least = SCORE if min_score is None else min_score
            return None, {}, parts_of_instances(output["instances"], self._names, least)
        if "sem_seg" in output:
            return None, {}, parts_of_regions(output["sem_seg"].softmax(dim=0), size, self._names, min_score or 0.0)
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE {self.cfg.MODEL.META_ARCHITECTURE} gives {', '.join(output) or 'nothing'}, and "
            "predict knows instances and sem_seg"
        )
