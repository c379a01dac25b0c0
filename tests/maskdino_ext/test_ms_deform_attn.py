"""Deformable attention against a slow loop written for clarity, in all its forms."""

from __future__ import annotations

import importlib.util
import math

import pytest
import torch
from torch import Tensor

from maskdino_ext.ms_deform_attn import COMPILED, FORMS, MSDeformAttn, compiled_module, ms_deform_attn

PLAIN = [form for form in FORMS if form != COMPILED]
SHAPES = [(3, 5), (2, 2), (1, 1)]


def by_loop(value: Tensor, shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """For every sampling point: the four pixels around it, each weighted by the area opposite to it."""
    batch, queries, heads, levels, points, _ = locations.shape
    output = value.new_zeros(batch, queries, heads, value.shape[-1])
    starts = [sum(h * w for h, w in shapes[:level]) for level in range(levels)]
    for b in range(batch):
        for q in range(queries):
            for m in range(heads):
                for level, (height, width) in enumerate(shapes):
                    for p in range(points):
                        x, y = (locations[b, q, m, level, p] * locations.new_tensor([width, height])) - 0.5
                        left, top = math.floor(x.item()), math.floor(y.item())
                        for row in (top, top + 1):
                            for column in (left, left + 1):
                                if not (0 <= row < height and 0 <= column < width):
                                    continue
                                area = (1 - (x - column).abs()) * (1 - (y - row).abs())
                                token = value[b, starts[level] + row * width + column, m]
                                output[b, q, m] = output[b, q, m] + weights[b, q, m, level, p] * area * token
    return output.flatten(2)


def inputs(queries: int = 3, points: int = 2, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Values, locations (some outside) and weights in double precision, all with a gradient."""
    generator = torch.Generator().manual_seed(seed)
    tokens = sum(h * w for h, w in SHAPES)
    value = torch.randn(2, tokens, 2, 4, generator=generator, dtype=torch.float64)
    locations = torch.rand(2, queries, 2, 3, points, 2, generator=generator, dtype=torch.float64) * 1.6 - 0.3
    weights = torch.rand(2, queries, 2, 3, points, generator=generator, dtype=torch.float64)
    return value.requires_grad_(True), locations.requires_grad_(True), weights.requires_grad_(True)


@pytest.mark.parametrize("form", PLAIN)
def test_values_and_gradients_are_those_of_the_loop(form):
    arguments = inputs()
    wanted = by_loop(arguments[0], SHAPES, *arguments[1:])
    found = ms_deform_attn(arguments[0], SHAPES, *arguments[1:], form=form)
    assert torch.allclose(found, wanted, atol=1e-12)
    direction = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    of_loop = torch.autograd.grad(wanted, arguments, direction)
    of_form = torch.autograd.grad(found, arguments, direction)
    for ours, theirs in zip(of_form, of_loop, strict=True):
        assert theirs.abs().max() > 0.01
        assert torch.allclose(ours, theirs, atol=1e-10)


@pytest.mark.parametrize("form", PLAIN)
def test_gradients_of_first_and_second_order(form):
    value, locations, weights = inputs(queries=1, points=1)

    def run(*arguments: Tensor) -> Tensor:
        return ms_deform_attn(arguments[0], SHAPES, *arguments[1:], form=form)

    assert torch.autograd.gradcheck(run, (value, locations, weights))
    assert torch.autograd.gradgradcheck(run, (value, locations, weights))


def test_a_backward_pass_in_pieces_is_the_whole(monkeypatch):
    arguments = inputs(queries=5)
    whole = torch.autograd.grad(ms_deform_attn(arguments[0], SHAPES, *arguments[1:]).square().sum(), arguments)
    monkeypatch.setattr("maskdino_ext.ms_deform_attn.ROWS_AT_ONCE", 3)
    pieces = torch.autograd.grad(ms_deform_attn(arguments[0], SHAPES, *arguments[1:]).square().sum(), arguments)
    for one, other in zip(whole, pieces, strict=True):
        assert torch.allclose(one, other, atol=1e-12)


@pytest.mark.parametrize("form", PLAIN)
@pytest.mark.parametrize("fixed", [0, 1, 2])
def test_an_input_without_gradient_leaves_the_others_as_they_are(form, fixed):
    arguments = inputs()
    wanted = torch.autograd.grad(by_loop(arguments[0], SHAPES, *arguments[1:]).square().sum(), arguments)
    others = [argument.detach().requires_grad_(i != fixed) for i, argument in enumerate(arguments)]
    output = ms_deform_attn(others[0], SHAPES, *others[1:], form=form)
    output.square().sum().backward()
    for i, (argument, gradient) in enumerate(zip(others, wanted, strict=True)):
        assert argument.grad is None if i == fixed else torch.allclose(argument.grad, gradient, atol=1e-10)


def test_the_compiler_finds_no_graph_break():
    layer = MSDeformAttn(8, 3, 2, 2)
    query, reference, tokens = torch.randn(1, 4, 8), torch.rand(1, 4, 3, 4), torch.randn(1, 20, 8)
    explained = torch._dynamo.explain(layer)(query, reference, tokens, SHAPES)
    assert explained.graph_break_count == 0
    assert explained.graph_count == 1
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    assert torch.allclose(
        compiled(query, reference, tokens, SHAPES), layer(query, reference, tokens, SHAPES), atol=1e-6
    )


@pytest.mark.parametrize("form", PLAIN)
def test_half_precision_and_locations_that_are_not_numbers(form):
    value, locations, weights = (argument.detach().float() for argument in inputs())
    half = ms_deform_attn(value.bfloat16(), SHAPES, locations.bfloat16(), weights.bfloat16(), form=form)
    assert half.dtype == torch.bfloat16
    wanted = ms_deform_attn(value, SHAPES, locations.bfloat16().float(), weights)
    assert (half.float() - wanted).abs().max() < 0.2
    if form == "grid_sample":
        return  # gives what grid_sample gives: nothing at all or a number, depending on the processor
    broken = locations.clone()
    broken[0, 0, 0, 0, 0] = torch.nan
    found = ms_deform_attn(value, SHAPES, broken, weights, form=form)
    assert found[0, 0, :4].isnan().all()  # seen, and no crash
    assert torch.equal(found[1], ms_deform_attn(value, SHAPES, locations, weights, form=form)[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_finds_the_right_one_of_many_tokens(dtype):
    """More tokens than a half precision number can count; everything is taken from the very last pixel."""
    value = torch.arange(64 * 64, dtype=torch.float32).view(1, -1, 1, 1).expand(1, -1, 1, 8) / 4096
    locations = torch.full((1, 1, 1, 1, 1, 2), 1 - 0.5 / 64, dtype=dtype)
    weights = torch.ones(1, 1, 1, 1, 1, dtype=dtype)
    for form in ("torch", "gather"):
        found = ms_deform_attn(value.to(dtype), [(64, 64)], locations, weights, form=form)
        assert (found.float() - 4095 / 4096).abs().max() < 0.3  # within a pixel's row, and no index out of range


def test_wrong_arguments_are_refused():
    value, locations, weights = inputs()
    with pytest.raises(ValueError, match="unknown form 'fast'"):
        ms_deform_attn(value, SHAPES, locations, weights, form="fast")
    with pytest.raises(ValueError, match="do not add up to 20 tokens"):
        ms_deform_attn(value, [(3, 5)], locations, weights)
    with pytest.raises(ValueError, match="do not divide into 3 heads"):
        MSDeformAttn(8, 1, 3, 2)


def test_the_compiled_form_is_an_error_where_it_is_absent(monkeypatch):
    monkeypatch.setattr("maskdino_ext.ms_deform_attn.importlib.util.find_spec", lambda name: None)
    compiled_module.cache_clear()
    with pytest.raises(RuntimeError, match="torch-ms-deform-attn is not installed"):
        MSDeformAttn(8, 1, 2, 2, form=COMPILED)


@pytest.mark.skipif(importlib.util.find_spec("torch_ms_deform_attn") is None, reason="torch-ms-deform-attn: not here")
def test_the_compiled_form_agrees():
    arguments = inputs()
    wanted = ms_deform_attn(arguments[0], SHAPES, *arguments[1:])
    found = ms_deform_attn(arguments[0], SHAPES, *arguments[1:], form=COMPILED)
    assert torch.allclose(found, wanted, atol=1e-10)


def test_a_new_layer_looks_in_eight_directions():
    layer = MSDeformAttn(16, 1, 8, 2)
    query, tokens = torch.zeros(1, 1, 16), torch.zeros(1, 9 * 9, 16)
    with torch.no_grad():
        layer.value_proj.weight.copy_(torch.eye(16))
        layer.output_proj.weight.copy_(torch.eye(16))
    # head 0 looks to the right by 1 and by 2 pixels from the centre, each with half of the weight
    tokens[0, 4 * 9 + 5] = 1.0
    tokens[0, 4 * 9 + 6] = 10.0
    found = layer(query, torch.full((1, 1, 1, 2), 0.5), tokens, [(9, 9)])
    assert torch.allclose(found[0, 0, :2], torch.tensor([5.5, 5.5]))
    # a query in a box of half the image looks at half the distance, in shares of the box: 0.5 * offset / P * side
    with torch.no_grad():
        layer.sampling_offsets.bias.zero_()
        layer.sampling_offsets.bias.view(8, 1, 2, 2)[0, 0, :, 0] = torch.tensor([2.0, 4.0])
    box = torch.tensor([0.5, 0.5, 2 / 9, 1.0]).view(1, 1, 1, 4)
    assert torch.allclose(layer(query, box, tokens, [(9, 9)])[0, 0, :2], torch.tensor([5.5, 5.5]), atol=1e-5)


def test_padding_counts_as_zero():
    layer = MSDeformAttn(8, 1, 2, 2)
    query, tokens = torch.randn(1, 3, 8), torch.randn(1, 16, 8)
    padding = torch.zeros(1, 16, dtype=torch.bool)
    padding[0, 5:] = True
    changed = tokens.clone()
    changed[0, 5:] = 100.0
    reference = torch.rand(1, 3, 1, 2)
    one, other = (layer(query, reference, each, [(4, 4)], padding) for each in (tokens, changed))
    assert torch.equal(one, other)
    assert not torch.equal(one, layer(query, reference, tokens, [(4, 4)]))
