"""Reader of a run directory of any command: returns a `RunMaterial` with the files' contents and their faults."""

import gc
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psychocounsel import __version__
from psychocounsel.annotation.counts import counted, gap_bins, named, pair_counts
from psychocounsel.annotation.settings import SPLITS
from psychocounsel.errors import UserError
from psychocounsel.reporting.material import ANNOTATION, AUDIT, COMMANDS, EVALUATION, OTHER, TRAINING, RunMaterial
from psychocounsel.rundir.owner import live_owner
from psychocounsel.rundir.paths import AnnotationDir, EvaluationDir, RunDir
from psychocounsel.rundir.results import FINISHED, OF_GATES, STATE, SUMMARY, Forms, strange
from psychocounsel.rundir.run import attempts
from psychocounsel.rundir.run_config import has_config, module_of, read_overrides, read_plain
from psychocounsel.storage.files import DamagedFile, parse_json, read_mapping

# Lines of `metrics.jsonl`; damaged ones are skipped

Line = dict[str, Any]


@dataclass(frozen=True)
class MetricLines:
    """The complete lines in the file's order, and the number of damaged ones. `is_cut`: the last line is half-written."""

    lines: list[Line]
    damaged: int = 0
    is_cut: bool = False

    @property
    def problems(self) -> list[str]:
        name = RunDir(Path()).metrics.name
        earlier = self.damaged - self.is_cut
        problems = [f"{name}: the last line is half-written and was skipped"] if self.is_cut else []
        if earlier:
            problems.append(f"{name}: {earlier} damaged {'line was' if earlier == 1 else 'lines were'} skipped")
        return problems


def metric_lines(run_dir: Path) -> MetricLines:
    """Return the lines of a run's metrics file; no lines if the file does not exist."""
    try:
        content = RunDir(run_dir).metrics.read_bytes()
    except FileNotFoundError:
        return MetricLines([])
    texts = [text for text in content.split(b"\n") if text.strip()]
    is_open = not content.endswith(b"\n")  # a kill can cut the last line short
    whole = _lines_at_once(texts)
    if whole is not None:
        return MetricLines(whole)
    parsed = [_line(text) for text in texts]
    lines = [line for line in parsed if line is not None]
    return MetricLines(lines, len(parsed) - len(lines), is_open and bool(parsed) and parsed[-1] is None)


def _lines_at_once(texts: list[bytes]) -> list[Line] | None:
    """Parse all lines by one call, which is twice as fast and lets them share keys. Return None if one is damaged."""
    try:
        lines = parse_json(b"[" + b",".join(texts) + b"]")
    except (ValueError, RecursionError):
        return None
    return lines if len(lines) == len(texts) and all(map(_is_line, lines)) else None


def _line(text: bytes) -> Line | None:
    try:
        line = parse_json(text)
    except (ValueError, RecursionError):
        return None
    return {sys.intern(key): value for key, value in line.items()} if _is_line(line) else None


def _is_line(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("step"), int)


# Attempts: when each began and ended, and how long it ran, including failed ones

Attempt = dict[str, Any]


def run_attempts(
    run_dir: Path,
    lines: Sequence[Mapping[str, Any]],
    environment: Mapping[str, Any],
    state: Mapping[str, Any],
    summary: Mapping[str, Any],
) -> list[Attempt]:
    """Return one dictionary per attempt, oldest first.

    Returns:
        number; begun and ended (seconds since 1970, or None if unknown); seconds it ran, at least those of its steps;
        processes; gpus (number used); verdict: finished, stopped, failed, crashed, or "" if none was recorded.

    SLURM jobs record start and end. Otherwise the summary holds the duration of the last attempt, and an earlier one
    lasted from the creation of its log folder until the last write to its logs.
    """
    files = RunDir(run_dir)
    recorded = {attempt["number"]: attempt for attempt in attempts(run_dir)}
    in_steps = _step_seconds(lines)
    numbers = sorted({*files.attempt_numbers(), *in_steps})
    processes = int(environment.get("processes") or 1)
    rows = []
    for number in numbers:
        begun, ended = _recorded_times(recorded[number], state) if number in recorded else _times_of_logs(files, number)
        if number not in recorded and number == numbers[-1] and isinstance(summary.get("seconds"), int | float):
            begun = None if ended is None else ended - summary["seconds"]
        duration = 0.0 if begun is None or ended is None else ended - begun
        verdict = recorded.get(number, {}).get("verdict") or (
            summary.get("status", "") if number == numbers[-1] else ""
        )
        row: Attempt = {"number": number, "begun": begun, "ended": ended, "verdict": verdict, "processes": processes}
        row |= {
            "seconds": max(duration, in_steps.get(number, 0.0)),
            "gpus": processes if environment.get("gpus") else 0,
        }
        rows.append(row)
    return rows


