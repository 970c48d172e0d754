"""Training runs that produced a model's weights, and facts from their settings."""

from pathlib import Path

import pytest

from psychocounsel.rundir.paths import RunDir
from psychocounsel.rundir.run_config import write_config
from psychocounsel.rundir.trained_runs import run_trained_on, runs_of, trained_dtype
from psychocounsel.storage.files import write_json
from tests.support.contests import contest
from tests.support.harness import write_jsonl
from tests.support.trained import trained_run

ROW = {"prompt": "I can't sleep.", "chosen": "Since when?", "rejected": "Relax."}


def test_the_folder_of_an_evaluation_is_no_run_of_a_model(tmp_path: Path) -> None:
    """A served model may share its name with a folder that belongs to an evaluation, which trained nothing."""
    write_config(tmp_path, contest("evaluation=health", "model.path=builtin:tiny_dpo"))
    write_json(RunDir(tmp_path).job, {"module": "psychocounsel.evaluate"})
    assert runs_of(str(tmp_path)) == []


@pytest.mark.parametrize(("given", "dtype"), [("bf16", "bf16"), ("fp32", "fp32"), ("auto", None)])
def test_the_number_format_is_the_one_that_the_training_names(given: str, dtype: str | None, tmp_path: Path) -> None:
    run = trained_run(tmp_path / "run", f"model.dtype={given}")
    assert trained_dtype(str(run)) == trained_dtype(f"{run}/model") == dtype
    assert trained_dtype("org/name") is trained_dtype("builtin:tiny") is trained_dtype(None) is None


def test_a_run_trained_on_its_file_and_on_the_files_of_its_folder_or_mixture(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    mine, other, inside = (
        write_jsonl(tmp_path / name, [ROW]) for name in ("mine.jsonl", "other.jsonl", "folder/inside.jsonl")
    )
    first = trained_run(tmp_path / "first", f"data.path={mine}")
    second = trained_run(tmp_path / "second", f"data.path={tmp_path}/folder", f"model.path={first}/model")
    mixed = trained_run(tmp_path / "mixed", f"data.mix=[{{path: {other}, rows: 1}}]")
    found = {
        run: [run_trained_on(f"{run}/model", file) for file in (mine, other, inside)] for run in (first, second, mixed)
    }
    assert found == {
        first: [first, None, None],
        second: [first, None, second],  # it started from the weights of the first
        mixed: [None, mixed, None],
    }
    assert run_trained_on("builtin:tiny", mine) is None
