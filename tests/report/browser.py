# SPDX-License-Identifier: Apache-2.0
"""Debian's Chromium, driven by Playwright, and axe-core, for the tests of the report's page."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
AXE = os.path.join(ROOT, "build", "npm", "node_modules", "axe-core", "axe.min.js")
CHROMIUM = "chromium"
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--font-render-hinting=none")
"""Root has no sandbox in Chromium; the rest is for machines without a display, and for the same picture everywhere."""


def missing() -> str | None:
    """What is not there that these tests need, and how to get it; or None."""
    if shutil.which(CHROMIUM) is None:
        return "no chromium: apt-get install --no-install-recommends chromium fonts-dejavu-core"
    if not os.path.exists(AXE):
        return "no axe-core: ./dev test gets it"
    return None


@contextmanager
def launched() -> Iterator[Browser]:
    """A browser without a window; it ends with its `with` block."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which(CHROMIUM), args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Browser, path: str, width: int = 1280, **settings: Any) -> Iterator[Page]:  # noqa: ANN401 - Playwright's own
    """A page in a context of its own. At its end nothing was asked of a network, and nothing went wrong in it."""
    context = browser.new_context(viewport={"width": width, "height": 900}, **settings)
    try:
        page = context.new_page()
        wrong: list[str] = []
        page.on(
            "request", lambda asked: None if asked.url.partition("#")[0].endswith(path) else wrong.append(asked.url)
        )
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(f"dialog {dialog.message}"))
        page.goto(f"file://{path}")
        yield page
        assert not wrong
    finally:
        context.close()


def axe(page: Page) -> dict[str, list[str]]:
    """What axe-core finds against WCAG 2.2 AA and its best practices: rule to the elements."""
    with open(AXE, encoding="utf-8") as file:
        page.evaluate(file.read())
    found = page.evaluate("axe.run({resultTypes: ['violations']})")
    return {
        str(one["id"]): [f"{node['target']}: {node['failureSummary']}" for node in one["nodes"][:5]]
        for one in found["violations"]
    }
