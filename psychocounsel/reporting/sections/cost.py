"""Section on time and cost: hours of all attempts, failed ones included, speed, memory, and calls of language models."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from psychocounsel.blocks.cells import exact, report_table
from psychocounsel.blocks.kinds import Block, Chart, ReportTable, Section
from psychocounsel.blocks.tables import Cell, TableFigure
from psychocounsel.reporting.material import TRAINING, Material, RunMaterial
from psychocounsel.reporting.sections.curves import curve, lines_of, processes_of
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.rundir.results import FINISHED, OF_GATES
from psychocounsel.storage.files import readable_time

# Bought answers, counted once per journal, although several runs may share one


@dataclass(frozen=True)
class BoughtAnswers:
    """Contents of one journal.

    Attributes:
        run: the run that the journal belongs to. If a report holds only parts of a gate, the first of these parts.
        answers, cost: totals of the journal; the cost is in the currency of the configured prices.
        seconds: duration of the run's finished steps.
    """

    run: RunMaterial
    answers: int
    cost: float
    seconds: float


def bought_answers(runs: Iterable[RunMaterial]) -> list[BoughtAnswers]:
    """Return the totals of each journal whose runs have asked language models.

    The figures `bought` and `spent` of a step are the totals of the whole journal when the step ended, and a journal only
    grows. So its totals are the largest figures of all steps that use it; their sum would count answers repeatedly.
    """
    sharing: dict[Path, list[RunMaterial]] = {}
    for run in runs:
        sharing.setdefault(_journal_owner(run.path), []).append(run)
    return [totals for path, using in sharing.items() if (totals := _journal_totals(path, using))]


def _journal_owner(path: Path) -> Path:
    """Return the run directory that holds a run's journal: the gate's for a part of a gate, otherwise the run's own."""
    above = path.parent.parent
    return above if EvaluationDir(above).part(path.name).path == path else path


def _journal_totals(owner: Path, runs: Sequence[RunMaterial]) -> BoughtAnswers | None:
    """Return the totals of one journal, or None if no step of these runs has asked a language model."""
    figures = [record.get("figures") or {} for run in runs for record in _step_records(run)]
    answers = max(
        (_number(step_figures["bought"]) for step_figures in figures if "bought" in step_figures), default=None
    )
    if answers is None:
        return None
    cost = max(_number(step_figures.get("spent")) for step_figures in figures)
    owner_run = next((run for run in runs if run.path == owner), runs[0])
    seconds = sum(_number(record.get("seconds")) for record in _step_records(owner_run))
    return BoughtAnswers(owner_run, int(answers), cost, seconds)


def _step_records(run: RunMaterial) -> Iterable[Mapping[str, Any]]:
    return (run.extra.get("steps") or {}).values()


def _number(value: Any) -> float:
    """Return a number read from a file, or 0 for anything else, because another version may have written the file."""
    return float(value) if isinstance(value, int | float) else 0.0


# The section

_PHASES = {
    "rollout/write_seconds": "writing",
    "rollout/score_seconds": "scoring",
    "rollout/sync_seconds": "weights",
}
_PHASES |= {"data_seconds": "data"}
_SPEEDS = {
    "tokens_per_second": ("Speed", "tokens per second"),
    "mfu": ("Model FLOPs utilisation (MFU)", "share of the peak"),
}
_SPEEDS |= {"peak_memory_gb": ("Peak memory of process 0", "10^9 bytes")}
_WARM_UP = 2  # steps that compile kernels and allocate memory
_GOOD_ENDS = (FINISHED, "running", *OF_GATES)


def section(material: Material) -> Section:
    trained = [run for run in material.of(TRAINING) if any("step_seconds" in line for line in run.lines)]
    blocks: list[Block] = [*_attempts(material.runs), *_times(trained), *_speeds(trained), *_calls(material.runs)]
    return Section("cost", "Time and cost", blocks)


def _attempts(runs: Sequence[RunMaterial]) -> list[ReportTable]:
    """Return a table of the hours of all attempts, with a separate count of unfinished ones."""
    rows: list[list[Cell]] = []
    for run in runs:
        known = [attempt for attempt in run.attempts if attempt.get("seconds") is not None]
        if not known:
            continue
        lost = [attempt for attempt in known if _is_lost(attempt, run)]
        wall = sum(attempt["seconds"] for attempt in known) / 3600
        devices = {"GPU" if attempt.get("gpus") else "CPU process" for attempt in known}
        rows.append(
            [
                run.title,
                str(len(run.attempts)),
                _hours(wall),
                " and ".join(sorted(devices)),
                _hours(sum(map(device_hours, known))),
                str(len(lost)),
                _hours(sum(map(device_hours, lost))),
            ]
        )
    headings = ["run", "attempts", "hours", "device", "device-hours", "unfinished", "their device-hours"]
    notes = [
        "hours: from the start of each attempt to its end, including loading and evaluations",
        "device-hours: hours times GPUs, or processes on CPU",
        "unfinished: attempts that failed, stopped or were killed",
        _total(rows),
    ]
    return report_table("cost-attempts", "Hours of all attempts", headings, rows, *notes)


