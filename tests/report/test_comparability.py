"""Models stand beside each other only where they can be compared, and runs are one model only where they are one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_runs import PGD, SQUARE, Page, write_run

from partbox.report import write_report
from partbox.report.intervals import Resampling
from partbox.report.measures import FALSE_OBJECTS, Measured
from partbox.report.models import group_by_seed
from partbox.report.result_files import read_results
from partbox.report.table import results_table

ATTACK, OTHER = "pgd-20 linf 8/255", "square linf 8/255"


def verdicts(*names: str, count: int = 40, seed: int = 0) -> dict[str, list[bool]]:
    draw = np.random.default_rng(seed)
    return {name: [bool(one) for one in draw.random(count) < 0.3] for name in ("clean", *(names or (ATTACK,)))}


def page_of(tmp_path: Path, *folders: Path) -> Page:
    return Page(write_report(folders, tmp_path / "report.html", resamples=200).read_text(encoding="utf-8"))


def changed(folder: Path, **changes: Any) -> Path:
    """The run with other values in its results file."""
    path = folder / "results.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def models(page: Page) -> list[str]:
    return list(dict.fromkeys(has["data-model"] for has, _ in page.all("td") if "data-perturbation" in has))


def text_of(page: Page, name: str) -> str:
    return " ".join(page.all("section", id=name)[0][1].split())


def pictures(page: Page, kind: str) -> list[str]:
    return [has["alt"] for has, _ in page.all("img", class_="plot") if kind in has["alt"]]


# --- runs that are one model ----------------------------------------------------------------------------------------


def evaluation(folder: Path, weights: str, seed: int) -> Path:
    run = write_run(folder, verdicts(), seed=seed, config={"MODEL": {"WEIGHTS": weights}})
    return changed(run, weights=weights)


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        ("/x/std-seed1/model_best.pth", "/x/std-seed2/model_best.pth", True),
        ("/x/std-seed1/model_best.pth", "/x/robust-seed2/model_best.pth", False),
        ("/x/std/seed1/model_best.pth", "/x/robust/seed2/model_best.pth", False),
        ("/x/exp1/part1-seed1/model_best.pth", "/x/exp1/part1-seed2/model_best.pth", True),
        ("/x/std_1/model_best.pth", "/x/std_2/model_best.pth", True),
        ("/x/std_1/model_best.pth", "/x/std_2/model_final.pth", False),
        ("/x/a/model_best.pth", "/x/b/model_best.pth", False),  # nothing says that they are one model
    ],
)
def test_evaluations_are_one_model_if_their_trainings_differ_in_the_seed_alone(
    tmp_path: Path, first: str, second: str, together: bool
) -> None:
    one, other = evaluation(tmp_path / "one", first, 1), evaluation(tmp_path / "other", second, 2)
    assert models(page_of(tmp_path, one, other)) == (["one (2 seeds)"] if together else ["one", "other"])


def test_the_seed_goes_from_the_middle_of_a_name(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"box-seed{seed}--pgd", verdicts(), seed=seed) for seed in (1, 2)]
    assert models(page_of(tmp_path, *runs)) == ["box--pgd (2 seeds)"]


# --- models that can be compared ------------------------------------------------------------------------------------


def test_models_that_met_other_attacks_share_no_scatter_and_no_worst_case(tmp_path: Path) -> None:
    pgd = [write_run(tmp_path / name, verdicts(seed=i), config={"X": i}) for i, name in enumerate(("a", "b"))]
    alone = page_of(tmp_path, *pgd)
    assert "its number is the worst case" in text_of(alone, "headline-section")
    assert len(pictures(alone, "clean against")) == 1
    square = write_run(tmp_path / "c", verdicts(OTHER), (SQUARE,), config={"X": 2})
    page = page_of(tmp_path, *pgd, square)
    said = text_of(page, "headline-section")
    assert "its number is the worst case" not in said
    assert "Under linf 8/255 not all models met the same attacks" in said
    assert "pgd-20 for a, b; square for c" in said
    (scatter,) = pictures(page, "clean against")
    assert "a: clean" in scatter
    assert "c: clean" not in scatter
    assert "linf 8/255 (pgd-20)" in scatter


def test_attacks_of_one_name_and_other_settings_share_no_scatter(tmp_path: Path) -> None:
    specs = [{**SQUARE, "queries": queries} for queries in (10, 10, 5000)]
    runs = [
        write_run(tmp_path / name, verdicts(OTHER, seed=i), (spec,), config={"X": i})
        for i, (name, spec) in enumerate(zip("abc", specs, strict=True))
    ]
    page = page_of(tmp_path, *runs)
    (scatter,) = pictures(page, "clean against")
    assert "b: clean" in scatter
    assert "c: clean" not in scatter
    assert "square linf 8/255 was made with other settings for c than for a" in text_of(page, "headline-section")


def test_worst_cases_of_other_attacks_are_named_in_curves(tmp_path: Path) -> None:
    apgd = {"name": "apgd", "eps": "8/255", "steps": 5}
    name = "apgd-ce linf 8/255"
    one = write_run(tmp_path / "one", verdicts(ATTACK, OTHER), (PGD, SQUARE), config={"X": 1})
    same = write_run(tmp_path / "same", verdicts(ATTACK, OTHER), (PGD, SQUARE), config={"X": 2})
    (curves,) = pictures(page_of(tmp_path, one, same), "against eps")
    assert "one, worst case: " in curves
    other = write_run(tmp_path / "other", verdicts(ATTACK, name), (PGD, apgd), config={"X": 3})
    (curves,) = pictures(page_of(tmp_path, one, other), "against eps")
    assert "one, worst case of pgd-20, square: " in curves
    assert "other, worst case of pgd-20, apgd-ce: " in curves


@pytest.mark.parametrize("records", [True, False])
def test_models_that_saw_other_images_of_a_data_set_are_told_apart(tmp_path: Path, records: bool) -> None:
    data = {"name": "pets_test", "images": 40, "of": 100}
    runs = []
    for seed, name in enumerate(("a", "b", "c")):
        ids = [f"{'drawn' if seed else 'first'} {i}" for i in range(40)]
        run = write_run(tmp_path / name, verdicts(seed=seed), config={"X": seed}, image_ids=ids)
        runs.append(changed(run, dataset=data, seeds={"training": 1, "evaluation": min(seed, 1)}))
        if not records:
            (run / "records.jsonl").unlink()
    page = page_of(tmp_path, *runs)
    said = text_of(page, "headline-section")
    assert "Not all models saw the same 40 images of pets_test" in said
    assert "not comparable with each other: a; b, c." in said
    (scatter,) = pictures(page, "clean against")
    assert not re.search(r"\ba: ", scatter)
    assert len(pictures(page, "against eps")) == 2
    assert "Not all models saw" not in text_of(page_of(tmp_path, *runs[1:]), "headline-section")
    results = {run.name: run.document for run in read_results(runs).runs}
    with pytest.raises(ValueError, match=r"pets_test \(40 images drawn with ROBUST_EVAL.SEED 0\), pets_test \(40"):
        results_table(results)
    assert "b" in results_table({name: results[name] for name in ("b", "c")})


def test_models_on_other_data_sets_share_no_picture(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", verdicts(), config={"X": 1})
    other = write_run(tmp_path / "other", verdicts(count=60), config={"X": 2})
    changed(other, dataset={"name": "farm_test", "images": 60, "of": 60})
    page = page_of(tmp_path, one, other)
    assert "Rows were measured on different images" in text_of(page, "headline-section")
    assert pictures(page, "clean against") == []
    assert [re.search(r"linf, (\w+) \(", one).group(1) for one in pictures(page, "against eps")] == [
        "pets_test",
        "farm_test",
    ]


def test_means_over_other_parts_are_not_compared_silently(tmp_path: Path) -> None:
    entries = [
        {name: {"part_segmentation": {"mIoU": 0.5, "IoU": dict.fromkeys(parts, 0.5)}} for name in ("clean", ATTACK)}
        for parts in (("background", "ear", "tail"), ("background", "object"), ("background", "tail", "ear"))
    ]
    runs = [
        write_run(tmp_path / name, verdicts(), config={"X": name}, entries=one)
        for name, one in zip(("parts", "objects", "same"), entries, strict=True)
    ]
    said = text_of(page_of(tmp_path, *runs), "headline-section")
    assert (
        "part mIoU % is a mean over other parts or classes, and not comparable: over 3 for parts, same; 2 for" in said
    )
    assert "other parts or classes" not in text_of(page_of(tmp_path, runs[0], runs[2]), "headline-section")


# --- numbers --------------------------------------------------------------------------------------------------------


def test_false_objects_are_counted_on_the_images_that_were_judged(tmp_path: Path) -> None:
    """Without labels nothing is false: such an image is in no denominator."""
    draw = np.random.default_rng(0)
    counts = [int(one) if i % 3 == 0 else None for i, one in enumerate(draw.integers(1, 6, 30))]
    run = write_run(
        tmp_path / "run",
        verdicts(count=30),
        objects=[2] * 30,
        found={name: [1] * 30 for name in ("clean", ATTACK)},
        false={name: counts for name in ("clean", ATTACK)},
    )
    known = [one for one in counts if one is not None]
    measured = Measured(group_by_seed(read_results([run]).runs), Resampling(resamples=200))
    (model,) = measured.models
    value = measured.value(model, "clean", FALSE_OBJECTS)
    assert value.number == pytest.approx(np.mean(known))
    assert value.interval.low < value.number < value.interval.high
    assert measured.images_of(model, FALSE_OBJECTS) == len(known)


def test_a_warning_stays_with_its_norm(tmp_path: Path) -> None:
    norms = [{**spec, "norm": norm, "eps": 0.5} for norm in ("linf", "l2") for spec in (PGD, SQUARE)]
    names = [f"{attack} {norm} 0.5" for norm in ("linf", "l2") for attack in ("pgd-20", "square")]
    reasons = ["linf 0.5: the gradients mislead"]
    run = write_run(tmp_path / "run", verdicts(*names), norms, unreliable=reasons, self_checks={})
    curves = {re.search(r"eps, (\w+)", one).group(1): one for one in pictures(page_of(tmp_path, run), "against eps")}
    assert curves["linf"].count("(unreliable)") == 3
    assert "unreliable" not in curves["l2"]
