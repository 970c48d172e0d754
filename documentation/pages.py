"""Pages of the site: Markdown files of the repository, with links that hold on GitHub and in the site."""

import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Pages outside docs/: path in the repository to path in the site.
_ELSEWHERE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks_readme.md",
    "launch/README.md": "launch_readme.md",
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
    found = {str(file.relative_to(root)): str(file.relative_to(root / "docs").with_suffix(".md")) for file in inside}
    return found | {path: place for path, place in _ELSEWHERE.items() if (root / path).is_file()}


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
    return _LINK.sub(lambda found: _link(found, path, places, root), prose)


def _link(found: re.Match[str], path: str, places: dict[str, str], root: Path) -> str:
    """Return a link of the site. A link to a file that is not in the site becomes its words and path; web addresses stay."""
    is_picture, words, target = found.groups()
    file, _, anchor = target.partition("#")
    if ":" in file or not file:
        return found[0]
    there = posixpath.normpath(posixpath.join(posixpath.dirname(path), file))
    if not (root / there).exists():
        raise BrokenLink(f"{path}: [{words}]({target}): the repository has no {there}")
    is_shown = there in places or ((root / there).is_file() and there.startswith("docs/"))
    if not is_shown and not is_picture:
        return words if there in words else f"{words} (`{there}`)"
    if not is_shown:
        raise BrokenLink(f"{path}: ![{words}]({target}): a picture must lie in docs/")
    place = places.get(there, there.removeprefix("docs/"))
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
