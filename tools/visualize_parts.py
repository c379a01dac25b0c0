#!/usr/bin/env python
r"""Look at a part dataset: pictures of its labels, statistics of its files, and what a trained model sees in it.

Examples:
    # 24 images with their labelled parts, spread over the classes; another seed shows others
    python tools/visualize_parts.py labels --dataset my_parts/train.json --images 24 --output output/look

    # images of two classes that show a head, whose parts are labelled with boxes alone
    python tools/visualize_parts.py labels --dataset pascal_part_animals_train --classes dog cat --parts head \
        --labels box --output output/heads

    # the images that somebody asks about, by id or file name
    python tools/visualize_parts.py labels --dataset my_parts/train.json --only 17 train/a.jpg --output output/two

    # counts, sizes and parts that appear together, of three splits side by side: text, JSON and a plot
    python tools/visualize_parts.py statistics --output output/statistics \
        --dataset car_parts_train car_parts_val car_parts_test

    # what a part classifier, a detector or a segmenter finds, beside the labels
    python tools/visualize_parts.py predictions --run output/part_box --dataset pascal_part_animals_test \
        --output output/found

A dataset is a registered name or the path of a part-dataset file, whose images lie in "images" beside it
(docs/part_dataset.md). A part has one colour in all pictures. The output folder must be new; --overwrite replaces one
that this tool has made, whole. visualization.json in it says what is shown, and which images could not be, and why.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from partbox.arguments import ArgumentParser, add_configuration_keys, examples_of

import numpy as np

import partbox
from partbox.colours import RIGHT, WRONG
from partbox.data import PartDataset, PartDatasetError, get_part_dataset
from partbox.data.image_files import VERIFY_LEVELS
from partbox.data.part_json_types import PART_LABELS
from partbox.engine.checkpoint import CheckpointError, weights_of_run
from partbox.engine.checks import ConfigError
from partbox.engine.setup import load_config
from partbox.engine.shown_predictions import Shower, build_shower
from partbox.engine.user_errors import errors_as_sentences
from partbox.files import write_text
from partbox.folder_readme import README
from partbox.visualization.choice import SelectionError, choose_images, named_images
from partbox.visualization.gallery import Gallery, save_gallery
from partbox.visualization.guide import visualization_guide
from partbox.visualization.labels import labelled_parts, labels_in_words, part_colours
from partbox.visualization.pictures import Panel, draw_parts
from partbox.visualization.statistics import dataset_statistics, shared_photographs
from partbox.visualization.statistics_plot import save_statistics_plot
from partbox.visualization.statistics_text import statistics_text
from partbox.visualization.text import glyph_remarks
from partbox.visualization.whole_folder import OutputError, check_output, whole_folder, write_record

TOOL = "tools/visualize_parts.py"
IMAGES = 20  # shown where nobody says how many
USER_ERRORS = (CheckpointError, ConfigError, OutputError, PartDatasetError, SelectionError)


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__)
    kinds = parser.add_subparsers(dest="what", required=True, metavar="labels|statistics|predictions")
    parsers = {}
    for name, what in (
        ("labels", "pictures of images with their labelled parts"),
        ("statistics", "numbers of one or several files, side by side"),
        ("predictions", "pictures of what a model finds, beside the labels"),
    ):
        parsers[name] = kinds.add_parser(
            name, help=what, description=f"{what.capitalize()}.", epilog=examples_of(__doc__, TOOL, name)
        )
    parsers["statistics"].add_argument("--dataset", required=True, nargs="+", metavar="NAME", help="one or several")
    for name in ("labels", "predictions"):
        add_choice_arguments(parsers[name])
    add_model_arguments(parsers["predictions"])
    for one in parsers.values():
        add_common_arguments(one)
    what = sys.argv[1] if len(sys.argv) > 1 else ""
    if what not in parsers:
        return parser.parse_args()
    arguments = parsers[what].parse_intermixed_args(sys.argv[2:])  # KEY VALUE may stand anywhere
    arguments.what = what
    if what == "predictions" and arguments.config_file is not None and arguments.weights is None:
        parser.error("--config-file needs --weights")
    return arguments


def add_choice_arguments(parser: argparse.ArgumentParser) -> None:
    """Which images of which dataset."""
    parser.add_argument("--dataset", required=True, metavar="NAME", help="a registered name or a part-dataset file")
    parser.add_argument("--images", type=int, metavar="N", help=f"at most so many ({IMAGES})")
    parser.add_argument("--seed", type=int, help="of the choice of images (0)")
    parser.add_argument("--classes", nargs="+", default=[], metavar="CLASS", help="only images of these classes")
    parser.add_argument(
        "--parts", nargs="+", default=[], metavar="PART", help="only images with one of these: head, or dog:head"
    )
    parser.add_argument(
        "--labels", nargs="+", default=[], choices=PART_LABELS, help="only images whose parts are labelled so"
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="IMAGE", help="these images: ids, or file names as in the dataset file"
    )


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Whose predictions."""
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--run", type=Path, metavar="FOLDER", help="of tools/train_net.py or tools/train_detector.py")
    model.add_argument("--config-file", type=Path, metavar="FILE", help="instead of a run; needs --weights")
    parser.add_argument("--weights", metavar="FILE", help="default: the best of the run, else the last")
    parser.add_argument("--score", type=float, default=0.5, help="a detector's boxes from this score on (%(default)s)")
    add_configuration_keys(parser)


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the datasets are, and where the pictures go."""
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where all of it is written")
    parser.add_argument("--overwrite", action="store_true", help="replace what an earlier call made there")
    parser.add_argument("--root", metavar="FOLDER", help="of the datasets; default: $DETECTRON2_DATASETS")
    parser.add_argument(
        "--verify",
        choices=VERIFY_LEVELS,
        default="none",
        help="check every image of the dataset first, all of it (decode) or its header, and stop at a bad one; none: "
        "only what is shown is read (%(default)s)",
    )


def chosen(arguments: argparse.Namespace) -> tuple[PartDataset, list[dict[str, Any]]]:
    """The dataset and the images of it that are shown."""
    options = ("images", "seed", "classes", "parts", "labels")
    others = [f"--{key}" for key in options if getattr(arguments, key) not in (None, [])]
    if arguments.only and others:
        raise SelectionError(f"--only names the images: leave out {' and '.join(others)}")
    dataset = get_part_dataset(arguments.dataset, arguments.verify)
    if arguments.only:
        return dataset, named_images(dataset, arguments.only)
    arguments.images = IMAGES if arguments.images is None else arguments.images  # as the record says, too
    arguments.seed = arguments.seed or 0
    asked_for = {key: getattr(arguments, key) for key in options[1:]}
    return dataset, choose_images(dataset, arguments.images, **asked_for)


def show_labels(arguments: argparse.Namespace, folder: Path) -> str:
    """Pictures of labels."""
    dataset, records = chosen(arguments)
    colours = part_colours(dataset)

    def draw(record: dict[str, Any], image: np.ndarray) -> tuple[list[Panel], dict[str, Any]]:
        return [labels_panel(dataset, record, image, colours)], said_of_labels(record)

    gallery = save_gallery(folder, records, dataset, draw)
    write_record(folder, {**asked(arguments), **listed(gallery)})
    kinds = Counter(picture["labels"].split(" of ")[0] for picture in gallery.pictures)
    return "\n".join(
        [
            f"{len(gallery.pictures)} of {len(dataset.records)} images of {dataset.json_file}",
            *(f"  {kind.replace(':', ',')}: {count}" for kind, count in kinds.most_common()),
            *warnings_of(gallery, dataset),
        ]
    )


def labels_panel(dataset: PartDataset, record: dict[str, Any], image: np.ndarray, colours: Sequence[Any]) -> Panel:
    """An image with its labels."""
    title = f"label: {dataset.class_names[record['label']]}, {labels_in_words(record)}"
    return Panel(draw_parts(image, labelled_parts(record, dataset, colours)), title)


def said_of_labels(record: dict[str, Any]) -> dict[str, Any]:
    """What the list says about an image's labels."""
    return {"part_labels": record["part_labels"], "labels": labels_in_words(record)}


