"""Helpers for pages in a browser: accessibility faults, headings and clicks on links."""

from typing import Any

import pytest


def faults(page: Any) -> list[str]:
    """Return the accessibility violations that axe-core finds, each with its first HTML element."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    return [f"{each['id']}: {each['nodes'][0]['html']}" for each in axe.Axe().run(page).response["violations"]]


def heading(page: Any) -> str:
    return str(page.locator("h1").inner_text())


def go(page: Any, selector: str) -> None:
    """Click on an element and wait until the next page has loaded."""
    with page.expect_navigation():
        page.click(selector)
