"""Answers bought from language models and their cost, counted once per journal, although several runs may share one."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psychocounsel.reporting.material import RunMaterial
from psychocounsel.rundir.paths import EvaluationDir


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
        sharing.setdefault(_owner(run.path), []).append(run)
    return [found for path, using in sharing.items() if (found := _totals(path, using))]


def _owner(path: Path) -> Path:
    """Return the run directory that holds a run's journal: the gate's for a part of a gate, otherwise the run's own."""
    above = path.parent.parent
    return above if EvaluationDir(above).part(path.name).path == path else path


def _totals(owner: Path, runs: Sequence[RunMaterial]) -> BoughtAnswers | None:
    """Return the totals of one journal, or None if no step of these runs has asked a language model."""
    figures = [record.get("figures") or {} for run in runs for record in _records(run)]
    answers = max((_number(each["bought"]) for each in figures if "bought" in each), default=None)
    if answers is None:
        return None
    cost = max(_number(each.get("spent")) for each in figures)
    whole = next((run for run in runs if run.path == owner), runs[0])
    seconds = sum(_number(record.get("seconds")) for record in _records(whole))
    return BoughtAnswers(whole, int(answers), cost, seconds)


def _records(run: RunMaterial) -> Iterable[Mapping[str, Any]]:
    return (run.extra.get("steps") or {}).values()


def _number(found: Any) -> float:
    """Return a number read from a file, or 0 for anything else, because another version may have written the file."""
    return float(found) if isinstance(found, int | float) else 0.0
