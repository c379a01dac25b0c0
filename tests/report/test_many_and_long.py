"""Many runs, many classes, long and strange names: nothing is silently the same, left out or too large."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_runs import PGD, SQUARE, Page, write_examples, write_run

from partbox.report import ReportError, write_report
from partbox.report.figures import Curve, _styles, legend_names
from partbox.report.html import breakable
from partbox.report.intervals import Resampling
from partbox.report.measures import Measured
from partbox.report.models import group_by_seed
from partbox.report.provenance import provenance_of
from partbox.report.result_files import read_results
from partbox.report.tables import HeatTable, class_tables, heat

ATTACK = "pgd-20 linf 8/255"
FOOLED = {"clean": [False, False, True, False], ATTACK: [False, True, False, True]}


def page_of(tmp_path: Path, *folders: Path, **options: Any) -> Page:
    path = write_report(folders, tmp_path / "report.html", **{"resamples": 100, **options})
    return Page(path.read_text(encoding="utf-8"))


# --- names ----------------------------------------------------------------------------------------------------------


def test_a_run_and_a_copy_of_its_name_keep_their_own_numbers(tmp_path: Path) -> None:
    run = write_run(tmp_path / "box", FOOLED)
    other = write_run(tmp_path / "elsewhere" / "x", {**FOOLED, "clean": [True] * 4}, config={"X": 1})
    for name in ("box.json", "box.copy"):
        (tmp_path / name).write_text((other / "results.json").read_text())
    results = read_results([run, tmp_path / "box.json", tmp_path / "box.copy"])
    assert [one.name for one in results.runs] == ["box", "box.json", "box.copy"]
    page = page_of(tmp_path, run, tmp_path / "box.json", tmp_path / "box.copy")
    clean = {has["data-model"]: float(has["data-value"]) for has, _ in page.all("td", data_perturbation="clean")}
    assert clean == {"box": 0.75, "box.json": 0.0, "box.copy": 0.0}


def test_sweeps_whose_names_differ_behind_the_dot_are_both_there(tmp_path: Path) -> None:
    for name in ("lr0.1", "lr0.2"):
        run = write_run(tmp_path / name / "a-seed1", FOOLED, config={"LR": name})
        entry = {
            "run": run.name, "seed": 1, "mask_share": 0.0, "box_share": 1.0, "images_with_masks": 0,
            "images_with_boxes": 10, "labelled_parts": 50, "hours": 0.5, "clean_accuracy": 0.75,
            "robust_accuracy": {"linf 8/255": 0.25}, "unreliable": [],
        }  # fmt: skip
        summary = {
            "dataset": "pets_train", "training_images": 10, "seconds_per_box": 36.0, "seconds_per_mask": 80.0,
            "missing": [], "runs": [entry],
        }  # fmt: skip
        (tmp_path / name / "label_budget.json").write_text(json.dumps(summary))
    sweeps = [tmp_path / "lr0.1", tmp_path / "lr0.2", tmp_path / "lr0.1" / "label_budget.json"]
    results = read_results(sweeps)
    assert list(results.budgets) == ["lr0.1", "lr0.2"]
    assert [one.name for one in results.runs] == ["lr0.1/a-seed1", "lr0.2/a-seed1"]
    page = page_of(tmp_path, *sweeps)
    assert {text for _, text in page.all("h3")} >= {"lr0.1", "lr0.2"}
    words = [has["alt"] for has, _ in page.all("img", class_="plot") if "hours of labelling" in has["alt"]]
    assert len(words) == 4
    assert all("masks 0 %, boxes 100 %, 0.5 hours: " in one for one in words)


def test_a_name_that_is_no_text_is_shown_all_the_same(tmp_path: Path) -> None:
    """A folder whose name is not UTF-8, and half a character in a class name."""
    run = write_run(tmp_path / "caf\udce9", FOOLED, class_names=("cat\ud800", "d\u202eog\x00"))
    write_examples(run, list(FOOLED), 4, labels=("cat\ud800", "dog"))
    page = page_of(tmp_path, run)
    assert "caf\\udce9" in {has.get("data-model") for has, _ in page.all("td")}
    assert any("cat\\ud800" in text for _, text in page.all("th"))


def test_names_in_a_legend_are_all_there_and_all_different() -> None:
    long = [f"{'a' * 30}-{number}-{'z' * 30}" for number in (1, 2)]
    shown = legend_names([*long, "_hidden", "part_box"])
    assert len(set(shown.values())) == 4
    assert all(len(one) < 56 for one in shown.values())
    assert shown["_hidden"] == " _hidden"
    assert shown["part_box"] == "part_box"


@pytest.mark.parametrize(("models", "attacks"), [(12, 1), (30, 1), (7, 1), (2, 3), (1, 7), (3, 2)])
def test_no_two_curves_look_alike(models: int, attacks: int) -> None:
    curves = [Curve(f"m{model}", f"a{attack}", ()) for model in range(models) for attack in range(attacks)]
    assert len(set(_styles(curves))) == len(curves)


def test_of_many_curves_each_attack_has_its_own_picture(tmp_path: Path) -> None:
    fooled = {**FOOLED, "square linf 8/255": [False, False, True, True]}
    runs = [write_run(tmp_path / f"run {i}", fooled, (PGD, SQUARE), config={"X": i}) for i in range(12)]
    page = page_of(tmp_path, *runs)
    words = [has["alt"] for has, _ in page.all("img", class_="plot") if "against eps" in has["alt"]]
    assert [one.split(".")[0].split(", ")[-1] for one in words] == [
        ["pgd-20", "linf", "8/255"][0],
        "square",
        "worst case",
    ]
    assert all(f"run {i}, " in one for one in words for i in range(12))
    assert len(page.all("tr")) > 12


# --- size -----------------------------------------------------------------------------------------------------------


def many_classes(folder: Path, count: int) -> Path:
    draw = np.random.default_rng(0)
    fooled = {name: [bool(one) for one in draw.random(2 * count) < 0.4] for name in FOOLED}
    return write_run(folder, fooled, class_names=[f"class number {i}" for i in range(count)])


def test_long_tables_are_shortened_before_the_gallery_goes(tmp_path: Path) -> None:
    run = many_classes(tmp_path / "a", 400)
    write_examples(run, list(FOOLED), 6)
    whole = page_of(tmp_path, run)
    assert len([1 for _, text in whole.all("th", scope="row") if "class number" in text]) == 400
    size = (tmp_path / "report.html").stat().st_size
    limit = int(0.75 * size)
    page = page_of(tmp_path, run, most_bytes=limit)
    assert (tmp_path / "report.html").stat().st_size <= limit
    kept = [text for _, text in page.all("th", scope="row") if "class number" in text]
    assert len(kept) in (300, 100, 30)
    hints = " ".join(text for _, text in page.all("p", class_="hint"))
    assert f"The {len(kept)} of 400 rows with the lowest numbers" in hints
    assert page.all("article")
    by_class = json.loads((run / "results.json").read_text())["results"]["by_perturbation"]
    lowest = [min(by_class[name]["accuracy_by_class"][str(i)] for name in FOOLED) for i in range(400)]
    left_out = set(range(400)) - {int(one.split()[-1]) for one in kept}
    assert max(lowest[int(one.split()[-1])] for one in kept) <= min(lowest[i] for i in left_out)


def test_rows_stay_in_order_and_short_tables_stay_whole() -> None:
    table = HeatTable("m", "t", "h", ["c"], [(str(i), "", [heat(None)]) for i in range(5)])
    assert table.shortened(5) is table
    assert [row[0] for row in table.shortened(3).rows] == ["0", "1", "2"]


def test_names_longer_than_was_reckoned_cost_examples_and_not_the_page(tmp_path: Path) -> None:
    """Markup is reckoned with 1500 bytes a card; ids of 4000 characters stand in each card ten times."""
    run = write_run(tmp_path / "a", FOOLED, image_ids=[f"{i}{'x' * 4000}" for i in range(4)])
    write_examples(run, list(FOOLED), 4)
    page_of(tmp_path, run)
    limit = (tmp_path / "report.html").stat().st_size - 30_000
    page = page_of(tmp_path, run, most_bytes=limit)
    assert (tmp_path / "report.html").stat().st_size <= limit
    assert 0 < len(page.all("article")) < 4


def test_many_classes_take_seconds(tmp_path: Path) -> None:
    """Each class was once looked for among all images: hours for a thousand of them."""
    import time

    run = many_classes(tmp_path / "a", 1500)
    measured = Measured(group_by_seed(read_results([run]).runs), Resampling(0, 100))
    start = time.perf_counter()
    (table,) = class_tables(measured)
    assert len(table.rows) == 1500
    assert time.perf_counter() - start < 10


def test_long_texts_of_a_folder_are_cut_and_it_is_said(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", FOOLED)
    (run / "command.txt").write_text("".join(f"start {i}\n" for i in range(200)))
    (run / "environment.txt").write_text("x" * 50_000)
    found = provenance_of(read_results([run]).runs[0])
    assert len(found.commands) == 51
    assert found.commands[0] == "… 150 earlier starts are in command.txt"
    assert found.commands[-1] == "start 199"
    assert found.environment.endswith("… 30000 more characters are in environment.txt")


# --- what is refused ------------------------------------------------------------------------------------------------


def test_a_page_replaces_nothing_but_a_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", FOOLED)
    before = (run / "results.json").read_text()
    with pytest.raises(ReportError, match=r"results.json is there already and is no page"):
        write_report([run], run / "results.json", resamples=100)
    assert (run / "results.json").read_text() == before
    with pytest.raises(ReportError, match=r"is a folder: give the page a name, such as .*report.html"):
        write_report([run], run, resamples=100)
    page = write_report([run], tmp_path / "page.html", resamples=100)
    assert write_report([run], page, resamples=100) == page
    with pytest.raises(ReportError, match=r"page.html is a page and no results file: write --output"):
        write_report([run, page], tmp_path / "other.html", resamples=100)


def test_a_folder_of_runs_says_which_runs_it_holds(tmp_path: Path) -> None:
    write_run(tmp_path / "all" / "b", FOOLED)
    write_run(tmp_path / "all" / "a", FOOLED)
    with pytest.raises(ReportError, match=r"give the runs in it, such as .*all/a \(2 of its folders have one\)"):
        read_results([tmp_path / "all"])


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_number_is_not_shown_as_one(tmp_path: Path, text: str) -> None:
    run = write_run(tmp_path / "a", FOOLED)
    changed = re.sub(r'"accuracy": [\d.]+', f'"accuracy": {text}', (run / "results.json").read_text(), count=1)
    (run / "results.json").write_text(changed)
    with pytest.raises(ReportError, match=f"results.json is damaged .*{text} is no number"):
        read_results([run])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda one: one["results"].pop("warnings"),
        lambda one: one["seeds"].pop("training"),
        lambda one: one["dataset"].pop("images"),
        lambda one: one["results"].pop("majority_share"),
        lambda one: one["results"]["by_perturbation"]["clean"].pop("images"),
    ],
)
def test_results_that_lack_what_every_results_file_has_are_refused(tmp_path: Path, spoil: Any) -> None:
    run = write_run(tmp_path / "a", FOOLED)
    values = json.loads((run / "results.json").read_text())
    spoil(values)
    (run / "results.json").write_text(json.dumps(values))
    with pytest.raises(ReportError, match="is not a complete results file"):
        read_results([run])


def test_damaged_summaries_of_sweeps_are_refused(tmp_path: Path) -> None:
    (tmp_path / "label_budget.json").write_text(json.dumps({"runs": [{"run": "a"}], "seconds_per_box": 1}))
    with pytest.raises(ReportError, match="no summary of a label-budget sweep"):
        read_results([tmp_path])
    (tmp_path / "label_budget.json").unlink()
    (tmp_path / "sweep_results.json").write_text("{}")
    with pytest.raises(ReportError, match="no summary of a sweep"):
        read_results([tmp_path])


# --- seeds ----------------------------------------------------------------------------------------------------------


def names(*folders: Path) -> list[str]:
    return [model.name for model in group_by_seed(read_results(folders).runs)]


def test_trainings_that_start_from_different_models_are_not_two_seeds(tmp_path: Path) -> None:
    def run(name: str, seed: int, start: str) -> Path:
        return write_run(tmp_path / name, FOOLED, seed=seed, config={"MODEL": {"WEIGHTS": start}})

    first = run("a-seed1", 1, "/data/normal/model_best.pth")
    assert names(first, run("a-seed2", 2, "/data/part_box/model_best.pth")) == ["a-seed1", "a-seed2"]
    assert names(first, run("b-seed2", 2, "/elsewhere/normal/model_best.pth")) == ["a-seed1 (2 seeds)"]
    third = run("c-seed3", 3, "/data/box-seed3/model_best.pth")
    assert names(third, run("c-seed4", 4, "/data/box-seed4/model_best.pth")) == ["c (2 seeds)"]


def test_where_a_run_is_tracked_keeps_no_seeds_apart(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / f"a-seed{seed}", FOOLED, seed=seed, config={"TRACKING": {"WANDB": {"NAME": str(seed)}}})
        for seed in (1, 2)
    ]
    assert names(*runs) == ["a (2 seeds)"]


# --- gallery --------------------------------------------------------------------------------------------------------


def test_examples_of_another_evaluation_are_left_out_and_it_is_said(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", FOOLED)
    write_examples(run, list(FOOLED), 4)
    assert len(page_of(tmp_path, run).all("article")) == 4
    index = run / "examples" / "index.json"
    before = index.read_text()
    for spoiled in (before.replace("image 2", "image 9"), before.replace('"correct": true', '"correct": false', 1)):
        assert spoiled != before
        index.write_text(spoiled)
        page = page_of(tmp_path, run)
        assert page.all("article") == []
        assert any("The example images of a are left out" in text for _, text in page.all("li"))


def test_an_image_that_fooled_the_model_stays_fooled_in_the_gallery(tmp_path: Path) -> None:
    """Seen again in another batch the model may answer the label: the numbers count it as fooled, so does the card."""
    run = write_run(tmp_path / "a", FOOLED)
    write_examples(run, list(FOOLED), 4)
    index = run / "examples" / "index.json"
    values = json.loads(index.read_text())
    flipped = next(one for one in values["examples"] if one["perturbation"] == ATTACK and one["image_id"] == "image 1")
    assert flipped["correct"] is False
    flipped.update(correct=True, prediction=flipped["label"])
    index.write_text(json.dumps(values))
    verdicts = {has["data-image-id"]: has["data-verdict"] for has, _ in page_of(tmp_path, run).all("article")}
    assert verdicts == {"image 0": "correct", "image 1": "fooled", "image 2": "wrong on clean", "image 3": "fooled"}


def test_pictures_hold_the_names_of_many_models(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"run {i}", FOOLED, config={"X": i}) for i in range(12)]
    page = page_of(tmp_path, *runs)
    scatter = next(has for has, _ in page.all("img", class_="plot") if "clean against" in has["alt"])
    source = base64.b64decode(scatter["src"].split(",")[1]).decode()
    assert all(f"run {i}: clean" in scatter["alt"] for i in range(12))
    height = float(re.search(r'height="([\d.]+)pt"', source).group(1))
    assert height > 12 * 0.18 * 72


def test_means_over_corruptions_stand_side_by_side(tmp_path: Path) -> None:
    from partbox.corruptions import BENCHMARK

    draw, runs = np.random.default_rng(0), []
    names = ["clean", *(f"{kind} {severity}" for kind in BENCHMARK for severity in range(1, 6))]
    for name in ("a", "b"):
        fooled = {one: [bool(i) for i in draw.random(10) < 0.4] for one in names}
        runs.append(write_run(tmp_path / name, fooled, [{"name": "corruptions"}], config={"X": name}))
    page = page_of(tmp_path, *runs)
    found = {
        (has["data-model"], has["data-mean"]): float(has["data-value"])
        for has, _ in page.all("td")
        if "data-mean" in has
    }
    for run in runs:
        means = json.loads((run / "results.json").read_text())["results"]["corruptions"]
        assert found[run.name, "mPC"] == means["mean_accuracy"]
        assert found[run.name, "rPC"] == means["relative_accuracy"]
        assert found[run.name, "mCE (AlexNet on ImageNet-C = 100 %)"] == means["mean_corruption_error"]
    assert len(found) == 8
    assert not [1 for has, _ in page_of(tmp_path, runs[0]).all("td") if "data-mean" in has]


def test_most_of_a_picture_is_its_plot(tmp_path: Path) -> None:
    """A layout once left as much room above the legend as the legend takes; with ten models nothing was left."""
    runs = [write_run(tmp_path / f"run {i}", FOOLED, config={"X": i}) for i in range(10)]
    for has, _ in page_of(tmp_path, *runs).all("img", class_="plot"):
        source = base64.b64decode(has["src"].split(",")[1]).decode()
        height = float(re.search(r'height="([\d.]+)pt"', source).group(1))
        frame = re.search(r'id="patch_2">\s*<path d="([^"]*)"', source).group(1)
        rows = [float(y) for _, y in re.findall(r"([\d.]+) ([\d.]+)", frame)]
        assert max(rows) - min(rows) > height - 10 * 0.18 * 72 - 100, has["alt"][:40]


def test_a_name_is_escaped_before_it_may_be_broken() -> None:
    assert str(breakable("<i>a_b</i>&_c")) == "&lt;i&gt;a_<wbr>b&lt;/<wbr>i&gt;&amp;_<wbr>c"
