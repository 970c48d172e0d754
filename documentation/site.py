"""Builder of the site. Warnings are errors, and the built pages load nothing from a network."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from documentation.pages import ROOT, pages, site_text

_CONFIG = "mkdocs.yml"
# The generator would load this script from a server, so that search works in pages opened as files.
_FOREIGN_WORKER = "https://unpkg.com/iframe-worker/shim"
_WORKER = Path(__file__).with_name("frame_worker.js")


class BuildFailed(Exception):
    """The generator refused the pages, or a page is missing in the navigation."""


def build(target: Path, root: Path = ROOT) -> None:
    """Build the site into the folder `target`, which is replaced.

    Raises:
        BuildFailed: for what the generator refuses, such as a broken anchor, and if navigation and pages differ.
        BrokenLink: for a link to a file that the repository lacks.
    """
    places = pages(root)
    _check_navigation(root, places)
    with tempfile.TemporaryDirectory() as folder:
        stage = Path(folder)
        shutil.copy(root / _CONFIG, stage)
        for file in (root / "docs").rglob("*"):
            if file.is_file() and str(file.relative_to(root)) not in places:  # pictures, the style sheet
                _write(stage / "docs" / file.relative_to(root / "docs"), file.read_bytes())
        for path, place in places.items():
            _write(stage / "docs" / place, site_text(path, places, root).encode())
        _generate(stage)
        _use_own_worker(stage / "site")
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(stage / "site", target)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _check_navigation(root: Path, places: dict[str, str]) -> None:
    listed = set(_leaves(yaml.safe_load((root / _CONFIG).read_text(encoding="utf-8"))["nav"]))
    if missing := sorted({*places.values()} - listed):
        raise BuildFailed(f"{_CONFIG}: its nav lacks {', '.join(missing)}")
    if gone := sorted(listed - {*places.values()}):
        raise BuildFailed(f"{_CONFIG}: its nav lists pages that do not exist: {', '.join(gone)}")


def _leaves(node: object) -> list[str]:
    if isinstance(node, dict):
        return [leaf for each in node.values() for leaf in _leaves(each)]
    if isinstance(node, list):
        return [leaf for each in node for leaf in _leaves(each)]
    return [str(node)]


def _generate(stage: Path) -> None:
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    # No colours, because their control sequences would be in logs.
    environment = os.environ | {"NO_COLOR": "1", "TERM": "dumb"}
    done = subprocess.run(command, cwd=stage, env=environment, capture_output=True, text=True)
    if done.returncode:
        said = (done.stdout + done.stderr).partition("Traceback (most recent call last)")[0]
        raise BuildFailed(said.strip())


def _use_own_worker(site: Path) -> None:
    """Replace the address of the script that pages would load from a server by a copy in the site."""
    shutil.copy(_WORKER, site / "assets" / "javascripts" / _WORKER.name)
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        up = "../" * (len(page.relative_to(site).parts) - 1)
        page.write_text(text.replace(_FOREIGN_WORKER, f"{up}assets/javascripts/{_WORKER.name}"), encoding="utf-8")
