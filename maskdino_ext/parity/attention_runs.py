"""Comparison of the deformable attention layer with stored runs."""

from __future__ import annotations

import torch

from maskdino_ext.ms_deform_attn import MSDeformAttn

from .comparison import Comparison
from .configuration import Described
from .maskdino_runs import Stored


def compare_attention(name: str, described: Described, stored: Stored, form: str = "torch") -> Comparison:
    """Output with and without padding, and all gradients."""
    comparison = Comparison(name, stored)
    layer = MSDeformAttn(described["d"], described["levels"], described["heads"], described["points"], form)
    layer.load_state_dict(
        {key.removeprefix("state/"): value for key, value in stored.items() if key.startswith("state/")}
    )
    names = ("query", "reference_points", "input_flatten")
    inputs = [stored[f"in/{one}"].clone().requires_grad_(True) for one in names]
    shapes = [(int(height), int(width)) for height, width in stored["in/spatial_shapes"].tolist()]
    output = layer(*inputs, shapes, stored["in/padding_mask"])
    comparison.compare("out/output", output)
    output.backward(stored["in/grad_output"])
    for one, tensor in zip(names, inputs, strict=True):
        assert tensor.grad is not None
        comparison.compare(f"out/grad_input/{one}", tensor.grad)
    for key, parameter in layer.named_parameters():
        assert parameter.grad is not None
        comparison.compare(f"out/grad_param/{key}", parameter.grad)
    with torch.no_grad():
        comparison.compare("out/output_no_padding_mask", layer(*inputs, shapes))
    return comparison