def _is_lost(attempt: Mapping[str, Any], run: RunMaterial) -> bool:
    """True if the attempt ended before the run had finished.

    No verdict is recorded if an attempt was killed, or if it is the last one and still running.
    """
    is_last = attempt.get("number") == run.attempts[-1].get("number")
    verdict = attempt.get("verdict") or (run.status if is_last else "killed")
    return verdict not in _GOOD_ENDS


def _total(rows: Sequence[Sequence[Cell]]) -> str:
    def added(column: int) -> float:
        return sum(cell.value for row in rows if isinstance(cell := row[column], TableFigure))

    all_hours, lost = (readable_time(3600 * added(column)) for column in (4, 6))
    return f"total of device-hours: {all_hours}, {lost} of them in attempts that failed, stopped or were killed"


def device_hours(attempt: Mapping[str, Any]) -> float:
    """Return an attempt's hours times its GPUs, or times its processes if it used no GPU."""
    return float(attempt["seconds"]) / 3600 * (attempt.get("gpus") or attempt.get("processes") or 1)


def _times(runs: Sequence[RunMaterial]) -> list[ReportTable]:
    """Return a table of the time of the steps by phase."""
    rows: list[list[Cell]] = []
    for run in runs:
        total = _sum(run, "step_seconds")
        parts = {key: _sum(run, key) for key in _PHASES}
        known = sum(parts.values())
        rest = total - known if known <= total else None  # None: replies are written beside the steps
        hours = _hours(total * processes_of(run) / 3600)
        shares = [exact(part / total if total and part else None, percent=True) for part in parts.values()]
        training = exact(None if rest is None or not total else rest / total, percent=True)
        peak = max((line["peak_memory_gb"] for line in run.lines if "peak_memory_gb" in line), default=None)
        speeds = [exact(_median(run, "tokens_per_second")), exact(_median(run, "mfu"), percent=True), exact(peak)]
        rows.append([run.title, hours, *shares, training, *speeds])
    headings = ["run", "step hours", *_PHASES.values(), "training", "tokens/s", "MFU", "peak memory (GB)"]
    notes = [
        "step hours: hours of all steps times processes, without evaluations, checkpoints and loading",
        "shares of step hours: writing and scoring replies, transfer of weights to the rollout, waiting for data",
        "training: the rest (forward, backward, optimizer)",
        f"tokens/s and MFU: the median over steps after the first {_WARM_UP}",
        "MFU: relative to the fastest matrix product measured on the same device",
    ]
    return report_table("cost-steps", "Time of the steps by phase", headings, rows, *notes)


def _speeds(runs: Sequence[RunMaterial]) -> Iterator[Chart]:
    lines = {id(run): lines_of(run, _SPEEDS) for run in runs}
    for key, (title, y_title) in _SPEEDS.items():
        curves = [run_curve for run in runs if (run_curve := curve(run, lines[id(run)], key))]
        if curves:
            yield Chart(f"cost-{key.replace('_', '-')}", title, y_title, curves, smooths=True)


def _calls(runs: Sequence[RunMaterial]) -> list[ReportTable]:
    """Return a table of the answers bought from language models and their cost, a row for each journal."""
    rows: list[list[Cell]] = [
        [journal.run.title, journal.run.kind, str(journal.answers), exact(journal.cost), exact(journal.seconds / 60)]
        for journal in bought_answers(runs)
    ]
    headings = ["run", "kind", "answers bought", "cost", "minutes of steps"]
    notes = [
        "cost: in the currency of the configured prices, 0 if none is set",
        "answers and cost: totals of the journal that all steps of a run, or all parts of a gate, share",
    ]
    return report_table("cost-calls", "Calls of language models", headings, rows, *notes)


def _sum(run: RunMaterial, key: str) -> float:
    return float(sum(line.get(key, 0.0) for line in run.lines))


def _median(run: RunMaterial, key: str) -> float | None:
    values = [line[key] for line in run.lines if key in line]
    return median(values[_WARM_UP:] or values) if values else None


def _hours(value: float) -> Cell:
    return TableFigure(value, spreads=False, hours=True)
