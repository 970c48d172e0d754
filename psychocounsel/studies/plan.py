"""Plan of a study before anything starts: ordered stages of cells, each a checked job with a folder and a fingerprint.

    plan.stages                   ordered so that every stage comes after those that it needs
    plan.stages[0].cells          one for each combination of its sweep with the cells of `for_each`
    plan.stages[0].cells[0].job   module, checked config, run directory, and the run directories that it needs (`after`)
    plan.stages[0].selection      the job that chooses the best cell, if the stage has `best`
    plan.groups()                 all jobs, in the form that a cluster with a queue takes

The plan is not written to disk. `cells.json` in the study's folder lists the same cells for readers of results.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from psychocounsel.cluster.job import Job
from psychocounsel.errors import UserError
from psychocounsel.rundir.identity import deciding
from psychocounsel.rundir.paths import ONLY_CELL, RunDir, StageDir, StepsDir, StudyDir, cell_record, is_selection
from psychocounsel.rundir.run_config import has_config, read_overrides
from psychocounsel.rundir.sweep import cell_name, key_of
from psychocounsel.storage.files import read_mapping, write_json
from psychocounsel.storage.hashes import content_id
from psychocounsel.studies.study_file import Study, StudyStage, near


class StudyErrors(UserError):
    """All mistakes of a study, one per line."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("; ".join(lines))
        self.lines = list(lines)


@dataclass
class StudyRequest:
    """Request of a command in addition to the study.

    Attributes:
        overrides: overrides of every stage whose command has the key (cluster=slurm).
        force: stages that are repeated.
        times: number of repetitions of each stage, including this command's.
        folders: folders of --config-dir.
    """

    only: list[str] = field(default_factory=list)
    start_at: str | None = None
    overrides: list[str] = field(default_factory=list)
    force: list[str] = field(default_factory=list)
    times: dict[str, int] = field(default_factory=dict)
    folders: list[Path] = field(default_factory=list)


@dataclass
class StudyCell:
    """One run of a stage.

    Attributes:
        name: name of its folder, or of its stage if the stage sweeps nothing.
        swept: the swept keys with their values as typed: {"algo.beta": "0.3", "seed": "2"}.
        parent: its cell of `for_each`.
        fingerprint: sha256 of everything that decides its result, including the cells that it needs.
    """

    stage: str
    name: str
    swept: dict[str, str]
    parent: "StudyCell | None"
    job: Job
    fingerprint: str

    @property
    def run_dir(self) -> Path:
        return self.job.run_dir


@dataclass
class PlannedStage:
    """A stage with its cells; `selection` chooses the best. `is_requested` is False if `only` or `start_at` leave it out."""

    stage: StudyStage
    cells: list[StudyCell] = field(default_factory=list)
    selection: Job | None = None
    is_requested: bool = True

    @property
    def name(self) -> str:
        return self.stage.name

    def jobs(self) -> list[Job]:
        """Jobs of its cells, then the selection."""
        return [*(cell.job for cell in self.cells), *([self.selection] if self.selection else [])]

    def unfinished(self) -> list[StudyCell]:
        """Return the cells to run; none if the stage is not requested."""
        return [cell for cell in self.cells if self.is_requested and not cell.job.finished]


@dataclass
class StudyPlan:
    """A study that was checked as a whole.

    `table` writes the study's tables after all other jobs have ended, even if some failed. `notes` are lines for the user.
    """

    study: Study
    files: StudyDir
    stages: list[PlannedStage]
    table: Job | None = None
    notes: Sequence[str] = ()

    def groups(self) -> list[list[Job]]:
        """Return all jobs in groups, each after those that it needs: cells and selection of each stage, then the table.

        Finished jobs are included, with `finished` and `skip` set, because others name them in `after`. Stages that were not
        requested are left out, because the runs that others need from them have finished.
        """
        groups = list[list[Job]]()
        for planned in self.stages:
            if planned.is_requested:
                groups += [[cell.job for cell in planned.cells], [planned.selection] if planned.selection else []]
        return [group for group in (*groups, [self.table] if self.table else []) if group]

    def listing(self) -> dict[str, Any]:
        """Return the content of `cells.json`: for each stage its command, its cells, and the job that chooses the best.

        {"stages": {STAGE: {"command": "train", "best": METRIC, "select": FOLDER, "cells": [CELL, ...]}}}, where CELL is
        {"name": NAME, "run_dir": "STAGE/FOLDER", "swept": {KEY: VALUE}, "fingerprint": ..., "parent": "STAGE/FOLDER" or null}
        """
        return {"stages": {planned.name: self._listed(planned) for planned in self.stages}}

    def _listed(self, planned: PlannedStage) -> dict[str, Any]:
        cells = [
            {
                "name": cell.name,
                "run_dir": self.relative(cell.run_dir),
                "swept": cell.swept,
                "fingerprint": cell.fingerprint,
                "parent": self.relative(cell.parent.run_dir) if cell.parent else None,
            }
            for cell in planned.cells
        ]
        select = planned.selection.run_dir.name if planned.selection else None
        return {"command": planned.stage.command, "best": planned.stage.best, "select": select, "cells": cells}

    def relative(self, run_dir: Path) -> str:
        """Return a run directory relative to the study, so that the folder may be moved."""
        return str(run_dir.relative_to(self.files.path))


