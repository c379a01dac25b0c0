"""The model zoo: its costs come from the configurations, its measured numbers from docs/measurements.md."""

from __future__ import annotations

import importlib.util
import json
import logging
import re
import sys

import pytest
import torch
from docs_pages import REPOSITORY
from torch import nn

from partbox import progress
from partbox.engine.model_cost import ParametersRead, _counted, model_cost
from partbox.engine.setup import load_config
from partbox.report.quoted_numbers import Entry, Number, QuoteError, read_quoted, unfounded

TOOL = REPOSITORY / "tools/model_zoo.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("model_zoo_script", TOOL)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    torch.set_num_threads(1)
    module.partbox.register_all()
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def numbers(tool):
    return tool.read_numbers()


@pytest.fixture(scope="module")
def page(tool):
    return tool.PAGE.read_text(encoding="utf-8")


NAMES = sorted(path.relative_to(REPOSITORY / "configs") for path in (REPOSITORY / "configs").rglob("*.yaml"))
NAMES = [name.with_suffix("").as_posix() for name in NAMES if name.stem != "base"]
LARGE = ("coco/", "paco/", "partimagenet/")  # some ten seconds each


def test_the_page_has_a_row_for_each_configuration_and_its_quoted_numbers(tool, page, numbers):
    assert tool.configurations() == NAMES
    assert tool.problems(page, numbers, []) == []


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith(LARGE)])
def test_a_row_is_what_its_configuration_gives(tool, page, numbers, name):
    assert tool.problems(page, numbers, [name]) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith(LARGE)])
def test_a_row_is_what_its_configuration_of_full_size_gives(tool, page, numbers, name):
    assert tool.problems(page, numbers, [name]) == []


def test_what_is_wrong_on_the_page_is_named(tool, page, numbers):
    name = "example/normal"
    (row,) = (line for line in page.splitlines() if line.startswith(f"| [{name}]") and "passes" in line)
    other = row.replace("64 x 64", "32 x 32")
    (found,) = tool.problems(page.replace(row, other), numbers, [name])
    assert found == "model_zoo.md: example/normal: input: '32 x 32' should be '64 x 64'"
    assert tool.problems(page.replace(row + "\n", ""), numbers, []) == ["model_zoo.md: example/normal has no row"]
    twice = "model_zoo.md: [example/normal](../configs/example/normal.yaml) has 2 rows"
    assert tool.problems(page.replace(row, f"{row}\n{row}"), numbers, []) == [twice]
    cut = page.replace(row, row.rsplit("|", 2)[0] + "|")
    assert tool.problems(cut, numbers, [name]) == ["model_zoo.md: example/normal has no row"]
    gone = row.replace("example/normal", "example/gone")
    assert "model_zoo.md: [example/gone](../configs/example/gone.yaml) is no configuration" in tool.problems(
        page.replace(row, f"{row}\n{gone}"), numbers, []
    )
    better = page.replace("clean accuracy 89.1 %", "clean accuracy 98.1 %")
    found = tool.problems(better, numbers, [])
    assert any("example/normal" in one and "98.1" in one for one in found)
    assert any("the table of measured numbers" in one for one in found)
    with pytest.raises(tool.PageError, match="needs the lines <!-- costs: begin"):
        tool.problems(page.replace(tool.begin_of("costs"), ""), numbers, [])


