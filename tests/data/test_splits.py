"""split_by_source keeps photographs together, the fractions, and its word when data are added."""

from __future__ import annotations

import random
from collections import Counter, defaultdict

import pytest

from partbox.data import split_by_source

FRACTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}


def photographs(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """One to four items of each photograph, and the items' classes; most photographs have one class."""
    rng = random.Random(seed)
    sources, classes = [], []
    for number in range(count):
        usual = rng.choice(["cat", "dog", "dog", "dog", "horse"])
        for _ in range(rng.choice([1, 1, 2, 4])):
            sources.append(f"photo {number}")
            classes.append(usual if rng.random() < 0.9 else "cow")
    return sources, classes


def split_of_source(sources: list[str], splits: dict[str, list[int]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, indices in splits.items():
        for index in indices:
            assert found.setdefault(sources[index], name) == name, "a photograph is in two splits"
    return found


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("stratified", [False, True])
def test_fractions(seed: int, stratified: bool) -> None:
    sources, classes = photographs(1_000)
    splits = split_by_source(sources, FRACTIONS, seed, classes if stratified else None)
    assert list(splits) == list(FRACTIONS)
    assert sorted(index for indices in splits.values() for index in indices) == list(range(len(sources)))
    assert all(indices == sorted(indices) for indices in splits.values())
    counts = Counter(split_of_source(sources, splits).values())
    for name, fraction in FRACTIONS.items():
        assert abs(counts[name] - 1_000 * fraction) <= 1


def test_each_stratum_has_its_fractions() -> None:
    sources = [f"photo {number}" for number in range(700)]
    classes = [f"class {number % 70}" for number in range(700)]  # 10 photographs a class
    found = split_of_source(sources, split_by_source(sources, FRACTIONS, 0, classes))
    by_class: dict[str, Counter[str]] = defaultdict(Counter)
    for source, name in zip(sources, classes, strict=True):
        by_class[name][found[source]] += 1
    assert all(6 <= counts["train"] <= 8 and counts["val"] >= 1 and counts["test"] >= 1 for counts in by_class.values())


def test_order_of_items_does_not_matter() -> None:
    sources, classes = photographs(300)
    expected = split_of_source(sources, split_by_source(sources, FRACTIONS, 7, classes))
    order = list(range(len(sources)))
    random.Random(1).shuffle(order)
    shuffled = [sources[index] for index in order]
    splits = split_by_source(shuffled, FRACTIONS, 7, [classes[index] for index in order])
    assert split_of_source(shuffled, splits) == expected


def test_seed_matters() -> None:
    sources, _ = photographs(300)
    assert split_by_source(sources, FRACTIONS, 0) == split_by_source(sources, FRACTIONS, 0)
    assert split_by_source(sources, FRACTIONS, 0) != split_by_source(sources, FRACTIONS, 1)


def test_added_photographs_move_few_others() -> None:
    sources, classes = photographs(1_000)
    before = split_of_source(sources, split_by_source(sources, FRACTIONS, 0, classes))
    more, more_classes = sources + ["new 1", "new 2"], classes + ["dog", "cat"]
    after = split_of_source(more, split_by_source(more, FRACTIONS, 0, more_classes))
    assert sum(before[source] != after[source] for source in before) <= 10


def test_source_counts_for_its_most_frequent_stratum() -> None:
    sources = ["a", "a", "a", "b", "b"]
    assert split_by_source(sources, {"all": 1.0}, 0, ["x", "y", "y", "y", "x"]) == {"all": [0, 1, 2, 3, 4]}


def test_split_without_share_is_empty() -> None:
    assert split_by_source(["a", "b"], {"train": 1.0, "test": 0.0}, 0) == {"train": [0, 1], "test": []}
    assert split_by_source([], FRACTIONS, 0) == {"train": [], "val": [], "test": []}


@pytest.mark.parametrize(
    "fractions", [{}, {"train": 0.7}, {"train": 1.2, "test": -0.2}, {"train": float("nan"), "test": 1.0}]
)
def test_refuses_fractions(fractions: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="fractions"):
        split_by_source(["a"], fractions, 0)


def test_refuses_strata_of_other_length() -> None:
    with pytest.raises(ValueError, match="2 strata for 1 sources"):
        split_by_source(["a"], FRACTIONS, 0, ["x", "y"])
