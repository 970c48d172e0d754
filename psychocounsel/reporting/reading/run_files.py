"""Reader of a run directory of any command: returns a `RunMaterial` with the files' contents and their faults."""

import gc
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psychocounsel import __version__
from psychocounsel.errors import UserError
from psychocounsel.reporting.material import ANNOTATION, AUDIT, EVALUATION, OTHER, TRAINING, RunMaterial
from psychocounsel.reporting.reading.dataset_counts import dataset_counts
from psychocounsel.reporting.reading.metric_lines import MetricLines, metric_lines
from psychocounsel.reporting.reading.run_attempts import run_attempts
from psychocounsel.reporting.reading.run_status import NOT_RUN, run_status
from psychocounsel.rundir.paths import EvaluationDir, RunDir
from psychocounsel.rundir.run_config import has_config, module_of, read_plain
from psychocounsel.rundir.summary import read_state, read_summary
from psychocounsel.storage.files import DamagedFile, read_mapping

DAMAGED = "damaged"
_KINDS = {"train": TRAINING, "evaluate": EVALUATION, "annotate": ANNOTATION, "audit": AUDIT}
FOREIGN = (KeyError, TypeError, AttributeError, ValueError, IndexError)  # errors that files of another version cause
_GROUPS = (
    "algo",
    "data",
    "model",
    "reward",
    "evaluation",
    "contestants",
    "judge",
    "client",
    "speeches",
    "writers",
    "annotator",
)
_FORMS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "config": dict.fromkeys((*_GROUPS, "cluster", "eval", "checkpoint", "audit", "settled"), dict),
    "state": {"phase": str, "step": int, "total": int, "heartbeat": (int, float)},
    "summary": {"status": str, "metrics": dict, "seconds": (int, float), "slices": dict},
    "environment": {"versions": dict, "gpus": list, "nodes": list, "processes": int, "data": str},
}


