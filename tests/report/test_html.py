"""The page: its numbers are those of the files, nothing in it is fetched or run that is not its own."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
from report_runs import PGD, SQUARE, Page, write_examples, write_run

from partbox import progress
from partbox.report import ReportError, write_report
from partbox.report.intervals import Resampling, ratio_interval

ATTACKS = ("pgd-20 linf 8/255", "square linf 8/255")
RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def same_draws() -> None:
    """Whichever tests run before."""
    global RANDOM
    RANDOM = np.random.default_rng(0)


def verdicts(
    count: int = 40, share: float = 0.3, names: tuple[str, ...] = ("clean", ATTACKS[0])
) -> dict[str, list[bool]]:
    return {name: [bool(one) for one in RANDOM.random(count) < share] for name in names}


def page_of(tmp_path: Path, *folders: Path, **options: int) -> Page:
    path = write_report(folders, tmp_path / "report.html", **{"resamples": 200, **options})
    return Page(path.read_text(encoding="utf-8"))


def document(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def cells(page: Page, **attributes: str) -> list[tuple[dict[str, str], str]]:
    return [(has, text) for has, text in page.all("td", **attributes) if "data-perturbation" in has]


# --- numbers --------------------------------------------------------------------------------------------------------


def test_the_headline_has_the_numbers_of_the_files_and_their_intervals(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", verdicts(names=("clean", *ATTACKS)), (PGD, SQUARE))
    b = write_run(tmp_path / "b", verdicts(names=("clean", *ATTACKS)), (PGD, SQUARE), config={"X": 1})
    page = page_of(tmp_path, a, b)
    table = page.all("table", id="headline")
    assert len(table) == 1
    found = {(has["data-model"], has["data-perturbation"]): (has, text) for has, text in cells(page)}
    worst = "worst case linf 8/255 (pgd-20, square)"
    for folder in (a, b):
        results = document(folder)["results"]
        for name in ("clean", *ATTACKS):
            has, text = found[folder.name, name]
            assert float(has["data-value"]) == results["by_perturbation"][name]["accuracy"]
            assert text.startswith(f"{100 * float(has['data-value']):.1f}")
        has, _ = found[folder.name, worst]
        assert float(has["data-value"]) == results["robust_accuracy"]["linf 8/255"]
        assert has["data-metric"] == "robust_accuracy"
        fooled = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
        right = [not any(one["fooled"] for one in fooled if one["image_id"] == f"image {i}") for i in range(40)]
        interval = ratio_interval(np.array([right], dtype=float), np.ones((1, 40)), Resampling(0, 200))
        assert (float(has["data-low"]), float(has["data-high"])) == (interval.low, interval.high)
    assert len(found) == 8


def test_seeds_are_means_over_runs_and_are_said_to_be(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / f"box-seed{seed}", verdicts(), seed=seed) for seed in (1, 2, 3)]
    page = page_of(tmp_path, *folders)
    numbers = [document(folder)["results"]["by_perturbation"][ATTACKS[0]]["accuracy"] for folder in folders]
    has, _ = cells(page, data_perturbation=ATTACKS[0])[0]
    assert has["data-model"] == "box (3 seeds)"
    assert float(has["data-value"]) == pytest.approx(sum(numbers) / 3)
    assert len(cells(page)) == 2
    hint = " ".join(text for _, text in page.all("p", class_="hint"))
    assert "box (3 seeds): 1, 2, 3" in hint
    assert "images and seeds are resampled together" in hint
    assert len(page.all("details", data_run="box-seed2")) == 1


def test_unreliable_numbers_are_marked_where_they_stand(tmp_path: Path) -> None:
    reason = "linf 8/255: 3 of 14 robust images fall to 500 queries without gradients: the gradients mislead"
    bad = write_run(
        tmp_path / "bad", verdicts(), unreliable=[reason], self_checks={}, warnings=[f"unreliable, {reason}"]
    )
    good = write_run(tmp_path / "good", verdicts(), config={"X": 1}, unreliable=[], self_checks={})
    page = page_of(tmp_path, bad, good)
    marked = {(has["data-model"], has["data-perturbation"]): "(!)" in text for has, text in cells(page)}
    assert marked == {
        ("bad", "clean"): False,
        ("bad", ATTACKS[0]): True,
        ("good", "clean"): False,
        ("good", ATTACKS[0]): False,
    }
    assert [text for _, text in page.all("li", id="note-1")] == [f"bad: unreliable, {reason}"]
    assert any(has.get("href") == "#note-1" for has, _ in page.all("a", class_="mark"))


def test_a_check_speaks_against_its_own_threat_model_alone(tmp_path: Path) -> None:
    small = "pgd-20 linf 4/255"
    reasons = ["linf 4/255: the gradients mislead"]
    specs = ({**PGD, "eps": "4/255"}, PGD)
    run = write_run(tmp_path / "a", verdicts(names=("clean", small, ATTACKS[0])), specs, unreliable=reasons)
    page = page_of(tmp_path, run)
    assert {has["data-perturbation"]: "(!)" in text for has, text in cells(page)} == {
        "clean": False,
        small: True,
        ATTACKS[0]: False,
    }


def test_other_warnings_stand_beside_the_model_and_a_missing_check_is_no_good_news(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", verdicts(), warnings=["a broken run"])
    page = page_of(tmp_path, run)
    assert "(!)" in page.all("th", scope="row")[0][1]
    assert [text for _, text in page.all("li", id="note-1")] == ["a: a broken run"]
    remarks = " ".join(text for _, text in page.all("ul", class_="remarks"))
    assert "Without self-checks" in remarks
    assert "Always answering the most frequent class is right on 50.0 %" in remarks


def test_one_name_for_two_settings_and_different_images_are_said(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", verdicts())
    b = write_run(tmp_path / "b", verdicts(20), ({**PGD, "step_size": 0.001},))
    remarks = " ".join(text for _, text in page_of(tmp_path, a, b).all("ul", class_="remarks"))
    assert "pgd-20 linf 8/255 was made with other settings for b than for a: step_size 0.001 and" in remarks
    assert (
        "different images and are not comparable with each other: pets_test (40 images), pets_test (20 images)"
        in remarks
    )


def test_attacks_of_other_kinds_do_not_share_a_worst_case(tmp_path: Path) -> None:
    """One attack is its own worst case; models attacked in other ways have a column each."""
    names = {"apgd-ce linf 8/255": {"name": "apgd", "eps": "8/255", "steps": 5}, ATTACKS[1]: SQUARE}
    runs = [write_run(tmp_path / "a", verdicts())]
    for place, (name, spec) in enumerate(names.items()):
        run = write_run(tmp_path / f"b{place}", verdicts(names=("clean", ATTACKS[0], name)), (PGD, spec))
        runs.append(run)
    page = page_of(tmp_path, *runs)
    worst = {has["data-perturbation"]: has["data-model"] for has, _ in cells(page, data_metric="robust_accuracy")}
    assert worst == {
        "worst case linf 8/255 (pgd-20, apgd-ce)": "b0",
        "worst case linf 8/255 (pgd-20, square)": "b1",
    }


def test_a_copied_results_file_has_its_numbers_and_no_interval(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", verdicts())
    (tmp_path / "copy.json").write_text((run / "results.json").read_text())
    page = page_of(tmp_path, tmp_path / "copy.json")
    has, _ = cells(page, data_perturbation="clean")[0]
    assert float(has["data-value"]) == document(run)["results"]["clean_accuracy"]
    assert "data-low" not in has
    remarks = " ".join(text for _, text in page.all("ul", class_="remarks"))
    assert "no interval: no records.jsonl beside the results" in remarks


# --- detectors ------------------------------------------------------------------------------------------------------


def detector(folder: Path) -> Path:
    names = ("clean", "detector-pgd-10-vanish linf 8/255", "detector-pgd-10-all linf 8/255")
    objects = [3, 1, 4, 1, 5]
    found = {names[0]: [3, 1, 2, 0, 4], names[1]: [0] * 5, names[2]: [1, 0, 0, 0, 2]}
    fooled = {name: [one == 0 for one in found[name]] for name in names}
    aps = {name: {"bbox": {"AP": 40.0 / (1 + i), "AP-wheel": 30.0, "AP-door": None}} for i, name in enumerate(names)}
    specs = [{"name": "detector-pgd", "eps": "8/255", "steps": 10, "goal": goal} for goal in ("vanish", "all")]
    return write_run(folder, fooled, specs, objects=objects, found=found, entries=aps, unreliable=[], self_checks={})


def test_detectors_have_ap_without_a_made_up_interval_and_recall_with_one(tmp_path: Path) -> None:
    run = detector(tmp_path / "rcnn")
    page = page_of(tmp_path, run)
    found = {(has["data-metric"], has["data-perturbation"]): has for has, _ in cells(page)}
    for name, entry in document(run)["results"]["by_perturbation"].items():
        assert float(found["bbox.AP", name]["data-value"]) == entry["bbox"]["AP"]
        # sorted by what is shown: AP is in percent in the file, the share of objects is not
        assert float(found["bbox.AP", name]["data-sort"]) == entry["bbox"]["AP"]
        assert float(found["object_recall", name]["data-sort"]) == pytest.approx(100 * entry["object_recall"])
        assert float(found["object_recall", name]["data-value"]) == entry["object_recall"]
        assert "data-low" not in found["bbox.AP", name]
    assert {"data-low", "data-high"} <= found["object_recall", "clean"].keys()
    assert "data-low" not in found["object_recall", "detector-pgd-10-vanish linf 8/255"]  # 0 of 14: nothing to resample
    remarks = " ".join(text for _, text in page.all("ul", class_="remarks"))
    assert "box AP: no interval: records/ does not hold the labels that AP compares the boxes found with" in remarks
    assert "worst case" not in " ".join(text for _, text in page.all("th"))
    assert "classes" not in page.ids
    parts = [text for _, text in page.all("table", class_="heat")]
    assert any("wheel" in text and "30.0" in text for text in parts)
    assert not any("door" in text for text in parts)  # no label of it: COCO defines no AP
    assert any("only classifiers" in text for _, text in page.all("li"))


def test_detectors_and_classifiers_side_by_side(tmp_path: Path) -> None:
    page = page_of(tmp_path, detector(tmp_path / "rcnn"), write_run(tmp_path / "a", verdicts()))
    assert {(has["data-model"], has["data-metric"]) for has, _ in cells(page)} == {
        ("rcnn", "bbox.AP"),
        ("rcnn", "object_recall"),
        ("a", "accuracy"),
    }


# --- corruptions, classes, parts ------------------------------------------------------------------------------------


def test_corruptions_have_their_table_and_their_means(tmp_path: Path) -> None:
    from partbox.corruptions import BENCHMARK

    names = [f"{kind} {severity}" for kind in BENCHMARK for severity in range(1, 6)]
    run = write_run(tmp_path / "a", verdicts(names=("clean", *names)), [{"name": "corruptions"}])
    page, results = page_of(tmp_path, run), document(run)["results"]
    facts = {has["data-fact"]: float(has["data-value"]) for has, _ in page.all("dd") if "data-fact" in has}
    assert facts["mPC"] == results["corruptions"]["mean_accuracy"]
    assert facts["rPC"] == results["corruptions"]["relative_accuracy"]
    assert facts["mCE (AlexNet on ImageNet-C = 100 %)"] == results["corruptions"]["mean_corruption_error"]
    table = page.all("table", class_="heat")[0][1]
    for kind, by_severity in results["corruptions"]["accuracy"].items():
        row = table.split(kind.replace("_", " "))[1]
        shown = re.findall(r"(\d+\.\d)\d+\.\d . \d+\.\d", row)[:5]  # each number with its interval
        assert shown == [f"{100 * value:.1f}" for value in by_severity.values()], kind
    has, _ = cells(page, data_perturbation="mean over corruptions")[0]
    assert float(has["data-value"]) == results["corruptions"]["mean_accuracy"]
    assert float(has["data-low"]) < float(has["data-value"]) < float(has["data-high"])
    assert "fog 3" not in {has["data-perturbation"] for has, _ in cells(page)}  # 75 columns would hide the others


def test_classes_have_their_own_accuracy_and_interval(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", verdicts(), class_names=("cat", "dog", "ant"))
    page, results = page_of(tmp_path, run), document(run)["results"]
    table = next(text for _, text in page.all("table", class_="heat") if "by class" in text)
    records = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    for label, name in enumerate(("cat", "dog", "ant")):
        right = [not one["fooled"] for one in records if one["perturbation"] == "clean" and one["label"] == label]
        interval = ratio_interval(np.array([right], dtype=float), np.ones((1, len(right))), Resampling(0, 200))
        value = results["by_perturbation"]["clean"]["accuracy_by_class"][str(label)]
        ends = f"{100 * interval.low:.1f} . {100 * interval.high:.1f}"
        assert re.search(rf"{name}{len(right)}{100 * value:.1f}{ends}", table)


def test_part_iou_has_an_interval_from_the_pixels_of_each_image(tmp_path: Path) -> None:
    def image(good: int) -> list[list[int]]:
        return [[0, 0, 50], [1, 1, good], [1, 0, 20 - good], [2, 2, 5], [2, 1, 3]]

    pixels = {name: [image(int(i)) for i in RANDOM.integers(0, 20, 30)] for name in ("clean", ATTACKS[0])}
    run = write_run(tmp_path / "a", verdicts(30), confusions=pixels)
    page, results = page_of(tmp_path, run), document(run)["results"]
    has, _ = cells(page, data_metric="part_segmentation.mIoU", data_perturbation="clean")[0]
    assert float(has["data-value"]) == results["by_perturbation"]["clean"]["part_segmentation"]["mIoU"]
    assert float(has["data-low"]) < float(has["data-value"]) < float(has["data-high"])
    table = next(text for _, text in page.all("table", class_="heat") if "part IoU % by part" in text)
    iou = results["by_perturbation"]["clean"]["part_segmentation"]["IoU"]["cat:tail"]
    shown = f"{100 * iou:.1f}"  # the same in every image: an interval without width would be no certainty
    assert re.search(rf"cat:tail\s*{shown}\s*{shown}\s*$", table)
    # pixels of another evaluation give no interval
    batches = run / "records" / "process-0-of-1.jsonl"
    batches.write_text(batches.read_text().replace("[2, 2, 5]", "[2, 2, 50]"))
    has, _ = cells(page_of(tmp_path, run), data_metric="part_segmentation.mIoU", data_perturbation="clean")[0]
    assert "data-low" not in has


# --- the file as a whole --------------------------------------------------------------------------------------------

EVIL = '<script>alert("x")</script>'
QUOTES = "\" onerror=alert(1) x='$\\frac{1}$ </style></script><!--"


def full_run(folder: Path, **changes: object) -> Path:
    run = write_run(folder, verdicts(), **changes)
    write_examples(run, ["clean", ATTACKS[0]], 6, labels=(EVIL, QUOTES))
    return run


def test_names_with_html_in_them_are_text(tmp_path: Path) -> None:
    run = full_run(tmp_path / r"a<img src=x onerror=alert(1)> $\frac{1$", class_names=(EVIL, QUOTES))
    index = run / "examples" / "index.json"
    for file in (index, run / "records.jsonl"):
        file.write_text(file.read_text().replace("image 0", "<b>image</b>").replace("cat:ear", "<i>ear"))
    text = write_report([run], tmp_path / "r.html", resamples=100).read_text()
    page = Page(text)
    assert [tag for tag, _, _ in page.elements if tag in ("script", "style", "b", "i")] == ["style", "script"]
    assert {has["class"] for has, _ in page.all("img")} == {
        "plot", "clean", "adversarial", "difference", "parts-clean", "parts-adversarial",
    }  # fmt: skip
    assert not [key for _, has, _ in page.elements for key in has if key.startswith("on")]
    options = {text for _, text in page.all("option")}
    assert {EVIL, QUOTES} <= options
    assert {has["data-class"] for has, _ in page.all("article")} == {EVIL, QUOTES}
    assert "<b>image</b>" in {has["data-image-id"] for has, _ in page.all("article")}


def test_nothing_is_fetched_from_anywhere_and_only_the_own_script_runs(tmp_path: Path) -> None:
    text = write_report([full_run(tmp_path / "a")], tmp_path / "r.html", resamples=100).read_text()
    page = Page(text)
    for tag, has, _ in page.elements:
        for key in ("src", "href", "srcset", "action", "poster", "data", "background"):
            assert has.get(key, "#").startswith(("#", "data:")), (tag, has[key][:80])
    style, script = page.all("style")[0][1], page.all("script")[0][1]
    assert "url(" not in style
    assert "@import" not in style
    assert not re.search(r"fetch|XMLHttp|import\s*\(|https?:|WebSocket|eval|innerHTML|insertAdjacent", script)
    policy = next(has["content"] for tag, has, _ in page.elements if "http-equiv" in has)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:;")
    pictures = [base64.b64decode(has["src"].split(",")[1]) for has, _ in page.all("img", class_="plot")]
    assert pictures
    assert not any(b"<script" in one or b'href="http' in one for one in pictures)


def test_everybody_can_read_it(tmp_path: Path) -> None:
    page = page_of(tmp_path, full_run(tmp_path / "a"), full_run(tmp_path / "b", config={"X": 1}))
    assert all(len(has["alt"]) > 20 for has, _ in page.all("img"))
    assert len(set(page.ids)) == len(page.ids)
    selects = [has["id"] for has, _ in page.all("select")]
    assert len(selects) == 5
    assert all("label" in page.inside[one] for one in selects)
    assert {"filter-class", "filter-verdict", "filter-perturbation", "sort-gallery", "gallery-count"} <= set(page.ids)
    headings = [has for has, _ in page.all("th", scope="col") if "aria-sort" in has]
    buttons = page.all("button", type="button")
    assert len(buttons) == len(headings) + 3  # and those of the gallery: reset, more, all
    assert all(has["tabindex"] == "0" for has, _ in page.all("div", class_="scroll"))
    assert page.all("meta", name="viewport")
    assert [has["lang"] for has, _ in page.all("html")] == ["en"]
    words = [has["alt"] for has, _ in page.all("img", class_="plot")]
    assert any("a, pgd-20" in one and "at eps 8 / 255" in one for one in words)


def test_sections_without_data_are_not_there_and_said(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", {"clean": verdicts()["clean"]}, ())
    page = page_of(tmp_path, run)
    wanted = {"headline-section", "classes", "provenance", "missing"}
    every = {"eps", "corruptions", "parts", "scatter", "label-cost", "gallery-section"} | wanted
    assert every & set(page.ids) == wanted
    lines = [text for _, text in page.all("li")]
    for word in (
        "Curves against eps",
        "Clean against robust",
        "Corruptions",
        "Parts",
        "Label cost",
        "No example images",
    ):
        assert sum(word in line for line in lines) == 1, word
    anchors = {has["href"][1:] for has, _ in page.all("a") if has.get("href", "").startswith("#")}
    assert anchors <= set(page.ids)


def test_provenance(tmp_path: Path) -> None:
    checks = {"linf 8/255": [{"name": "noise", "passed": False, "reason": "it fell"}]}
    run = write_run(tmp_path / "a", verdicts(), self_checks=checks, unreliable=[])
    page = page_of(tmp_path, run)
    text = " ".join(page.all("section", id="provenance")[0][1].split())
    assert "tools/train_net.py --config-file 'a config.yaml'" in text
    assert "2026-01-02T03:04:05+00:00" in text
    assert "SEED 1 -1" in re.sub(r"(SEED)(\d)(-\d)", r"\1 \2 \3", text)
    assert "training 1, evaluation 0" in text
    assert "torch 2.14.1" in text
    assert "step_size" in text
    assert re.search(r"\beps 8/255,", text)  # not 0.0313725..., as the file has it
    assert "failed: it fell" in text
    assert "a machine of the tests" in text
    assert "host=h" in text
    old = document(run)
    del old["config_changes"]
    (run / "results.json").write_text(json.dumps(old))
    assert "an earlier version wrote" in page_of(tmp_path, run).all("section", id="provenance")[0][1]


def test_the_size_is_kept_by_showing_fewer_examples(tmp_path: Path) -> None:
    runs = []
    for name in ("a", "b"):
        run = write_run(tmp_path / name, verdicts(), config={"NAME": name})
        write_examples(run, ["clean", ATTACKS[0]], 6, side=160, noise=True)
        runs.append(run)
    everything = write_report(runs, tmp_path / "r.html", resamples=100)
    assert len(Page(everything.read_text()).all("article")) == 12
    limit = everything.stat().st_size // 2
    fewer = write_report(runs, tmp_path / "s.html", resamples=100, most_bytes=limit)
    assert fewer.stat().st_size <= limit
    page = Page(fewer.read_text())
    shown = [has["data-model"] for has, _ in page.all("article")]
    assert 4 <= len(shown) < 12
    assert abs(shown.count("a") - shown.count("b")) <= 2  # no run crowds out the other
    assert (
        f"{len(shown)} of 12 examples are in this file: all of them would make it too large or too long"
        in fewer.read_text()
    )
    with pytest.raises(ReportError, match=r"2 runs has .* without any picture of the gallery, more than 0.1 MB"):
        write_report(runs, tmp_path / "t.html", resamples=100, most_bytes=100_000)
    assert not (tmp_path / "t.html").exists()


def test_a_gallery_is_no_longer_than_can_be_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("partbox.report.gallery.MOST_CARDS", 9)
    runs, names = [], ("clean", "noise linf 8/255", ATTACKS[0])
    for name, images in (("few", 1), ("many", 6), ("more", 6)):
        runs.append(write_run(tmp_path / name, verdicts(names=names), ({"name": "noise", "eps": "8/255"}, PGD)))
        write_examples(runs[-1], names, images)
    page = page_of(tmp_path, *runs)
    shown = [(has["data-model"], has["data-perturbation"]) for has, _ in page.all("article")]
    # what the first does not need is shared by the others, and attacks come before noise
    assert shown.count(("few", ATTACKS[0])) == shown.count(("few", names[1])) == 1
    assert shown.count(("many", ATTACKS[0])) == 4
    assert shown.count(("more", ATTACKS[0])) == 3
    assert len(shown) == 9
    assert "9 of 26 examples are in this file" in " ".join(text for _, text in page.all("p", class_="hint"))


def test_the_same_files_give_the_same_page(tmp_path: Path) -> None:
    run = full_run(tmp_path / "a")
    first = write_report([run], tmp_path / "r.html", resamples=100).read_text()
    assert write_report([run], tmp_path / "r.html", resamples=100).read_text() == first
    assert write_report([run], tmp_path / "r.html", resamples=100, seed=1).read_text() != first


def test_label_cost_has_the_numbers_of_the_sweep(tmp_path: Path) -> None:
    sweep = tmp_path / "budget"
    entries = []
    for share, seed in ((0.0, 1), (0.5, 1), (0.5, 2)):
        name = f"masks0_boxes{share:g}-seed{seed}"
        run = write_run(sweep / name, verdicts(), seed=seed, config={"BUDGET": share})
        results = document(run)["results"]
        entries.append(
            {
                "run": name, "seed": seed, "mask_share": 0.0, "box_share": share, "images_with_masks": 0,
                "images_with_boxes": int(100 * share), "labelled_parts": int(500 * share), "hours": 5 * share,
                "clean_accuracy": results["clean_accuracy"], "robust_accuracy": results["robust_accuracy"],
                "unreliable": [],
            }
        )  # fmt: skip
    summary = {
        "dataset": "pets_train", "training_images": 100, "seconds_per_box": 36.0, "seconds_per_mask": 80.0,
        "missing": ["masks0_boxes1-seed1"], "runs": entries,
    }  # fmt: skip
    (sweep / "label_budget.json").write_text(json.dumps(summary))
    page = page_of(tmp_path, sweep)
    section = page.all("section", id="label-cost")[0][1]
    mean = 50 * (entries[1]["clean_accuracy"] + entries[2]["clean_accuracy"])
    assert f"{mean:.1f} ± " in section
    assert any(f"2.5 hours: {mean:.1f}" in has["alt"] for has, _ in page.all("img", class_="plot"))
    assert {has["data-model"] for has, _ in cells(page)} == {"masks0_boxes0-seed1", "masks0_boxes0.5 (2 seeds)"}
    assert any("masks0_boxes1-seed1 is not finished" in text for _, text in page.all("li"))


def test_the_intervals_say_how_far_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(logging.getLogger("partbox"), "handlers", [])
    runs = [write_run(tmp_path / name, verdicts(), config={"X": name}) for name in "ab"]
    page_of(tmp_path, *runs)
    said = capsys.readouterr().err
    assert re.search(r"computing intervals: 1 of 4 perturbations, about \d.* left", said)
    assert "computing intervals: 4 of 4 perturbations after" in said