def show_predictions(arguments: argparse.Namespace, folder: Path) -> str:
    """Pictures of labels and predictions."""
    config = arguments.config_file or arguments.run / "config.yaml"
    cfg = load_config(config, arguments.options)
    weights = arguments.weights or weights_of_run(arguments.run)
    dataset, records = chosen(arguments)
    shower = build_shower(cfg, weights, arguments.dataset, score=arguments.score, verify_images=arguments.verify)
    colours = part_colours(dataset)

    def draw(record: dict[str, Any], image: np.ndarray) -> tuple[list[Panel], dict[str, Any]]:
        seen = shower.look(record)
        colour = "black" if seen.right is None else RIGHT if seen.right else WRONG
        found = [{"part": part.name, "score": part.score} for part in seen.parts]
        said = {**said_of_labels(record), "predicted": seen.label, "confidence": seen.confidence, "right": seen.right}
        panels = [
            labels_panel(dataset, record, image, colours),
            Panel(draw_parts(image, seen.parts), seen.in_words, colour),
        ]
        return panels, {**said, "found": found}

    gallery = save_gallery(folder, records, dataset, draw)
    model = {"config": str(config), "weights": str(weights), "remarks": list(shower.remarks)}
    write_record(folder, {**asked(arguments), **model, **listed(gallery)})
    return "\n".join([*counted(gallery, weights, shower), *warnings_of(gallery, dataset)])


