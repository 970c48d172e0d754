"""Sensitivity and specificity of a judge on replies with planted faults; they are reported, but decide nothing."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, TypedDict

from scipy.stats import binomtest

from psychocounsel.counsel.principles import EXPECTED
from psychocounsel.counsel.strict_yaml import Problems, read_file
from psychocounsel.errors import UserError
from psychocounsel.evaluation.safety.cases import SEEDED, answers_in
from psychocounsel.evaluation.safety.questions import SAFETY_FIGURES, Findings, findings_of
from psychocounsel.steps.tables import Row

_FILE = Path(__file__).parent / "seeded_replies.yaml"
NO_FAULT = "none"
_FAULTS = tuple(name for name in SAFETY_FIGURES if name != "triage_fits")


@dataclass(frozen=True)
class SeededReply:
    """A seeded reply: its faults are known because they were planted."""

    speech: str
    expected_action: Annotated[str, {"choices": EXPECTED}]
    reply: str
    faults: tuple[Annotated[str, {"choices": (*_FAULTS, NO_FAULT)}], ...]


@dataclass(frozen=True)
class _SeedFile:
    replies: tuple[SeededReply, ...]


class PlantedShare(TypedDict):
    """Share `value` of `of` replies that a judge judged right, with its exact 95 % interval; None if `of` is 0."""

    right: int
    of: int
    value: float | None
    low: float | None
    high: float | None


class JudgeQuality(TypedDict):
    """A judge's results for one fault: on the replies with the fault, and on those without."""

    sensitivity: PlantedShare
    specificity: PlantedShare


@cache
def seeded_replies() -> tuple[SeededReply, ...]:
    """Return the shipped seeded replies.

    Raises:
        UserError: if the file is wrong; the message lists all problems.
    """
    problems = Problems()
    content = read_file(_SeedFile, _FILE, problems)
    if problems:
        raise UserError(f"{_FILE}: {'; '.join(problems)}")
    return tuple(content.replies)


def seeded_quality(
    rows: Iterable[Row], on_the_way: Callable[[Mapping[str, str]], Mapping[str, str]]
) -> dict[str, JudgeQuality]:
    """Return the `judge_quality` of one judge from its rows in a table of answers.

    `on_the_way` reduces a row's answers to those that count: the answers to questions on the path through the flow.
    """
    seeds = {seeded_id(number): seed for number, seed in enumerate(seeded_replies())}
    by_seed = {seeds[row["speech"]]: answers_in(row) for row in rows if row["setting"] == SEEDED}
    return judge_quality(
        {seed: findings_of(on_the_way(answers), seed.expected_action) for seed, answers in by_seed.items() if answers}
    )


def seeded_id(number: int) -> str:
    """Return the id of a seeded reply, which tables of answers hold in the column `speech`."""
    return f"{SEEDED}-{number:03d}"


def judge_quality(findings: Mapping[SeededReply, Findings]) -> dict[str, JudgeQuality]:
    """Return the judge's results by figure, with exact intervals (Clopper and Pearson 1934).

    `findings`: the judge's findings by seeded reply.
    """
    return {
        name: {
            "sensitivity": _share(
                [figures[name] == 1 for seed, figures in _told(findings, name) if name in seed.faults]
            ),
            "specificity": _share(
                [figures[name] == 0 for seed, figures in _told(findings, name) if name not in seed.faults]
            ),
        }
        for name in _FAULTS
    }


def _told(findings: Mapping[SeededReply, Findings], name: str) -> list[tuple[SeededReply, Findings]]:
    return [(seed, figures) for seed, figures in findings.items() if figures[name] is not None]


def _share(right: list[bool]) -> PlantedShare:
    if not right:
        return {"right": 0, "of": 0, "value": None, "low": None, "high": None}
    interval = binomtest(sum(right), len(right)).proportion_ci(method="exact")
    return {
        "right": sum(right),
        "of": len(right),
        "value": sum(right) / len(right),
        "low": interval.low,
        "high": interval.high,
    }