def _step_seconds(lines: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """Return the sum of step seconds in the metrics, by attempt."""
    seconds: dict[int, float] = {}
    for line in lines:
        number = line.get("attempt")
        if isinstance(number, int):
            seconds[number] = seconds.get(number, 0.0) + (line.get("step_seconds") or 0.0)
    return seconds


def _recorded_times(record: Mapping[str, Any], state: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Return start and end. For an attempt that was killed or is still running, the end is the run's last heartbeat."""
    begun = record.get("started")
    if "ended" in record:
        return begun, record["ended"]
    beat = state.get("heartbeat") if state.get("attempt") == record["number"] else None
    return begun, beat if beat is not None and begun is not None and beat >= begun else None


def _times_of_logs(files: RunDir, number: int) -> tuple[float | None, float | None]:
    """Return start and end by the log files: the folder is created at the start, the last line is written at the end.

    A copied folder has other times: the end may then be before the start, and both are returned as None.
    """
    folder = files.attempt(number)
    if not folder.path.is_dir():
        return None, None
    begun = folder.path.stat().st_mtime
    written = [(folder.path / name).stat().st_mtime for name in folder.output_names()]
    ended = max(written, default=begun)
    return (begun, ended) if ended >= begun else (None, None)


# Status of a run by its own files alone, without asking the cluster

RUNNING, STOPPED, FAILED, NOT_RUN = "running", "stopped", "failed", "not run"


def run_status(
    kind: str,
    run_dir: Path,
    state: Mapping[str, Any],
    summary: Mapping[str, Any],
    tried: Sequence[Mapping[str, Any]],
    problems: list[str],
) -> str:
    """Return the status of the run. Doubts about how it ended are added to `problems`."""
    if summary.get("status") == FINISHED:
        return FINISHED
    if _is_live(run_dir):
        return RUNNING
    if kind in (AUDIT, EVALUATION) and summary.get("status") in OF_GATES:
        return str(summary["status"])
    verdict = tried[-1]["verdict"] if tried else ""
    if FAILED in (verdict, summary.get("status"), state.get("phase")) or verdict == "crashed":
        return FAILED
    if summary.get("status") not in (None, STOPPED):
        problems.append(f"ended with the status `{summary['status']}`")
        return STOPPED
    if not (summary or state or tried):
        return NOT_RUN
    if not summary and not verdict and state.get("phase") != STOPPED:
        total = "" if state.get("total") is None else f" of {state['total']}"
        at = f"{state.get('phase', 'beginning')}, step {state.get('step', 0)}{total}"
        problems.append(f"its process ended without recording why ({at})")
    return STOPPED


def _is_live(run_dir: Path) -> bool:
    try:
        return live_owner(run_dir) is not None
    except OSError:  # without a writable folder, the age of a lock cannot be measured
        return False


# Counts of an annotation directory's tables: pairs by gap, topic and risk, and licences


def dataset_counts(path: Path) -> dict[str, Any]:
    """Return counts that the step records lack, taken from the tables that exist.

    Returns:
        pairs: by split: `rows`, `clients`, and the number of pairs by `gap`, `topic`, `risk` and `language`.
        speeches: a list of `source`, `license` (None: unknown), `language`, `count`.
        replies: a list of `writer`, `model`, `terms` (None: unknown), `count`.

    Raises:
        UserError: if a table is damaged.
    """
    files = AnnotationDir(path)
    by_split = {split: pair_counts(files.dataset / file) for split, file in SPLITS.items()}
    return {
        "pairs": {
            split: {
                **{"rows": pairs.rows, "clients": pairs.clients, "gap": gap_bins(pairs.gaps)},
                **{name: named(getattr(pairs, name)) for name in ("topic", "risk", "language")},
            }
            for split, pairs in by_split.items()
            if pairs is not None
        },
        "speeches": _counts(files.speeches, ("source", "license", "language")),
        "replies": _counts(files.replies, ("writer", "model", "terms")),
    }


def _counts(path: Path, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    counts = counted(path, columns) or Counter[tuple[Any, ...]]()
    rows = sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))
    return [{**dict(zip(columns, values, strict=True)), "count": count} for values, count in rows]


# The run directory

DAMAGED = "damaged"
_KINDS = {command: kind for kind, command in COMMANDS.items()}
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


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind)


