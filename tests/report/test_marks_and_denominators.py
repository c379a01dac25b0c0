"""What speaks against a number stands wherever the number does, and each number says what it is one of."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_runs import PGD, SQUARE, Page, write_run

from partbox.report import write_report
from partbox.report.intervals import Resampling, interval_of, iou_resamples, ratio_interval
from partbox.report.measures import MEASURES, Measured
from partbox.report.models import group_by_seed
from partbox.report.result_files import read_results

ATTACK = "pgd-20 linf 8/255"
SMALL, SMALL_NAME = {**PGD, "eps": "4/255"}, "pgd-20 linf 4/255"


def verdicts(count: int = 40, names: tuple[str, ...] = ("clean", ATTACK), seed: int = 0) -> dict[str, list[bool]]:
    draw = np.random.default_rng(seed)
    return {name: [bool(one) for one in draw.random(count) < 0.3] for name in names}


def page_of(tmp_path: Path, *folders: Path, **options: Any) -> Page:
    path = write_report(folders, tmp_path / "report.html", **{"resamples": 200, **options})
    return Page(path.read_text(encoding="utf-8"))


def document(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return values


def cells(page: Page, **attributes: str) -> dict[str, tuple[dict[str, str], str]]:
    found = page.all("td", **attributes)
    return {has["data-perturbation"]: (has, text) for has, text in found if "data-perturbation" in has}


def section(page: Page, name: str) -> str:
    return " ".join(page.all("section", id=name)[0][1].split())


# --- unreliable -----------------------------------------------------------------------------------------------------


def test_an_unreliable_number_is_marked_in_curves_scatter_and_tables(tmp_path: Path) -> None:
    reasons = ["linf 8/255: the gradients mislead"]
    names = ("clean", SMALL_NAME, ATTACK)
    bad = write_run(tmp_path / "bad", verdicts(names=names), (SMALL, PGD), unreliable=reasons, self_checks={})
    good = write_run(
        tmp_path / "good", verdicts(names=names, seed=1), (SMALL, PGD), config={"X": 1}, unreliable=[], self_checks={}
    )
    page = page_of(tmp_path, bad, good)
    words = [has["alt"] for has, _ in page.all("img", class_="plot")]
    curves = next(one for one in words if "against eps" in one)
    bad_curve, good_curve = re.search(r"bad, pgd-20: (.*?); good, pgd-20: (.*)", curves).groups()
    assert re.fullmatch(
        r"[\d.]+ at eps 0 / 255, [\d.]+ at eps 4 / 255, [\d.]+ at eps 8 / 255 \(unreliable\)", bad_curve
    )
    assert "unreliable" not in good_curve
    scatters = {re.search(r"under (linf \S+)\.", one).group(1): one for one in words if "clean against" in one}
    assert "unreliable" not in scatters["linf 4/255"]
    assert re.search(r"bad: clean [\d.]+, under attack [\d.]+ \(unreliable\); good: [^(]*$", scatters["linf 8/255"])
    captions = [text for _, text in page.all("figcaption") if "Hollow: unreliable" in text]
    assert len(captions) == 2
    marked = [text for _, text in page.all("th", scope="col") if "(!)" in text]
    assert marked == [f"{ATTACK} (!)"]
    assert section(page, "classes").count("(!): unreliable, see the warnings") == 1


def test_hollow_points_are_drawn_hollow(tmp_path: Path) -> None:
    """Two reports that differ only in the verdict on the attack have other pictures."""
    runs = [write_run(tmp_path / name / "a", verdicts(), unreliable=bad) for name, bad in (("1", []), ("2", ["bad"]))]
    pictures = []
    for run in runs:
        page = page_of(tmp_path, run)
        pictures.append(next(has["src"] for has, _ in page.all("img", class_="plot") if "against eps" in has["alt"]))
    assert pictures[0] != pictures[1]


def test_an_unreliable_warning_that_names_no_attack_is_not_lost(tmp_path: Path) -> None:
    """Of results without any attack there is no number to mark but the model's."""
    run = write_run(
        tmp_path / "a", {"clean": verdicts()["clean"]}, (), unreliable=["odd"], warnings=["unreliable, odd"]
    )
    page = page_of(tmp_path, run)
    assert [text for _, text in page.all("li", id="note-1")] == ["a: unreliable, odd"]


# --- denominators ---------------------------------------------------------------------------------------------------


def test_part_numbers_say_how_many_images_have_part_labels(tmp_path: Path) -> None:
    def image(good: int) -> list[list[int]]:
        return [[0, 0, 50], [1, 1, good], [1, 0, 20 - good], [2, 2, 5]]

    draw = np.random.default_rng(0)
    pixels = {
        name: [image(int(i)) if place < 30 else None for place, i in enumerate(draw.integers(0, 20, 40))]
        for name in ("clean", ATTACK)
    }
    page = page_of(tmp_path, write_run(tmp_path / "a", verdicts(), confusions=pixels))
    rows = [text for _, text in page.all("tr") if "mIoU" in text or "accuracy %" in text]
    shown = {re.search(r"accuracy|part mIoU", row).group(): row for row in rows if "pets_test" in row}
    assert "30 of 40pets_test" in shown["part mIoU"]
    assert "40pets_test" in shown["accuracy"]
    assert " of 40" not in shown["accuracy"]
    remarks = " ".join(text for _, text in page.all("ul", class_="remarks"))
    assert "different images" not in remarks


