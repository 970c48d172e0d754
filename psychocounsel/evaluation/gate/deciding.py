"""Decision of the gate from cases, people's answers and limits: every bound with its verdict. Reads and writes no files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from psychocounsel.errors import DONE, GATE_NO, GATE_UNDECIDED
from psychocounsel.evaluation.gate.gate_bounds import (
    Bounds,
    Needed,
    cluster_means,
    difference_bounds,
    needed,
    rate_bounds,
    sensitivity,
)
from psychocounsel.evaluation.gate.gate_cases import (
    case_id,
    cluster_of,
    drawn_passes,
    is_flagged,
    is_hard,
    strata_of,
)
from psychocounsel.evaluation.gate.gate_keys import DECIDING
from psychocounsel.evaluation.gate.rulings import Answered, rulings_of
from psychocounsel.evaluation.safety.judged_case import JudgedCase
from psychocounsel.metrics.share_bounds import first_that_holds, lower_bound, upper_bound

WITHIN, BEYOND, UNDECIDED, SHOWN = "within", "beyond", "undecided", "shown"
WORDS = {DONE: "passed", GATE_NO: "refused", GATE_UNDECIDED: "undecided"}
_MOST = 1_000_000
Row = dict[str, Any]


@dataclass(frozen=True)
class GateLimits:
    """Limits of the keys `gate.*`.

    Attributes:
        margin: largest difference to the base by figure; None: no limit.
        ceiling: largest share of failures by figure; None: no limit.
        strata: ceilings of strata, by `NAME.VALUE` and figure.
        health: ceilings of health figures; None: no limit.
        passes: number of passes drawn for people, per figure.
        seed: seed of this draw.
        wrong_labels: largest share of wrong expected actions.
    """

    margin: Mapping[str, float | None]
    ceiling: Mapping[str, float | None]
    strata: Mapping[str, Mapping[str, float]]
    health: Mapping[str, float | None]
    passes: int
    seed: int
    wrong_labels: float


class MeasuredCases:
    """Cases of the gate, ordered by id, with people's rulings; its methods compute the bounds."""

    def __init__(
        self, cases: Sequence[JudgedCase], model: str, base: str, answered: Sequence[Answered], limits: GateLimits
    ) -> None:
        self.cases, self.limits, self.rulings = cases, limits, rulings_of(answered)
        self.mine = [case for case in cases if case.setting == model]
        self.of_base = [case for case in cases if case.setting == base]
        self.drawn = drawn_passes(self.mine, limits.passes, limits.seed)

    def figures(self) -> dict[str, Row]:
        """Return, for each deciding figure, `rate` and `difference` with bounds and verdicts, and the counts of cases."""
        return {figure: self._figure(figure) for figure in DECIDING}

    def _figure(self, figure: str) -> Row:
        drawn = self.drawn[figure]
        rate = rate_bounds(self.mine, figure, self.rulings, drawn)
        difference = difference_bounds(self.mine, self.of_base, figure, self.rulings, drawn)
        found: Row = {
            "rate": _held(rate, self.limits.ceiling[figure]),
            "difference": _held(difference, self.limits.margin[figure]),
        }
        answered = [name for name in drawn if name in self.rulings and figure in self.rulings[name].failed]
        return found | {
            "drawn": len(drawn),
            "checked": len(answered),
            "sensitivity": sensitivity(self.mine, figure, self.rulings, drawn),
            "waiting_flags": self._waiting_flags(self.mine, figure),
            "waiting_flags_of_base": self._waiting_flags(self.of_base, figure),
            "silent_parts": self._silent_parts(figure),
        }

    def _waiting_flags(self, cases: Sequence[JudgedCase], figure: str) -> int:
        return sum(is_flagged(case, figure) and case_id(case) not in self.rulings for case in cases)

    def _silent_parts(self, figure: str) -> list[str]:
        """Return the parts in which the figure is unknown for every case of the model."""
        telling = {case.part for case in self.mine if case.findings[figure] is not None}
        return sorted({case.part for case in self.mine} - telling)

    def strata(self) -> dict[str, dict[str, Row]]:
        """Return, for each stratum `NAME.VALUE` and figure, the model's share of failures, with a verdict if it has a ceiling."""
        names = sorted({f"{name}.{value}" for case in self.mine for name, value in strata_of(case).items()})
        found: dict[str, dict[str, Row]] = {}
        for name in names:
            key, _, value = name.partition(".")
            inside = [case for case in self.mine if strata_of(case).get(key) == value]
            limits = self.limits.strata.get(name, {})
            told = {figure: rate_bounds(inside, figure, self.rulings, self.drawn[figure]) for figure in DECIDING}
            found[name] = {
                figure: _held(bounds, limits.get(figure))
                for figure, bounds in told.items()
                if bounds is not None or figure in limits
            }
        return found

    def hard(self) -> Row:
        """Return the number of the model's hard flags, and the ids of those that people have not judged (`waiting`).

        `confirmed` holds the ids of all cases of the model that people call hard, flagged or not.
        """
        names = {case_id(case) for case in self.mine}
        flagged = [case_id(case) for case in self.mine if is_hard(case)]
        return {
            "flagged": len(flagged),
            "waiting": [name for name in flagged if name not in self.rulings],
            "confirmed": sorted(name for name, ruling in self.rulings.items() if ruling.hard and name in names),
        }

    def labels(self) -> Row:
        """Return how many of the speeches that people saw have a `wrong` expected action, and the share's upper bound."""

        def wrong(case: JudgedCase) -> float | None:
            ruling = self.rulings.get(case_id(case))
            return None if ruling is None else float(not ruling.label_right)

        means = cluster_means(self.cases, wrong)
        count, found = len(means), sum(value > 0 for value in means.values())
        return {"wrong": found, "of": count, "high": upper_bound(found, count)}

    def clusters(self) -> dict[str, int]:
        """Return the number of speeches or personas among the model's cases, by part."""
        found = sorted({cluster_of(case) for case in self.mine})
        return {part: sum(each[0] == part for each in found) for part in sorted({each[0] for each in found})}


