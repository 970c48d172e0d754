"""Runner of the blocks of a page that are marked with `<!-- run -->`. They run in order in one folder, as a reader types them."""

import os
import re
import subprocess
from pathlib import Path

from tests.support.doc_blocks import Block, blocks

_IS_FILE = re.compile(r"# ((?:\w+/)*\w+\.(?:py|ya?ml))\n")
_MINUTES = 15.0  # of one block


def write_files(page: Path, folder: Path) -> None:
    """Write each block whose first line is a comment with a path, as `# my/slic.py`, to that file."""
    for block in blocks(page):
        if found := _IS_FILE.match(block.text):
            file = folder / found[1]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text)


def marked(page: Path) -> list[Block]:
    """Return the blocks of a page that are marked to be run."""
    return [block for block in blocks(page) if block.is_run]


def run_marked(page: Path, folder: Path, python: Path, **environment: str) -> list[str]:
    """Run the marked blocks in order in `folder`, by the interpreter `python`, and return the output of each.

    Raises:
        AssertionError: for a block that fails, with its place and what it printed.
    """
    write_files(page, folder)
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    printed = []
    for block in marked(page):
        assert block.is_shell or block.language == "python", f"{page}:{block.line}: cannot run {block.language}"
        command = ["bash", "-euo", "pipefail", "-c", block.text] if block.is_shell else [str(python), "-c", block.text]
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "PATH": path, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60 * _MINUTES,
        )
        assert not done.returncode, f"{page}:{block.line}: exit code {done.returncode}\n{done.stdout[-4000:]}"
        printed.append(done.stdout)
    return printed