def test_false_objects_are_a_number_an_image_with_an_interval(tmp_path: Path) -> None:
    name = "detector-pgd-10-fabricate linf 8/255"
    found = {"clean": [2, 1, 2, 0, 3], name: [2, 1, 2, 0, 3]}
    false = {"clean": [0, 0, 0, 0, 0], name: [9, 4, 7, 12, 3]}
    run = write_run(
        tmp_path / "rcnn",
        {one: [False] * 5 for one in found},
        [{"name": "detector-pgd", "eps": "8/255", "steps": 10, "goal": "fabricate"}],
        objects=[3, 1, 2, 1, 3],
        found=found,
        false=false,
    )
    page = page_of(tmp_path, run)
    shown = cells(page, data_metric="false_objects_per_image")
    assert shown[name][1].startswith("7.0")
    interval = ratio_interval(np.array([false[name]], float), np.ones((1, 5)), Resampling(0, 200), counts=True)
    assert (float(shown[name][0]["data-low"]), float(shown[name][0]["data-high"])) == (interval.low, interval.high)
    assert "data-low" not in shown["clean"][0], "none in any image is no share of images"
    assert "false objects: a number an image" in page.all("caption")[0][1]
    # the interval and the verdicts are of the same records
    text = (run / "records.jsonl").read_text()
    (run / "records.jsonl").write_text(text.replace('"false_objects": 12', '"false_objects": 2'))
    with pytest.raises(ValueError, match="does not give the numbers"):
        page_of(tmp_path, run)


def test_a_single_image_has_no_interval_where_nothing_can_be_said(tmp_path: Path) -> None:
    pixels = {name: [[[0, 0, 50], [1, 1, 7], [1, 0, 3]]] for name in ("clean", ATTACK)}
    run = write_run(tmp_path / "a", {"clean": [False], ATTACK: [True]}, confusions=pixels)
    page = page_of(tmp_path, run)
    accuracy, parts = cells(page, data_metric="accuracy"), cells(page, data_metric="part_segmentation.mIoU")
    assert (float(accuracy["clean"][0]["data-low"]), float(accuracy["clean"][0]["data-high"])) == (
        pytest.approx(0.025),
        1.0,
    )
    assert parts["clean"][1].strip() == "70.0"
    assert "data-low" not in parts["clean"][0]
    assert "part mIoU %: no interval: it is the same in every resample" in section(page, "headline-section")
    assert "nan" not in section(page, "parts")


def test_a_mean_over_corruptions_of_miou_has_the_interval_of_its_images(tmp_path: Path) -> None:
    from partbox.corruptions import BENCHMARK

    draw = np.random.default_rng(0)
    names = ["clean", *(f"{kind} {severity}" for kind in BENCHMARK for severity in range(1, 6))]
    good = {name: draw.integers(0, 20, 12).tolist() for name in names}
    pixels = {name: [[[0, 0, 50], [1, 1, one], [1, 0, 20 - one]] for one in its] for name, its in good.items()}
    run = write_run(tmp_path / "a", verdicts(12, tuple(names)), [{"name": "corruptions"}], confusions=pixels)
    measured = Measured(group_by_seed(read_results([run]).runs), Resampling(0, 300))
    measure = next(one for one in MEASURES if one.key == "part_segmentation.mIoU")
    value = measured.mean_under_corruptions(measured.models[0], measure)
    assert value.number == document(run)["results"]["performance_under_corruptions"]["part_segmentation mIoU"]["mPC"]
    means, order = [], sorted(range(12), key=lambda place: f"image {place}")
    for name in names[1:]:
        of_images = [good[name][place] for place in order]
        overlap = np.array([[[50, one] for one in of_images]], float)
        union = np.array([[[70 - one, 20] for one in of_images]], float)
        labelled = np.array([[[50, 20] for _ in of_images]], float)
        means.append(iou_resamples(overlap, union, labelled, Resampling(0, 300), without_first=True)[0])
    expected = interval_of(np.mean(means, axis=0), Resampling(0, 300))
    assert (value.interval.low, value.interval.high) == pytest.approx((expected.low, expected.high))
    assert value.interval.low < value.number < value.interval.high


def test_a_few_corruptions_have_no_means_and_the_page_says_why(tmp_path: Path) -> None:
    spec = {"name": "corruption", "kind": "fog", "severity": 3}
    page = page_of(tmp_path, write_run(tmp_path / "a", verdicts(names=("clean", "fog 3")), (spec,)))
    assert "mCE, mPC and rPC are means over the 15 benchmark kinds" in section(page, "corruptions")
    assert "1 corruption was evaluated" in section(page, "corruptions")
    assert "mean over corruptions" not in section(page, "headline-section")


