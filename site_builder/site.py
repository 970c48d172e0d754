"""Builder of the site. Warnings are errors, and the built pages load nothing from a network."""

import json
import os
import posixpath
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml

# Pages: Markdown files of the repository, whose links work on GitHub and in the site.

ROOT = Path(__file__).parents[1]
# Pages outside docs/: path in the repository to path in the site.
_ELSEWHERE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks_readme.md",
    "benchmarks/RESULTS.md": "benchmarks_results.md",
    "launch/README.md": "launch_readme.md",
    "psychocounsel/data/everyday/README.md": "everyday_card.md",
    "psychocounsel/data/sample/README.md": "sample_card.md",
}
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
_FENCE = re.compile(r"^ {0,3}(```|~~~)")
_LIST = re.compile(r"^([-*]|\d+\.) ")
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)


class BrokenLink(ValueError):
    """A link to a file that does not exist."""


def pages(root: Path = ROOT) -> dict[str, str]:
    """Return the site's pages: path in the repository to path in the site."""
    inside = [file for ending in ("md", "ipynb") for file in sorted((root / "docs").rglob(f"*.{ending}"))]
    places = {str(file.relative_to(root)): str(file.relative_to(root / "docs").with_suffix(".md")) for file in inside}
    return places | {path: place for path, place in _ELSEWHERE.items() if (root / path).is_file()}


def site_text(path: str, places: dict[str, str], root: Path = ROOT) -> str:
    """Return the Markdown of a page as the site shows it.

    Raises:
        BrokenLink: for a link to a file that the repository lacks, and for a picture outside docs/.
    """
    text = (root / path).read_text(encoding="utf-8")
    if path.endswith(".ipynb"):
        text = _notebook(text)
    text = _FRONT_MATTER.sub("", text)
    return "".join(_chunks(text, path, places, root))


def _chunks(text: str, path: str, places: dict[str, str], root: Path) -> Iterator[str]:
    """Yield the text in pieces: prose with the links of the site, and code unchanged.

    Prose is collected up to the next code, because a link may span lines. An empty line is inserted between a paragraph and
    a list.
    """
    prose, in_code = "", False
    for line in text.splitlines():
        fences = bool(_FENCE.match(line))
        if fences or in_code or line.startswith("    "):
            in_code ^= fences
            yield f"{_linked(prose, path, places, root)}{line}\n"
            prose = ""
        else:
            before = prose.splitlines()[-1:]
            if _LIST.match(line) and before and before[0].strip() and not re.match(r"[ *-]|\d", before[0]):
                prose += "\n"
            prose += f"{line}\n"
    yield _linked(prose, path, places, root)


def _linked(prose: str, path: str, places: dict[str, str], root: Path) -> str:
    return _LINK.sub(lambda match: _link(match, path, places, root), prose)


def _link(match: re.Match[str], path: str, places: dict[str, str], root: Path) -> str:
    """Return a link of the site. A link to a file that is not in the site becomes its words and path; web addresses stay."""
    is_picture, words, target = match.groups()
    file, _, anchor = target.partition("#")
    if ":" in file or not file:
        return match[0]
    destination = posixpath.normpath(posixpath.join(posixpath.dirname(path), file))
    if not (root / destination).exists():
        raise BrokenLink(f"{path}: [{words}]({target}): the repository has no {destination}")
    is_shown = destination in places or ((root / destination).is_file() and destination.startswith("docs/"))
    if not is_shown and not is_picture:
        return words if destination in words else f"{words} (`{destination}`)"
    if not is_shown:
        raise BrokenLink(f"{path}: ![{words}]({target}): a picture must lie in docs/")
    place = places.get(destination, destination.removeprefix("docs/"))
    link = posixpath.relpath(place, posixpath.dirname(places[path]) or ".")
    return f"{is_picture}[{words}]({link}{'#' if anchor else ''}{anchor})"


def _notebook(text: str) -> str:
    """Return the cells of a notebook as Markdown, with the texts that they print."""
    parts = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        printed = "".join(part for output in cell.get("outputs", []) for part in _printed(output))
        if printed.strip():
            parts.append(f"```text\n{printed.rstrip()}\n```")
    return "\n\n".join(parts)


def _printed(output: dict) -> list[str]:
    return output.get("text") or output.get("data", {}).get("text/plain") or []


# Build.

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
        return [leaf for inner in node.values() for leaf in _leaves(inner)]
    if isinstance(node, list):
        return [leaf for inner in node for leaf in _leaves(inner)]
    return [str(node)]


def _generate(stage: Path) -> None:
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    # No colours, because their control sequences would be in logs.
    environment = os.environ | {"NO_COLOR": "1", "TERM": "dumb"}
    done = subprocess.run(command, cwd=stage, env=environment, capture_output=True, text=True)
    if done.returncode:
        output = (done.stdout + done.stderr).partition("Traceback (most recent call last)")[0]
        raise BuildFailed(output.strip())


def _use_own_worker(site: Path) -> None:
    """Replace the address of the script that pages would load from a server by a copy in the site."""
    shutil.copy(_WORKER, site / "assets" / "javascripts" / _WORKER.name)
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        up = "../" * (len(page.relative_to(site).parts) - 1)
        page.write_text(text.replace(_FOREIGN_WORKER, f"{up}assets/javascripts/{_WORKER.name}"), encoding="utf-8")
