"""Links between the Markdown pages, to files of the repository and to headings: as they are, for GitHub."""

from __future__ import annotations

from pathlib import Path

import pytest
from docs_pages import PAGES, REPOSITORY, anchors_of, links_of, tracked_files


def of_page(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=of_page)
def test_every_link_leads_somewhere(page):
    files = tracked_files()
    folders = {parent.as_posix() for file in files for parent in Path(file).parents}
    for link in links_of(page):
        target, _, anchor = link["target"].partition("#")
        if "://" in target:
            continue
        assert not target.startswith("/"), f"{link[0]}: a path from the root of a site works on none"
        path = (page.parent / target).resolve() if target else page
        name = path.relative_to(REPOSITORY).as_posix()
        assert name in files or name in folders, f"{link[0]}: there is no such file in the repository"
        if anchor:
            assert path.suffix == ".md", f"{link[0]}: an anchor in a file that has no headings"
            assert anchor in anchors_of(path), f"{link[0]}: known: {', '.join(sorted(anchors_of(path)))}"


@pytest.mark.parametrize("page", PAGES, ids=of_page)
def test_every_picture_has_a_text(page):
    for link in links_of(page):
        if link["picture"]:
            assert len(link["text"].split()) >= 3, f"{link[0]}: say what the picture shows"


def test_links_and_anchors_are_read_as_github_reads_them(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A `code` heading: x, y\n\n## Twice\n\n## Twice\n\n### detectron2's own [models](x.md)\n\n"
        "[one](a.md#b) `[no](code.md)` ![a picture of it](p.png)\n\n"
        "```bash\n# no heading\n[none](none.md)\n```\n\n````md\n```\n## none\n```\n````\n\n[last](z.md)\n"
    )
    assert anchors_of(page) == {"a-code-heading-x-y", "twice", "twice-1", "detectron2s-own-models"}
    assert [link["target"] for link in links_of(page)] == ["x.md", "a.md#b", "p.png", "z.md"]
    assert [link["picture"] for link in links_of(page)] == ["", "", "!", ""]
    assert len(PAGES) > 15
    assert any(links_of(one) for one in PAGES if one.name == "README.md")
