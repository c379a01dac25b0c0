"""Every message of docs/troubleshooting.md is still printed, word for word, and every entry says what to do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from part_dataset_files import forget_builtin_datasets
from trouble import PROVOKED, template

PAGE = Path(__file__).resolve().parents[1] / "docs" / "troubleshooting.md"
SECTIONS = ["Installing", "Data", "Training", "Evaluation", "Export", "Several processes and Slurm"]


def entries() -> dict[str, dict[str, str]]:
    """Section -> title -> the text below the title."""
    found: dict[str, dict[str, str]] = {}
    for section in re.split(r"(?m)^## ", PAGE.read_text(encoding="utf-8"))[1:]:
        name, *texts = re.split(r"(?m)^### ", section)
        found[name.splitlines()[0]] = dict(text.split("\n", 1) for text in texts)
    return found


def message_of(text: str) -> str:
    """The message of an entry; long ones are wrapped on the page."""
    block = re.search(r"```text\n(.*?)\n```", text, re.DOTALL)
    assert block is not None, text
    return " ".join(block[1].split())


TEXTS = {title: text for section in entries().values() for title, text in section.items()}


def test_the_page_is_sorted_by_when_it_happens_and_holds_every_entry():
    assert list(entries()) == SECTIONS
    assert set(TEXTS) == set(PROVOKED)
    assert len(TEXTS) == sum(map(len, entries().values())), "a title stands twice"


def test_the_contents_lead_to_every_entry():
    """The links themselves are checked with those of all pages."""
    contents = PAGE.read_text(encoding="utf-8").split("\n## ")[0]
    listed = re.findall(r"(?m)^(?:- \*\*(.+)\*\*|  - \[(.+)\]\(#.+\))$", contents)
    expected = [name for section, texts in entries().items() for name in (section, *texts)]
    assert [section or title for section, title in listed] == expected


@pytest.mark.parametrize("title", TEXTS)
def test_the_message_is_still_printed(title, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    forget_builtin_datasets()
    printed = PROVOKED[title]()
    forget_builtin_datasets()
    assert message_of(TEXTS[title]) == " ".join(printed.split())


@pytest.mark.parametrize("title", TEXTS)
def test_every_entry_says_what_it_means_and_what_to_do(title):
    after = re.sub(r"```.*?```", "", TEXTS[title], flags=re.DOTALL)
    meaning, do = after.split("**What to do:**")
    assert len(meaning.split()) > 5
    assert len(do.split()) > 1


def test_a_template_that_changed_is_found():
    fine = "Process 3 of 4 ended with exit code 1; what it finished is kept"
    file, beginning = "projects/partbox/engine/launch.py", "Process %d of %d %s"
    assert template(file, beginning, fine) == fine
    assert template(file, beginning, fine.replace("kept", "lost")) != fine.replace("kept", "lost")
    with pytest.raises(ValueError, match="substring"):
        template(file, "Process %d of nothing", fine)