def test_it_says_how_far_it_is(tool, page, numbers, monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(logging.getLogger("partbox"), "handlers", [])
    tool.problems(page, numbers, ["example/normal", "example/masks"])
    said = capsys.readouterr().err
    assert re.search(r"building models: 1 of 2 models, about \d.* left", said)
    assert "building models: 2 of 2 models after" in said


def test_the_page_is_renewed_to_itself(tool, page, numbers, monkeypatch):
    monkeypatch.setattr(tool, "cells_of", lambda name, numbers: tool.without_results(rows[tool.link(name)]))
    rows = {row[0]: row for _, rows in tool.tables_of(tool.block_of(page, "costs")) for row in rows}
    assert tool.renewed(page, numbers) == page
    emptied = page.replace(tool.block_of(page, "costs"), "\n\n").replace(tool.block_of(page, "measured"), "\n")
    assert len(emptied) < len(page) / 2
    assert tool.renewed(emptied, numbers) == page


# --- measured and published numbers -----------------------------------------------------------------------------------

MEASURED = """# Measurements

## One's own section

| model | clean % | robust % |
|---|---|---|
| a | 50.1 | 5.0 |
| b | 60.2 | 31.9, **unreliable** |
| c | 70.3 (one seed) | 7.0 |

| other | clean % |
|---|---|
| a | 99.9 |

## Next

| model | clean % |
|---|---|
| a | 11.1 |
"""


def entry(*numbers: Number, note: str = "", section: str = "ones-own-section") -> Entry:
    return Entry("x/y", numbers, "command", 1, section, note)


def quoted(value: str, row: str = "a", column: str = "clean %", table: str = "model") -> Number:
    return Number("accuracy", value, "%", (row,), column, table)


@pytest.mark.parametrize("number", [quoted("50.1"), quoted("99.9", table="other"), quoted("70.3", "c")])
def test_a_number_that_stands_there_is_founded(number):
    assert unfounded(entry(number), "m.md", MEASURED) == []


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (quoted("50.10"), "50.1"),
        (quoted("0.1"), "50.1"),
        (quoted("50"), "50.1"),
        (quoted("11.1"), "50.1"),  # of another section
        (quoted("99.9"), "50.1"),  # of another table
        (quoted("60.2"), "50.1"),  # of another row
        (quoted("5.0"), "50.1"),  # of another column
        (quoted("50.1", "d"), "nothing"),
        (quoted("50.1", column="clean"), "nothing"),
    ],
)
def test_a_number_that_does_not_stand_there_is_found(number, says):
    (problem,) = unfounded(entry(number), "m.md", MEASURED)
    assert "is not what stands in m.md" in problem
    assert says in problem


def test_an_unreliable_number_is_called_so():
    number = quoted("31.9", "b", "robust %")
    (problem,) = unfounded(entry(number), "m.md", MEASURED)
    assert "unreliable" in problem
    assert unfounded(entry(number, note="unreliable, a self-check failed"), "m.md", MEASURED) == []
    assert unfounded(entry(number, section="none"), "m.md", MEASURED) == ["x/y: m.md has no section #none"]


def test_every_measured_number_of_the_zoo_names_its_cell(numbers):
    for one in numbers.measured:
        assert one.seeds >= 1
        assert all(number.row and number.column for number in one.numbers), one.config
        words = one.command.split()
        (script,) = (word for word in words if word.startswith(("tools/", "scripts/")))
        assert (REPOSITORY / script).is_file()
        for word in words:
            assert not word.startswith("configs/") or (REPOSITORY / word).is_file()


def test_every_published_number_has_a_source_and_is_what_the_configuration_says(numbers):
    """The configurations of COCO say what was published for them; nothing is published and measured at once."""
    assert not {one.config for one in numbers.published} & {one.config for one in numbers.measured}
    for one in numbers.published:
        assert one.source
        assert one.url.startswith("https://")
        header = (REPOSITORY / f"configs/{one.config}.yaml").read_text().split("_BASE_")[0]
        for number in one.numbers:
            assert f"{number.name} {number.value}" in header.split("Published:")[1]


def document(**changes: object) -> dict[str, object]:
    good = {"config": "a/b", "command": "c", "seeds": 1, "section": "s", "numbers": [{"name": "n", "value": "1.0"}]}
    return {"datasets": {}, "published": [], "measured": [{**good, **changes}]}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (document(config="a/c"), "z.yaml: a/c: there is no configuration file of this name"),
        (document(sedes=1), "z.yaml: a/b: unknown key sedes"),
        (document(numbers=[{"name": "n", "value": 1.0}]), "quote values"),
        (document(numbers=[{"name": "n", "value": "1", "row": [3]}]), "quote values"),
        (document(numbers=[{"name": "n", "valeu": "1"}]), "valeu"),
        ({"measured": [], "published": []}, "its keys are datasets, measured and published"),
        ({"datasets": {}, "measured": [], "published": [{"config": "a/b", "numbers": []}]}, "source, url is missing"),
    ],
)
def test_wrong_entries_are_refused(given, says):
    with pytest.raises(QuoteError, match=re.escape(says)):
        read_quoted(given, "z.yaml", ["a/b"])
    assert read_quoted(document(), "z.yaml", ["a/b"]).measured[0].numbers == (Number("n", "1.0"),)


# --- costs ------------------------------------------------------------------------------------------------------------


