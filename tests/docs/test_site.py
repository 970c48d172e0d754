"""The site is built without warnings, loads nothing from a network, and its links and search work in pages opened as files."""

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from site_builder.site import BrokenLink, BuildFailed, build, pages, site_text
from tests.support.harness import ROOT


class Page(HTMLParser):
    """The anchors of a page, its links, and the addresses that a browser loads for it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a":
            self.links += [given["href"]] if "href" in given else []
        elif tag in ("script", "img", "iframe", "source", "video", "audio"):
            self.loaded += [given["src"]] if "src" in given else []
        elif tag == "link" and given.get("rel") not in ("canonical", "next", "prev"):
            self.loaded.append(given.get("href", ""))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("zensical", reason="zensical is not installed")
    folder = tmp_path_factory.mktemp("docs") / "site"
    build(folder)
    return folder


def test_every_page_is_built_and_loads_files_of_the_site_alone(site: Path) -> None:
    for place in pages().values():
        assert (site / place).with_suffix(".html").is_file(), place
    for file in site.rglob("*.html"):
        for address in Page(file.read_text(encoding="utf-8")).loaded:
            assert not urlsplit(address).netloc, f"{file}: {address}"
            assert _target(file, address, site).is_file(), f"{file}: {address}"
    for file in site.rglob("*.css"):
        assert not re.search(r"@import|url\(\s*[\"']?(?:https?:)?//", file.read_text(encoding="utf-8")), file


def test_every_link_and_anchor_leads_somewhere(site: Path) -> None:
    found = {file: Page(file.read_text(encoding="utf-8")) for file in site.rglob("*.html") if file.name != "404.html"}
    broken = []
    for file, page in found.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            there = _target(file, parts.path, site) if parts.path else file
            anchors = found[there].anchors if there in found else set()
            if not there.exists() or (parts.fragment and unquote(parts.fragment) not in anchors):
                broken.append(f"{file.relative_to(site)}: {link}")
    assert not broken


def _target(file: Path, address: str, site: Path) -> Path:
    path = unquote(urlsplit(address).path)
    there = (site / path.lstrip("/")) if path.startswith("/") else (file.parent / path).resolve()
    return there / "index.html" if there.is_dir() else there


@pytest.mark.slow
def test_search_finds_a_key_without_a_network(site: Path, browser: Any) -> None:
    page, asked, errors = browser.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((site / "glossary.html").as_uri())
    page.click(".md-search__button")
    page.get_by_role("combobox").fill("watchdog_minutes")
    page.locator("a[role=option][href*='reference/keys.html']").first.click()
    page.wait_for_function("document.body?.innerText.includes('engine.watchdog_minutes')")  # no body while it loads
    page.close()
    assert asked and all(url.startswith(("file:", "data:", "blob:")) for url in asked)
    assert not errors


def test_every_link_to_a_file_holds_in_the_repository() -> None:
    places = pages()
    assert {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/reference/keys.md"} <= places.keys()
    for path in places:
        site_text(path, places)  # raises for the first that does not


def test_links_of_a_page_hold_on_github_and_in_the_site(tmp_path: Path) -> None:
    for path in ("README.md", "docs/a.md", "docs/reference/b.md", "conf/x.yaml"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("# T\n")
    (tmp_path / "docs" / "reference" / "b.md").write_text(
        "Text:\n- [a](../a.md#t), [c](../../conf/x.yaml), [r](../../README.md), [w](https://example.org)\n"
        "- b\n\n    [a](../no.md)\n"
    )
    places = pages(tmp_path)
    assert places["README.md"] == "index.md"
    assert site_text("docs/reference/b.md", places, tmp_path) == (
        "Text:\n\n- [a](../a.md#t), c (`conf/x.yaml`), [r](../index.md), [w](https://example.org)\n- b\n\n    [a](../no.md)\n"
    )
    (tmp_path / "docs" / "p.svg").write_text("<svg/>")
    (tmp_path / "README.md").write_text("![of it](docs/p.svg) and [a link\nover lines](docs/a.md#t)\n")
    assert site_text("README.md", places, tmp_path) == "![of it](p.svg) and [a link\nover lines](a.md#t)\n"
    (tmp_path / "docs" / "a.md").write_text("[gone](gone.md)\n")
    with pytest.raises(BrokenLink, match=r"docs/a.md: \[gone\]\(gone.md\)"):
        site_text("docs/a.md", places, tmp_path)


def test_a_notebook_is_a_page_with_its_code_and_what_it_prints(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    cells = (
        '[{"cell_type": "markdown", "source": ["# N"]}, {"cell_type": "code", "source": ["1 + 1"], "outputs": [%s]}]'
    )
    output = '{"output_type": "execute_result", "data": {"text/plain": ["2"]}}'
    (tmp_path / "docs" / "n.ipynb").write_text(f'{{"cells": {cells % output}}}')
    places = pages(tmp_path)
    assert places == {"docs/n.ipynb": "n.md"}
    assert site_text("docs/n.ipynb", places, tmp_path) == "# N\n\n```python\n1 + 1\n```\n\n```text\n2\n```\n"


def test_a_page_outside_of_the_navigation_and_a_broken_anchor_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("zensical", reason="zensical is not installed")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    config = (tmp_path / "mkdocs.yml").read_text().partition("nav:")[0] + "nav: [index.md]\n"
    (tmp_path / "mkdocs.yml").write_text(config)
    (tmp_path / "README.md").write_text("# Home\n\n[there](#nowhere)\n")
    with pytest.raises(BuildFailed, match="anchor does not exist"):
        build(tmp_path / "site", tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "more.md").write_text("# More\n")
    with pytest.raises(BuildFailed, match="its nav lacks more.md"):
        build(tmp_path / "site", tmp_path)
