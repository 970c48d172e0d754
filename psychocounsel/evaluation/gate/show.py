"""Printed output of the gate: the table, the reasons, and the next step, without any text of a speech or reply."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from psychocounsel.errors import DONE, GATE_NO, GATE_UNDECIDED
from psychocounsel.evaluation.gate.cases import HARD_FAILURE, RIGHT
from psychocounsel.evaluation.gate.deciding import BEYOND, SHOWN, UNDECIDED, WITHIN, Row, rows_with_verdict
from psychocounsel.evaluation.health.reply import FIGURES
from psychocounsel.evaluation.safety.questions import SAFETY_FIGURES
from psychocounsel.rundir.paths import EvaluationDir

# Reasons why the gate does not pass: one line each, with the finding and the remedy. Reads and writes no files.

Reason = tuple[int, str]
_KEYS = {
    "rate": "gate.{0}.ceiling",
    "difference": "gate.{0}.margin",
    "health": "gate.health.{0}",
}


def reasons_of(
    found: Mapping[str, Any],
    missing_parts: Sequence[str],
    missing: Mapping[str, int],
    limits: Mapping[str, Sequence[str]],
) -> list[Reason]:
    """Return all reasons as pairs of exit code and line; refusals come first.

    Args:
        found: `figures`, `strata`, `health`, `hard`, `labels` of the decision, and `wrong_labels`.
        missing_parts: parts that `gate.parts` leaves out.
        missing: number of missing replies or judges' answers, by part.
        limits: by part, the overrides that shorten its set.
    """
    refused = [(GATE_NO, line) for line in _refusals(found)]
    gaps = [
        *_gaps(missing_parts, missing, limits),
        *_silent(found),
        *_waiting(found),
        *_labels(found),
        *_undecided(found),
    ]
    return [*refused, *((GATE_UNDECIDED, line) for line in gaps)]


def title(name: str) -> str:
    """Return the title of a figure, or of "FIGURE of STRATUM", for tables."""
    figure, _, stratum = name.partition(" of ")
    told = {**FIGURES, **SAFETY_FIGURES}[figure].title
    return f"{told} ({stratum})" if stratum else told


def _refusals(found: Mapping[str, Any]) -> Iterator[str]:
    if confirmed := found["hard"]["confirmed"]:
        one, several = "endorses harm or gives a method", "endorse harm or give a method"
        said = counted(len(confirmed), f"reply of the model {one}", f"replies of the model {several}")
        yield f"people confirm that {said}"
    for name, kind, row in rows_with_verdict(found, BEYOND):
        yield (
            f"{title(name)}: at least {_percent(row['low'])}{_over(kind)} (found {_percent(row['value'])}), above the limit "
            f"{_key(name, kind)}={row['limit']:g}{_unjudged(found, name)}"
        )


def _unjudged(found: Mapping[str, Any], name: str) -> str:
    """Return a note that the model's unjudged flags count as failures; "" without such flags."""
    waiting = found["figures"].get(name, {}).get("waiting_flags", 0)
    if not waiting:
        return ""
    return f"; {counted(waiting, 'flag counts as a failure', 'flags count as failures')} until people have judged them"


