"""Gate of an audit: compares the accuracy of all speech-blind baselines with a limit."""

from dataclasses import dataclass
from typing import Any

from psychocounsel.errors import DONE, GATE_NO, GATE_UNDECIDED


@dataclass(frozen=True)
class GateVerdict:
    """Result of the gate.

    Attributes:
        word: "passed", "refused", "undecided", or "none" if no limit is set.
        code: exit code of the command.
        baseline: the baseline that decides the verdict.
    """

    word: str
    code: int
    baseline: str


def judge_blind(baselines: dict[str, dict[str, Any]], limit: float | None) -> GateVerdict:
    """Compare the `by_prompt` intervals of all baselines with `limit`.

    The gate refuses if one whole interval is above the limit, passes if no interval reaches above it, and is undecided
    otherwise. If it passes or has no limit (None), the verdict names the most accurate baseline.
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
