"""What the folder of a prepared data set holds and what to do with it: the text of its ``README.txt``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from partbox.folder_readme import SELF, Entry, datasets_option, quoted, shell_line, text_of

MEANINGS = {"train": "training", "val": "validation", "test": "test"}
KEYS = {"train": "TRAIN", "val": "VALIDATION", "test": "TEST"}
NOTHING = '"()"'
UNFINISHED = Entry(".*.tmp", "a file that is being written, or was when the run was killed", always=False)


def preparation_guide(output: Path, splits: Sequence[str], *, with_images: bool, command: Sequence[str] = ()) -> str:
    """The text.

    Args:
        output: the folder.
        splits: that are made.
        with_images: whether images are saved beside the labels.
        command: the command line that makes it; empty where no tool does.
    """
    entries = [
        SELF,
        Entry("preparation.json", "what it was made from, every option, and the account of what was kept and left out"),
        *(Entry(f"{split}.json", f"part-dataset file of the {MEANINGS[split]} images") for split in splits),
    ]
    steps = []
    if with_images:
        entries.append(Entry("images/", "the images, by split; file_name in the part-dataset files starts from here"))
        first = output / f"{splits[0]}.json"
        steps.append(
            ("look at labels", f"python tools/visualize_parts.py labels --dataset {quoted(first)} --output FOLDER")
        )
        if "train" in splits and "test" in splits:
            steps.append(("train a part classifier on it (of two classes or more)", _training(output, splits)))
            steps.append(("train a detector of its parts", _detector_training(output)))
    entries.append(Entry("shifted/", "copies by datasets/make_shifted.py, each with a README.txt", always=False))
    if command:
        steps.append(("go on after an interruption, or make it again", shell_line(command)))
    title = "A data set of images with labelled parts, made by partbox. Where the part-dataset files are, all is there."
    return text_of(title, [*entries, UNFINISHED], steps)


def _detector_training(output: Path) -> str:
    keys = " ".join(
        f"DATASETS.{KEYS[split]} {datasets_option(output / f'{split}.json')}" for split in ("train", "test")
    )
    return f"python tools/train_detector.py --config-file CONFIG {keys} OUTPUT_DIR FOLDER"


def _training(output: Path, splits: Sequence[str]) -> str:
    """The command, without what only the user knows."""
    values = {split: datasets_option(output / f"{split}.json") for split in splits}
    keys = " ".join(f"DATASETS.{key} {values.get(split, NOTHING)}" for split, key in KEYS.items())
    return f"python tools/train_net.py --config-file CONFIG {keys} OUTPUT_DIR FOLDER"
