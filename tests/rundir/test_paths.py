"""Names of run files are spelled once: no other module of the package spells them."""

import ast
from functools import cache
from pathlib import Path

import pytest

from psychocounsel.rundir.paths import AttemptDir, CheckpointDir, ModelDir, RoundDir, RunDir, SubmissionDir, SweepDir
from psychocounsel.rundir.run_config import read_section
from psychocounsel.storage.files import PACKAGE

# The same words with another meaning: a marker of the library `datasets`, and a file of VERA-MH.
_OTHERS = {("data/sources.py", "state.json"), ("evaluation/flows/foreign_files.py", "manifest.json")}


@cache
def names() -> set[str]:
    """Return the names of files with a suffix, and of some folders."""
    kinds = (RunDir, AttemptDir, CheckpointDir, ModelDir, RoundDir, SubmissionDir, SweepDir)
    paths = [value for kind in kinds for value in vars(kind(Path("x"))).values() if value != Path("x")]
    return {path.name for path in paths} | {"submissions", "code"}


@cache
def prefixes() -> tuple[str, ...]:
    """Return the prefixes of numbered files."""
    run = RunDir(Path("x"))
    numbered = [run.checkpoint(0).path, run.attempt(0).output(0), run.round(0).shard(0), run.server_log(0)]
    return tuple(path.name.split("-")[0] + "-" for path in numbered)


def spelled(file: Path) -> list[str]:
    """Return names of run files in `file`: as a whole string with a suffix, joined to a path, or in a formatted string."""
    tree, found = ast.parse(file.read_text()), list[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            parts = node.value.split("/")
            found += [part for part in parts if "." in part and part in names() and " " not in node.value]
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            right = node.right
            if isinstance(right, ast.Constant) and right.value in names():
                found.append(str(right.value))
            if isinstance(right, ast.JoinedStr) and isinstance(right.values[0], ast.Constant):
                found += [word for word in [str(right.values[0].value)] if word.startswith(prefixes())]
    return found


def test_names_of_run_files_stand_in_rundir_alone() -> None:
    modules = [path for path in PACKAGE.rglob("*.py") if path.parent.name != "rundir"]
    assert len(modules) > 150
    found = {(str(path.relative_to(PACKAGE)), name) for path in modules for name in spelled(path)}
    assert found <= _OTHERS


def test_a_name_that_stands_elsewhere_is_found(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text('a = run / "config.yaml"\nb = run / "logs" / f"rank-{rank}.out"\nc = run / "other" / "x.json"\n')
    assert sorted(spelled(file)) == ["config.yaml", "config.yaml", "logs", "rank-"]


@pytest.mark.parametrize("key", ["cluster", "code_path", "after"])
def test_a_section_of_a_configuration_is_what_all_of_it_says(key: str, tmp_path: Path) -> None:
    content = {
        "algo": {"beta": 0.1},
        "cluster": {"_target_": "own.Own", "servers": {"command": ["a", "b: c"]}, "time": "24h"},
        "code_path": ["/one", "/two words"],
        "after": [],
        "text": "two\n\nlines",
    }
    from omegaconf import OmegaConf

    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(content)))
    assert read_section(tmp_path, key) == content[key]
    assert read_section(tmp_path, "nothing") is None