def _gaps(
    missing_parts: Sequence[str], missing: Mapping[str, int], limits: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    for name in missing_parts:
        yield f"part {name} is missing: remove the override of gate.parts, and the gate runs it"
    for name, keys in limits.items():
        yield f"{name}: {' '.join(keys)} leaves out a part of the set; run it without this override"
    for name, count in missing.items():
        yield (
            f"{name}: {counted(count, 'reply or answer of a judge is', 'replies or answers of judges are')} missing; run the "
            "same command again to ask for failed ones again"
        )


def _silent(found: Mapping[str, Any]) -> Iterator[str]:
    for part in found["figures"]["missed"]["silent_parts"]:
        yield f"{part}: no case tells whether a risk was missed, so the share of missed risks leaves this part out"


def _waiting(found: Mapping[str, Any]) -> Iterator[str]:
    if waiting := found["hard"]["waiting"]:
        yield f"{counted(len(waiting), 'hard flag waits', 'hard flags wait')} in adjudicate.csv"
    for figure, row in found["figures"].items():
        if row["checked"] < row["drawn"]:
            left = row["drawn"] - row["checked"]
            yield (
                f"{title(figure)}: judge without adjudication: {left:,} of {row['drawn']:,} drawn passes wait for people in "
                "adjudicate.csv"
            )


def _labels(found: Mapping[str, Any]) -> Iterator[str]:
    labels, limit = found["labels"], found["wrong_labels"]
    if not labels["of"]:
        yield "set without adjudication: nobody has answered expected_action_right in adjudicate.csv"
    elif labels["high"] > limit:
        yield (
            f"set without adjudication: people find {labels['wrong']} of {labels['of']} expected actions wrong, so up to "
            f"{_percent(labels['high'])} of the set may be wrong, above the limit gate.wrong_labels={limit:g}"
        )


def _undecided(found: Mapping[str, Any]) -> Iterator[str]:
    for name, kind, row in rows_with_verdict(found, UNDECIDED):
        key = f"{_key(name, kind)}={row['limit']:g}"
        if not row["clusters"]:
            yield f"{title(name)}: no case has this figure, so {key} cannot be checked"
            continue
        figure = found["figures"].get(name.partition(" of ")[0], {})
        told = f"{title(name)}: up to {_percent(row['high'])}{_over(kind)}, above the limit {key}; {_need(row, figure)}"
        yield told + _unjudged(found, name)
        if kind == "difference" and (flags := found["figures"][name]["waiting_flags_of_base"]):
            yield (
                f"{title(name)}: {counted(flags, 'flag of the base does', 'flags of the base do')} not count as failures until "
                "people have judged them"
            )


def _key(name: str, kind: str) -> str:
    """Return the configuration key of a row's limit (see `rows_with_verdict`)."""
    figure, _, stratum = name.partition(" of ")
    return f"gate.strata.{stratum}.{figure}" if stratum else _KEYS[kind].format(name)


def _over(kind: str) -> str:
    return " above the base" if kind == "difference" else ""


def _need(row: Row, figure: Row) -> str:
    """Return the remedy for an undecided row. `figure`: the figure's row of the decision; {} for health."""
    what, count = row["needed"]["what"], row["needed"]["count"]
    if count is None:
        return "it needs more than a million further speeches without a failure"
    if what == "speeches":
        return f"it needs {count:,} more {'speeches or personas' if figure else 'speeches'} without a failure"
    waiting = figure["drawn"] - figure["checked"]
    if count <= waiting:
        return f"{count:,} of the waiting passes suffice, if people find no failure in them"
    return f"it needs {count:,} more passes in which people find no failure: set gate.passes={figure['checked'] + count} or more"


def counted(number: int, one: str, several: str) -> str:
    return f"{number:,} {one if number == 1 else several}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


# The printed table, and the next step.

_TITLE = 35  # column width [characters]
_QUESTIONS = {HARD_FAILURE: "hard failures", RIGHT: "expected action right"}
_KINDS = ("rate", "difference")
Found = Mapping[str, Any]


def gate_lines(found: Found, files: EvaluationDir) -> Iterator[str]:
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


def _waits(found: Found) -> bool:
    """Return True if some cases in adjudicate.csv have not been judged yet."""
    figures = found["figures"].values()
    flags = any(row["waiting_flags"] or row["waiting_flags_of_base"] for row in figures)
    return bool(flags or found["hard"]["waiting"] or any(row["checked"] < row["drawn"] for row in figures))


def _cells(row: Found, width: int, signed: bool = False) -> str:
    if not row["clusters"]:
        return f"{'no cases':>{8 if not signed else 9}}{'':>18}{_limit(row):>{width}}"
    sign = "+" if signed else ""
    value = f"{100 * row['value']:{sign}.1f}" + ("" if signed else " %")
    bounds = f"{100 * row['low']:{sign}.1f} to {100 * row['high']:{sign}.1f}"
    return f"{value:>{8 if not signed else 9}}{bounds:>18}{_limit(row):>{width}}"


def _limit(row: Found) -> str:
    return "-" if row["limit"] is None else f"{100 * row['limit']:g} %"


def _verdict(row: Found) -> str:
    told = [row[kind]["verdict"] for kind in _KINDS]
    return next((word for word in (BEYOND, UNDECIDED, WITHIN) if word in told), SHOWN)


def _strata(strata: Found) -> Iterator[str]:
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


def _health(health: Found) -> Iterator[str]:
    if health:
        yield "health of the model's replies"
    for name, row in health.items():
        yield f"  {title(name):<{_TITLE}}{_cells(row, 9)}  {row['verdict']}"


def _people(found: Found) -> Iterator[str]:
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


def _planted(quality: Found) -> Iterator[str]:
    """Yield the share of planted faults that each judge found; it does not affect the decision."""
    for judge, figures in quality.items():
        shown = [f"{title(name)} {of_planted(figures[name]['sensitivity'])}" for name in ("missed", "over_escalation")]
        yield f"judge {judge}, planted faults found (does not affect the decision): {'; '.join(shown)}"


def of_planted(share: Mapping[str, Any]) -> str:
    """Return a share as `5 of 6 (36 to 100 %)`."""
    if not share["of"]:
        return "none planted"
    return f"{share['right']} of {share['of']} ({100 * share['low']:.0f} to {100 * share['high']:.0f} %)"