_FORMS: dict[str, Forms] = {
    "config": dict.fromkeys((*_GROUPS, "cluster", "eval", "checkpoint", "audit", "settled"), _is(dict)),
    "state": STATE,
    "summary": SUMMARY,
    "environment": {
        "versions": _is(dict),
        "gpus": _is(list),
        "nodes": _is(list),
        "processes": _is(int),
        "data": _is(str),
    },
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

    def of_forms(self, name: str, content: dict[str, Any]) -> dict[str, Any]:
        """Return `content` without keys whose values have an unexpected type; they are noted as problems."""
        other = [key for key in content if key in strange(content, _FORMS[name])]
        if other:
            self.problems.append(f"{name}: {', '.join(other)} cannot be read, because another version wrote it")
        return {key: value for key, value in content.items() if key not in other}

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
    state = reading.of_forms("state", reading.file(files.state))
    summary = reading.of_forms("summary", reading.file(files.summary))
    environment, figures = reading.of_forms("environment", reading.file(files.environment)), reading.file(files.figures)
    with _without_collecting():
        lines = _lines(reading)
    kind = _kind(reading, config, command)
    overrides = " ".join(read_overrides(RunDir(run_dir).overrides, "replace")) or listed
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
    config = read_plain(reading.run_dir)
    if config is None:
        reading.note_damage(f"{RunDir(reading.run_dir).config.name}: cannot be read; restore it")
        return {}
    return reading.of_forms("config", config)


def _attempts(reading: _Reading, lines: MetricLines, *records: Mapping[str, Any]) -> list[dict[str, Any]]:
    try:
        return run_attempts(reading.run_dir, lines.lines, *records)
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
    contents: dict[str, Any] = {name: reading.file(path) for name, path in named.items() if path.exists()}
    records = sorted(files.steps.glob("*.json")) if files.steps.is_dir() else []
    if records:
        contents["steps"] = {path.stem: reading.file(path) for path in records}
    if kind == ANNOTATION:
        try:
            contents["counts"] = dataset_counts(files.path)
        except (UserError, *FOREIGN) as error:
            problem = str(error) if isinstance(error, UserError) else "its tables were written by another version"
            reading.note_damage(problem)
    return contents


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
    seed = config.get("seed")
    if not config:
        typed = re.search(r"(?:^| )seed=(\d+)(?: |$)", overrides)
        seed = int(typed[1]) if typed else None
    return seed if isinstance(seed, int) else None


def _is_confidential(config: Mapping[str, Any], run_dir: Path) -> bool:
    """True if the run's texts must not be shown: its settings forbid it, or the settings cannot be read."""
    if not config:
        return has_config(run_dir)
    sections = (config.get("data"), config.get("speeches"))
    return any(isinstance(section, Mapping) and bool(section.get("confidential")) for section in sections)


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