def test_noise_alone_has_its_curve(tmp_path: Path) -> None:
    spec = {"name": "noise", "eps": "8/255"}
    page = page_of(tmp_path, write_run(tmp_path / "a", verdicts(names=("clean", "noise linf 8/255")), (spec,)))
    assert [has["alt"].split(". ")[1][:8] for has, _ in page.all("img", class_="plot")] == ["a, noise"]


# --- AP -------------------------------------------------------------------------------------------------------------


def detector(folder: Path, ap: float, ap50: float, labels: bool = True, image_ids: Any = None) -> Path:
    """Ten images with an object each; it is found in the first six, sure, and a false one in the last four, less so."""
    import torch
    from detectron2.structures import Boxes, Instances

    from partbox.evaluation.outputs import encode_output

    kept = []
    for number in range(10):
        found = Instances((50, 50))
        box = [10.0, 10.0, 30.0, 30.0] if number < 6 else [30.0, 30.0, 45.0, 45.0]
        found.pred_boxes = Boxes(torch.tensor([box]))
        found.scores, found.pred_classes = torch.tensor([0.9 - 0.01 * number]), torch.tensor([0])
        one: dict[str, Any] = {"image_id": number, "output": encode_output({"instances": found})}
        kept.append(
            {**one, "labels": [{"category": 0, "bbox": [10.0, 10.0, 20.0, 20.0], "crowd": False}]} if labels else one
        )
    entries = {"clean": {"bbox": {"AP": ap, "AP50": ap50, "AP-wheel": ap, "AP-door": None}}}
    return write_run(
        folder,
        {"clean": [number >= 6 for number in range(10)]},
        (),
        objects=[1] * 10,
        found={"clean": [1] * 6 + [0] * 4},
        entries=entries,
        measured={"COCOEvaluator": {"clean": kept}},
        image_ids=image_ids or list(range(10)),
    )


def coco_share(found: Any) -> Any:
    """COCO's AP of a share of objects found with no false one above them: the recalls 0, 0.01, ... up to it."""
    return 100 * np.searchsorted(np.linspace(0, 1, 101), found, side="right") / 101


def test_ap_has_the_interval_of_its_images_where_the_records_hold_labels(tmp_path: Path) -> None:
    run = detector(tmp_path / "rcnn", coco_share(0.6), coco_share(0.6))
    page = page_of(tmp_path, run, resamples=2000)
    drawn = np.random.default_rng(0).multinomial(10, [0.1] * 10, size=2000)[:, :6].sum(axis=1)
    low, high = np.quantile(coco_share(drawn / 10), [0.025, 0.975])
    for metric in ("bbox.AP", "bbox.AP50"):
        has, text = cells(page, data_metric=metric)["clean"]
        assert text.startswith("60.4")
        assert (float(has["data-low"]), float(has["data-high"])) == pytest.approx((low, high), abs=0.01)
    assert "no interval" not in section(page, "headline-section")
    table = section(page, "parts")
    assert re.search(rf"wheel ?60\.4{low:.1f} . {high:.1f}", table)
    assert "door" not in table


@pytest.mark.parametrize(("ap", "labels"), [(59.0, True), (coco_share(0.6), False)])
def test_ap_has_none_where_the_records_give_another_one_or_no_labels(tmp_path: Path, ap: float, labels: bool) -> None:
    page = page_of(tmp_path, detector(tmp_path / "rcnn", ap, coco_share(0.6), labels))
    assert "data-low" not in cells(page, data_metric="bbox.AP")["clean"][0]
    words = section(page, "headline-section")
    assert "box AP, box AP50: no interval: records/ does not hold the labels that AP compares" in words


def test_seeds_of_a_detector_are_resampled_with_their_images(tmp_path: Path) -> None:
    runs = []
    for seed in (1, 2):
        run = detector(tmp_path / f"rcnn-seed{seed}", coco_share(0.6), coco_share(0.6))
        values = document(run)
        values["seeds"]["training"] = seed
        values["config"] = f"SEED: {seed}\n"
        (run / "results.json").write_text(json.dumps(values))
        runs.append(run)
    measured = Measured(group_by_seed(read_results(runs).runs), Resampling(0, 500))
    value = measured.value(measured.models[0], "clean", MEASURES[1])
    assert len(value.by_run) == 2
    assert value.interval.over == "images and seeds"
    assert value.interval.low < value.number < value.interval.high


def test_square_has_its_own_worst_case_mark(tmp_path: Path) -> None:
    """The worst case of a threat model is as unreliable as its attacks."""
    names = ("clean", ATTACK, "square linf 8/255")
    run = write_run(tmp_path / "a", verdicts(names=names), (PGD, SQUARE), unreliable=["linf 8/255: no"])
    page = page_of(tmp_path, run)
    worst = next(text for has, text in page.all("td", data_metric="robust_accuracy"))
    assert "(!)" in worst
    curves = next(has["alt"] for has, _ in page.all("img", class_="plot") if "against eps" in has["alt"])
    assert re.search(r"a, worst case: .* at eps 8 / 255 \(unreliable\)", curves)
