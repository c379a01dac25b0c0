"""The documentation site, built once as CI builds it: warnings are errors, and what it holds works from a disk."""

from __future__ import annotations

import ast
import html
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from config_reads import dotted
from docs_pages import PAGES, REPOSITORY

import partbox.attacks
import partbox.corruptions
import partbox.data
import partbox.evaluation
import partbox.export
from partbox.engine.setup import load_config

SCRIPT = REPOSITORY / "scripts/build_docs.sh"
LOADED = {
    "link": "href",
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "object": "data",
}


class Page(HTMLParser):
    """What a page loads and where it leads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[tuple[str, str]] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.pictures: list[dict[str, str]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if "id" in given:
            self.ids.add(given["id"])
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag == "img":
            self.pictures.append(given)
        if tag in LOADED and LOADED[tag] in given:
            self.loads.append((tag, given[LOADED[tag]]))


def build(output: Path, script: Path = SCRIPT) -> subprocess.CompletedProcess[str]:
    # The small repository below has a file of partbox and not the package, which must come from this checkout.
    environment = {**os.environ, "PARTBOX_VENV": sys.prefix, "PYTHONPATH": str(REPOSITORY / "projects")}
    return subprocess.run(["bash", script, output], env=environment, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("site") / "site"
    done = build(output)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.strip() == f"{output}/index.html"
    assert done.stderr == "", "a build without warnings says nothing"
    return output


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html")}


def html_of(page: Path) -> str:
    return page.relative_to(REPOSITORY).with_suffix(".html").as_posix()


def test_every_markdown_page_is_there_and_in_the_navigation(site, pages):
    index = site / "docs/index.html"
    navigation = {unquote(link.partition("#")[0]) for link in pages[index].links if "://" not in link}
    reached = {os.path.relpath((index.parent / link).resolve(), site) for link in navigation}
    for page in PAGES:
        assert (site / html_of(page)).is_file()
        assert page.name == "index.md" or html_of(page) in reached, f"no way leads to {page.name}"


def test_the_folder_opens_at_the_first_page(site):
    start = (site / "index.html").read_text()
    assert 'url=docs/index.html"' in start
    assert 'href="docs/index.html"' in start


def test_every_link_and_anchor_of_the_site_leads_somewhere(site, pages):
    count = 0
    for path, page in pages.items():
        for link in page.links:
            split = urlsplit(link)
            if split.scheme or link.startswith("//"):
                continue
            target = (path.parent / unquote(split.path)).resolve() if split.path else path
            assert target.is_file(), f"{path.relative_to(site)}: {link}"
            if split.fragment and target.suffix == ".html":
                assert unquote(split.fragment) in pages[target].ids, f"{path.relative_to(site)}: {link}"
            count += 1
    assert count > 1000


def test_pages_load_nothing_from_a_network(site, pages):
    for path, page in pages.items():
        for tag, target in page.loads:
            assert not urlsplit(target).netloc, f"{path.relative_to(site)}: <{tag}> {target}"
            if not target.startswith(("data:", "#")):
                assert (path.parent / unquote(urlsplit(target).path)).is_file(), f"{path.relative_to(site)}: {target}"
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert not re.search(r"(@import|url\()[\s\"'(]*(https?:)?//", text), sheet.name
    assert not any("mathjax" in target for page in pages.values() for _, target in page.loads)


def test_every_picture_has_a_text(pages):
    pictures = [picture for page in pages.values() for picture in page.pictures]
    assert len(pictures) >= 2
    assert all(picture.get("alt", "").strip() for picture in pictures)


def test_every_configuration_key_can_be_found(site, pages):
    """On its page, and by the search and the index of the site."""
    ids = pages[site / "docs/configuration.html"].ids
    text = (site / "docs/configuration.html").read_text(encoding="utf-8")
    keys = {key for key in dotted(load_config()) if key.startswith(("MODEL.PART.", "ADVERSARY.", "ROBUST_EVAL."))}
    keys |= {"DATASETS.ROOT", "INPUT.SIZE", "SOLVER.EMA.DECAY", "MODEL.DINO.DN_NUMBER", "MODEL.MaskDINO.DN"}
    for key in keys:
        assert f"confval-{key}" in ids, key
    assert "radius in [0, 1] pixel space; a number or a fraction" in text
    assert "'8/255'" in text.replace("&#39;", "'")
    found = json.loads((site / "searchindex.js").read_text().removeprefix("Search.setIndex(").removesuffix(")"))
    for key in keys:
        node, _, name = key.rpartition(".")
        assert name in [entry[-1] for entry in found["objects"][node]], f"the search does not know {key}"


@pytest.mark.parametrize(
    "module", [partbox.attacks, partbox.corruptions, partbox.data, partbox.evaluation, partbox.export, partbox]
)
def test_every_public_name_is_described(site, pages, module):
    described = set().union(*(page.ids for path, page in pages.items() if path.parent.name == "api"))
    for name in module.__all__:
        homes = {f"{one.__name__}.{name}" for one in (module, partbox.data, partbox.evaluation)}
        assert homes & described, f"{module.__name__}.{name}"


def words_of(text: str) -> str:
    return " ".join(re.findall(r"\w+", text))


def test_every_module_is_there_with_its_text(site):
    shown = words_of(html.unescape(re.sub(r"<[^>]+>", " ", (site / "docs/modules.html").read_text(encoding="utf-8"))))
    files = [*(REPOSITORY / "projects").rglob("*.py"), *(REPOSITORY / "maskdino_ext").rglob("*.py")]
    assert len(files) > 200
    for file in files:
        first = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))).split("\n\n")[0]
        plain = words_of(re.sub(r":[a-z:]+:(?=`)|~", "", first))
        name = words_of(".".join(file.relative_to(REPOSITORY).with_suffix("").parts).removeprefix("projects."))
        assert f"{name.removesuffix(' __init__')} {plain}" in shown, file


def test_files_and_folders_of_the_repository_lead_to_what_the_site_has(site, pages):
    links = pages[site / "README.html"].links
    assert "docs/configuration.html" in links
    assert any(link.endswith("LICENSE") and "_downloads" in link for link in links)
    assert not any(link.endswith(".md") for page in pages.values() for link in page.links if "://" not in link)


MISTAKES = """# A page with mistakes

