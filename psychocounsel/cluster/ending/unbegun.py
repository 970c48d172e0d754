"""Checks of a run directory: results that could be lost, and steps made."""

import shutil
from pathlib import Path

from psychocounsel.rundir.metrics import read_metrics
from psychocounsel.rundir.paths import AnnotationDir, RunDir
from psychocounsel.rundir.summary import is_finished


def made_nothing(run_dir: Path) -> bool:
    """Return True if the run has no steps, checkpoints, rounds, model or answers, only logs and settings."""
    files = RunDir(run_dir)
    return not any(map(_holds_something, [*_of_work(run_dir), files.metrics, files.checkpoints, files.model]))


def made_no_step(run_dir: Path) -> bool:
    """Return True if the run made nothing, or only evaluated and saved its initial model, and is not finished."""
    files = RunDir(run_dir)
    if is_finished(run_dir) or any(map(_holds_something, _of_work(run_dir))):
        return False
    lines = read_metrics(files.metrics)
    is_whole = not files.metrics.exists() or len(lines) == len(files.metrics.read_bytes().splitlines())
    saved = {each.path for each in files.checkpoint_dirs()} - {files.checkpoint(0).path}
    return is_whole and not saved and all(line["step"] == 0 for line in lines)


def remove_step_zero(run_dir: Path) -> None:
    """Remove the checkpoints, model, metrics and state of a run without a step (`made_no_step`). Logs stay."""
    files = RunDir(run_dir)
    for folder in (files.checkpoints, files.model):
        shutil.rmtree(folder, ignore_errors=True)
    for file in (files.metrics, files.state, files.code):
        file.unlink(missing_ok=True)


def _of_work(run_dir: Path) -> list[Path]:
    """Return the files and folders with rounds, scores, audits and answers."""
    files, tables = RunDir(run_dir), AnnotationDir(run_dir)
    work = [files.rounds, files.scores, files.audit]
    work += [tables.speeches, tables.answers, tables.steps, tables.shards]
    return [*work, files.counterfactuals, files.counterfactual_answers, files.ranker_answers]


def _holds_something(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists()
