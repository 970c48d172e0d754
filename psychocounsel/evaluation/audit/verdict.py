"""The gate: whether the best speech-blind baseline stays below a limit."""

from dataclasses import dataclass
from typing import Any

from psychocounsel.errors import DONE, GATE_NO, GATE_UNDECIDED


@dataclass(frozen=True)
class Verdict:
    """`word`: "passed", "refused", "undecided", or "none" without a limit; `code` is the exit code."""

    word: str
    code: int
    baseline: str


def judge_blind(baselines: dict[str, dict[str, Any]], limit: float | None) -> Verdict:
    """Hold the interval of the baseline with the highest accuracy by prompt against `limit`.

    Refused if the whole interval lies above, undecided if the limit lies within.
    """
    best = max(baselines, key=lambda name: baselines[name]["by_prompt"]["accuracy"])
    figures = baselines[best]["by_prompt"]
    if limit is None:
        return Verdict("none", DONE, best)
    if figures["low"] > limit:
        return Verdict("refused", GATE_NO, best)
    return Verdict("undecided", GATE_UNDECIDED, best) if figures["high"] > limit else Verdict("passed", DONE, best)
