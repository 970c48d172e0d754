"""Finder of runs: turns the given folders (runs, sweeps, studies, stages, or parents of these) into `Material`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from psychocounsel.errors import UserError
from psychocounsel.evaluation.gate.keys import PARTS
from psychocounsel.reporting.material import Material, RunMaterial, StudyMaterial
from psychocounsel.reporting.reading.runs import FOREIGN, read_run_material
from psychocounsel.reporting.reading.settings import with_settings
from psychocounsel.reporting.reading.texts import shown_texts
from psychocounsel.rundir.paths import EvaluationDir, ReportDir, RunDir, SelectionDir, StudyDir
from psychocounsel.rundir.results import FINISHED
from psychocounsel.rundir.run_config import has_config, is_run, read_section
from psychocounsel.rundir.sweep import ListedRun, is_sweep, runs_of
from psychocounsel.storage.files import DamagedFile, read_mapping

# A study's folder: its stages, gates, chosen runs and tables, and the runs that it lists now

Stages = Mapping[str, Mapping[str, Any]]


def read_study_material(folder: Path) -> StudyMaterial:
    """Return the study's contents. Damaged files are named in `problems`."""
    files, problems = StudyDir(folder), list[str]()
    stages = _stages(files, problems)
    gates = {name: _gate(files, stage) for name, stage in stages.items() if _is_gate(files, stage)}
    best = dict[str, Path]()
    for name, stage in stages.items():
        if stage.get("select") and (chosen := _chosen_run(files, name, str(stage["select"]), problems)):
            best[name] = chosen
    tables = {path.stem: path.read_text(errors="replace") for path in sorted(folder.glob("*.csv"))}
    return StudyMaterial(folder, folder.name, [*stages], gates, tables, best, problems)


@dataclass(frozen=True)
class ListedCell:
    """A run that the study lists now; `run.overrides` are its swept keys."""

    run: ListedRun
    stage: str
    command: str


def listed_runs(folder: Path, problems: list[str]) -> Iterator[ListedCell]:
    """Yield the runs that the study lists now, stage by stage. Damaged stages are named in `problems`."""
    files = StudyDir(folder)
    for name, stage in _stages(files, []).items():
        try:
            cells = [(files.path / cell["run_dir"], cell["swept"]) for cell in stage["cells"]]
        except (KeyError, TypeError):
            problems.append(f"{files.cells}: damaged at the stage {name}; run the study's command again to rewrite it")
            continue
        for run_dir, swept in cells:
            overrides = " ".join(f"{key}={value}" for key, value in swept.items())
            yield ListedCell(ListedRun(None, run_dir, overrides), name, str(stage.get("command") or ""))


def _stages(files: StudyDir, problems: list[str]) -> Stages:
    """Return the stages of `cells.json` by name. If nothing is planned yet, return the names in `study.yaml` without contents."""
    try:
        planned = read_mapping(files.cells).get("stages")
        if isinstance(planned, dict) and all(isinstance(stage, dict) for stage in planned.values()):
            return planned
    except DamagedFile as error:
        problems.append(str(error))
    try:
        stages = yaml.safe_load(files.study.read_text())["stages"]
        return {str(name): {} for name in stages}
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        problems.append(f"{files.cells}: names no stages; run the study's command again to rewrite it")
        return {}


def _is_gate(files: StudyDir, stage: Mapping[str, Any]) -> bool:
    """True if the stage's runs end with a verdict: audits, and evaluations by evaluation=gate."""
    if stage.get("command") != "evaluate":
        return stage.get("command") == "audit"
    try:
        sections = [read_section(files.path / cell["run_dir"], "evaluation") for cell in stage.get("cells") or []]
    except (DamagedFile, KeyError, TypeError):
        return False
    return any((section or {}).get("name") == "gate" for section in sections)


def _gate(files: StudyDir, stage: Mapping[str, Any]) -> bool | None:
    """Return True if all audits or gates of a stage passed; None while one of them has not ended."""
    statuses = list[str | None]()
    for cell in stage.get("cells") or []:
        try:
            statuses.append(read_mapping(RunDir(files.path / cell["run_dir"]).summary).get("status"))
        except (DamagedFile, KeyError, TypeError):
            statuses.append(None)
    if not statuses or None in statuses:
        return None
    return all(status == FINISHED for status in statuses)


