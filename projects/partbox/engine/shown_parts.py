"""The parts in a model's answer, as something that can be drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.structures import Instances
from torch import Tensor
from torch.nn import functional

from partbox.colours import Colour, bare_name, colours_of
from partbox.modeling import PartClassifier
from partbox.visualization.pictures import ShownPart


def parts_of_probabilities(
    probabilities: Tensor, size: tuple[int, int], names: Sequence[str], colours: Sequence[Colour]
) -> list[ShownPart]:
    """The most probable part of each pixel; a part's score is the mean probability of its pixels.

    Args:
        probabilities: (1 + P, h, w), channel 0 is the background; the whole image at any resolution.
        size: (height, width) of the image.
        names: of the P channels.
        colours: of the P channels.
    """
    enlarged = functional.interpolate(
        probabilities[None].detach().float().cpu(), size=size, mode="bilinear", align_corners=False
    )[0]
    winner = enlarged.argmax(dim=0)
    parts = []
    for channel in winner.unique().tolist():
        if channel:
            mask = winner == channel
            score = float(enlarged[channel][mask].mean())
            parts.append(ShownPart(bare_name(names[channel - 1]), colours[channel - 1], None, mask.numpy(), score))
    return parts


def parts_of_instances(
    found: Instances, names: Sequence[str], colours: Sequence[Colour], score: float
) -> list[ShownPart]:
    """A detector's boxes, and masks where it has some, from ``score`` on."""
    found = found.to("cpu")
    sure = found[found.scores >= score]
    masks = list(sure.pred_masks.numpy().astype(bool)) if sure.has("pred_masks") else [None] * len(sure)
    rows = zip(sure.pred_boxes.tensor.tolist(), sure.scores.tolist(), sure.pred_classes.tolist(), masks, strict=True)
    return [
        ShownPart(bare_name(names[label]), colours[label], (box[0], box[1], box[2], box[3]), mask, value)
        for box, value, label, mask in rows
    ]


def parts_of_classifier(
    model: PartClassifier, output: Mapping[str, Any], size: tuple[int, int], *, score: float
) -> list[ShownPart]:
    """The parts that a part classifier's extractor finds: masks where it gives some, else a detector's boxes.

    Args:
        model: whose output it is.
        output: of one image, from :meth:`partbox.modeling.PartClassifier.predict_batch`.
        size: (height, width) of the image that is drawn, of which the model saw the whole.
        score: boxes with a smaller score are left out.
    """
    colours = colours_of(model.channel_names)
    if "part_probabilities" in output:
        return parts_of_probabilities(output["part_probabilities"], size, model.channel_names, colours)
    if "instances" not in output:
        return []
    found: Instances = output["instances"]
    height, width = found.image_size
    enlarged = Instances(size, **found.get_fields())
    enlarged.pred_boxes = found.pred_boxes.clone()
    enlarged.pred_boxes.scale(size[1] / width, size[0] / height)
    return parts_of_instances(enlarged, model.channel_names, colours, score)
