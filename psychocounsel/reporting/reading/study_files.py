"""Reader of a study's folder: its stages, gates, chosen runs and tables, and the runs that it lists now."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from psychocounsel.reporting.material import StudyMaterial
from psychocounsel.rundir.paths import RunDir, SelectionDir, StudyDir
from psychocounsel.rundir.run_config import read_section
from psychocounsel.rundir.summary import FINISHED
from psychocounsel.rundir.sweep_table import ListedRun
from psychocounsel.storage.files import DamagedFile, read_mapping

Stages = Mapping[str, Mapping[str, Any]]


def read_study_material(folder: Path) -> StudyMaterial:
    """Return the study's contents. Damaged files are named in `problems`."""
    files, problems = StudyDir(folder), list[str]()
    stages = _stages(files, problems)
    gates = {name: _gate(files, stage) for name, stage in stages.items() if _is_gate(files, stage)}
    best = dict[str, Path]()
    for name, stage in stages.items():
        if stage.get("select") and (chosen := _chosen(files, name, str(stage["select"]), problems)):
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
        found = read_mapping(files.cells).get("stages")
        if isinstance(found, dict) and all(isinstance(stage, dict) for stage in found.values()):
            return found
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
    said = list[str | None]()
    for cell in stage.get("cells") or []:
        try:
            said.append(read_mapping(RunDir(files.path / cell["run_dir"]).summary).get("status"))
        except (DamagedFile, KeyError, TypeError):
            said.append(None)
    if not said or None in said:
        return None
    return all(each == FINISHED for each in said)


def _chosen(files: StudyDir, stage: str, select: str, problems: list[str]) -> Path | None:
    """Return the run that the stage's selection chose, or None if it has not chosen yet."""
    place = SelectionDir(files.stage(stage).path / select)
    try:
        record = read_mapping(place.record)
        return (files.stage(stage).cell(str(record["chosen"]["run"]))).resolve() if record else None
    except DamagedFile as error:
        problems.append(str(error))
    except (KeyError, TypeError):
        problems.append(f"{place.record}: names no run; run the study's command again to rewrite it")
    return None
