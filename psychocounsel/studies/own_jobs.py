"""Jobs that a study adds to those of its stages: one chooses a stage's best cell, one writes the tables."""

from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from omegaconf import DictConfig, OmegaConf

from psychocounsel.cluster.job import Job
from psychocounsel.errors import DONE, UserError
from psychocounsel.rundir.paths import StageDir, StudyDir
from psychocounsel.rundir.results import FINISHED, is_finished, known_mode, read_summary, write_summary
from psychocounsel.settings import config as configs
from psychocounsel.settings.command import Command
from psychocounsel.settings.schema import NoKeys
from psychocounsel.storage.files import read_mapping
from psychocounsel.studies.plan import PlannedStage, StudyPlan, selection_fingerprint, table_fingerprint
from psychocounsel.studies.selecting import is_trial, select
from psychocounsel.studies.study_file import read_study

if TYPE_CHECKING:
    from psychocounsel.rundir.run import Run


class StudyWork(Command):
    """Work of a study between and after its stages: it chooses a stage's best cell, or writes the tables. No torch."""

    name: ClassVar[str] = "launch"
    module: ClassVar[str] = "psychocounsel.launch"
    section: ClassVar[str] = "study"
    texts: ClassVar[str] = ""

    def schema(self, plain: DictConfig) -> type:
        return NoKeys

    def check(self, config: DictConfig, plain: DictConfig) -> None:
        """Accept everything, because the study itself writes these configurations."""

    def metric(self, config: DictConfig) -> str:
        """Return the metric by which a stage's best cell is chosen; "" for tables."""
        return str(config.study.metric or "")

    def loads_a_model(self, config: DictConfig) -> bool:
        return False

    def reads_rows(self, config: DictConfig) -> bool:
        return False

    def work(self, run: "Run") -> int:
        return select(run) if run.config.study.kind == "selection" else _write_tables(run)


COMMAND = StudyWork()


def selection_job(planned: PlannedStage, stage: StageDir) -> tuple[Job, str]:
    """Return the job that chooses the best of a stage's cells, and its fingerprint.

    Raises:
        UserError: if it would choose by test data, or the metric's direction is unknown.
    """
    _refuse_test(planned)
    metric, mode = str(planned.stage.best), _mode(planned)
    fingerprint = selection_fingerprint(metric, mode, [cell.fingerprint for cell in planned.cells])
    cells = [{"folder": cell.run_dir.name, "swept": cell.swept} for cell in planned.cells]
    about = {"kind": "selection", "metric": metric, "mode": mode, "fingerprint": fingerprint, "cells": cells}
    place = stage.selection(fingerprint)
    job = Job(COMMAND, _config(planned.cells[0].job.config, about, place.path), place.path)
    job.overrides = [f"best of {planned.name} by {metric}"]
    job.after = [str(cell.run_dir) for cell in planned.cells]
    job.after_any = all(is_trial(cell.swept) for cell in planned.cells)  # a search continues without failed trials
    chosen = read_mapping(place.record).get("fingerprint") == fingerprint and place.best.is_dir()
    # An evaluation that is due again, because its model was trained further, may change the choice.
    due_again = any(is_finished(cell.run_dir) and not cell.job.finished for cell in planned.cells)
    job.finished = chosen and not due_again
    job.skip = "finished" if job.finished else ""
    return job, fingerprint


def table_job(plan: StudyPlan) -> Job | None:
    """Return the job that writes the study's tables after all others; None for a study without cells.

    It counts as finished if no other job will run and tables of the same runs and layout exist.
    """
    jobs = [job for planned in plan.stages for job in planned.jobs()]
    if not jobs:
        return None
    cells = [cell for planned in plan.stages for cell in planned.cells]
    fingerprint = table_fingerprint([plan.study.table, plan.study.values], [cell.fingerprint for cell in cells])
    about = {"kind": "table", "metric": None, "name": plan.study.name, "fingerprint": fingerprint}
    table = plan.files.table
    job = Job(COMMAND, _config(jobs[0].config, about, table), table, overrides=["tables"], after_any=True)
    job.after = [str(other.run_dir) for other in jobs]
    written = read_summary(table)
    ended = sorted(plan.relative(cell.run_dir) for cell in cells if cell.job.finished)
    requested = [other for stage in plan.stages if stage.is_requested for other in stage.jobs()]
    job.finished = (
        all(other.finished for other in requested)
        and written.get("fingerprint") == fingerprint
        and written.get("runs") == ended
        and all((plan.files.path / name).is_file() for name in written.get("files") or [])
    )
    return job


def _mode(planned: PlannedStage) -> str:
    """Return min or max: the stage's `mode`, or training's `checkpoint.mode` for this metric, or by the metric's name.

    Raises:
        UserError: if neither gives the direction.
    """
    stage, checkpoint = planned.stage, planned.cells[0].job.config.get("checkpoint")
    if stage.mode != "auto":
        return stage.mode
    if checkpoint is not None and checkpoint.metric == stage.best and checkpoint.mode != "auto":
        return str(checkpoint.mode)
    if (mode := known_mode(str(stage.best))) is None:
        raise UserError(
            f"best: {stage.best}: is its smallest or its largest value the best? Give best: {{metric: {stage.best}, mode: min}}, "
            "or mode: max"
        )
    return mode


def _refuse_test(planned: PlannedStage) -> None:
    """Refuse a choice by test data, under any name of the metric.

    Raises:
        UserError: naming the key that sets the split.
    """
    for cell in planned.cells:
        split = OmegaConf.select(cell.job.config, "data.eval_split")
        if planned.stage.command in ("train", "evaluate") and "test" in str(split or ""):
            raise UserError(
                f"best: {planned.stage.best}: is a figure of data.eval_split={split}, and test data may be used only once; "
                "choose by held-out data"
            )


def _config(of: DictConfig, about: dict[str, Any], run_dir: Path) -> DictConfig:
    """Return the configuration of a study's own job for worker and cluster; `of` is the configuration of a cell."""
    cluster = deepcopy(OmegaConf.to_container(of.cluster))
    assert isinstance(cluster, dict)
    cluster |= configs.build(of, "cluster").light()
    content = {"study": about, "cluster": cluster, "paths": of.paths, "code_path": of.code_path, "after": []}
    return OmegaConf.create({**content, "run_dir": str(run_dir), "sweep_dir": None, "dry_run": False})


def _write_tables(run: "Run") -> int:
    from psychocounsel.studies import tables

    files = StudyDir(run.dir.parent)
    ended = _finished_runs(files)
    written = tables.write(files, read_study(files.study, run.config.study.name))
    about = {"fingerprint": run.config.study.fingerprint, "runs": ended}
    write_summary(run.dir, FINISHED, metrics={}, files=[path.name for path in written], **about)
    return DONE


def _finished_runs(files: StudyDir) -> list[str]:
    """Return the finished runs of the study's cells, as named in `cells.json`."""
    stages = read_mapping(files.cells).get("stages", {})
    runs = [str(cell["run_dir"]) for stage in stages.values() for cell in stage["cells"]]
    return sorted(run for run in runs if is_finished(files.path / run))
