"""Plan of a study: every stage is composed and checked, all mistakes are collected, nothing is written."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, open_dict

from psychocounsel.cluster.job import Job, make_job
from psychocounsel.commands.composing import choice, composer
from psychocounsel.errors import UserError
from psychocounsel.rundir.paths import ONLY_CELL, StudyDir
from psychocounsel.rundir.sweep import key_of
from psychocounsel.rundir.trained_runs import is_up_to_date, plan_training
from psychocounsel.search.space import SWEEPER, search_options
from psychocounsel.settings.command import Command, command_named, refuse_unknown_figure
from psychocounsel.settings.messages import EXPECTED, one_line
from psychocounsel.settings.unused import refuse_unused, typed_unused
from psychocounsel.studies.composing import CellComposer, Combination
from psychocounsel.studies.own_jobs import selection_job, table_job
from psychocounsel.studies.plan import (
    PlannedStage,
    StageFolders,
    StudyCell,
    StudyErrors,
    StudyPlan,
    StudyRequest,
    cell_fingerprint,
    circles,
    in_order,
    refuse_unknown,
    requested_stages,
)
from psychocounsel.studies.references import (
    UNPLANNED,
    Filled,
    FollowUp,
    MadeCell,
    MadeStage,
    fill,
    listed_keys,
    named_stages,
    with_values,
)
from psychocounsel.studies.study_file import Study, StudyStage, near
from psychocounsel.studies.tables import problems, unknown_figures


def _command(stage: StudyStage) -> Command:
    """Return the command of a stage; study_file.py has refused unknown names."""
    command = command_named(stage.command)
    assert command is not None
    return command


@dataclass
class _Ghost:
    """Placeholder for a cell that could not be made, so that mistakes of later stages are found too."""

    name: str
    swept: dict[str, str]
    run_dir: Path


@dataclass
class _Mistake:
    stage: str
    error: Exception
    overrides: list[str]
    command: str


_LEFT_OUT = "only or start_at leaves this stage out; add it to only, or choose an earlier start_at"


def plan_study(study: Study, folder: Path, request: StudyRequest) -> StudyPlan:
    """Compose and check every stage of a study with the folder `folder`.

    Raises:
        StudyErrors: with all mistakes, each with its stage.
        UserError: if a folder of --config-dir does not exist.
    """
    graph = {name: named_stages(stage) for name, stage in study.stages.items()}
    lines = [f"stages need each other: {' needs '.join(circle)}" for circle in circles(graph)]
    chosen = set(study.stages)
    try:
        chosen = requested_stages(graph, request.only, request.start_at)
        refuse_unknown("force", request.force, graph)
        lines += [f"force={name}: {_LEFT_OUT}" for name in dict.fromkeys(request.force) if name not in chosen]
    except UserError as error:
        lines.append(str(error))
    planning = _Planning(study, StudyDir(folder), request, chosen)
    with composer(request.folders) as made:
        planning.composer = CellComposer(made)
        for name in in_order(graph):
            planning.add(study.stages[name])
    lines += [*planning.lines(), *([*problems(study)] or unknown_figures(study, planning.planned))]
    plan = StudyPlan(study, planning.files, planning.planned, notes=[*planning.without_waiting()])
    if lines := lines or planning.lines_of_unfinished(plan):
        raise StudyErrors(lines)
    plan.table = table_job(plan)
    return plan


class _Planning:
    composer: CellComposer

    def __init__(self, study: Study, files: StudyDir, request: StudyRequest, chosen: Collection[str]) -> None:
        self.study, self.files, self.request, self.chosen = study, files, request, chosen
        self.planned: list[PlannedStage] = []
        self.made: dict[str, MadeStage] = {}
        self.fingerprints: dict[Path, str] = {}  # of cells and selections, by run directory
        self.mistakes: list[_Mistake] = []
        self.hidden: set[str] = set()  # stages with cells that a mistake hides

    def add(self, stage: StudyStage) -> None:
        """Plan a stage, after the stages that it needs."""
        folder = self.files.stage(stage.name)
        planned = PlannedStage(stage, is_requested=stage.name in self.chosen)
        ghosts = list[_Ghost]()
        self._known(stage)
        folders = StageFolders(folder, self.files.path)
        for parent in self._parents(stage):
            with self._noted(stage):
                self._add_cells(planned, folders, parent, ghosts)
        cells: list[MadeCell] = [*planned.cells, *ghosts] or [_Ghost(ONLY_CELL, {}, folder.cell(ONLY_CELL))]
        choice, is_known = UNPLANNED, stage.name not in self.hidden
        with self._noted(stage):
            refuse_unused([cell.job.unused for cell in planned.cells if not cell.job.finished] or [{}])
        with self._noted(stage):
            _refuse_unknown_best(planned)
            if stage.best is not None and planned.cells:
                planned.selection, choice = selection_job(planned, folder)
                self.fingerprints[planned.selection.run_dir] = choice
                if planned.stage.command == "train":
                    plan_training(folder.selection(choice).best, planned.cells[0].job.config.model.path)
        self.made[stage.name] = MadeStage(stage.command, cells, folder, stage.best is not None, is_known, choice)
        self.planned.append(planned)

    def _known(self, stage: StudyStage) -> None:
        """Add placeholders for needed stages that do not exist, or that a cycle puts after this one."""
        for name in named_stages(stage):
            if name not in self.study.stages:
                advice = near(name, [*self.study.stages])
                error = UserError(f"needs {name}, which is not a stage; {advice}".rstrip("; "))
                self.mistakes.append(_Mistake(stage.name, error, [], stage.command))
        for name in {*named_stages(stage)} - {*self.made}:
            folder = self.files.stage(name)
            other = self.study.stages.get(name)
            command = other.command if other else "train"
            self.made[name] = MadeStage(command, [_Ghost(ONLY_CELL, {}, folder.cell(ONLY_CELL))], folder, True, False)

    def _parents(self, stage: StudyStage) -> list[tuple[MadeStage, MadeCell] | None]:
        if not stage.for_each:
            return [None]
        return [(self.made[name], cell) for name in stage.for_each for cell in self.made[name].cells]

    def _add_cells(
        self,
        planned: PlannedStage,
        folders: StageFolders,
        parent: tuple[MadeStage, MadeCell] | None,
        ghosts: list[_Ghost],
    ) -> None:
        stage = planned.stage
        common = [text for text in self.request.overrides if stage.command == "train" or _group(text) != "tracker"]
        typed = merged(with_values(stage, self.study.values), common)
        filled = fill(typed, self.made, parent)
        filled.after = list(dict.fromkeys([*filled.after, *self._needed(stage, parent)]))
        base = _base_name(stage, parent)
        for combination in self._combinations(stage, filled):
            made = False
            with self._noted(stage, combination):
                cell = self._cell(planned, folders, parent, filled, combination)
                planned.cells.append(cell)
                made = True
            if not made:
                name = "_".join(filter(None, (base, *combination.swept.values()))) or ONLY_CELL
                ghosts.append(_Ghost(name, combination.swept, folders.stage.cell(name)))

    def _combinations(self, stage: StudyStage, filled: Filled) -> list[Combination]:
        options, others = search_options(filled.overrides)
        if options is None:
            return self.composer.combinations(filled.overrides, listed_keys(stage, self.study.values))
        if stage.command != "train":
            raise UserError(f"{SWEEPER}: only stages with train can search")
        return self.composer.trials(options, others, filled.after)

    def _needed(self, stage: StudyStage, parent: tuple[MadeStage, MadeCell] | None) -> Iterator[Path]:
        """Yield the run directories that a cell needs, in addition to those named in its overrides."""
        if parent is not None:
            yield parent[1].run_dir
        for name in stage.needs:
            yield from (cell.run_dir for cell in self.made[name].cells)

    def _cell(
        self,
        planned: PlannedStage,
        folders: StageFolders,
        parent: tuple[MadeStage, MadeCell] | None,
        filled: Filled,
        combination: Combination,
    ) -> StudyCell:
        stage, command = planned.stage, _command(planned.stage)
        config, overrides = self.composer.checked(command, combination.overrides, filled.after, combination.open_trial)
        if filled.settled:
            with open_dict(config):
                config.settled = {**(config.get("settled") or {}), **filled.settled}
        needed = [self.fingerprints.get(path, "") for path in filled.after]
        fingerprint = cell_fingerprint(
            command.module, config, self.files.path, needed, self.request.times.get(stage.name, 0)
        )
        own = [text for text in overrides if text not in self.request.overrides]
        base = _base_name(stage, parent)
        run_dir = folders.choose(fingerprint, base, combination.named or combination.swept, own)
        if other := next((cell for cell in planned.cells if cell.run_dir == run_dir), None):
            raise UserError(
                f"is the same run as that of {' '.join(other.job.overrides)}: leave one out, or sweep a distinguishing key"
            )
        self.fingerprints[run_dir] = fingerprint
        if stage.command == "train":
            plan_training(run_dir, config.model.path)
        job = self._job(planned, config, overrides, run_dir)
        job.after = list(config.after)
        parent_cell = parent[1] if parent is not None and isinstance(parent[1], StudyCell) else None
        name = stage.name if run_dir.name == ONLY_CELL else run_dir.name
        return StudyCell(stage.name, name, combination.swept, parent_cell, job, fingerprint)

    def _job(self, planned: PlannedStage, config: DictConfig, overrides: list[str], run_dir: Path) -> Job:
        """Return the job of a cell; the configuration of a finished run is not compared."""
        command, index = _command(planned.stage), len(planned.cells)
        config.run_dir, config.sweep_dir = str(run_dir), str(run_dir.parent)
        if (done := is_up_to_date(run_dir)) or not planned.is_requested:
            return Job(command, config, run_dir, index, overrides, finished=done, skip="finished" if done else "")
        job = make_job(command, config, overrides, index, None)
        job.config.sweep_dir = str(run_dir.parent)
        own = [text for text in overrides if text not in self.request.overrides]
        job.unused = typed_unused(command, job.config, own, choice)
        return job

    @contextmanager
    def _noted(self, stage: StudyStage, combination: Combination | None = None) -> Iterator[None]:
        """Record a mistake and continue, so that all mistakes are found. A consequence of another mistake is not recorded."""
        try:
            yield
        except FollowUp:
            self.hidden.add(stage.name)
        except EXPECTED as error:
            if combination is None:
                self.hidden.add(stage.name)
            overrides = combination.overrides if combination else [*stage.overrides]
            self.mistakes.append(_Mistake(stage.name, error, overrides, stage.command))

    def lines(self) -> list[str]:
        """Return one line per mistake; a line that several cells share appears once."""
        described = [
            f"stage {mistake.stage}: {one_line(mistake.error, mistake.overrides, mistake.command)}"
            for mistake in self.mistakes
        ]
        return list(dict.fromkeys(described))

    def without_waiting(self) -> Iterator[str]:
        """Remove the cells of `for_each` whose training is left out and has not finished, and yield a line for each such stage.

        A stage that would lose all of its cells keeps them; `lines_of_unfinished` then reports it.
        """
        for planned in self.planned:
            left_out = self._left_out()
            waiting = [cell for cell in planned.unfinished() if cell.parent and cell.parent.run_dir in left_out]
            if waiting and len(waiting) < len(planned.cells) and planned.selection is None:
                planned.cells = [cell for cell in planned.cells if cell not in waiting]
                names = ", ".join(dict.fromkeys(cell.parent.name for cell in waiting if cell.parent))
                yield f"stage {planned.name}: not run for {names}, which only or start_at leaves out and which has not finished"

    def _left_out(self) -> dict[Path, str]:
        """Return the stages of all runs that have not finished and that `only` or `start_at` leave out."""
        return {
            job.run_dir: planned.name
            for planned in self.planned
            if not planned.is_requested
            for job in planned.jobs()
            if not job.finished
        }

    def lines_of_unfinished(self, plan: StudyPlan) -> list[str]:
        """Return mistakes of `only` and `start_at`: needed stages that are left out and not finished."""
        left_out = self._left_out()
        unmet = {
            f"stage {planned.name}: needs {left_out[Path(parent)]}, which has not finished and is left out: include or await it"
            for planned in plan.stages
            if planned.is_requested
            for job in planned.jobs()
            if not job.finished
            for parent in job.after
            if Path(parent) in left_out
        }
        return sorted(unmet)


def _refuse_unknown_best(planned: PlannedStage) -> None:
    """Refuse a `best` figure that some cell will not report, because the choice would fail at the end."""
    metric = planned.stage.best
    for cell in planned.cells if metric is not None else []:
        figures = cell.job.command.figure_names(cell.job.config)
        refuse_unknown_figure(f"best: {metric}", str(metric), figures)


def merged(overrides: Sequence[str], typed: Sequence[str]) -> list[str]:
    """Return `overrides` joined with `typed`; a typed override replaces the one with the same key, in its position."""
    given = {key_of(text): text for text in typed}
    keys = [key_of(text) for text in overrides]
    kept = [given.get(key, text) for key, text in zip(keys, overrides, strict=True)]
    return [*dict.fromkeys(kept), *(text for key, text in given.items() if key not in keys)]


def _group(override: str) -> str:
    return key_of(override).partition(".")[0]


def _base_name(stage: StudyStage, parent: tuple[MadeStage, MadeCell] | None) -> str:
    """Return the part of a cell's name that comes from its cell of `for_each`."""
    if parent is None:
        return ""
    made, cell = parent
    folder = cell.run_dir.name
    if len(stage.for_each) == 1:
        return "" if folder == ONLY_CELL else folder
    return made.folder.path.name if folder == ONLY_CELL else f"{made.folder.path.name}_{folder}"
