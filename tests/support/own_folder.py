"""Folder for `--config-dir`, as users write one: a Python file, and a YAML file that names a class in it."""

import textwrap
from pathlib import Path


def write_own(folder: Path, group: str, name: str, code: str, settings: str) -> None:
    """Write `<folder>/<name>.py` and `<folder>/<group>/<name>.yaml`."""
    (folder / group).mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.py").write_text(textwrap.dedent(code))
    (folder / group / f"{name}.yaml").write_text(textwrap.dedent(settings))


def docs_example(text: str, first_line: str) -> str:
    """Return the code block of a Markdown page that begins with `first_line`."""
    block = text.partition(f"\n{first_line}\n")[2].partition("\n```")[0]
    assert block, f"no block begins with {first_line}"
    return block