@dataclass
class _Reading:
    """State of reading one run: the problems found so far."""

    run_dir: Path
    problems: list[str] = field(default_factory=list)
    is_damaged: bool = False

    def mapping(self, read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the result of `read`, or {} if the file is damaged, which is noted."""
        try:
            return read()
        except (DamagedFile, OSError) as error:
            self.note_damage(str(error))
            return {}

    def file(self, path: Path) -> dict[str, Any]:
        return self.mapping(lambda: read_mapping(path))

    def of_forms(self, name: str, found: dict[str, Any]) -> dict[str, Any]:
        """Return `found` without keys whose values have an unexpected type; they are noted as problems."""
        forms = _FORMS[name]
        strange = [
            key for key, value in found.items() if value is not None and not isinstance(value, forms.get(key, object))
        ]
        if strange:
            self.problems.append(f"{name}: {', '.join(strange)} cannot be read, because another version wrote it")
        return {key: value for key, value in found.items() if key not in strange}

    def note_damage(self, text: str) -> None:
        self.is_damaged = True
        self.problems.append(text.removeprefix(f"{self.run_dir}/"))


def read_run_material(
    run_dir: Path, sweep: Path | None = None, stage: str = "", listed: str = "", command: str = ""
) -> RunMaterial:
    """Return the run as its files describe it. Title, settings and texts are added later: they depend on the other runs.

    `listed` and `command` are the overrides and the command by which a sweep or study lists the run. They are used if the run
    directory does not record its own.
    """
    files, reading = EvaluationDir(run_dir), _Reading(run_dir)
    config = _config(reading)
    state = reading.of_forms("state", reading.mapping(lambda: read_state(run_dir)))
    summary = reading.of_forms("summary", reading.mapping(lambda: read_summary(run_dir)))
    environment, figures = reading.of_forms("environment", reading.file(files.environment)), reading.file(files.figures)
    with _without_collecting():
        lines = _lines(reading)
    kind = _kind(reading, config, command)
    overrides = _overrides(run_dir) or listed
    extra = _extra(reading, files, kind)
    tried = _attempts(reading, lines, environment, state, summary)
    status = DAMAGED if reading.is_damaged else run_status(kind, run_dir, state, summary, tried, reading.problems)
    reading.problems += _other_problems(run_dir, kind, status, environment, lines)
    return RunMaterial(
        path=run_dir,
        title=run_dir.name,
        kind=kind,
        what=_what(kind, config, overrides),
        status=status,
        config=config,
        seed=_seed(config, overrides),
        sweep=sweep,
        stage=stage,
        overrides=overrides,
        lines=lines.lines,
        damaged_lines=lines.damaged,
        summary=summary,
        state=state,
        environment=environment,
        figures=figures,
        extra=extra,
        attempts=tried,
        problems=reading.problems,
        confidential=_is_confidential(config, run_dir),
    )


def _config(reading: _Reading) -> dict[str, Any]:
    """Return the configuration. Values that the job found at its start replace their placeholders."""
    if not has_config(reading.run_dir):
        return {}
    found = read_plain(reading.run_dir)
    if found is None:
        reading.note_damage(f"{RunDir(reading.run_dir).config.name}: cannot be read; restore it")
        return {}
    return reading.of_forms("config", found)


def _attempts(reading: _Reading, lines: MetricLines, *told: Mapping[str, Any]) -> list[dict[str, Any]]:
    try:
        return run_attempts(reading.run_dir, lines.lines, *told)
    except (UserError, OSError) as error:
        reading.note_damage(str(error))
    except FOREIGN:
        reading.problems.append("its attempts are in an unknown format and are not counted")
    return []


def _lines(reading: _Reading) -> MetricLines:
    try:
        return metric_lines(reading.run_dir)
    except OSError as error:
        reading.note_damage(f"{RunDir(reading.run_dir).metrics.name}: cannot be read ({error.strerror})")
        return MetricLines([])


def _kind(reading: _Reading, config: Mapping[str, Any], command: str) -> str:
    """Return the kind of the run by the recorded command, or otherwise by the groups of its configuration."""
    module = reading.mapping(lambda: {"module": module_of(reading.run_dir)}).get("module", "") or command
    known = _KINDS.get(module.rpartition(".")[2])
    if known or module:
        return known or OTHER
    groups = {"algo": TRAINING, "evaluation": EVALUATION, "speeches": ANNOTATION, "audit": AUDIT}
    return next((kind for group, kind in groups.items() if group in config), OTHER)


def _what(kind: str, config: Mapping[str, Any], overrides: str) -> str:
    """Return the algorithm (as typed, otherwise the name of its module) or the evaluation's name."""
    group = {TRAINING: "algo", EVALUATION: "evaluation"}.get(kind)
    if group is None:
        return ""
    section = config.get(group)
    section = section if isinstance(section, Mapping) else {}
    if section.get("name"):
        return str(section["name"])
    typed = [text.removeprefix(f"{group}=") for text in overrides.split() if text.startswith(f"{group}=")]
    parts = str(section.get("_target_", "")).split(".")
    return typed[-1] if typed else parts[-2] if len(parts) > 1 else parts[-1]


def _extra(reading: _Reading, files: EvaluationDir, kind: str) -> dict[str, Any]:
    """Return the run's other JSON files, its step records and, for annotation, the counts of its tables."""
    named = {"reliability": files.reliability, "audit": files.audit, "ability": files.ability}
    found: dict[str, Any] = {name: reading.file(path) for name, path in named.items() if path.exists()}
    records = sorted(files.steps.glob("*.json")) if files.steps.is_dir() else []
    if records:
        found["steps"] = {path.stem: reading.file(path) for path in records}
    if kind == ANNOTATION:
        try:
            found["counts"] = dataset_counts(files.path)
        except (UserError, *FOREIGN) as error:
            said = str(error) if isinstance(error, UserError) else "its tables were written by another version"
            reading.note_damage(said)
    return found


def _other_problems(
    run_dir: Path, kind: str, status: str, environment: Mapping[str, Any], lines: MetricLines
) -> Iterator[str]:
    yield from lines.problems
    if kind == TRAINING and not lines.lines and status != NOT_RUN:
        path = RunDir(run_dir).metrics
        yield f"no metrics: {path.name} {'holds no complete line' if path.exists() else 'does not exist'}"
    version = _version(run_dir, environment)
    if version and version != __version__:
        yield f"was made by psychocounsel {version}, this is {__version__}: figures with other names are not shown"
    if kind == OTHER:
        yield "was made by a command that this version of report does not know"


def _version(run_dir: Path, environment: Mapping[str, Any]) -> str:
    """Return the version of psychocounsel that the run used last, or "" if it is not recorded."""
    versions = environment.get("versions")
    if isinstance(versions, Mapping) and versions.get("psychocounsel"):
        return str(versions["psychocounsel"])
    code = RunDir(run_dir).code
    first = code.read_text(errors="replace").partition("\n")[0].split() if code.is_file() else []
    return first[1] if len(first) == 2 and first[0] == "psychocounsel" else ""


def _seed(config: Mapping[str, Any], overrides: str) -> int | None:
    found = config.get("seed")
    if not config:
        typed = re.search(r"(?:^| )seed=(\d+)(?: |$)", overrides)
        found = int(typed[1]) if typed else None
    return found if isinstance(found, int) else None


def _overrides(run_dir: Path) -> str:
    path = RunDir(run_dir).overrides
    return " ".join(path.read_text(errors="replace").splitlines()) if path.is_file() else ""


def _is_confidential(config: Mapping[str, Any], run_dir: Path) -> bool:
    """True if the run's texts must not be shown: its settings forbid it, or the settings cannot be read."""
    if not config:
        return has_config(run_dir)
    sections = (config.get("data"), config.get("speeches"))
    return any(isinstance(each, Mapping) and bool(each.get("confidential")) for each in sections)


@contextmanager
def _without_collecting() -> Iterator[None]:
    """Pause Python's garbage collector while hundreds of thousands of dictionaries are made, none of them cyclic."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
