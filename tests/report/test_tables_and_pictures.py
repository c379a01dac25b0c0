"""Tables and pictures from result files."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from partbox.report.learning_curves import save_learning_curves, validations
from partbox.report.table import results_table, seeds_table


def run(clean: float, robust: dict[str, float], miou: float | None = None, **changes) -> dict:
    """Results of a run; ``robust`` by perturbation name, such as ``pgd-20 linf 8/255``."""
    entry = {} if miou is None else {"part_segmentation": {"mIoU": miou}}
    return {
        "seconds": 12.3,
        "dataset": {"name": "d", "images": 100},
        "results": {
            "clean_accuracy": clean,
            "robust_accuracy": {name.split(" ", 1)[1]: value for name, value in robust.items()},
            "images": 100,
            "by_perturbation": {"clean": entry, **{name: {} for name in robust}},
            "warnings": [],
            **changes,
        },
    }


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_the_table_shows_every_attack_of_every_run():
    runs = {"a": run(0.5, {"pgd-20 linf 8/255": 0.25}), "b": run(0.75, {"pgd-100x5 linf 8/255": 0.1}, 0.333)}
    rows = cells(results_table(runs))
    attacks = ["robust % linf 8/255 (pgd-20)", "robust % linf 8/255 (pgd-100x5)"]
    assert rows[0] == ["model", "clean %", *attacks, "part mIoU %", "images", "seconds"]
    assert rows[2] == ["a", "50.0", "25.0", "-", "-", "100", "12"]
    assert rows[3] == ["b", "75.0", "-", "10.0", "33.3", "100", "12"]


def test_noise_is_not_named_among_the_attacks():
    one = run(0.5, {"pgd-20 linf 8/255": 0.25})
    one["results"]["by_perturbation"]["noise linf 8/255"] = {
        "settings": {"name": "noise"},
        "accuracy": 0.5,
    }
    assert cells(results_table({"a": one}))[0][2] == "robust % linf 8/255 (pgd-20)"


def test_noise_and_a_few_corruptions_have_columns_of_their_own():
    one = run(0.5, {"pgd-20 linf 8/255": 0.25})
    others = {"noise linf 8/255": ("noise", 0.45), "fog 3": ("corruption", 0.125)}
    entries = {name: {"settings": {"name": kind}, "accuracy": value} for name, (kind, value) in others.items()}
    one["results"]["by_perturbation"] |= entries
    plain = run(0.5, {"pgd-20 linf 8/255": 0.25})
    rows = cells(results_table({"a": one, "b": plain}))
    assert rows[0][3:5] == ["noise linf 8/255 %", "fog 3 %"]
    assert [row[2:5] for row in rows[2:]] == [["25.0", "45.0", "12.5"], ["25.0", "-", "-"]]
    fog = {f"fog {number}": entries["fog 3"] for number in range(7)}
    one["results"]["by_perturbation"] |= fog
    text = results_table({"a": one, "b": plain})
    assert len(cells(text)[0]) == 6, "a benchmark of corruptions is for the report"
    assert text.endswith("\n\n8 perturbations by noise and corruptions are not shown: see tools/make_report.py")
    assert "not shown" not in results_table({"b": plain})


def test_warnings_and_different_images_cannot_be_overlooked():
    warned = run(0.5, {"pgd-20 linf 8/255": 0.25}, warnings=["a broken run"])
    text = results_table({"a": warned})
    assert "a (!)" in text
    assert "(!) a: a broken run" in text
    other = {**warned, "dataset": {"name": "other", "images": 5}}
    with pytest.raises(ValueError, match="different images"):
        results_table({"a": warned, "b": other})


def test_seeds_are_averaged_by_model():
    runs = {f"a-seed{i}": run(value, {"pgd-2 linf 8/255": value / 2}) for i, value in enumerate((0.4, 0.5, 0.6))}
    assert cells(seeds_table(runs))[2] == ["a", "3", "50.0 ± 10.0", "25.0 ± 5.0"]
    with pytest.raises(ValueError, match="MODEL-seedN"):
        seeds_table({"a": run(0.5, {})})
    with pytest.raises(ValueError, match="same way"):
        seeds_table({**runs, "a-seed9": run(0.5, {"pgd-9 linf 8/255": 0.1})})


def test_a_validation_that_repeats_one_of_its_numbers_is_drawn():
    values = [(0.5, 0.2), (0.5, 0.2), (0.5, 0.3), (0.5, 0.3), (0.6, 0.3)]
    keys = ("validation/clean_accuracy", "validation/robust_accuracy")
    entries = [{"iteration": i, **dict(zip(keys, both, strict=True))} for i, both in enumerate(values)]
    assert [entry["iteration"] for entry in validations([{"iteration": -1}, *entries])] == [0, 2, 4]


def test_learning_curves(tmp_path):
    assert save_learning_curves(tmp_path) is None
    lines = [{"iteration": i, "loss_class": 2 - 0.1 * i, "loss_part": 1.0} for i in range(0, 20, 5)]
    lines[-1].update({"validation/clean_accuracy": 0.5, "validation/robust_accuracy": 0.25})
    text = "\n".join(json.dumps(line) for line in lines) + '\n{"iteration": 2'  # cut by a kill
    (tmp_path / "metrics.json").write_text(text)
    path = save_learning_curves(tmp_path)
    with Image.open(path) as picture:
        assert picture.size == (1100, 440)
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 10


def test_attacks_of_one_name_and_other_settings_share_no_column():
    name = "square linf 8/255"
    runs = {}
    for one, queries, robust in (("a-seed1", 10, 0.8), ("a-seed2", 5000, 0.2)):
        runs[one] = run(0.9, {name: robust})
        runs[one]["results"]["by_perturbation"][name] = {"settings": {"name": "square", "queries": queries, "eps": 0.1}}
    rows = cells(results_table(runs))
    assert rows[0][2:4] == [f"robust % linf 8/255 (square): square queries {queries}" for queries in (10, 5000)]
    assert [row[2:4] for row in rows[2:4]] == [["80.0", "-"], ["-", "20.0"]]
    with pytest.raises(ValueError, match="not attacked in the same way"):
        seeds_table(runs)


def test_the_order_of_attacks_makes_no_other_column():
    pgd, square = "pgd-20 linf 8/255", "square linf 8/255"
    one, other = run(0.9, {pgd: 0.5, square: 0.5}), run(0.9, {square: 0.5, pgd: 0.5})
    assert cells(results_table({"a": one, "b": other}))[0][2:4] == [
        "robust % linf 8/255 (pgd-20, square)",
        "part mIoU %",
    ]


def test_two_evaluations_of_one_training_are_not_two_seeds():
    attacked = run(0.9, {"pgd-20 linf 8/255": 0.5})
    same = {f"a-seed{i}": {**attacked, "seeds": {"training": 1, "evaluation": 0}} for i in (1, 2)}
    with pytest.raises(ValueError, match="no trainings of different seeds: 1, 1"):
        seeds_table(same)
    others = {f"a-seed{i}": {**attacked, "seeds": {"training": i, "evaluation": 0}} for i in (1, 2)}
    assert cells(seeds_table(others))[2][1] == "2"
    with pytest.raises(ValueError, match="different images"):
        seeds_table({**others, "a-seed3": {**attacked, "dataset": {"name": "other", "images": 100}}})


def test_part_miou_over_other_parts_is_said():
    runs = {name: run(0.9, {}, miou=0.5) for name in ("parts", "objects")}
    for name, parts in (("parts", ("ear", "tail")), ("objects", ("object",))):
        runs[name]["results"]["by_perturbation"]["clean"]["part_segmentation"]["IoU"] = dict.fromkeys(parts, 0.5)
    assert "(!) part mIoU % is a mean over other parts in some rows" in results_table(runs)
    assert "(!)" not in results_table({"parts": runs["parts"]})
