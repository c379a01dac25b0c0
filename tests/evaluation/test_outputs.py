"""A model's outputs survive the record, and detectron2's evaluators see what they would have seen."""

from __future__ import annotations

import json

import pytest
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Boxes, Instances

from partbox.evaluation.image_evaluator import ReplayedEvaluator, image_evaluators
from partbox.evaluation.outputs import decode_output, encode_output


def instances(count: int, size: tuple[int, int] = (7, 9)) -> Instances:
    generator = torch.Generator().manual_seed(count)
    found = Instances(size)
    found.pred_boxes = Boxes(torch.rand(count, 4, generator=generator) * 9)
    found.scores = torch.rand(count, generator=generator)
    found.pred_classes = torch.arange(count)
    found.pred_masks = torch.rand(count, *size, generator=generator) > 0.5
    found.pred_keypoints = torch.rand(count, 3, 3, generator=generator)
    return found


def through_json(output: dict) -> dict:
    return decode_output(json.loads(json.dumps(encode_output(output))))


@pytest.mark.parametrize("count", [0, 1, 5])
def test_instances_survive_exactly(count):
    before = instances(count)
    after = through_json({"instances": before})["instances"]
    assert after.image_size == before.image_size
    assert torch.equal(after.pred_boxes.tensor, before.pred_boxes.tensor)
    for name in ("scores", "pred_classes", "pred_masks", "pred_keypoints"):
        one, other = getattr(after, name), getattr(before, name)
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def test_maps_and_plain_values_survive():
    scores = torch.rand(4, 5, 6)
    segments = [{"id": 1, "isthing": True, "category_id": 2}]
    panoptic = torch.randint(0, 3, (5, 6))
    output = {"sem_seg": scores, "panoptic_seg": (panoptic, segments), "label": 3, "probabilities": torch.rand(2)}
    after = through_json(output)
    assert torch.equal(after["sem_seg"].argmax(dim=0), scores.argmax(dim=0))
    assert after["sem_seg"].shape == scores.shape
    assert torch.equal(after["panoptic_seg"][0], panoptic)
    assert after["panoptic_seg"][1] == segments
    assert after["label"] == 3
    assert torch.equal(after["probabilities"], output["probabilities"])


def test_what_cannot_be_kept_is_named():
    with pytest.raises(TypeError, match="'extra' is a object"):
        encode_output({"extra": object()})
    found = Instances((4, 4))
    found.names = ["a"]
    with pytest.raises(TypeError, match="'names' is a list"):
        encode_output({"instances": found})


class Recorder(DatasetEvaluator):
    """Remembers what it was shown."""

    def reset(self) -> None:
        self.seen: list[tuple] = []

    def process(self, inputs, outputs) -> None:
        pairs = zip(inputs, outputs, strict=True)
        self.seen += [(one["image_id"], one["file_name"], other["label"]) for one, other in pairs]

    def evaluate(self) -> dict:
        return {"seen": list(self.seen)}


def test_any_evaluator_is_shown_the_outputs_again():
    records = [{"image_id": i, "file_name": f"{i}.png"} for i in range(3)]
    (ready,) = image_evaluators([Recorder()], records)
    assert isinstance(ready, ReplayedEvaluator)
    assert ready.name == "Recorder"
    kept = [ready.measure(record, {"label": 10 + record["image_id"]}) for record in records]
    wanted = {"seen": [(i, f"{i}.png", 10 + i) for i in range(3)]}
    for _ in range(2):  # reset in between
        assert ready.combine(json.loads(json.dumps(kept))) == wanted
    with pytest.raises(ValueError, match="repeated: Recorder"):
        image_evaluators([Recorder(), Recorder()], records)
