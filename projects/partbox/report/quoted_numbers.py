"""Numbers that a page quotes: where each of them was measured, or who published it, and whether it stands there."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any


class QuoteError(ValueError):
    """The quoted numbers cannot be used; the message names the file, the place and the fix."""


@dataclass(frozen=True)
class Number:
    """A number that is quoted.

    Attributes:
        name: of the metric, with the attack.
        value: as it is written, with its spread.
        unit: "%" or empty.
        row: first cells of its row in the page of measurements; empty for published numbers.
        column: header of its column there.
        table: first header cell of its table there, where several tables of a section have such a column.
    """

    name: str
    value: str
    unit: str = ""
    row: tuple[str, ...] = ()
    column: str = ""
    table: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.value}{' ' * bool(self.unit)}{self.unit}"


@dataclass(frozen=True)
class Entry:
    """What is known of a configuration from one source.

    Attributes:
        config: name of the configuration, ``folder/file``.
        numbers: quoted.
        command: that gave them, where they were measured here.
        seeds: how many trainings they are from.
        section: anchor of the section of the page of measurements.
        note: what has to be said beside them.
        source: who published them, where they were not measured here.
        url: of the source.
    """

    config: str
    numbers: tuple[Number, ...]
    command: str = ""
    seeds: int = 0
    section: str = ""
    note: str = ""
    source: str = ""
    url: str = ""

    def __str__(self) -> str:
        return ", ".join(map(str, self.numbers)) + (f" ({self.note})" if self.note else "")


@dataclass(frozen=True)
class QuotedNumbers:
    """The file of quoted numbers.

    Attributes:
        measured: here.
        published: by others.
        datasets: class -> its parts, of datasets whose files a machine may not have.
    """

    measured: tuple[Entry, ...]
    published: tuple[Entry, ...]
    datasets: dict[str, dict[str, list[str]]]


def read_quoted(document: dict[str, Any], file: str, configurations: Collection[str]) -> QuotedNumbers:
    """The numbers of a parsed file, checked.

    Args:
        document: the file's content.
        file: its name, for messages.
        configurations: names that an entry may have.

    Raises:
        QuoteError: unknown or missing keys, or a configuration that does not exist.
    """
    if set(document) != {"datasets", "measured", "published"}:
        raise QuoteError(f"{file}: its keys are datasets, measured and published, not {', '.join(document)}")
    measured = [_entry(one, ("command", "seeds", "section"), file) for one in document["measured"]]
    published = [_entry(one, ("source", "url"), file) for one in document["published"]]
    for entry in (*measured, *published):
        if entry.config not in configurations:
            raise QuoteError(f"{file}: {entry.config}: there is no configuration file of this name")
    return QuotedNumbers(tuple(measured), tuple(published), document["datasets"])


def _entry(given: dict[str, Any], own: tuple[str, ...], file: str) -> Entry:
    place = f"{file}: {given.get('config', given)}"
    needed = {"config", "numbers", *own}
    if missing := sorted(needed - set(given)):
        raise QuoteError(f"{place}: {', '.join(missing)} is missing")
    if unknown := sorted(set(given) - needed - {"note"}):
        raise QuoteError(f"{place}: unknown key {', '.join(unknown)}")
    try:
        numbers = tuple(Number(**{**one, "row": tuple(one.get("row", ()))}) for one in given["numbers"])
    except TypeError as error:
        raise QuoteError(f"{place}: numbers: {error}") from error
    for number in numbers:
        if not isinstance(number.value, str) or not all(isinstance(cell, str) for cell in number.row):
            raise QuoteError(f"{place}: {number.name}: quote values and cells, so that their digits stay as they are")
    return Entry(**{**given, "numbers": numbers})


def unfounded(entry: Entry, page: str, measurements: str) -> list[str]:
    """What of a measured entry does not stand in the page of measurements, a sentence each.

    Args:
        entry: with a section.
        page: name of the page, for messages.
        measurements: its text.
    """
    section = section_of(measurements, entry.section)
    if section is None:
        return [f"{entry.config}: {page} has no section #{entry.section}"]
    found = []
    for number in entry.numbers:
        cells = cells_at(section, number)
        place = f"{page}, row {' | '.join(number.row)}, column {number.column}"
        if not any(_holds(cell, number.value) for cell in cells):
            found.append(f"{entry.config}: {number} is not what stands in {place}: {', '.join(cells) or 'nothing'}")
        if any("unreliable" in cell for cell in cells) and "unreliable" not in entry.note:
            found.append(f"{entry.config}: {number} is unreliable by {place}, and its note does not say so")
    return found


def _holds(cell: str, value: str) -> bool:
    """Whether a cell is a value, or begins with it and goes on to say something about it."""
    return cell == value or cell.startswith((f"{value},", f"{value} ("))


def section_of(text: str, anchor: str) -> str | None:
    """The section of a page whose heading (of level 2) has this anchor; None where there is none."""
    kept: list[str] = []
    for line in text.splitlines():
        if line.startswith("## "):
            if kept:
                break
            if heading_anchor(line[3:]) == anchor:
                kept.append(line)
        elif kept:
            kept.append(line)
    return "\n".join(kept) if kept else None


def heading_anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    kept = "".join(one for one in heading.strip().lower() if one.isalnum() or one in " -_")
    return kept.replace(" ", "-")


def cells_at(section: str, number: Number) -> list[str]:
    """The cells of a section's tables that a number's row, column and table point to."""
    cells = []
    for header, rows in tables_of(section):
        if number.column not in header or number.table not in ("", header[0]):
            continue
        place = header.index(number.column)
        cells += [row[place] for row in rows if tuple(row[: len(number.row)]) == number.row]
    return cells


def tables_of(text: str) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Header and rows of each Markdown table."""
    block: list[list[str]] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            block.append([cell.strip() for cell in line.strip()[1:].removesuffix("|").split("|")])
        elif block:
            yield block[0], block[2:]
            block = []


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
