"""Finder of runs: turns the given folders (runs, sweeps, studies, stages, or parents of these) into `Material`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from psychocounsel.errors import UserError
from psychocounsel.evaluation.gate.gate_keys import PARTS
from psychocounsel.reporting.material import Material, RunMaterial, StudyMaterial
from psychocounsel.reporting.reading.run_files import FOREIGN, read_run_material
from psychocounsel.reporting.reading.run_settings import with_settings
from psychocounsel.reporting.reading.shown_texts import shown_texts
from psychocounsel.reporting.reading.study_files import listed_runs, read_study_material
from psychocounsel.rundir.paths import EvaluationDir, ReportDir, RunDir, StudyDir
from psychocounsel.rundir.run_config import has_config, is_run
from psychocounsel.rundir.sweep_table import ListedRun, is_sweep, runs_of


@dataclass
class _Found:
    """Runs and studies found, in the order in which the folders were given. A run that two folders hold is found once."""

    runs: dict[Path, RunMaterial] = field(default_factory=dict)
    typed: dict[Path, str] = field(default_factory=dict)  # by run: the overrides by which its sweep or study lists it
    studies: list[StudyMaterial] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, listed: ListedRun, sweep: Path | None = None, stage: str = "", command: str = "") -> None:
        path = listed.run_dir.resolve()
        if path not in self.runs:
            self.runs[path] = read_run_material(path, sweep, stage, listed.overrides, command)
            self.typed |= {path: listed.overrides} if listed.overrides else {}
            # A gate runs its parts as evaluations with folders of their own.
            for part in map(EvaluationDir(path).part, PARTS):
                if has_config(part.path):
                    self.add(ListedRun(None, part.path, listed.overrides))


def read_material(folders: Sequence[Path], shows_texts: bool = True) -> Material:
    """Return everything that the folders hold. Folders and files that cannot be read are named in `problems`.

    Without `shows_texts`, or if the data of any run are confidential, speeches and replies are not read.

    Raises:
        UserError: if a folder does not exist, or if none of them holds a run, a sweep or a study.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder")
    found = _Found()
    for folder in folders:
        _read(folder, found)
    if not found.runs and not found.studies:
        shown = ", ".join(map(str, folders))
        raise UserError(
            f"{shown}: no run, sweep or study found; give folders written by train, annotate, audit, evaluate or launch"
        )
    runs = with_settings([*found.runs.values()], found.typed)
    shows = shows_texts and not any(run.confidential for run in runs)
    if shows:
        runs = [_with_texts(run) for run in runs]
    return Material([*folders], runs, found.studies, shows, found.problems)


def _read(folder: Path, found: _Found, is_below: bool = False) -> None:
    """Add the run, sweep or study in a folder, or otherwise those in its subfolders."""
    if StudyDir(folder).cells.exists() or StudyDir(folder).study.exists():
        _read_study(folder, found)
    elif is_sweep(folder):
        _read_sweep(folder, found)
    elif is_run(folder) or has_config(folder) or RunDir(folder).metrics.exists():
        found.add(ListedRun(None, folder, ""))
    elif is_below:
        found.problems.append(f"{folder}: not a run, sweep or study; skipped")
    else:
        inner = [path for path in sorted(folder.iterdir()) if _is_looked_at(path)]
        for path in inner:
            _read(path, found, is_below=True)
        if not inner:
            found.problems.append(f"{folder}: no run, sweep or study found; skipped")


def _is_looked_at(path: Path) -> bool:
    is_hidden = path.name.startswith((".", "_")) or path.is_symlink()
    return path.is_dir() and not is_hidden and not ReportDir(path).is_report


def _read_study(folder: Path, found: _Found) -> None:
    study = read_study_material(folder)
    found.studies.append(study)
    cells = [*listed_runs(folder, found.problems)]
    for each in cells:
        found.add(each.run, StudyDir(folder).stage(each.stage).path, each.stage, each.command)
    for path in [] if cells else filter(is_sweep, filter(_is_looked_at, sorted(folder.iterdir()))):
        _read_sweep(path, found)  # the study's list of cells is damaged, or not written yet


def _read_sweep(folder: Path, found: _Found) -> None:
    """Add the runs of a sweep. For a stage of a study, add the runs that the study lists now."""
    if StudyDir(folder.parent).cells.exists():
        cells = [each for each in listed_runs(folder.parent, found.problems) if each.stage == folder.name]
        for cell in cells:
            found.add(cell.run, folder, cell.stage, cell.command)
        if cells:
            return
    for each in _listed(folder, found):
        found.add(each, folder)


def _listed(folder: Path, found: _Found) -> Iterator[ListedRun]:
    """Yield the runs that a sweep lists; if its table is damaged, the runs found in its folder."""
    try:
        yield from runs_of(folder)
    except UserError as error:
        found.problems.append(f"{error}; the runs found in the folder are shown")
        inner = [path for path in sorted(folder.iterdir()) if _is_looked_at(path)]
        yield from (ListedRun(None, path, "") for path in inner if is_run(path) or has_config(path))


def _with_texts(run: RunMaterial) -> RunMaterial:
    """Return the run with the texts of its tables. If a table is damaged, the run gets a problem instead."""
    try:
        return replace(run, texts=shown_texts(run.path, run.kind, run.config))
    except (UserError, OSError) as error:
        said = str(error).removeprefix(f"{run.path}/")
    except FOREIGN:
        said = "its speeches and replies are not shown, because another version wrote them"
    return replace(run, problems=[*run.problems, said])
