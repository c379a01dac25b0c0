#!/usr/bin/env python
r"""Write a trained model as ONNX file, which runs without torch, detectron2 and partbox.

Examples:
    # the best weights of a run of tools/train_net.py
    python tools/export_onnx.py --run output/part_box --output part_box.onnx

    # logits alone, at another size, compared on 50 photographs of the test
    python tools/export_onnx.py --run output/part_box --output part_box.onnx --logits-only --images 50 \
        INPUT.SIZE "(128, 128)"

    # a DINO, Mask DINO or semantic segmenter of tools/train_detector.py; a detector has no size of its own
    python tools/export_onnx.py --run output/maskdino --output maskdino.onnx --size 160 224

    # a configuration that nobody has trained, to see whether it can be exported
    python tools/export_onnx.py --config-file configs/example/part_box.yaml --random-weights --output untrained.onnx

Input "images": float32 (B, 3, H, W), RGB in [0, 1], any B; normalisation is inside. Outputs: "logits" of a part
classifier; what it finds of the parts as "part_probabilities" (masks), or "part_scores" and "part_boxes" (queries of a
detector). The file's metadata hold the names of classes and parts, the size, and where the weights come from;
docs/export.md tells how to use it.

Before it is written, onnxruntime and torch are compared on photographs of DATASETS.TEST, or on seeded draws where these
are not on this machine. A file that differs is not written. A model with an operation that has no place in an ONNX
graph is refused, naming it. Options KEY VALUE change the run's configuration.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from partbox.arguments import ArgumentParser, add_configuration_keys

import partbox
from partbox.data import PartDatasetError
from partbox.engine.checkpoint import CheckpointError, weights_of_run
from partbox.engine.checks import ConfigError
from partbox.engine.hooks.best_checkpoint import BEST, FINAL
from partbox.engine.setup import load_config
from partbox.engine.user_errors import errors_as_sentences

NEEDED = ("onnx", "onnxruntime", "onnxscript", "onnx_ir")  # the last comes along with onnxscript

try:
    from partbox.export import OPSETS, Exported, ExportError, ExportOptions, export_onnx
except ModuleNotFoundError as missing:
    if (missing.name or "").split(".")[0] not in NEEDED:
        raise
    sys.exit(
        f"{missing.name} is not installed: run 'bash scripts/setup_env.sh' in the repository, or pip install onnx "
        "onnxscript onnxruntime (setup.py's extra 'export')"
    )

USER_ERRORS = (CheckpointError, ConfigError, ExportError, PartDatasetError)


def parse_arguments() -> argparse.Namespace:
    defaults = ExportOptions()
    parser = ArgumentParser(description=__doc__)
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--run", type=Path, metavar="FOLDER", help="of tools/train_net.py or tools/train_detector.py")
    model.add_argument(
        "--config-file", type=Path, metavar="FILE", help="instead of a run; needs --weights, or --random-weights"
    )
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument(
        "--weights", metavar="FILE", help=f"of the whole model; default: {BEST} of the run, else its {FINAL}"
    )
    weights.add_argument("--random-weights", action="store_true", help="export the model as nobody has trained it")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="to write, NAME.onnx")
    parser.add_argument(
        "--opset",
        type=int,
        default=defaults.opset,
        metavar="N",
        help=f"version of ONNX's operations, {OPSETS.start} to {OPSETS.stop - 1} (%(default)s)",
    )
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="of the images in pixels; of detectors only"
    )
    parser.add_argument(
        "--logits-only",
        action="store_true",
        help="leave out the parts, and with them what the label does not need: a smaller file",
    )
    parser.add_argument(
        "--images", type=int, default=defaults.images, metavar="N", help="to compare on, at most (%(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=defaults.seed, metavar="N", help="which images these are (%(default)s)"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=defaults.tolerance,
        metavar="X",
        help="largest absolute difference between onnxruntime and torch (%(default)s)",
    )
    add_configuration_keys(parser)
    arguments = parser.parse_intermixed_args()
    if arguments.config_file is not None and not (arguments.weights or arguments.random_weights):
        parser.error("--config-file needs --weights FILE, or --random-weights")
    if "MODEL.WEIGHTS" in arguments.options[::2]:
        parser.error("MODEL.WEIGHTS is where a training starts: give --weights FILE")
    return arguments


def summary(exported: Exported) -> str:
    """What was written and how it compares, a few lines."""
    graph, found = exported.graph, exported.comparison
    untrained = "" if exported.trained else ", random weights that nobody has trained"
    height, width = graph.size
    file = f"{exported.file}: {exported.size / 1e6:.1f} MB, opset {exported.opset}{untrained}"
    outputs = ", ".join(f"{output.name} ({', '.join(output.axes)})" for output in graph.outputs)
    lines = [
        f"{file}, images (B, 3, {height}, {width}) -> {outputs}",
        f"compared with torch on {found.images} {found.source}, in batches of {', '.join(map(str, found.batch_sizes))}",
    ]
    lines += [
        f"largest difference of {name}: {value:.2g} (from image to image: {found.spread[name]:.2g})"
        for name, value in found.largest.items()
    ]
    if found.same_label is not None:
        lines.append(f"same label: {found.same_label} of {found.images}")
    if found.other_choice:
        lines.append(
            f"on {found.other_choice} of {found.images} onnxruntime chose otherwise between values that differ by no "
            "more than the tolerance, and is compared with torch on that choice"
        )
    return "\n".join(lines)


def main() -> None:
    """Read, export, compare, write."""
    arguments = parse_arguments()
    cfg = load_config(arguments.config_file or arguments.run / "config.yaml", arguments.options)
    partbox.register_all(cfg.DATASETS.ROOT or None)
    weights = "" if arguments.random_weights else arguments.weights or weights_of_run(arguments.run)
    options = ExportOptions(
        opset=arguments.opset,
        size=tuple(arguments.size) if arguments.size else None,
        parts=not arguments.logits_only,
        images=arguments.images,
        seed=arguments.seed,
        tolerance=arguments.tolerance,
    )
    print(summary(export_onnx(cfg, weights, arguments.output, options)))


if __name__ == "__main__":
    with errors_as_sentences(USER_ERRORS):
        main()
