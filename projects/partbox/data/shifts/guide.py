"""What the folder of a shifted copy holds and what to do with it: the text of its ``README.txt``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from partbox.data.preparation.guide import UNFINISHED
from partbox.folder_readme import SELF, Entry, datasets_option, quoted, shell_line, text_of

from .kinds import IMAGES_NAME, JSON_NAME, SHIFTS


def shift_guide(folder: Path, shift: str, source: Path, record: str, command: Sequence[str] = ()) -> str:
    """The text.

    Args:
        folder: of this shift.
        shift: its name.
        source: part-dataset file that it is a copy of.
        record: name of the file that says what it was made from.
        command: the command line that makes it; empty where no tool does.
    """
    entries = [
        SELF,
        Entry(record, "what it was made from, every option, and the account of what was left out"),
        Entry(JSON_NAME, "the part-dataset file: classes, parts and image ids of the source; written last"),
        Entry(f"{IMAGES_NAME}/", "the images, under the names of the source"),
        UNFINISHED,
    ]
    file = folder / JSON_NAME
    evaluation = "python tools/train_net.py --eval-only --config-file CONFIG MODEL.WEIGHTS FILE"
    steps = [
        ("look at it", f"python tools/visualize_parts.py labels --dataset {quoted(file)} --output FOLDER"),
        ("evaluate a model on it", f"{evaluation} DATASETS.TEST {datasets_option(file)} OUTPUT_DIR FOLDER"),
    ]
    if command:
        steps.append(("go on after an interruption, or make it again", shell_line(command)))
    return text_of(f"A copy of {source.name} by partbox, {shift}: {SHIFTS[shift].meaning}.", entries, steps)
