"""What multi-scale deformable attention costs in each of our forms and in other packages, in one run.

    python tools/benchmarks/deformable_attention.py                # sizes of Mask DINO at 512 pixels
    python tools/benchmarks/deformable_attention.py --threads 2 --compile

Decoder: 2 images, 300 queries; encoder: 1 image, 5,376 queries, one for each token; 3 levels of 64, 32 and 16 pixels,
8 heads of 32 channels, 4 points, float32. Every figure is the median of interleaved repeats after one to warm up, in
CPU time, which other processes on the machine do not add to;
ratios above 1 are faster than the Hugging Face form. All results must agree, else this fails.

Other packages are measured where they are installed:
    pip install transformers                                  # the Hugging Face form
    pip install --no-build-isolation torch-ms-deform-attn     # compiled kernels, some minutes to build
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable

from partbox.arguments import ArgumentParser

import torch
from tabulate import tabulate
from torch import Tensor

from maskdino_ext.ms_deform_attn import COMPILED, ms_deform_attn
from partbox.progress import track

SHAPES = [(64, 64), (32, 32), (16, 16)]
HEADS, CHANNELS, POINTS = 8, 32, 4
SIZES = {"decoder, 2 x 300 queries": (2, 300), "encoder, 1 x 5,376 queries": (1, 5376)}
Arguments = tuple[Tensor, Tensor, Tensor]
Form = Callable[[Tensor, Tensor, Tensor], Tensor]


def main() -> int:
    """Measure and print the tables."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    for size, (batch, queries) in SIZES.items():
        arguments = inputs(batch, queries)
        forms = all_forms(args.compile)
        check(forms, arguments)
        measured = {backward: measure(forms, arguments, args.repeats, backward) for backward in (False, True)}
        base = next(iter(forms))
        rows = [
            [name, *(v for backward in (False, True) for v in _columns(measured[backward], name, base))]
            for name in forms
        ]
        print(f"\n{size}, {args.threads} thread(s), {args.repeats} repeats\n")
        headers = ["form", "forward CPU ms", f"x {base}", "forward + backward CPU ms", f"x {base}"]
        print(tabulate(rows, headers, tablefmt="github", floatfmt=("", ".1f", ".2f", ".1f", ".2f")))
    return 0


def _columns(milliseconds: dict[str, float], name: str, base: str) -> tuple[float, float]:
    return milliseconds[name], milliseconds[base] / milliseconds[name]


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--repeats", type=int, default=7, help="of each call; the median counts")
    parser.add_argument("--compile", action="store_true", help="torch.compile of our gather form as well")
    return parser.parse_args()


def inputs(batch: int, queries: int) -> Arguments:
    """Values, locations (a few outside) and weights, with gradients."""
    torch.manual_seed(0)
    tokens = sum(height * width for height, width in SHAPES)
    value = torch.randn(batch, tokens, HEADS, CHANNELS)
    locations = torch.rand(batch, queries, HEADS, len(SHAPES), POINTS, 2) * 1.1 - 0.05
    weights = torch.rand(batch, queries, HEADS, len(SHAPES) * POINTS).softmax(-1).unflatten(-1, (len(SHAPES), POINTS))
    return value.requires_grad_(True), locations.requires_grad_(True), weights.requires_grad_(True)


def ours(form: str) -> Form:
    """One of our forms."""
    return lambda value, locations, weights: ms_deform_attn(value, SHAPES, locations, weights, form=form)


def all_forms(compiled: bool) -> dict[str, Form]:
    """Everything that can be measured here; the first is what the others are compared with."""
    forms: dict[str, Form] = {}
    if importlib.util.find_spec("transformers"):
        forms["Hugging Face"] = hugging_face()
    else:
        print("transformers is not installed: our grid_sample form, which is the same sum, stands for it")
    forms |= {f"ours, {form}": ours(form) for form in ("grid_sample", "torch", "gather")}
    if compiled:
        forms["ours, torch.compile(gather)"] = torch.compile(ours("gather"))
    if importlib.util.find_spec("torch_ms_deform_attn"):
        forms[COMPILED] = ours(COMPILED)
    return forms


def hugging_face() -> Form:
    """The form of transformers' Deformable DETR."""
    from transformers.models.deformable_detr.modeling_deformable_detr import MultiScaleDeformableAttention

    layer = MultiScaleDeformableAttention()
    sizes = torch.tensor(SHAPES)
    starts = torch.cat([sizes.new_zeros(1), sizes.prod(1).cumsum(0)[:-1]])
    call = functools.partial(layer, value_spatial_shapes=sizes, value_spatial_shapes_list=SHAPES)
    return lambda value, locations, weights: call(
        value,
        level_start_index=starts,
        sampling_locations=locations,
        attention_weights=weights,
        im2col_step=64,
    )


def check(forms: dict[str, Form], arguments: Arguments) -> None:
    """All forms give the same values.

    Raises:
        SystemExit: one does not.
    """
    with torch.no_grad():
        results = {name: form(*arguments) for name, form in forms.items()}
    first = next(iter(results.values()))
    for name, result in results.items():
        if not torch.allclose(result, first, atol=1e-4):
            sys.exit(f"{name} differs from the others by {(result - first).abs().max().item():.1e}")


def measure(forms: dict[str, Form], arguments: Arguments, repeats: int, backward: bool) -> dict[str, float]:
    """Median milliseconds of each form."""
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for repeat in track(range(repeats + 1), repeats + 1, "measuring", "repeat"):
        for name, form in forms.items():
            start = time.process_time()
            with torch.set_grad_enabled(backward):
                output = form(*arguments)
            if backward:
                torch.autograd.grad(output, arguments, torch.ones_like(output))
            if repeat:
                seconds[name].append(time.process_time() - start)
    return {name: statistics.median(values) * 1e3 for name, values in seconds.items()}


if __name__ == "__main__":
    raise SystemExit(main())
