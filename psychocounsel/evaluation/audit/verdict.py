"""The gate: whether all speech-blind baselines stay below a limit."""

from dataclasses import dataclass
from typing import Any

from psychocounsel.errors import DONE, GATE_NO, GATE_UNDECIDED


@dataclass(frozen=True)
class GateVerdict:
    """`word`: "passed", "refused", "undecided", or "none" without a limit; `code` is the exit code."""

    word: str
    code: int
    baseline: str


def judge_blind(baselines: dict[str, dict[str, Any]], limit: float | None) -> GateVerdict:
    """Hold the intervals of all baselines by prompt against `limit`; the verdict names the one that decides.

    Refused if a whole interval lies above, passed if all lie below, else undecided.
    """
    found = {name: each["by_prompt"] for name, each in baselines.items()}
    best = max(found, key=lambda name: found[name]["accuracy"])
    if limit is None:
        return GateVerdict("none", DONE, best)
    surest, widest = (max(found, key=lambda name: found[name][end]) for end in ("low", "high"))
    if found[surest]["low"] > limit:
        return GateVerdict("refused", GATE_NO, surest)
    return (
        GateVerdict("undecided", GATE_UNDECIDED, widest)
        if found[widest]["high"] > limit
        else GateVerdict("passed", DONE, best)
    )
