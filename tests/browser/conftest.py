"""A real Chromium, driven by Playwright; the tests are skipped, with the reason, where there is none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright
from watched_page import DESKTOP, PHONE, Watched

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAMS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's Chromium, without a window."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(PROGRAMS)} is installed (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        # CI runs as root, where Chromium's sandbox does not start; /dev/shm is small in containers.
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def screenshots() -> Path:
    """Where pictures of the pages are kept for whoever looks at a run of the tests."""
    folder = Path(os.environ.get("PARTBOX_SCREENSHOTS", REPOSITORY / "output" / "screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(params=[PHONE, DESKTOP], ids=["phone", "desktop"])
def watched(request, browser: Browser) -> Iterator[Watched]:
    """A new page on a phone's or a desktop's screen; nothing may have complained at the end."""
    context = browser.new_context(viewport=request.param, offline=True, device_scale_factor=1)
    found = Watched(context.new_page())
    yield found
    context.close()
    assert found.complaints == []
    assert found.requests == [], "the page is complete in itself"
