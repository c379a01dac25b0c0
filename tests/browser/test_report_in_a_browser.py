"""The report of a real run in a real browser: what it shows is what was measured, and it can be worked with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page
from report_runs import write_examples, write_run
from small_models import MODELS, SMALL
from tool_runs import run_here
from watched_page import PHONE, Watched

from partbox.evaluation.perturbations import build_perturbations
from partbox.report import write_report

REPOSITORY = Path(__file__).resolve().parents[2]
ATTACKS = [
    {"name": "clean"},
    {"name": "pgd", "eps": 0.002, "steps": 2},
    {"name": "pgd", "eps": "32/255", "steps": 2},
    {"name": "corruption", "kind": "fog", "severity": 3},
]
SHORT = [
    *SMALL,
    *["SOLVER.MAX_ITER", "80", "TEST.EVAL_PERIOD", "0", "DATASETS.VALIDATION", "()", "SOLVER.BASE_LR", "0.003"],
    *["ADVERSARY.OBJECTIVE", "clean", "ROBUST_EVAL.PERTURBATIONS", json.dumps(ATTACKS)],
]
TALLEST = 12_000  # pixels of a screenshot
EVIL = '<img src=x onerror="alert(1)"></script><b>cat</b>'


@pytest.fixture(scope="session")
def runs(example_root, tmp_path_factory) -> list[Path]:
    """Two finished runs of ``tools/train_net.py``: a plain classifier and a part model."""
    found = []
    for name in ("normal", "part_box"):
        found.append(tmp_path_factory.mktemp("runs") / name)
        run_here(example_root, "train_net", *MODELS[name], *SHORT, "OUTPUT_DIR", found[-1])
    return found


@pytest.fixture(scope="session")
def report(example_root, runs, tmp_path_factory) -> Path:
    """Their report, made by the tool."""
    output = tmp_path_factory.mktemp("report") / "report of two models.html"
    run_here(example_root, "make_report", *runs, "--output", output)
    return output


def test_the_numbers_of_the_table_are_those_of_the_results(watched: Watched, report, runs):
    page = watched.open(report)
    cells = page.locator("table#headline td[data-perturbation]").evaluate_all(
        "cells => cells.map(c => [c.dataset.model, c.dataset.metric, c.dataset.perturbation, c.dataset.value,"
        " c.querySelector('.value').textContent])"
    )
    cells += page.locator("#corruptions tbody td[data-value]").evaluate_all(
        "cells => cells.map(c => [c.closest('details').querySelector('summary').textContent, 'accuracy',"
        " c.closest('tr').querySelector('th').textContent + ' 3', c.dataset.value,"
        " c.querySelector('.value').textContent])"
    )
    shown = {(model, metric, name): (value, text) for model, metric, name, value, text in cells}
    for folder in runs:
        entries = json.loads((folder / "results.json").read_text())["results"]["by_perturbation"]
        assert len(entries) == 4
        for name, entry in entries.items():
            value, text = shown.pop((folder.name, "accuracy", name))
            assert float(value) == entry["accuracy"], name
            assert float(text) == pytest.approx(100 * entry["accuracy"], abs=0.051), name
        assert len({entry["accuracy"] for entry in entries.values()}) > 2, "numbers that can be told apart"
    others = {key: value for key, value in shown.items() if key[1] != "accuracy"}
    assert {metric for _, metric, _ in others} >= {"part_segmentation.mIoU", "part_box.AP"}
    entries = json.loads((runs[1] / "results.json").read_text())["results"]["by_perturbation"]
    for (model, metric, name), (value, _) in others.items():
        evaluator, number = metric.split(".")
        assert model == runs[1].name
        assert float(value) == entries[name][evaluator][number], (metric, name)


def test_every_picture_loads_and_has_a_text(watched: Watched, report):
    page = watched.open(report)
    pictures = page.locator("img").evaluate_all(
        "all => all.map(i => [i.complete && i.naturalWidth > 0, i.alt.trim(), i.className])"
    )
    assert len(pictures) > 20
    assert [one for one in pictures if not one[0] or not one[1]] == []
    assert {"clean", "adversarial", "difference", "parts-clean", "parts-adversarial", "plot"} <= {
        kind for _, _, kind in pictures
    }


def keep_a_picture_of_what_fits(page: Page, path: Path) -> None:
    """Nothing may stick out of the screen but what scrolls in its own frame."""
    width = page.viewport_size["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page itself never scrolls sideways"
    wide = page.evaluate(
        """width => [...document.querySelectorAll('main *')].filter(one => {
            if (one.closest('.scroll') || one.closest('pre') || !one.getClientRects().length) return false;
            const box = one.getBoundingClientRect();
            return box.right > width + 1 || box.left < -1;
        }).map(one => one.tagName + '.' + one.className)""",
        width,
    )
    assert wide == [], "nothing sticks out but what scrolls in its own frame"
    size = page.evaluate("parseFloat(getComputedStyle(document.querySelector('main p')).fontSize)")
    assert size >= 12, "readable"
    height = min(page.evaluate("document.documentElement.scrollHeight"), TALLEST)
    page.screenshot(path=path, full_page=True, clip={"x": 0, "y": 0, "width": width, "height": height})
    assert path.stat().st_size > 20_000


def test_the_page_fits_the_screen_and_a_picture_of_it_is_kept(watched: Watched, report, screenshots):
    page = watched.open(report)
    screen = "phone" if page.viewport_size == PHONE else "desktop"
    keep_a_picture_of_what_fits(page, screenshots / f"report_{screen}.png")
    page.locator("#gallery .example").first.screenshot(path=screenshots / f"example_{screen}.png")
    height = page.evaluate("document.getElementById('gallery-section').getBoundingClientRect().height")
    assert height < 15_000, "a gallery that can be scrolled through on a phone"


@pytest.fixture(scope="session")
def crowded(tmp_path_factory) -> Path:
    """The report of ten models under 79 perturbations, with long names, among them one of unreliable numbers."""
    root, draw = tmp_path_factory.mktemp("crowd"), np.random.default_rng(0)
    specs = [{"name": "corruptions"}, *({"name": "pgd", "eps": f"{eps}/255", "steps": 20} for eps in (2, 4, 8))]
    names = [one.name for one in build_perturbations(specs)]
    runs = []
    for number in range(10):
        fooled = {name: [bool(one) for one in draw.random(20) < 0.3] for name in names}
        name = "a_run_whose_name_has_no_place_to_break_it_and_goes_on_and_on_" * 2 * (number == 0) + f"model {number}"
        classes = [f"class_{'of_a_very_long_name_' * 3 * (i == 0)}{i}" for i in range(40)]
        bad = ["linf 8/255: 3 of 14 robust images fall to 500 queries"] * (number == 1)
        runs.append(
            write_run(
                root / name, fooled, specs, class_names=classes, config={"X": number}, unreliable=bad, self_checks={}
            )
        )
        if number < 2:
            write_examples(runs[-1], names, 2, labels=classes)
    return write_report(runs, root / "report.html", resamples=200)


def test_a_crowded_page_fits_the_screen(watched: Watched, crowded, screenshots):
    page = watched.open(crowded)
    screen = "phone" if page.viewport_size == PHONE else "desktop"
    keep_a_picture_of_what_fits(page, screenshots / f"crowded_{screen}.png")


def shown(page: Page) -> list[dict[str, str]]:
    """The data of the gallery's visible examples, in order."""
    data: list[dict[str, str]] = page.locator("#gallery .example").evaluate_all(
        "all => all.filter(one => one.getClientRects().length).map(one => ({...one.dataset}))"
    )
    return data


