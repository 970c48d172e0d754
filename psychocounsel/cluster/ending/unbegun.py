"""`made_nothing` tells whether a run directory holds any result that could be lost."""

from pathlib import Path

from psychocounsel.rundir.paths import AnnotationDir, RunDir


def made_nothing(run_dir: Path) -> bool:
    """Whether the run has neither steps, checkpoints, rounds, a model nor bought answers: logs and settings alone."""
    files, tables = RunDir(run_dir), AnnotationDir(run_dir)
    work = [files.metrics, files.checkpoints, files.rounds, files.model, files.scores, files.audit]
    work += [tables.speeches, tables.answers, tables.steps, tables.shards]
    work += [files.counterfactuals, files.counterfactual_answers, files.ranker_answers]
    return not any(map(_holds_something, work))


def _holds_something(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists()