def _held(bounds: Bounds | None, limit: float | None) -> Row:
    """Return the bounds for figures.json, with `limit`, `verdict` and, if undecided, the further evidence `needed`."""
    if bounds is None:
        return {"limit": limit, "verdict": UNDECIDED if limit is not None else SHOWN, "clusters": 0}
    row: Row = {"value": bounds.value, "low": bounds.low, "high": bounds.high, "clusters": bounds.clusters}
    row |= {"unchecked": bounds.checked.unchecked, "overlooked": bounds.checked.overlooked, "limit": limit}
    row |= {"of_checked": bounds.checked.clusters, "widening": bounds.checked.widening}
    if limit is None:
        return row | {"verdict": SHOWN}
    if bounds.low > limit:
        return row | {"verdict": BEYOND}
    if bounds.high <= limit:
        return row | {"verdict": WITHIN}
    return row | {"verdict": UNDECIDED, "needed": asdict(needed(bounds, limit))}


def held_health(figures: Mapping[str, Row], limits: Mapping[str, float | None]) -> dict[str, Row]:
    """Return exact one-sided bounds over speeches and a verdict for each health figure that has a limit.

    `figures`: result of `health_means.means`; `mean` is the mean over speeches, and `prompts` their number.
    """
    found = {}
    for name, limit in limits.items():
        if limit is None:
            continue
        told = figures[name]
        if told["mean"] is None:
            found[name] = {"limit": limit, "verdict": UNDECIDED, "clusters": 0}
            continue
        count, failures = told["prompts"], told["mean"] * told["prompts"]
        low, high = lower_bound(failures, count), upper_bound(failures, count)
        verdict = BEYOND if low > limit else WITHIN if high <= limit else UNDECIDED
        row = {"value": told["mean"], "low": low, "high": high, "clusters": count, "limit": limit, "verdict": verdict}
        if verdict == UNDECIDED:
            row["needed"] = asdict(Needed("speeches", _more_clean(failures, count, limit)))
        found[name] = row
    return found


def _more_clean(failures: float, count: int, limit: float) -> int | None:
    return first_that_holds(lambda more: upper_bound(failures, count + more) <= limit, 1, _MOST)


def code_of(reasons: Sequence[tuple[int, str]]) -> int:
    """Return the exit code: GATE_NO if one reason refuses, GATE_UNDECIDED for any other reasons, DONE without reasons."""
    codes = {code for code, _ in reasons}
    return GATE_NO if GATE_NO in codes else GATE_UNDECIDED if codes else DONE


def rows_with_verdict(found: Mapping[str, Any], verdict: str) -> Iterator[tuple[str, str, Row]]:
    """Yield name, kind (`rate`, `difference`, `stratum`, `health`) and row of each bound that has this verdict."""
    for figure, row in found["figures"].items():
        for kind in ("rate", "difference"):
            if row[kind]["verdict"] == verdict:
                yield figure, kind, row[kind]
    for name, figures in found["strata"].items():
        for figure, row in figures.items():
            if row["verdict"] == verdict:
                yield f"{figure} of {name}", "stratum", row
    for name, row in found["health"].items():
        if row["verdict"] == verdict:
            yield name, "health", row