def at_a_time(page: Page) -> int:
    """How many examples are shown before more are asked for."""
    return 12 if page.viewport_size == PHONE else 24


def fitting(page: Page) -> list[dict[str, str]]:
    """The data of all examples that fit, in order."""
    if page.locator("#rest-gallery").is_visible():
        page.click("#rest-gallery")
    return shown(page)


def options(page: Page, name: str) -> list[str]:
    values: list[str] = page.locator(f"{name} option").evaluate_all("all => all.map(one => one.value)")
    return values


def test_the_gallery_filters(watched: Watched, report):
    page = watched.open(report)
    everything = fitting(page)
    assert len(everything) == page.locator("#gallery .example").count() > 24, "more than are shown at once"
    for name, key in (("class", "class"), ("perturbation", "perturbation"), ("verdict", "verdict")):
        wanted = next(one[key] for one in everything)
        page.select_option(f"#filter-{name}", wanted)
        found = fitting(page)
        assert found == [one for one in everything if one[key] == wanted], name
        assert 0 < len(found) < len(everything) or {one[key] for one in everything} == {wanted}, name
        assert page.locator("#gallery-count").text_content().startswith(f"{len(found)} of {len(everything)} ")
        page.click("#reset-gallery")
        assert fitting(page) == everything
    first = options(page, "#filter-class")[1]
    page.select_option("#filter-class", first)
    second = everything[-1]["perturbation"]
    page.select_option("#filter-perturbation", second)
    both = [one for one in everything if one["class"] == first and one["perturbation"] == second]
    assert fitting(page) == both, "filters add up"


def test_the_gallery_sorts(watched: Watched, report):
    page = watched.open(report)
    page.select_option("#sort-gallery", "confident")
    first = [float(one["confidence"]) for one in shown(page)]
    sure = [float(one["confidence"]) for one in fitting(page) if one["confidence"]]
    assert len(first) == at_a_time(page)
    assert first == sure[: len(first)], "all are sorted, not those on the screen alone"
    assert len(sure) == page.locator("#gallery .example").count() > 24
    assert sure == sorted(sure, reverse=True)
    assert len(set(sure)) > 3
    page.select_option("#sort-gallery", "unsure")
    assert len(shown(page)) == at_a_time(page), "from the beginning"
    assert [float(one["confidence"]) for one in fitting(page) if one["confidence"]] == sorted(sure)


