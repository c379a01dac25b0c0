"""What is exported of each family of models: images in [0, 1] -> named tensors; and what torch says of an image."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from detectron2.structures import ImageList
from torch import Tensor, nn

from maskdino_ext.boxes import cxcywh_to_xyxy
from maskdino_ext.dino import DINO
from maskdino_ext.inference import class_scores
from maskdino_ext.maskdino import MaskDINO
from maskdino_ext.structures import Outputs, Predictions
from partbox.modeling import PartClassifier
from partbox.modeling.part_classifier import PartOutput

from .errors import ExportError


@dataclass(frozen=True)
class Output:
    """One output of a file.

    Attributes:
        name: in the file.
        axes: what each axis is, the batch first.
        meaning: values and units.
    """

    name: str
    axes: tuple[str, ...]
    meaning: str


USUAL_SIDE = 800  # of images that detectors are asked about, in pixels

LOGITS = Output("logits", ("batch", "class"), "a softmax over the classes gives probabilities")
MASKS = Output(
    "part_probabilities",
    ("batch", "background and parts", "row", "column"),
    "probability of the background and of each part at each cell; the cells divide the image evenly; sums to 1",
)
SCORES = Output("part_scores", ("batch", "query", "part"), "in [0, 1]: whether the query shows the part")
BOXES = Output(
    "part_boxes", ("batch", "query", "x0 y0 x1 y1"), "in shares of the image's width and height, not clipped"
)
QUERY_MASKS = Output(
    "part_masks", ("batch", "query", "row", "column"), "in [0, 1]: the query's mask; the cells divide the image evenly"
)


class Graph(nn.Module):
    """A model in the form in which it is exported: a batch of images -> the tensors of ``outputs``, in this order.

    Args:
        model: in evaluation mode, on the CPU.
        size: (height, width) of the images in pixels.

    Attributes:
        outputs: what ``forward`` gives.
        part_names: of the parts that the outputs count, without background.
    """

    outputs: tuple[Output, ...]
    part_names: tuple[str, ...]

    def __init__(self, model: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.model = model
        self.size = size

    @abstractmethod
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W), float32 RGB in [0, 1], -> the outputs."""

    @abstractmethod
    def reference(self, image: Tensor) -> tuple[Tensor, ...]:
        """The outputs for one image (3, H, W) uint8 RGB as the model itself gives them where it is evaluated.

        On the model's own way from a sample to its answer, so that what ``forward`` does to images is compared, too.
        """

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the classes that ``logits`` counts; none without that output."""
        return ()


class ClassifierGraph(Graph):
    """A part classifier: logits and, where inference finds parts, what it finds.

    Args:
        model: with any extractor that looks at the image.
        size: see :class:`Graph`.
        parts: whether the parts are among the outputs.

    Raises:
        ExportError: the parts are given and not found, so that images alone are not enough.
    """

    model: PartClassifier

    def __init__(self, model: PartClassifier, size: tuple[int, int], *, parts: bool = True) -> None:
        super().__init__(model, size)
        extractor = model.extractor
        finds = extractor is not None and not extractor.training_only
        self.parts = parts and finds
        _check_evidence(model, self.parts)
        masks = self.parts and extractor is not None and extractor.gives_masks
        boxes = self.parts and extractor is not None and extractor.gives_detections
        self.outputs = (LOGITS, *[MASKS] * masks, *[SCORES, BOXES] * boxes)
        self.part_names = model.channel_names if self.parts else ()

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.model.class_names

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self._tensors(self.model.run(images, evidence_needed=self.parts))

    def reference(self, image: Tensor) -> tuple[Tensor, ...]:
        return self._tensors(self.model.run(self.model.images_of([{"image": image}])))

    def _tensors(self, output: PartOutput) -> tuple[Tensor, ...]:
        found = [output.logits]
        if self.parts and output.evidence is not None:
            if output.evidence.has_masks:
                found.append(output.evidence.masks)
            if output.evidence.has_detections:
                detections = output.evidence.detections
                found += [detections.logits.sigmoid(), cxcywh_to_xyxy(detections.boxes)]
        return tuple(found)


def _check_evidence(model: PartClassifier, parts: bool) -> None:
    """Raises ExportError for evidence that does not come from the images."""
    extractor = model.extractor
    if extractor is None or not (parts or model.label_needs_evidence):
        return
    without = "" if model.label_needs_evidence else ", or --logits-only, since the label does not depend on the parts"
    if extractor.needs_part_maps:
        raise ExportError(
            f"{type(extractor).__name__} reads the true parts of each image (part_maps), and a file has images as its "
            f"only input: export a model whose extractor looks at the image (segmenter, dino, maskdino){without}"
        )
    if model.from_clean_image:
        raise ExportError(
            "MODEL.PART.EXTRACTOR.FROM_CLEAN_IMAGE: the extractor reads a second image (clean_images), which nobody "
            "has attacked, and a file has one input: an oracle, an upper bound and no defence. "
            "MODEL.PART.EXTRACTOR.FROM_CLEAN_IMAGE False exports the same weights, the extractor on the image itself"
        )


def divisor_of(model: nn.Module) -> int:
    """The sides of a batch are padded to multiples of it by detectron2's model."""
    network: Any = model
    backbone = getattr(network, "backbone", None)
    return max(int(getattr(network, "size_divisibility", 0)), int(getattr(backbone, "size_divisibility", 0)), 1)