# Graph of the stages: their order, cycles, and the stages that a command requests.

Graph = Mapping[str, Sequence[str]]  # stage -> the stages that it needs


def in_order(graph: Graph) -> list[str]:
    """Return the stages, each after those that it needs (except in cycles), otherwise in the order of the file."""
    return _visited(graph)[0]


def circles(graph: Graph) -> list[list[str]]:
    """Return cycles of stages that need each other, as [a, b, a]."""
    return _visited(graph)[1]


def _visited(graph: Graph) -> tuple[list[str], list[list[str]]]:
    order, cycles, path = list[str](), list[list[str]](), list[str]()

    def visit(stage: str) -> None:
        if stage in path:
            cycles.append([*path[path.index(stage) :], stage])
        elif stage not in order and stage in graph:
            path.append(stage)
            for need in graph[stage]:
                visit(need)
            path.pop()
            order.append(stage)

    for stage in graph:
        visit(stage)
    return order, cycles


def following(graph: Graph, begin: Iterable[str]) -> set[str]:
    """Return the stages `begin` and all stages that need them, directly or indirectly."""
    reached = set(begin)
    for stage in in_order(graph):
        if reached & set(graph[stage]):
            reached.add(stage)
    return reached


def requested_stages(graph: Graph, only: Sequence[str], start_at: str | None) -> set[str]:
    """Return the requested stages: those of `only`, or `start_at` and all that follow it, or all.

    Raises:
        UserError: for a stage that does not exist, or if none is left.
    """
    refuse_unknown("only", only, graph)
    requested = set(only) if only else set(graph)
    if start_at:
        refuse_unknown("start_at", [start_at], graph)
        requested &= following(graph, [start_at])
        if not requested:
            raise UserError(f"start_at={start_at}: leaves none of only=[{','.join(only)}]; give one of the two")
    return requested


def refuse_unknown(key: str, stages: Iterable[str], graph: Graph) -> None:
    """Raise UserError if `key` names a stage that does not exist."""
    for stage in stages:
        if stage not in graph:
            advice = near(stage, [*graph])
            raise UserError(f"{key}={stage}: the study has no such stage; {advice}(it has {', '.join(graph)})")


# Fingerprints of cells: a finished run directory with a cell's fingerprint is that cell, whatever its name.

_ELSEWHERE = ("out", "settled")  # the cell's location, which does not matter, and values that are hashed separately
# Names of folders of data, models, replies, cases and personas; what their runs say of themselves does not decide a result.
_FOLDER_KEYS = ("path", "eval_path", "model", "own_replies", "from", "folder", "lm_eval_folder")
_RUN = RunDir(Path())
_OF_RUNS = {path.name for path in (_RUN.logs, _RUN.state, _RUN.owner, StepsDir(_RUN.path).answers)}
_STUDY = "STUDY"  # replaces the path of the study's folder, which may be moved


def cell_fingerprint(module: str, config: DictConfig, study: Path, needed: Iterable[str], times: int) -> str:
    """Return a hash of everything that decides a cell's result: settings, local files, and the cells that it needs.

    `times` counts the forced repetitions of its stage. For a value that a search or an earlier stage will choose, the
    rule of the choice is hashed.
    """
    recipes = config.get("settled")
    settled: Any = OmegaConf.to_container(recipes) if recipes else {}
    kept = {
        key: value
        for key, value in deciding(config).items()
        if key.split(".")[0] not in _ELSEWHERE and key not in settled
    }
    content = _contents(kept, study, config.paths.cache)
    return _hash(
        [module, _without([kept, settled], str(study)), sorted(needed), times, *([content] if content else [])]
    )


