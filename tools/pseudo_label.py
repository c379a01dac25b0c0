#!/usr/bin/env python
r"""Label the parts of unlabelled images with a trained model (pseudo-labels), as a part dataset to train on.

Examples:
    # a model that learned from boxes of 10 % of the images labels the other 90 %; then one learns from both
    python tools/train_net.py --config-file configs/pascal_part_animals/part_box.yaml \
        DATASETS.LABEL_BUDGET.BOX_SHARE 0.1 OUTPUT_DIR output/teacher
    python tools/pseudo_label.py --run output/teacher --labels box --output output/pseudo
    python tools/train_net.py --config-file configs/pascal_part_animals/part_box.yaml \
        DATASETS.TRAIN "('output/pseudo/train.json',)" DATASETS.PSEUDO_LABELS.WEIGHT 0.5 OUTPUT_DIR output/student

    # masks, a threshold for each part, chosen on a dataset of your own
    python tools/pseudo_label.py --run output/teacher --labels mask --threshold per-part \
        --dataset datasets_root/new/train.json --labelled datasets_root/mine/val.json --output output/masks

    # a detector of tools/train_detector.py, whose run has no validation dataset
    python tools/pseudo_label.py --run output/faster_rcnn --labels box --dataset datasets_root/new/train.json \
        --labelled car_parts_val --output output/pseudo_cars

Only images without annotated part labels are labelled; the others keep theirs. The class of every image is known, so
by default a model chooses among the parts of that class. The threshold above which a part is kept has the highest F1 on
the annotated images of --labelled: a part is right if it overlaps a labelled one of its kind that no surer part has
found. An image in which nothing is kept stays without part labels. An interrupted call goes on when it is started
again, and one with another threshold does not look at the images again.

The output folder is a part dataset (train.json, images) with found_parts.jsonl, thresholds.json and thresholds.png.
Options KEY VALUE change the run's configuration, such as DATALOADER.NUM_WORKERS 4.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from partbox.arguments import ArgumentParser, add_configuration_keys

from detectron2.config import CfgNode
from detectron2.utils.logger import setup_logger

import partbox
from partbox.data import PartDatasetError
from partbox.data.loader import ImageError
from partbox.engine.allocator import keep_freed_memory
from partbox.engine.checkpoint import CheckpointError, weights_of_run
from partbox.engine.checks import ConfigError
from partbox.engine.hooks.best_checkpoint import BEST, FINAL
from partbox.engine.part_finders import CHOICES, KINDS
from partbox.engine.pseudo_labelling import DATASET, PseudoLabelOptions, pseudo_label
from partbox.engine.setup import load_config
from partbox.evaluation.record_files import RecordsError
from partbox.report.threshold_curve import save_threshold_curve

USER_ERRORS = (CheckpointError, ConfigError, ImageError, PartDatasetError, RecordsError)


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__)
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--run", type=Path, metavar="FOLDER", help="of tools/train_net.py or tools/train_detector.py")
    model.add_argument("--config-file", type=Path, metavar="FILE", help="instead of a run; needs --weights")
    parser.add_argument(
        "--weights", metavar="FILE", help=f"of the whole model; default: {BEST} of the run, else its {FINAL}"
    )
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help="whose images without annotated part labels are labelled: a name or a part-dataset file; default: "
        "DATASETS.TRAIN of the run. The run's training dataset is taken within the run's label budget",
    )
    parser.add_argument(
        "--labelled",
        metavar="NAME",
        help="by whose annotated part labels the threshold is chosen; default: DATASETS.VALIDATION of the run",
    )
    parser.add_argument("--labels", choices=KINDS, required=True, help="what is predicted")
    parser.add_argument(
        "--parts",
        choices=CHOICES,
        default="of-class",
        help="of-class: the model chooses among the parts of the image's class. any: all parts compete, and what goes "
        "to a part of another class is lost, as no label can say it (%(default)s)",
    )
    parser.add_argument(
        "--threshold",
        type=_threshold,
        default="auto",
        metavar="auto|per-part|SCORE",
        help="auto: the one with the highest F1 over all parts. per-part: for each part with enough labels its own. Or "
        "a score in [0, 1] (%(default)s)",
    )
    parser.add_argument(
        "--iou", type=float, default=0.5, metavar="SHARE", help="overlap from which a part is right (%(default)s)"
    )
    parser.add_argument(
        "--min-labelled", type=int, default=20, metavar="N", help="labelled parts that a threshold needs (%(default)s)"
    )
    parser.add_argument(
        "--keep-true",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether the file has the annotated images, too, with their labels as they are",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where the part dataset goes")
    add_configuration_keys(parser)
    arguments = parser.parse_intermixed_args()
    if arguments.config_file is not None and arguments.weights is None:
        parser.error("--config-file needs --weights")
    return arguments


def _threshold(text: str) -> str | float:
    if text in ("auto", "per-part"):
        return text
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither auto, per-part nor a score in [0, 1]") from None


def options_of(cfg: CfgNode, arguments: argparse.Namespace) -> PseudoLabelOptions:
    """The options, with the run's datasets where none are named.

    Raises:
        ConfigError: the run has none, or several.
    """
    if arguments.dataset is None and len(cfg.DATASETS.TRAIN) != 1:
        raise ConfigError(f"--dataset: DATASETS.TRAIN of the run is {list(cfg.DATASETS.TRAIN)}, name one dataset")
    return PseudoLabelOptions(
        dataset=arguments.dataset or cfg.DATASETS.TRAIN[0],
        labelled=arguments.labelled or next(iter(cfg.DATASETS.VALIDATION), ""),
        labels=arguments.labels,
        parts=arguments.parts,
        threshold=arguments.threshold,
        iou=arguments.iou,
        least=arguments.min_labelled,
        keep_annotated=arguments.keep_true,
    )


def summary(info: dict[str, Any], output: Path) -> str:
    """What was done, in a few lines."""
    images, threshold, found = info["images"], info["threshold"], info["criterion"]
    lines = [f"threshold: {threshold['common']:.4f} ({threshold['choice']})"]
    if threshold["by_part"]:
        lines[0] += f", {len(threshold['by_part'])} parts have their own"
    if found is not None:
        lines.append(
            f"{found['name']} on {found['dataset']} ({found['images']} images, {found['labelled_parts']} parts): "
            f"{found['f1']:.3f}, precision {found['precision']:.3f}, recall {found['recall']:.3f}"
        )
    lines += [
        f"images: {images['annotated']} with annotated labels, {images['predicted']} with predicted ones "
        f"({info['predicted_parts']} parts), {images['not_labelled']} in which nothing was kept",
        f"train on it: DATASETS.TRAIN \"('{output / DATASET}',)\"",
    ]
    return "\n".join(lines)


def main() -> None:
    keep_freed_memory()
    arguments = parse_arguments()
    setup_logger(name="partbox")
    config = arguments.config_file or arguments.run / "config.yaml"
    cfg = load_config(config, arguments.options)
    partbox.register_all(cfg.DATASETS.ROOT or None)
    weights = arguments.weights or weights_of_run(arguments.run)
    info = pseudo_label(cfg, weights, options_of(cfg, arguments), arguments.output)
    save_threshold_curve(arguments.output)
    print(summary(info, arguments.output))


if __name__ == "__main__":
    try:
        main()
    except USER_ERRORS as problem:
        sys.exit(f"{type(problem).__name__}: {problem}")