def test_the_gallery_is_shown_a_page_at_a_time_with_the_keyboard(watched: Watched, report):
    page = watched.open(report)
    count, more = page.locator("#gallery-count"), page.locator("#more-gallery")
    assert count.get_attribute("aria-live") == "polite"
    total = page.locator("#gallery .example").count()
    size = at_a_time(page)
    assert len(shown(page)) == size < total
    assert count.text_content() == f"{total} of {total} examples fit, the first {size} are shown"
    assert more.text_content() == f"Show {min(size, total - size)} more"
    more.focus()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none", "focus is visible"
    page.keyboard.press("Enter")
    now = shown(page)
    assert len(now) == min(2 * size, total)
    focused = page.evaluate("({...document.activeElement.dataset})")
    assert focused == now[size], "reading goes on with the first new one"
    while more.is_visible():
        before, left = len(shown(page)), int(more.text_content().split()[1])
        page.click("#more-gallery")
        assert len(shown(page)) == before + left
    assert len(shown(page)) == total
    page.click("#reset-gallery")
    assert len(shown(page)) == size
    page.locator("#rest-gallery").focus()
    page.keyboard.press("Space")
    assert len(shown(page)) == total
    assert count.text_content() == f"{total} of {total} examples fit, all of them are shown"
    assert more.is_hidden()
    assert page.locator("#rest-gallery").is_hidden()


def test_without_scripts_every_example_is_there(browser, report):
    context = browser.new_context(java_script_enabled=False, viewport=PHONE, offline=True)
    page = context.new_page()
    page.goto(report.as_uri())
    cards = page.locator("#gallery .example")
    assert cards.count() > 24
    assert all(cards.nth(place).is_visible() for place in range(cards.count()))
    assert page.locator("#more-gallery").is_hidden()
    assert f"{cards.count()} examples, all of them are shown" in page.locator("#gallery-count").text_content()
    context.close()


def test_the_table_sorts_by_keyboard(watched: Watched, report):
    page = watched.open(report)
    heading = page.locator("table#headline thead th", has_text="pgd-2 linf 0.002").first
    heading.locator("button").focus()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none", "focus is visible"
    column = heading.evaluate("one => [...one.parentNode.children].indexOf(one)")

    def values() -> list[float]:
        rows = page.locator("table#headline tbody tr")
        texts = rows.evaluate_all("(rows, column) => rows.map(row => row.children[column].dataset.value)", column)
        return [float(text) for text in texts if text is not None]

    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "descending"
    assert values() == sorted(values(), reverse=True)
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert values() == sorted(values())


def test_everything_that_can_be_used_is_reached_by_tab(watched: Watched, report):
    page = watched.open(report)
    reached = set()
    for _ in range(400):
        page.keyboard.press("Tab")
        name = page.evaluate("document.activeElement.id || document.activeElement.tagName")
        reached.add(name)
        if name == "BODY":
            break
    wanted = {
        "filter-class",
        "filter-verdict",
        "filter-perturbation",
        "sort-gallery",
        "reset-gallery",
        "more-gallery",
        "rest-gallery",
        "BUTTON",
        "SUMMARY",
    }
    assert wanted <= reached


def test_names_with_markup_are_shown_as_text(watched: Watched, tmp_path):
    fooled = {"clean": [False] * 8, "pgd-20 linf 8/255": [i % 4 == 2 for i in range(8)]}
    ids = [f"image {i}{EVIL}" for i in range(8)]
    folder = write_run(tmp_path / "run <i>name", fooled, class_names=(EVIL, "dog"), image_ids=ids)
    write_examples(folder, list(fooled), 8, labels=(EVIL, "dog"))
    page = watched.open(write_report([folder], tmp_path / "report.html"))
    assert page.locator("img[src=x]").count() == 0
    assert page.locator("b", has_text="cat").count() == 0
    cards = page.locator("#gallery .example h3")
    assert cards.count() > 0
    assert EVIL in cards.first.text_content()
    assert EVIL in options(page, "#filter-class")
    page.select_option("#filter-class", EVIL)
    assert {one["class"] for one in shown(page)} == {EVIL}
    # the fixture fails when a dialog opened or anything was complained about


def test_the_page_prints(browser, report, tmp_path):
    """Everything that is folded on the screen stands on paper."""
    page = browser.new_page()
    page.goto(report.as_uri())
    page.emulate_media(media="print")
    assert page.locator("#gallery-section form").is_hidden(), "nothing to click on paper"
    assert page.locator("#more-gallery").is_hidden()
    assert len(shown(page)) == 24, "what is shown is printed"
    page.pdf(path=tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").stat().st_size > 20_000
    page.close()


def test_nothing_is_cut_off_on_paper(browser, crowded, report):
    """A4 with the margins of the style: what scrolls on a screen has to fit, and no number is broken."""
    page = browser.new_page(viewport={"width": 703, "height": 1000})
    for file in (crowded, report):
        page.goto(file.as_uri())
        page.emulate_media(media="print")
        page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth") <= 703, file
        tall = page.locator("td .value").evaluate_all(
            "all => all.filter(one => one.getClientRects().length > 1).length"
        )
        assert tall == 0
    page.close()