class Odd(nn.Module):
    """A layer that is called, one whose weight is read without it being called, one that is not used, one shared."""

    def __init__(self) -> None:
        super().__init__()
        self.called, self.idle = nn.Conv2d(3, 4, 3, bias=False), nn.Linear(5, 5)
        self.read = nn.Embedding(7, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.called(images).flatten(2).transpose(1, 2)
        tokens = self.attention(tokens, tokens, tokens)[0]  # torch has a fused form of it, which nothing can count
        return self.attention(self.read.weight[None], tokens, tokens)[0]


def test_operations_and_parameters_are_counted_by_hand():
    model = Odd().eval()
    with _counted(model) as (operations, read):
        model(torch.zeros(1, 3, 6, 6))
    convolution = 3 * 4 * 9 * 16  # 4 x 4 places
    projections = 4 * 4 * (4 * 16 + 7 + 16 + 16 + 7)  # of queries, keys, values and the result, twice
    attention = 2 * 16 * 16 * 4 + 2 * 7 * 16 * 4  # scores and weighted sum
    assert operations.get_total_flops() == 2 * (convolution + projections + attention)
    assert read.numbers == sum(p.numel() for p in model.parameters()) - 30
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_parameter_that_only_training_reads_is_not_read_in_inference(tool, numbers):
    normal, auxiliary = (
        model_cost(tool.load(f"pascal_part_animals/{name}", numbers)) for name in ("normal", "part_auxiliary")
    )
    assert normal.in_inference == normal.parameters == normal.learning == auxiliary.in_inference
    assert auxiliary.parameters > normal.parameters
    assert auxiliary.multiply_adds == normal.multiply_adds
    # as docs/measurements.md has them from another count
    assert normal.parameters == 3_377_413
    assert normal.training_passes == 900 * 32 * 3


def test_detectors_have_the_size_of_their_test(tool, numbers):
    cfg = tool.load("car_parts/faster_rcnn", numbers)
    cost = model_cost(cfg)
    assert cost.input_size == (160, 213)
    assert cost.training_passes == 600 * 4
    fewer = load_config(REPOSITORY / "configs/car_parts/faster_rcnn.yaml", ["MODEL.RPN.POST_NMS_TOPK_TEST", "50"])
    # a proposal costs the two layers of 256 units behind its 64 x 7 x 7 features, and 19 scores and 18 boxes
    a_proposal = 64 * 49 * 256 + 256 * 256 + 256 * (19 + 18 * 4)
    assert cost.multiply_adds - model_cost(fewer).multiply_adds == 100 * a_proposal


def test_parameters_read_see_lists_and_views():
    model = nn.Linear(2, 3)
    with torch.no_grad(), ParametersRead(model) as read:
        torch.cat([model.weight.t().flatten(), torch.zeros(1)])
    assert read.numbers == 6


def test_the_tool_prints_a_configuration_and_refuses_what_it_does_not_hold(tool, tmp_path, monkeypatch, capsys):
    def call(*words: object) -> int:
        monkeypatch.setattr(sys, "argv", ["model_zoo.py", *map(str, words)])
        return tool.main()

    assert call(REPOSITORY / "configs/example/normal.yaml") == 0
    assert "83,200 passes" in capsys.readouterr().out
    assert call("--check", REPOSITORY / "configs/example/normal.yaml") == 0
    assert capsys.readouterr().out == "The page is up to date.\n"
    outside = tmp_path / "mine.yaml"
    outside.write_text("SEED: 1\n")
    for path in (outside, REPOSITORY / "configs/example/base.yaml", tmp_path / "none.yaml"):
        with pytest.raises(SystemExit, match=rf"PageError: {path}: .+") as refused:
            call(path)
        assert "\n" not in str(refused.value)
    for words in ((), ("--write", outside), ("--write", "--check")):
        with pytest.raises(SystemExit, match="2"):
            call(*words)
    monkeypatch.setattr(tool, "PAGE", tmp_path / "page.md")
    tool.PAGE.write_text("no markers")
    with pytest.raises(SystemExit, match="needs the lines"):
        call("--check", REPOSITORY / "configs/example/normal.yaml")


def test_the_names_of_the_animals_are_those_of_the_data(numbers, shared):
    document = json.loads((shared / "data/pascal_part_animals/trainval.json").read_text())
    found = {one["name"] for one in document["categories"] if ":" in one["name"]}
    listed = numbers.datasets["pascal_part_animals"]
    assert {f"{animal}:{part}" for animal, parts in listed.items() for part in parts} <= found
