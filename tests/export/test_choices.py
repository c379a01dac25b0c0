"""Where rounding alone decides what is chosen, a file and torch may choose otherwise; where values differ, not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from onnx_files import samples, unsettle
from small_models import DETECTOR_MODELS, MODELS, small_config
from torch import Tensor, nn

from partbox.engine.build import build_classifier
from partbox.export import ExportError, capture
from partbox.export.choices import CHOSEN, WithChoices
from partbox.export.comparison import _File, compare
from partbox.export.graphs import SCORES, ClassifierGraph, Graph
from partbox.export.pictures import Pictures

SIDE = 4
EQUAL, APART = 1e-6, 1e-2  # what is added to values of a file; grey levels are 4e-3 apart


def best_places(images: Tensor) -> Tensor:
    """The places of the brightest pixels, which says everything about the choice."""
    index = images.mean(dim=1).flatten(1).topk(3, dim=1).indices
    places = torch.arange(SIDE * SIDE, dtype=images.dtype).expand(images.shape[0], -1)
    return places.gather(1, index)


def above(images: Tensor) -> Tensor:
    """How many pixels are brighter than half."""
    return (images[:, 0] - 128 / 255 > 0).to(images.dtype).sum(dim=(1, 2))[:, None]


def strongest(images: Tensor) -> Tensor:
    """Where the largest colour is which."""
    return images.argmax(dim=1).to(images.dtype).flatten(1)


class Chooser(Graph):
    outputs = (SCORES,)
    part_names = ("a",)

    def __init__(self, step: Callable[[Tensor], Tensor]) -> None:
        super().__init__(nn.Identity(), (SIDE, SIDE))
        self.step = step

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.step(images),)

    def reference(self, image: Tensor) -> tuple[Tensor, ...]:
        return self.forward(image[None].float() / 255)


STEPS = {best_places: "TopK", above: "Greater", strongest: "ArgMax"}


def shifted(model: bytes, operation: str, by: float) -> bytes:
    """The model with a little added to what is compared, growing towards the end, as another order of sums might."""
    proto = onnx.load_from_string(model)
    [place] = [number for number, node in enumerate(proto.graph.node) if node.op_type == operation]
    node = proto.graph.node[place]
    shape = {"TopK": (SIDE * SIDE,), "Greater": (1,), "ArgMax": (3, 1, 1)}[operation]
    ramp = (by * np.arange(1, 1 + shape[0], dtype=np.float32)).reshape(shape)
    proto.graph.initializer.append(numpy_helper.from_array(ramp, "ramp"))
    proto.graph.node.insert(place, onnx.helper.make_node("Add", [node.input[0], "ramp"], ["moved"]))
    proto.graph.node[place + 1].input[0] = "moved"
    return proto.SerializeToString()


def grey(values: Tensor) -> Pictures:
    """Pictures of one colour, (N, H, W) 0..255."""
    images = tuple(one.to(torch.uint8).expand(3, -1, -1).clone() for one in values)
    return Pictures(images, tuple(f"picture {i}" for i in range(len(images))), "pictures")


FLAT = grey(torch.full((3, SIDE, SIDE), 128))  # everything is equal
STEPPED = Pictures(
    tuple(
        torch.stack([131 + plane - 2 * torch.arange(SIDE * SIDE).view(SIDE, SIDE) for plane in (4, 2, 0)]).to(
            torch.uint8
        )
        for _ in range(2)
    ),
    ("a", "b"),
    "pictures",
)  # no two values are equal, and none is 128


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
def test_a_choice_between_equals_may_be_otherwise_and_one_between_others_may_not(step):
    graph = Chooser(step).eval()
    original = capture.to_onnx(graph).SerializeToString()
    for pictures in (FLAT, STEPPED):
        assert compare(original, graph, pictures, 1e-4).largest == {"part_scores": 0}
    moved = shifted(original, STEPS[step], EQUAL)
    found = compare(moved, graph, FLAT, 1e-4)
    assert found.other_choice == found.images == 3, "the shift has changed nothing, or nobody has noticed"
    assert found.largest == {"part_scores": 0}
    assert compare(moved, graph, STEPPED, 1e-4).other_choice == 0
    with pytest.raises(ExportError, match=r"differ by .* in part_scores of a \(in a batch of 1\)"):
        compare(shifted(original, STEPS[step], APART), graph, STEPPED, 1e-4)
    with pytest.raises(ExportError, match="differ by"):  # with no tolerance only what is the same is equal
        compare(shifted(original, STEPS[step], APART), graph, STEPPED, 0.0)


def test_what_follows_from_the_choice_is_compared_all_the_same():
    graph = Chooser(best_places).eval()
    moved = onnx.load_from_string(shifted(capture.to_onnx(graph).SerializeToString(), "TopK", EQUAL))
    [last] = [node for node in moved.graph.node if SCORES.name in node.output]
    last.output[0] = "free"
    moved.graph.initializer.append(numpy_helper.from_array(np.float32(0.001), "more"))
    moved.graph.node.append(onnx.helper.make_node("Add", ["free", "more"], [SCORES.name]))
    with pytest.raises(ExportError, match=r"differ by 0\.001 "):
        compare(moved.SerializeToString(), graph, FLAT, 1e-4)


def test_choices_of_other_calls_are_not_taken():
    values = torch.ones(1, 4)
    last = np.array([[3]])
    with WithChoices({"TopK": [last]}, 0.0) as mode:
        assert values.topk(1, dim=1).indices.tolist() == [[3]]
    assert mode.fits
    assert mode.taken == 1
    with WithChoices({"TopK": [last, last]}, 0.0) as mode:
        values.topk(1, dim=1)
    assert not mode.fits
    with WithChoices({"TopK": []}, 0.0) as mode:
        assert values.topk(1, dim=1).indices.tolist() != [[3]]
    assert not mode.fits


CHOOSING = {
    "masks_hard": {"ArgMax": 1},
    "dino_box_sequence_sorted": {"TopK": 2, "Greater": 1},
    "maskdino_part_box": {"TopK": 1, "Greater": 2},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CHOOSING)
def test_the_choices_of_a_file_are_those_of_its_model(example_dataset, name):
    """One by one and in the same order; otherwise a tie would be refused as a difference."""
    cfg = small_config(example_dataset, *(MODELS | DETECTOR_MODELS)[name])
    size = int(cfg.INPUT.SIZE[0]), int(cfg.INPUT.SIZE[1])
    graph = ClassifierGraph(unsettle(build_classifier(cfg, "")), size).eval()
    file = _File(capture.to_onnx(graph).SerializeToString(), [output.name for output in graph.outputs])
    images = [sample["image"] for sample in samples(cfg, example_dataset, 2)]
    chosen = file.choices(np.stack([image.numpy() for image in images]).astype(np.float32) / 255)
    for image, choices in zip(images, chosen, strict=True):
        counts = {operation: len(found) for operation, found in choices.items() if len(found)}
        assert counts == CHOOSING[name]
        with WithChoices(choices, 0.0) as mode, torch.no_grad():
            graph.reference(image)
        assert mode.fits
        assert mode.taken == 0
    # another image's choices are other ones, so each call is compared with its own
    with WithChoices(chosen[1], float("inf")) as mode, torch.no_grad():
        graph.reference(images[0])
    assert mode.taken >= 1
    assert set(choices) == set(CHOSEN)