class Detectron2Graph(Graph):
    """What detectron2's models share: pixels in 0..255 in their own channel order, normalised outside of any network.

    Args:
        model: with ``pixel_mean``, ``pixel_std`` and a ``backbone``.
        size: see :class:`Graph`; a multiple of what the backbone asks for, so that nothing is padded.
        part_names: of its classes, without background.
        bgr: whether the model wants blue first.

    Raises:
        ExportError: a size that the model would pad.
    """

    def __init__(self, model: nn.Module, size: tuple[int, int], part_names: Sequence[str], *, bgr: bool) -> None:
        super().__init__(model, size)
        self.part_names = tuple(part_names)
        self.bgr = bgr
        divisor = divisor_of(model)
        if any(side % divisor for side in size):
            fits = tuple(-(-side // divisor) * divisor for side in size)
            raise ExportError(
                f"images of {size[0]} x {size[1]} pixels would be padded: the sides must be multiples of {divisor}, "
                f"such as {fits[0]} {fits[1]}"
            )

    def normalised(self, images: Tensor) -> Tensor:
        """Images in [0, 1] -> what the backbone sees."""
        network: Any = self.model
        ordered = images.flip(1) if self.bgr else images
        seen: Tensor = (ordered * 255 - network.pixel_mean) / network.pixel_std
        return seen

    def sample(self, image: Tensor) -> dict[str, Any]:
        """The image (3, H, W) uint8 RGB as detectron2's model takes it."""
        height, width = self.size
        return {"image": image.flip(0) if self.bgr else image, "height": height, "width": width}


class SegmenterGraph(Detectron2Graph):
    """A semantic segmenter of detectron2: probabilities at the image's size."""

    outputs = (MASKS,)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        network: Any = self.model
        scores, _ = network.sem_seg_head(network.backbone(self.normalised(images)), None)
        height, width = self.size
        return (scores[:, :, :height, :width].softmax(dim=1),)

    def reference(self, image: Tensor) -> tuple[Tensor, ...]:
        return (self.model([self.sample(image)])[0]["sem_seg"].softmax(dim=0)[None],)


class TransformerGraph(Detectron2Graph):
    """DINO or Mask DINO: what every query says, before the best are chosen."""

    model: DINO | MaskDINO

    def __init__(self, model: nn.Module, size: tuple[int, int], part_names: Sequence[str], *, bgr: bool) -> None:
        super().__init__(model, size, part_names, bgr=bgr)
        self.outputs = (SCORES, BOXES, *[QUERY_MASKS] * isinstance(model, MaskDINO))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self._tensors(self._found(self.normalised(images)))

    def reference(self, image: Tensor) -> tuple[Tensor, ...]:
        return self._tensors(self._found(self.model.preprocess_image([self.sample(image)]).tensor))

    def _found(self, images: Tensor) -> Predictions:
        network: Any = self.model
        padding = torch.zeros(images.shape[0], *self.size, dtype=torch.bool, device=images.device)
        outputs: Outputs = network.outputs(images, padding) if isinstance(network, DINO) else network.outputs(images)
        return outputs.layers[-1]

    def _tensors(self, found: Predictions) -> tuple[Tensor, ...]:
        softmax = isinstance(self.model, MaskDINO) and self.model.criterion.settings.softmax
        tensors = (class_scores(found.logits, softmax=softmax, temperature=None), cxcywh_to_xyxy(found.boxes))
        return tensors if found.masks is None else (*tensors, found.masks.sigmoid())


class OneByOneGraph(Detectron2Graph):
    """Any other model of detectron2, asked about a list of images as it always is.

    No file is made of it: how many outputs it has is its own affair, image by image. It is captured all the same, for
    one image, so that a refusal names the operation that stands in the way.

    Args:
        model: see :class:`Detectron2Graph`.
        side: of the square image in pixels, about; 0 where the model has none.
        bgr: whether the model wants blue first.
    """

    outputs = (SCORES, BOXES)

    def __init__(self, model: nn.Module, side: int, *, bgr: bool) -> None:
        divisor = divisor_of(model)
        fitting = -(-(side or USUAL_SIDE) // divisor) * divisor
        super().__init__(model, (fitting, fitting), (), bgr=bgr)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        height, width = self.size
        # detectron2 computes the size of its batches with tensors, which a capture takes for values of the image
        batch = ImageList(self.normalised(images), [self.size])
        with patch.object(self.model, "preprocess_image", lambda samples: batch, create=True):
            [result] = self.model([{"image": images[0], "height": height, "width": width}])
        return self._tensors(result)

    def reference(self, image: Tensor) -> tuple[Tensor, ...]:
        return self._tensors(self.model([self.sample(image)])[0])

    @staticmethod
    def _tensors(result: dict[str, Any]) -> tuple[Tensor, ...]:
        """Raises ExportError for a model that finds something else than instances."""
        if "instances" not in result:
            raise ExportError(f"the model answers with {', '.join(result)}, for which an exported file has no output")
        return (result["instances"].scores, result["instances"].pred_boxes.tensor)