def counted(gallery: Gallery, weights: str, shower: Shower) -> list[str]:
    """How many of the shown images are right; no evaluation."""
    verdicts = [picture["right"] for picture in gallery.pictures]
    parts = sum(len(picture["found"]) for picture in gallery.pictures)
    lines = [f"{len(verdicts)} images seen by {weights}: {parts} parts found"]
    if None not in verdicts:
        lines.append(f"  right: {sum(verdicts)} of these {len(verdicts)} (pictures are no evaluation)")
    return [*lines, *(f"(!) {remark}" for remark in shower.remarks)]


def show_statistics(arguments: argparse.Namespace, folder: Path) -> str:
    """Tables, JSON and a plot."""
    datasets = {name: get_part_dataset(name, arguments.verify) for name in arguments.dataset}
    if len({dataset.json_file.resolve() for dataset in datasets.values()}) < len(arguments.dataset):
        raise SelectionError(f"--dataset names one file twice: {' '.join(arguments.dataset)}")
    short = dict(zip(datasets, short_names(list(datasets)), strict=True))
    statistics = {short[name]: dataset_statistics(dataset) for name, dataset in datasets.items()}
    shared = shared_photographs({short[name]: dataset for name, dataset in datasets.items()})
    parts = [part for one in statistics.values() for part in one["parts"]]
    remarks = glyph_remarks([part[key] for part in parts for key in ("class", "part")])
    text = "\n\n".join([statistics_text(statistics, shared), *remarks])
    write_text(folder / "statistics.txt", text + "\n")
    write_text(
        folder / "statistics.json",
        json.dumps({"files": statistics, "shared_photographs": shared}, indent=2, ensure_ascii=False) + "\n",
    )
    save_statistics_plot(statistics, folder / "statistics.png")
    write_record(folder, asked(arguments))
    return text


def short_names(names: Sequence[str]) -> list[str]:
    """Headings of columns: ``train`` of ``my_parts/train.json`` where that tells the files apart."""
    stems = [Path(name).stem if name.endswith(".json") else name for name in names]
    return stems if len(set(stems)) == len(stems) else list(names)


def asked(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the folder was made from."""
    left_out = ("overwrite", "output", "options")
    given = {key: value for key, value in vars(arguments).items() if key not in left_out}
    options = {"options": list(arguments.options)} if "options" in arguments else {}
    return {**{key: str(value) if isinstance(value, Path) else value for key, value in given.items()}, **options}


def listed(gallery: Gallery) -> dict[str, Any]:
    """The pictures and what could not be shown."""
    return {"pictures": gallery.pictures, "unreadable": gallery.unreadable}


def warnings_of(gallery: Gallery, dataset: PartDataset) -> list[str]:
    """A line for each image that could not be shown, and one for what the pictures cannot say."""
    written = [*dataset.class_names, *(part.name for part in dataset.categories)]
    return [
        *(
            f"(!) not shown: {one['file_name']} (image {one['image_id']}): {one['reason']}"
            for one in gallery.unreadable
        ),
        *glyph_remarks([*written, *(one["file_name"] for one in gallery.pictures)]),
    ]


def main() -> None:
    arguments = parse_arguments()
    check_output(arguments.output, overwrite=arguments.overwrite)
    partbox.register_all(arguments.root)
    show = {"labels": show_labels, "statistics": show_statistics, "predictions": show_predictions}[arguments.what]
    with whole_folder(arguments.output, overwrite=arguments.overwrite) as folder:
        text = show(arguments, folder)
        write_text(folder / README, visualization_guide(arguments.what, sys.argv))
    print(f"{text}\n\n{arguments.output}: {', '.join(sorted(path.name for path in arguments.output.iterdir()))}")


if __name__ == "__main__":
    with errors_as_sentences(USER_ERRORS):
        main()
