"""Code on the pages is valid, imports existing names, and runs if its page marks it."""

import ast
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from tests.support.doc_blocks import RUN, Block, blocks, pages
from tests.support.doc_runs import marked, run_marked
from tests.support.harness import ROOT

CODE = [block for page in pages() for block in blocks(page) if block.language in ("python", "yaml")]


def _name(block: Block) -> str:
    return f"{block.page.name}:{block.line}"


@pytest.mark.parametrize("block", CODE, ids=_name)
def test_a_block_of_code_is_valid_and_imports_what_exists(block: Block) -> None:
    if block.language == "yaml":
        yaml.safe_load(block.text)
        return
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "psychocounsel":
            module = import_module(node.module or "")
            for each in node.names:
                assert hasattr(module, each.name) or import_module(f"{node.module}.{each.name}"), each.name


def test_the_hook_of_the_page_tells_of_steps_and_not_of_the_evaluation_before_the_first() -> None:
    (hook,) = [block.text for block in CODE if "# my_hooks.py" in block.text]
    told = list[str]()
    run = SimpleNamespace(is_main=True, say=told.append)
    code = {"__name__": __name__}
    exec(hook, code)
    notify: Any = code["Notify"]
    for step in range(5):
        notify(every=2).on("step_end", step, run)
    assert told == ["step 2 is done", "step 4 is done"]


def test_blocks_run_in_order_in_one_folder_and_a_failing_one_is_named(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        f"{RUN}\n\n    echo one > here.txt\n\n```bash\nexit 1\n```\n\n{RUN}\n```python\nfrom my.own import x\n"
        f"print(open('here.txt').read() + x)\n```\n\n```python\n# my/own.py\nx = 'two'\n```\n"
    )
    folder = tmp_path / "folder"
    folder.mkdir()
    assert run_marked(page, folder, Path(sys.executable), PYTHONPATH=str(folder)) == ["", "one\ntwo\n"]
    page.write_text(f"{RUN}\n    echo before && false\n")
    with pytest.raises(AssertionError, match=r"page.md:2: exit code 1\nbefore"):
        run_marked(page, folder, Path(sys.executable))


# The tutorial, which takes minutes, runs in tests/packaging/test_wheel.py, in an environment with the wheel.
RUN_HERE = [page for page in pages() if marked(page) and page.name != "tutorial.md"]


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN_HERE, ids=lambda page: page.name)
def test_marked_blocks_run_as_printed(page: Path, tmp_path: Path) -> None:
    run_marked(page, tmp_path, Path(sys.executable), PYTHONPATH=str(ROOT), PYTHONDONTWRITEBYTECODE="1")
