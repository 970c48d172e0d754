"""Folders as they are typed to `Material`: runs, sweeps, studies and their stages, and folders that hold some of these."""

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
    """What the folders hold, in the order in which they were given; a run that two of them hold counts once."""

    runs: dict[Path, RunMaterial] = field(default_factory=dict)
    typed: dict[Path, str] = field(default_factory=dict)  # by run, the overrides in which its sweep or study names it
    studies: list[StudyMaterial] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, listed: ListedRun, sweep: Path | None = None, stage: str = "", command: str = "") -> None:
        path = listed.run_dir.resolve()
        if path not in self.runs:
            self.runs[path] = read_run_material(path, sweep, stage, listed.overrides, command)
            self.typed |= {path: listed.overrides} if listed.overrides else {}
            for part in map(EvaluationDir(path).part, PARTS):  # of a gate: evaluations of their own
                if has_config(part.path):
                    self.add(ListedRun(None, part.path, listed.overrides))


def read_material(folders: Sequence[Path], shows_texts: bool = True) -> Material:
    """All that the folders hold; what cannot be read is named in `problems`, of a run in its own.

    Without `shows_texts`, or if the data of any run are confidential, no speech and no reply is read.

    Raises:
        UserError: for a folder that there is not, or if none of them holds a run, a sweep or a study.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: there is no such folder")
    found = _Found()
    for folder in folders:
        _read(folder, found)
    if not found.runs and not found.studies:
        shown = ", ".join(map(str, folders))
        raise UserError(
            f"{shown}: holds no run, sweep or study; give folders that train, annotate, audit, evaluate or launch made"
        )
    runs = with_settings([*found.runs.values()], found.typed)
    shows = shows_texts and not any(run.confidential for run in runs)
    if shows:
        runs = [_with_texts(run) for run in runs]
    return Material([*folders], runs, found.studies, shows, found.problems)


def _read(folder: Path, found: _Found, is_below: bool = False) -> None:
    """Add what a folder is, or what the folders in it are."""
    if StudyDir(folder).cells.exists() or StudyDir(folder).study.exists():
        _read_study(folder, found)
    elif is_sweep(folder):
        _read_sweep(folder, found)
    elif is_run(folder) or has_config(folder) or RunDir(folder).metrics.exists():
        found.add(ListedRun(None, folder, ""))
    elif is_below:
        found.problems.append(f"{folder}: is no run, sweep or study, and is left out")
    else:
        inner = [path for path in sorted(folder.iterdir()) if _is_looked_at(path)]
        for path in inner:
            _read(path, found, is_below=True)
        if not inner:
            found.problems.append(f"{folder}: holds no run, sweep or study, and is left out")


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
        _read_sweep(path, found)  # its list of cells is damaged, or not yet written


def _read_sweep(folder: Path, found: _Found) -> None:
    """The runs of a sweep; of a study's stage those that the study has now."""
    if StudyDir(folder.parent).cells.exists():
        cells = [each for each in listed_runs(folder.parent, found.problems) if each.stage == folder.name]
        for cell in cells:
            found.add(cell.run, folder, cell.stage, cell.command)
        if cells:
            return
    for each in _listed(folder, found):
        found.add(each, folder)


def _listed(folder: Path, found: _Found) -> Iterator[ListedRun]:
    """The runs that a sweep lists; where its table is damaged, those that lie in it."""
    try:
        yield from runs_of(folder)
    except UserError as error:
        found.problems.append(f"{error}; the runs in it are shown all the same")
        inner = [path for path in sorted(folder.iterdir()) if _is_looked_at(path)]
        yield from (ListedRun(None, path, "") for path in inner if is_run(path) or has_config(path))


def _with_texts(run: RunMaterial) -> RunMaterial:
    """The run with the texts of its tables; a damaged one is a problem of the run."""
    try:
        return replace(run, texts=shown_texts(run.path, run.kind, run.config))
    except (UserError, OSError) as error:
        said = str(error).removeprefix(f"{run.path}/")
    except FOREIGN:
        said = "its speeches and replies are of another version and are not shown"
    return replace(run, problems=[*run.problems, said])
