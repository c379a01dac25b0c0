"""What somebody meant who wrote a name that does not exist: of options, keys, values, data sets, files."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

LIKE = 0.6  # difflib's ratio from which two names are alike; its own default
MOST = 3  # suggestions
OURS = ("MODEL.PART.", "ADVERSARY.", "ROBUST_EVAL.", "DATASETS.")  # keys that are meant before those of detectron2
SAME_WORD, OUR_KEY = 0.3, 0.1  # what these add to the likeness of a key
BEHIND = 0.25  # likeness by which a key may lie behind the likeliest and still be named
_FILES = 10_000  # looked at for a name; a folder above may hold anything


def _plain(name: object) -> str:
    return str(name).strip().casefold().replace("-", "_")


def nearest(name: object, candidates: Iterable[object], most: int = MOST) -> list[str]:
    """The candidates that look most like a name, the nearest first; capitals, ``-`` and ``_`` make no difference."""
    by_plain: dict[str, str] = {}
    for candidate in candidates:
        by_plain.setdefault(_plain(candidate), str(candidate))
    if _plain(name) in by_plain:
        return [by_plain[_plain(name)]]
    return [by_plain[match] for match in difflib.get_close_matches(_plain(name), list(by_plain), n=most, cutoff=LIKE)]


def sentence(names: Iterable[str]) -> str:
    """``; did you mean A or B?``, to be put behind a message; empty without names."""
    listed = list(names)
    return f"; did you mean {' or '.join(listed)}?" if listed else ""


def did_you_mean(name: object, candidates: Iterable[object]) -> str:
    """The nearest candidates as a :func:`sentence`."""
    return sentence(nearest(name, candidates))


def nearest_keys(name: str, keys: Iterable[str]) -> list[str]:
    """The dotted configuration keys that were meant, the likeliest first.

    A key at the wrong place is found by its end (``LOSS_WEIGHT``, ``PART.LOSS_WEIGHT``), a misspelt one by its whole
    name, where its last word and our own keys count more.

    Args:
        name: no key.
        keys: all of them.
    """
    known = sorted(keys, key=lambda key: (not key.startswith(OURS), key.count(".")))
    ending = [key for key in known if _plain(f".{key}").endswith(_plain(f".{name}"))]
    if ending:
        return ending[:MOST]
    words = nearest(_last(name), {_last(key) for key in known}, most=1)

    def likeness(key: str) -> float:
        ratio = difflib.SequenceMatcher(None, _plain(name), _plain(key)).ratio()
        return ratio + SAME_WORD * (_last(key) in words)

    scores = {key: score for key in known if (score := likeness(key)) >= LIKE}
    best = max(scores.values(), default=0.0)
    likely = [key for key in scores if scores[key] >= best - BEHIND]
    return sorted(likely, key=lambda key: -scores[key] - OUR_KEY * key.startswith(OURS))[:MOST]


def _last(key: str) -> str:
    return key.rsplit(".", 1)[-1]


def nearest_files(path: Path) -> list[str]:
    """Existing files of a path's ending that it may have meant, the likeliest first.

    Looked for beside it; where its folder does not exist in folders beside that; at last below ``configs``.
    """
    if path.is_dir():
        return [str(found) for found in [path / "config.yaml"] if found.is_file()]
    folder, missing = path.parent, 0
    while not folder.is_dir() and folder != folder.parent:
        folder, missing = folder.parent, missing + 1
    beside = islice(folder.glob("*/" * missing + f"*{path.suffix}"), _FILES)
    found = nearest(path, sorted(map(str, beside)))
    named = [str(file) for file in sorted(Path("configs").glob(f"*/{path.name}"))[:MOST]]
    return named if path.name == str(path) and named else found or named


def unknown(kind: str, name: object, known: Iterable[object]) -> str:
    """The sentence on a name that is none of those known, such as ``unknown attack loss 'cee'; known: ce, margin``."""
    names = [str(one) for one in known]
    return f"unknown {kind} {name!r}; known: {', '.join(names)}{did_you_mean(name, names)}"


def one_of(what: str, value: object, choices: Iterable[object]) -> str:
    """The sentence on a value that is none of its choices."""
    names = [str(one) for one in choices]
    return f"{what} must be one of {', '.join(names)}, not {value!r}{did_you_mean(value, names)}"
