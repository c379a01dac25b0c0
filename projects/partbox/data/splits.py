"""Seeded splits that keep everything of one photograph together."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence


def split_by_source(
    sources: Sequence[str], fractions: Mapping[str, float], seed: int, strata: Sequence[str] | None = None
) -> dict[str, list[int]]:
    """Split items so that all items of one source (photograph) land in the same split.

    The sources of a stratum are put in an order that depends on (seed, source name) only and cut into stretches. So the
    outcome does not depend on the order of the items, and sources that are added or removed move few of the others:
    those next to a cut. Over all sources each split has its fraction to within one source; within a stratum it may be
    off by one or two.

    Args:
        sources: for each of the n items, the name of the photograph it was cut from.
        fractions: share of the *sources* that each split gets, e.g. ``{"train": 0.7, "val": 0.15, "test": 0.15}``; they
            sum to 1.
        seed: another seed, another split.
        strata: for each item, what the splits shall be balanced over (e.g. its class). A source whose items are in
            several strata counts for the most frequent one (the first by name where equal).

    Returns:
        For each split, in the order of ``fractions``, the ascending indices of its items; every item is in one split.

    Raises:
        ValueError: for fractions that are no shares of a whole, or strata of another length than sources.
    """
    if strata is not None and len(strata) != len(sources):
        raise ValueError(f"{len(strata)} strata for {len(sources)} sources: one is needed for each item")
    members: dict[str, list[str]] = defaultdict(list)
    for source, stratum in _stratum_of_source(sources, strata).items():
        members[stratum].append(source)
    split_of: dict[str, str] = {}
    for stratum, shares in split_shares({name: len(some) for name, some in members.items()}, fractions).items():
        ordered = sorted(members[stratum], key=lambda source: (source_draw(seed, source), source))
        names = [name for name in fractions for _ in range(shares[name])]
        split_of.update(zip(ordered, names, strict=True))
    splits: dict[str, list[int]] = {name: [] for name in fractions}
    for index, source in enumerate(sources):
        splits[split_of[source]].append(index)
    return splits


def split_shares(counts: Mapping[str, int], fractions: Mapping[str, float]) -> dict[str, Counter[str]]:
    """How many sources of each stratum go to each split; in order of :func:`source_draw`, train's first and so on.

    Args:
        counts: number of sources of each stratum.
        fractions: as for :func:`split_by_source`.

    Raises:
        ValueError: for fractions that are no shares of a whole.
    """
    _check_fractions(fractions)
    shares: dict[str, Counter[str]] = {}
    given: Counter[str] = Counter()
    for stratum in sorted(counts):
        shares[stratum] = _shares(counts[stratum], given, fractions)
        given += shares[stratum]
    return shares


def source_draw(seed: int, source: str) -> bytes:
    """What the sources of a stratum are ordered by before they are cut into splits."""
    return hashlib.sha256(f"{seed}:{source}".encode("utf-8", "surrogateescape")).digest()


def _check_fractions(fractions: Mapping[str, float]) -> None:
    shares = list(fractions.values())
    if not shares or not all(math.isfinite(share) and share >= 0 for share in shares):
        raise ValueError(f"fractions must be numbers >= 0, are {dict(fractions)}")
    if abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"fractions must sum to 1, {dict(fractions)} sum to {sum(shares):g}")


def _stratum_of_source(sources: Sequence[str], strata: Sequence[str] | None) -> dict[str, str]:
    if strata is None:
        return dict.fromkeys(sources, "")
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    for source, stratum in zip(sources, strata, strict=True):
        votes[source][stratum] += 1
    return {source: min(counts, key=lambda name: (-counts[name], name)) for source, counts in votes.items()}


def _shares(count: int, given: Mapping[str, int], fractions: Mapping[str, float]) -> Counter[str]:
    """How many of a stratum's ``count`` sources each split gets, when ``given`` were handed out to earlier strata.

    One after the other goes to the split that is furthest behind its fraction, so roundings do not add up over strata.
    """
    shares: Counter[str] = Counter()
    done = sum(given.values())
    for place in range(count):
        behind = {
            name: fraction * (done + place + 1) - given.get(name, 0) - shares[name]
            for name, fraction in fractions.items()
            if fraction > 0
        }
        shares[max(behind, key=lambda name: behind[name])] += 1
    return shares