def _chosen_run(files: StudyDir, stage: str, select: str, problems: list[str]) -> Path | None:
    """Return the run that the stage's selection chose, or None if it has not chosen yet."""
    selection = SelectionDir(files.stage(stage).path / select)
    try:
        record = read_mapping(selection.record)
        return (files.stage(stage).cell(str(record["chosen"]["run"]))).resolve() if record else None
    except DamagedFile as error:
        problems.append(str(error))
    except (KeyError, TypeError):
        problems.append(f"{selection.record}: names no run; run the study's command again to rewrite it")
    return None


# Folders of all kinds


@dataclass
class _Collection:
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
            name, equals, value = folder.name.partition("=")
            option = f" (options are written --{name} {value})" if equals else ""
            what = "is a file; give the folder of a run" if folder.exists() else f"no such folder{option}"
            raise UserError(f"{folder}: {what}")
    collection = _Collection()
    for folder in folders:
        _read(folder, collection)
    if not collection.runs and not collection.studies:
        shown = ", ".join(map(str, folders))
        raise UserError(
            f"{shown}: no run, sweep or study found; give folders written by train, annotate, audit, evaluate or launch"
        )
    runs = with_settings([*collection.runs.values()], collection.typed)
    shows = shows_texts and not any(run.confidential for run in runs)
    if shows:
        runs = [_with_texts(run) for run in runs]
    return Material([*folders], runs, collection.studies, shows, collection.problems)


def _read(folder: Path, collection: _Collection, is_below: bool = False) -> None:
    """Add the run, sweep or study in a folder, or otherwise those in its subfolders."""
    if StudyDir(folder).cells.exists() or StudyDir(folder).study.exists():
        _read_study(folder, collection)
    elif is_sweep(folder):
        _read_sweep(folder, collection)
    elif is_run(folder) or has_config(folder) or RunDir(folder).metrics.exists():
        collection.add(ListedRun(None, folder, ""))
    elif is_below:
        collection.problems.append(f"{folder}: not a run, sweep or study; skipped")
    else:
        inner = [path for path in sorted(folder.iterdir()) if _is_looked_at(path)]
        for path in inner:
            _read(path, collection, is_below=True)
        broken = [path for path in sorted(folder.iterdir()) if path.is_symlink() and not path.exists()]
        collection.problems += [f"{path}: a link to a folder that does not exist; left out" for path in broken]
        if not inner:
            collection.problems.append(f"{folder}: no run, sweep or study found; skipped")


def _is_looked_at(path: Path) -> bool:
    is_hidden = path.name.startswith((".", "_"))
    return path.is_dir() and not is_hidden and not ReportDir(path).is_report


def _read_study(folder: Path, collection: _Collection) -> None:
    study = read_study_material(folder)
    collection.studies.append(study)
    cells = [*listed_runs(folder, collection.problems)]
    for cell in cells:
        collection.add(cell.run, StudyDir(folder).stage(cell.stage).path, cell.stage, cell.command)
    for path in [] if cells else filter(is_sweep, filter(_is_looked_at, sorted(folder.iterdir()))):
        _read_sweep(path, collection)  # the study's list of cells is damaged, or not written yet


def _read_sweep(folder: Path, collection: _Collection) -> None:
    """Add the runs of a sweep. For a stage of a study, add the runs that the study lists now."""
    if StudyDir(folder.parent).cells.exists():
        cells = [cell for cell in listed_runs(folder.parent, collection.problems) if cell.stage == folder.name]
        for cell in cells:
            collection.add(cell.run, folder, cell.stage, cell.command)
        if cells:
            return
    for run in _listed(folder, collection):
        collection.add(run, folder)


def _listed(folder: Path, collection: _Collection) -> Iterator[ListedRun]:
    """Yield the runs that a sweep lists; if its table is damaged, the runs found in its folder."""
    try:
        yield from runs_of(folder)
    except UserError as error:
        collection.problems.append(f"{error}; the runs found in the folder are shown")
        inner = [path for path in sorted(folder.iterdir()) if _is_looked_at(path)]
        yield from (ListedRun(None, path, "") for path in inner if is_run(path) or has_config(path))


def _with_texts(run: RunMaterial) -> RunMaterial:
    """Return the run with the texts of its tables. If a table is damaged, the run gets a problem instead."""
    try:
        return replace(run, texts=shown_texts(run.path, run.kind, run.config))
    except (UserError, OSError) as error:
        problem = str(error).removeprefix(f"{run.path}/")
    except FOREIGN:
        problem = "its speeches and replies are not shown, because another version wrote them"
    return replace(run, problems=[*run.problems, problem])
