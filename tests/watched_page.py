"""A page in a real browser whose complaints and requests are noted."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page, Request

PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1440, "height": 900}


class Watched:
    """A page that notes what a user would not see: errors in the console, requests to anywhere.

    Attributes:
        page: of Playwright.
        complaints: errors and warnings of the console, exceptions, refused content.
        requests: addresses of everything fetched beside the page itself and data inside it.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda one: self.complaints.append(one.text) if one.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: (self.complaints.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on("requestfailed", lambda request: self.complaints.append(f"not loaded: {request.url[:200]}"))
        page.on("request", self._note)

    def _note(self, request: Request) -> None:
        if not request.url.startswith("data:") and request.resource_type != "document":
            self.requests.append(request.url)

    def open(self, file: Path) -> Page:
        """Open a file from disk and wait until its pictures are there."""
        self.page.goto(file.as_uri())
        self.page.wait_for_load_state("networkidle")
        return self.page
