"""Tests of several hundred bad inputs: each gives one line that names the mistake and exit code 2, and creates no file.

`bad_inputs/*.yaml` map command lines to a part of their answer. The commands run in this process and stop before jobs start.
Rows are checked as `dry_run` and submission check them. The expected texts omit words of other libraries.
"""

from pathlib import Path

import pytest
import yaml

from psychocounsel.errors import USER_ERROR
from tests.support.bad_files import make_all
from tests.support.in_process import run_here

TABLES = sorted((Path(__file__).parent / "bad_inputs").glob("*.yaml"))
CASES = [(line, part) for file in TABLES for line, part in yaml.safe_load(file.read_text()).items()]
# One of five stands for its neighbours in the quick tests.
PARAMETERS = [
    pytest.param(line, part, id=line, marks=[pytest.mark.slow] if number % 5 else [])
    for number, (line, part) in enumerate(CASES)
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_all(tmp_path_factory.mktemp("bad-files") / "files")


@pytest.fixture(autouse=True)
def _environment(own_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("PSYCHOCOUNSEL_ROLLOUT_KEY", raising=False)


def times(folder: Path) -> dict[Path, int]:
    """Return the modification time of each file below `folder`."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if "__pycache__" not in path.parts}


@pytest.mark.parametrize(("line", "part"), PARAMETERS)
def test_one_line_says_what_is_wrong_and_nothing_is_made(
    line: str, part: str, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = times(files)
    answer = run_here(line.replace("{F}", str(files)))
    assert answer.code == USER_ERROR, answer
    assert answer.stderr.startswith("error: ") and answer.stderr.count("\n") == 1, answer.stderr
    assert part.replace("{F}", str(files)).replace("{here}", str(tmp_path)) in answer.stderr
    assert not list(tmp_path.iterdir()), "a refused command creates no files"
    assert times(files) == before


def test_the_table_is_as_long_as_it_was() -> None:
    assert len(CASES) == len({line for line, _ in CASES}) >= 300


@pytest.mark.parametrize(
    "text", ["seed=1\n2", "run_dir=a\x1b[2Jb", "algo=dpo\rx", "algo.beta=\u2028", "data.path=\udcff.jsonl"]
)
def test_control_characters_make_no_second_line(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    answer = run_here(f"train '{text}'")
    assert answer.code == USER_ERROR
    (line,) = answer.stderr.splitlines()
    assert line.isprintable()
    assert not list(tmp_path.iterdir())


def test_deep_nesting_and_long_numbers_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for text in ("seed=" + "[" * 5000 + "]" * 5000, "seed=" + "7" * 5000):
        answer = run_here(f"train {text}")
        assert (answer.code, answer.stderr.count("\n")) == (USER_ERROR, 1)
        assert len(answer.stderr) < 6000


def test_a_file_of_hydras_own_settings_makes_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "my/experiment/mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text(f"# @package hydra\nrun: {{dir: {tmp_path}/outside}}\noutput_subdir: x\n")
    monkeypatch.chdir(tmp_path)
    assert run_here(f"train --config-dir={tmp_path}/my experiment=mine", rows=False).code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["my"]


def test_an_experiment_that_includes_itself_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "my/experiment"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("# @package _global_\ndefaults: [other]\n")
    (folder / "other.yaml").write_text("# @package _global_\ndefaults: [mine]\n")
    monkeypatch.chdir(tmp_path)
    answer = run_here("train --config-dir=my experiment=mine", rows=False)
    assert answer.code == USER_ERROR
    assert answer.stderr == f"error: {folder}/mine.yaml: its `defaults` lead back to this file; leave it out there\n"
