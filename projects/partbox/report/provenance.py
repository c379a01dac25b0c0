"""Where the numbers of a run come from."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from partbox.eps import eps_text

from .result_files import Run, role_of

LONGEST = 200  # characters of a value
MOST_STARTS, MOST_TEXT = 50, 20_000  # lines of command.txt, characters of environment.txt
COMMANDS, ENVIRONMENT = "command.txt", "environment.txt"


@dataclass(frozen=True)
class Provenance:
    """What is known of one run.

    Attributes:
        name: of the run.
        facts: (what, value).
        commands: every start of the run, from command.txt.
        changes: (key, value, default) of the configuration; None where the results file does not hold them.
        threats: (perturbation, settings in words, notes on what differs from the published attack).
        checks: (threat model, check, outcome).
        versions: (package, version).
        environment: text of environment.txt.
    """

    name: str
    facts: Sequence[tuple[str, str]]
    commands: Sequence[str]
    changes: Sequence[tuple[str, str, str]] | None
    threats: Sequence[tuple[str, str, str]]
    checks: Sequence[tuple[str, str, str]]
    versions: Sequence[tuple[str, str]]
    environment: str


def provenance_of(run: Run) -> Provenance:
    """What the results file and the folder of a run say about how its numbers were made."""
    document = run.document
    changes = document.get("config_changes")
    return Provenance(
        run.name,
        list(_facts(document)),
        _last(_text(run, COMMANDS).splitlines()),
        None
        if changes is None
        else [(key, _short(one["value"]), _short(one["default"])) for key, one in changes.items()],
        list(_threats(run)),
        list(_checks(run)),
        list(document.get("versions", {}).items()),
        _begin(_text(run, ENVIRONMENT)),
    )


def _facts(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    data, seeds = document["dataset"], document["seeds"]
    command = document["command"]
    yield "command", shlex.join(command) if isinstance(command, list) else str(command)
    yield "finished", str(document["created"])
    if "seconds" in document:
        yield "seconds of the evaluation's last start", f"{document['seconds']:.0f}"
    yield "dataset", f"{data['name']}: {data['images']} of {data.get('of', '?')} images"
    yield "seeds", ", ".join(f"{name} {seed}" for name, seed in seeds.items())
    for key, name in (
        ("weights", "weights"),
        ("device", "device"),
        ("threads", "threads"),
        ("config_hash", "digest of the configuration"),
    ):
        if document.get(key) not in (None, ""):
            yield name, str(document[key])


def _threats(run: Run) -> Iterator[tuple[str, str, str]]:
    """Attacks and noise one by one; corruptions, up to 95 that differ in kind and severity alone, in one line."""
    corruptions = 0
    for name, entry in run.entries.items():
        settings = entry["settings"]
        if role_of(settings) == "corruption":
            corruptions += 1
            continue
        words = ", ".join(f"{key} {_setting(key, value)}" for key, value in settings.items() if key != "name")
        yield name, words or "the images as they are", " ".join(entry.get("notes", []))
    if corruptions:
        yield (
            f"{corruptions} corruptions",
            "kind and severity as in the table, seeded by (evaluation seed, image id)",
            "",
        )


def _checks(run: Run) -> Iterator[tuple[str, str, str]]:
    for threat, checks in run.results.get("self_checks", {}).items():
        for check in checks:
            yield threat, check["name"], "passed" if check["passed"] else f"failed: {check['reason']}"


def _setting(key: str, value: Any) -> str:
    lengths = key in ("eps", "step_size") and isinstance(value, float)
    return eps_text(value) if lengths else _short(value)


def _short(value: Any) -> str:
    """A value on one line; long lists say how much was left out."""
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False, default=str)
    if len(text) <= LONGEST:
        return text
    count = f" ({len(value)} values)" if isinstance(value, list) else ""
    return f"{text[:LONGEST]}…{count}"


def _last(lines: Sequence[str]) -> list[str]:
    """The last starts, and how many are left out."""
    more = len(lines) - MOST_STARTS
    return [f"… {more} earlier starts are in {COMMANDS}", *lines[-MOST_STARTS:]] if more > 0 else list(lines)


def _begin(text: str) -> str:
    more = len(text) - MOST_TEXT
    return f"{text[:MOST_TEXT]}\n… {more} more characters are in {ENVIRONMENT}" if more > 0 else text


def _text(run: Run, name: str) -> str:
    path = run.folder / name if run.folder is not None else None
    return path.read_text(encoding="utf-8", errors="replace") if path is not None and path.is_file() else ""