def table_fingerprint(layout: Sequence[Any], cells: Sequence[str]) -> str:
    """Return the fingerprint of tables with this layout over cells with these fingerprints."""
    return _hash(["table", layout, sorted(cells)])


def selection_fingerprint(metric: str, mode: str, cells: Sequence[str]) -> str:
    """Return the fingerprint of a choice between cells with these fingerprints."""
    return _hash(["selection", metric, mode, sorted(cells)])


def _contents(values: Mapping[str, Any], study: Path, cache: str) -> dict[str, str]:
    """Return hashes of the local files and folders that keys name, by key; runs of the study have their own fingerprints."""
    hashes = {}
    for key, value in values.items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and text.startswith("/") and not Path(text).is_relative_to(study):
                path = Path(text)
                if os.path.isfile(text):  # also False for a long text
                    hashes[f"{key}={text}"] = content_id(path.parent, [path], cache)
                elif os.path.isdir(text) and key.rpartition(".")[2] in _FOLDER_KEYS:
                    files = sorted(
                        file
                        for file in path.rglob("*")
                        if file.is_file() and _OF_RUNS.isdisjoint(file.relative_to(path).parts)
                    )
                    hashes[f"{key}={text}"] = content_id(path, files, cache)
    return hashes


def _without(value: Any, study: str) -> Any:
    """Return `value` with the study's folder replaced in all texts."""
    if isinstance(value, str):
        return value.replace(study, _STUDY)
    if isinstance(value, list | tuple):
        return [_without(part, study) for part in value]
    if isinstance(value, dict):
        return {_without(key, study): _without(inner, study) for key, inner in value.items()}
    return value


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


# Folders of cells: the one that has the cell's fingerprint, or a new one named by the keys that distinguish the cell.


class StageFolders:
    """Folders of one stage: those on disk, and those that a plan assigns."""

    def __init__(self, stage: StageDir, study: Path) -> None:
        self.stage, self.study = stage, str(study)
        self.by_fingerprint: dict[str, Path] = {}
        self.taken: dict[str, str] = {}  # name: fingerprint ("" if unknown)
        for folder in sorted(stage.path.glob("*")) if stage.path.is_dir() else []:
            if folder.is_dir() and not folder.is_symlink() and not is_selection(folder):
                fingerprint = str(read_mapping(cell_record(folder)).get("fingerprint", ""))
                if has_config(folder) or fingerprint == "":  # otherwise nothing has started in it
                    self.taken[folder.name] = fingerprint
                    self.by_fingerprint.setdefault(fingerprint, folder)

    def choose(self, fingerprint: str, base: str, swept: Mapping[str, str], overrides: Sequence[str]) -> Path:
        """Return a cell's folder. `base` is the name from its cell of `for_each`; `overrides` are all overrides of its stage.

        If another cell has the name, the overrides that differ from that cell's, or a number, are added.
        """
        if fingerprint and fingerprint in self.by_fingerprint:
            return self.by_fingerprint[fingerprint]
        plain = _joined(base, swept)
        name = plain
        if name in self.taken:
            differing = self._differing(self.stage.cell(name), swept, overrides)
            name = _joined(base, {**differing, **swept})
        number = 2
        while name in self.taken:
            name, number = f"{_joined(base, swept)}_{number}", number + 1
        self.taken[name] = fingerprint
        folder = self.stage.cell(name)
        if fingerprint:
            self.by_fingerprint[fingerprint] = folder
        return folder

    def _differing(self, other: Path, swept: Mapping[str, str], overrides: Sequence[str]) -> dict[str, str]:
        """Return fixed overrides that the run in `other` does not have, without paths inside the study."""
        theirs = set(read_overrides(RunDir(other).overrides) or overrides)
        differing = {}
        for text in overrides:
            key, value = key_of(text), text.partition("=")[2]
            if text not in theirs and key not in swept and self.study not in text:
                differing[key] = value
        return differing


def _joined(base: str, telling: Mapping[str, str]) -> str:
    name = cell_name([f"{key}={value}" for key, value in telling.items()]) if telling else ""
    return "_".join(filter(None, (base, name))) or ONLY_CELL


def write_record(run_dir: Path, stage: str, fingerprint: str) -> None:
    """Record in `study.json` the cell of the run directory, before anything runs in it."""
    run_dir.mkdir(parents=True, exist_ok=True)
    write_json(cell_record(run_dir), {"stage": stage, "fingerprint": fingerprint})
