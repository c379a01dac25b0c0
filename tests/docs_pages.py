"""The Markdown pages of the repository as GitHub shows them: headings with their anchors, links and pictures."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDERS = ("", "datasets/", "maskdino_ext/", "requirements/", "docs/", "docs/api/")
PAGES = sorted(page for folder in FOLDERS for page in (REPOSITORY / folder).glob("*.md"))
LINK = re.compile(r"(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")


def without_code(text: str) -> str:
    """The text without fenced blocks and code spans, in which nothing is a link or a heading."""
    text = re.sub(r"^(`{3,})[^\n]*\n.*?^\1`*[ ]*$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"(`+)[^`].*?\1", "code", text)


def links_of(page: Path) -> list[re.Match[str]]:
    """Links and pictures of a page."""
    return list(LINK.finditer(without_code(page.read_text(encoding="utf-8"))))


def anchors_of(page: Path) -> set[str]:
    """Anchors that GitHub makes of a page's headings: lower case, hyphens for spaces, nothing else but letters."""
    text = re.sub(
        r"^(`{3,})[^\n]*\n.*?^\1`*[ ]*$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    anchors: set[str] = set()
    for heading in re.findall(r"^#{1,6} (.+)$", text, flags=re.MULTILINE):
        plain = LINK.sub(r"\g<text>", heading).replace("`", "")
        anchor = re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")
        count = sum(one == anchor or re.fullmatch(rf"{re.escape(anchor)}-\d+", one) is not None for one in anchors)
        anchors.add(f"{anchor}-{count}" if count else anchor)
    return anchors


def tracked_files() -> set[str]:
    """Paths of the files that the repository holds, or would hold after ``git add``."""
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    return set(subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.splitlines())
