"""Pages in a browser: what axe-core finds wrong, headings, and clicks that lead on."""

from typing import Any

import pytest


def faults(page: Any) -> list[str]:
    """What axe-core finds wrong."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    return [f"{each['id']}: {each['nodes'][0]['html']}" for each in axe.Axe().run(page).response["violations"]]


def heading(page: Any) -> str:
    return str(page.locator("h1").inner_text())


def go(page: Any, selector: str) -> None:
    """Click, and wait for the next page."""
    with page.expect_navigation():
        page.click(selector)
