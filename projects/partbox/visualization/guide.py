"""What a folder of ``tools/visualize_parts.py`` holds and how to make it again: the text of its ``README.txt``."""

from __future__ import annotations

from collections.abc import Sequence

from partbox.folder_readme import SELF, Entries, Entry, shell_line, text_of

from .whole_folder import RECORD

PICTURES: Entries = (
    Entry("pictures/", "a picture for each image"),
    Entry("sheet_*.png", "the same, several on a sheet"),
    Entry(RECORD, "what was asked for, what each picture shows, and which images could not be read"),
)
NUMBERS: Entries = (
    Entry("statistics.txt", "the numbers as text"),
    Entry("statistics.json", "all of them"),
    Entry("statistics.png", "the main ones as a plot"),
    Entry(RECORD, "what was asked for"),
)
KINDS: dict[str, tuple[str, Entries]] = {
    "labels": ("Images of a part dataset with their labels", PICTURES),
    "statistics": ("Numbers of part datasets", NUMBERS),
    "predictions": ("Images of a part dataset, and what a model finds in them", PICTURES),
}


def visualization_guide(kind: str, command: Sequence[str]) -> str:
    """The text.

    Args:
        kind: labels, statistics or predictions.
        command: the command line that makes the folder.
    """
    title, entries = KINDS[kind]
    again = command if "--overwrite" in command else [*command, "--overwrite"]
    return text_of(f"{title}, by partbox.", (SELF, *entries), [("make it again", shell_line(again))])