[a page](nowhere.md), [a heading](index.md#none), [a file](../tools/none.py)

```{eval-rst}
:py:func:`partbox.attacks.parse_epsilon` and :py:func:`partbox.attacks.parse_eps`
```

## What is fine

[a folder](../tools), [a module](../projects/partbox/files.py), [the licence](../LICENSE)
"""


@pytest.fixture(scope="module")
def small_repository(tmp_path_factory) -> Path:
    """A repository of three pages, one of them with mistakes, and with the settings and the script of this one."""
    root = tmp_path_factory.mktemp("small")
    for name in ("docs/extensions", "docs/templates", "scripts"):
        shutil.copytree(REPOSITORY / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "slurm"))
    for name in ("docs/conf.py", "LICENSE", "projects/partbox/files.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, root / name)
    (root / "tools").mkdir()
    (root / "docs/api").mkdir()
    (root / "docs/api/lonely.md").write_text("# A page that nothing leads to\n")
    (root / "docs/mistakes.md").write_text(MISTAKES)
    (root / "docs/index.md").write_text("# Start\n\n```{remaining-pages}\n```\n")
    return root


def test_a_mistake_ends_the_build_and_the_old_site_stays(small_repository):
    output = small_repository / "site"
    output.mkdir()
    (output / ".buildinfo").write_text("an earlier site")
    done = build(output, small_repository / "scripts/build_docs.sh")
    assert done.returncode == 1
    assert (output / ".buildinfo").read_text() == "an earlier site"
    assert not list(small_repository.glob(".docs.*"))
    warnings = [line for line in done.stderr.splitlines() if "WARNING" in line]
    expected = ["nowhere.md", "none", "tools/none.py", "parse_epsilon", "isn't included in any toctree"]
    for one in expected:
        assert sum(one in line for line in warnings) >= 1, (one, done.stderr)
    assert len(warnings) == len(expected), done.stderr


def test_a_folder_that_is_no_site_is_refused(tmp_path):
    foreign = tmp_path / "notes"
    foreign.mkdir()
    (foreign / "mine.txt").write_text("keep")
    refused = build(foreign)
    assert refused.returncode == 1
    assert "is no site that this script has built" in refused.stderr
    assert (foreign / "mine.txt").read_text() == "keep"
    assert not list(tmp_path.glob(".docs.*"))


def test_help_says_what_it_does():
    done = subprocess.run(["bash", SCRIPT, "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "build/docs/index.html" in done.stdout
    assert subprocess.run(["bash", SCRIPT, "a", "b"], capture_output=True, timeout=60).returncode == 2
