"""Printed output of the gate: the table, the reasons, and the next step, without any text of a speech or reply."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from psychocounsel.errors import DONE, GATE_NO
from psychocounsel.evaluation.gate.deciding import BEYOND, SHOWN, UNDECIDED, WITHIN
from psychocounsel.evaluation.gate.gate_reasons import counted, title
from psychocounsel.evaluation.gate.rulings import HARD, RIGHT
from psychocounsel.evaluation.safety.safety_lines import of_planted
from psychocounsel.rundir.paths import EvaluationDir

_TITLE = 35  # column width [characters]
_QUESTIONS = {HARD: "hard failures", RIGHT: "expected action right"}
_KINDS = ("rate", "difference")
Row = Mapping[str, Any]


def gate_lines(found: Row, files: EvaluationDir) -> Iterator[str]:
    """Yield the lines of the output. `found`: content of figures.json."""
    counted = ", ".join(f"{part} {count:,}" for part, count in found["clusters"].items())
    yield f"gate: {found['model']} against {found['base']}; speeches and personas: {counted or 'none'}"
    yield "bounds are one-sided, 95 %, by speech and persona"
    yield f"  {'':<{_TITLE}}{'model':>8}{'bounds':>18}{'ceiling':>9}{'- base':>9}{'bounds':>18}{'margin':>8}"
    for name, row in found["figures"].items():
        yield f"  {title(name):<{_TITLE}}{_cells(row['rate'], 9)}{_cells(row['difference'], 8, True)}  {_verdict(row)}"
    yield from _strata(found["strata"])
    yield from _health(found["health"])
    if "health" in found["parts"] and not found["health"]:
        yield "health does not affect the decision, because gate.health sets no limit"
    yield from _people(found)
    yield from _planted(found["quality"])
    deciding = [line for code, line in found["reasons"] if code == found["code"]]
    yield from (f"- {line}" for line in deciding)
    if others := len(found["reasons"]) - len(deciding):
        yield f"in addition, {others} points are undecided (reasons in {files.figures.name})"
    yield f"warning: {found['warnings'][1]}"
    yield f"decision: {found['decision']} (exit code {found['code']}); {found['warnings'][0]}"
    if found["code"] not in (DONE, GATE_NO):
        fill_in = f"fill in {files.adjudicate}, " if _waits(found) else ""
        yield f"next: {fill_in}do what the reasons say, then run the same command again"


def _waits(found: Row) -> bool:
    """Return True if some cases in adjudicate.csv have not been judged yet."""
    figures = found["figures"].values()
    flags = any(row["waiting_flags"] or row["waiting_flags_of_base"] for row in figures)
    return bool(flags or found["hard"]["waiting"] or any(row["checked"] < row["drawn"] for row in figures))


def _cells(row: Row, width: int, signed: bool = False) -> str:
    if not row["clusters"]:
        return f"{'no cases':>{8 if not signed else 9}}{'':>18}{_limit(row):>{width}}"
    sign = "+" if signed else ""
    value = f"{100 * row['value']:{sign}.1f}" + ("" if signed else " %")
    bounds = f"{100 * row['low']:{sign}.1f} to {100 * row['high']:{sign}.1f}"
    return f"{value:>{8 if not signed else 9}}{bounds:>18}{_limit(row):>{width}}"


def _limit(row: Row) -> str:
    return "-" if row["limit"] is None else f"{100 * row['limit']:g} %"


def _verdict(row: Row) -> str:
    told = [row[kind]["verdict"] for kind in _KINDS]
    return next((word for word in (BEYOND, UNDECIDED, WITHIN) if word in told), SHOWN)


def _strata(strata: Row) -> Iterator[str]:
    """Yield the strata with a ceiling, and of the others the five with the largest lower bounds."""
    rows = [(f"{figure} of {name}", row) for name, each in strata.items() for figure, row in each.items()]
    limited = [(name, row) for name, row in rows if row["limit"] is not None]
    if limited:
        yield "strata with a ceiling"
        for name, row in limited:
            yield f"  {title(name):<{_TITLE + 18}}{_cells(row, 9)}  {row['verdict']}"
    others = [(name, row) for name, row in rows if row["limit"] is None and row["value"] > 0]
    if others:
        yield "strata in which the model fails most (all are in figures.json; they do not affect the decision)"
        for name, row in sorted(others, key=lambda each: (-each[1]["low"], each[0]))[:5]:
            yield f"  {title(name):<{_TITLE + 18}}{_cells(row, 9)}  n = {row['clusters']}"


def _health(health: Row) -> Iterator[str]:
    if health:
        yield "health of the model's replies"
    for name, row in health.items():
        yield f"  {title(name):<{_TITLE}}{_cells(row, 9)}  {row['verdict']}"


def _people(found: Row) -> Iterator[str]:
    told = found["adjudicated"]
    if not told["cases"]:
        yield "adjudicated: nothing so far"
        return
    yield f"adjudicated: {counted(told['cases'], 'case', 'cases')} by {counted(told['adjudicators'], 'person', 'people')}"
    for name, row in found["figures"].items():
        known = (
            "" if row["sensitivity"] is None else f"; the judge found {100 * row['sensitivity']:.0f} % of the failures"
        )
        rate = row["rate"]
        widened = (
            f"; unchecked passes add {100 * rate['widening']:.1f} points to the upper bound" if rate["clusters"] else ""
        )
        yield f"  {title(name)}: {row['checked']} of {row['drawn']} drawn passes checked{widened}{known}"
    for name, each in told["agreement"].items():
        yield f"  {_QUESTIONS.get(name) or title(name)}: {100 * each['agreed']:.0f} % of {each['of']} pairs of people agree"


def _planted(quality: Row) -> Iterator[str]:
    """Yield the share of planted faults that each judge found; it does not affect the decision."""
    for judge, figures in quality.items():
        shown = [f"{title(name)} {of_planted(figures[name]['sensitivity'])}" for name in ("missed", "over_escalation")]
        yield f"judge {judge}, planted faults found (does not affect the decision): {'; '.join(shown)}"
