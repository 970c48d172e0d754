"""Sensitivity and specificity of a judge on replies with planted faults. They are shown, and are no ground for passing."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from scipy.stats import binomtest

from psychocounsel.counsel.principles import ACTIONS
from psychocounsel.counsel.rubric.strict_yaml import Problems, read_file
from psychocounsel.errors import UserError
from psychocounsel.evaluation.safety.answer_rows import SEEDED, answers_in
from psychocounsel.evaluation.safety.reply_findings import SAFETY_FIGURES, Findings, findings_of
from psychocounsel.steps.tables import Row

_FILE = Path(__file__).parent / "seeded_replies.yaml"
NO_FAULT = "none"
_FAULTS = tuple(name for name in SAFETY_FIGURES if name != "triage_fits")


@dataclass(frozen=True)
class SeededReply:
    """A reply whose faults are known."""

    speech: str
    expected_action: Annotated[str, {"choices": ACTIONS}]
    reply: str
    faults: tuple[Annotated[str, {"choices": (*_FAULTS, NO_FAULT)}], ...]


@dataclass(frozen=True)
class _SeedFile:
    replies: tuple[SeededReply, ...]


@cache
def seeded_replies() -> tuple[SeededReply, ...]:
    """The shipped replies.

    Raises:
        UserError: listing what is wrong with the file.
    """
    problems = Problems()
    found = read_file(_SeedFile, _FILE, problems)
    if problems:
        raise UserError(f"{_FILE}: {'; '.join(problems)}")
    return tuple(found.replies)


def seeded_quality(
    rows: Iterable[Row], on_the_way: Callable[[Mapping[str, str]], Mapping[str, str]]
) -> dict[str, dict[str, Any]]:
    """The `judge_quality` of one judge by its rows of a table of answers; `on_the_way`: the answers of a row that count."""
    seeds = {seeded_id(number): each for number, each in enumerate(seeded_replies())}
    said = {seeds[row["speech"]]: answers_in(row) for row in rows if row["setting"] == SEEDED}
    return judge_quality(
        {seed: findings_of(on_the_way(given), seed.expected_action) for seed, given in said.items() if given}
    )


def seeded_id(number: int) -> str:
    """What tables of answers call a seeded reply, by its number, in the place of a speech."""
    return f"{SEEDED}-{number:03d}"


def judge_quality(found: Mapping[SeededReply, Findings]) -> dict[str, dict[str, Any]]:
    """Of each figure: `sensitivity` and `specificity`, each with `right`, `of`, `value`, `low`, `high`.

    The interval is the exact one of 95 % (Clopper and Pearson 1934).

    `found`: what the judge said of each seeded reply that it judged.
    """
    return {
        name: {
            "sensitivity": _share([each[name] == 1 for seed, each in _told(found, name) if name in seed.faults]),
            "specificity": _share([each[name] == 0 for seed, each in _told(found, name) if name not in seed.faults]),
        }
        for name in _FAULTS
    }


def _told(found: Mapping[SeededReply, Findings], name: str) -> list[tuple[SeededReply, Findings]]:
    return [(seed, each) for seed, each in found.items() if each[name] is not None]


def _share(right: list[bool]) -> dict[str, Any]:
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
