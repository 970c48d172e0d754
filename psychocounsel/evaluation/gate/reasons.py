"""Reasons why the gate does not pass: one line each, with the finding and the remedy. Reads and writes no files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from psychocounsel.errors import GATE_NO, GATE_UNDECIDED
from psychocounsel.evaluation.gate.deciding import BEYOND, UNDECIDED, Row, rows_with_verdict
from psychocounsel.evaluation.health.reply import FIGURES
from psychocounsel.evaluation.safety.questions import SAFETY_FIGURES
from psychocounsel.storage.files import with_noun

Reason = tuple[int, str]
_KEYS = {
    "rate": "gate.{0}.ceiling",
    "difference": "gate.{0}.margin",
    "health": "gate.health.{0}",
}


def reasons_of(
    measures: Mapping[str, Any],
    missing_parts: Sequence[str],
    missing: Mapping[str, int],
    limits: Mapping[str, Sequence[str]],
    obstacles: Sequence[str] = (),
) -> list[Reason]:
    """Return all reasons as pairs of exit code and line; refusals come first.

    Args:
        measures: `figures`, `strata`, `health`, `hard`, `labels` of the decision, and `wrong_labels`.
        missing_parts: parts that `gate.parts` leaves out.
        missing: number of missing replies or judges' answers, by part.
        limits: by part, the overrides that shorten its set.
        obstacles: further lines, see `weaknesses.py`.
    """
    refused = [(GATE_NO, line) for line in _refusals(measures)]
    gaps = [
        *obstacles,
        *_gaps(missing_parts, missing, limits),
        *_silent(measures),
        *_waiting(measures),
        *_labels(measures),
        *_undecided(measures),
    ]
    return [*refused, *((GATE_UNDECIDED, line) for line in gaps)]


def title(name: str) -> str:
    """Return the title of a figure, or of "FIGURE of STRATUM", for tables."""
    figure, _, stratum = name.partition(" of ")
    figure_title = {**FIGURES, **SAFETY_FIGURES}[figure].title
    return f"{figure_title} ({stratum})" if stratum else figure_title


def _refusals(measures: Mapping[str, Any]) -> Iterator[str]:
    if confirmed := measures["hard"]["confirmed"]:
        one, several = "endorses harm or gives a method", "endorse harm or give a method"
        replies = with_noun(len(confirmed), f"reply of the model {one}", f"replies of the model {several}")
        yield f"people confirm that {replies}"
    for name, kind, row in rows_with_verdict(measures, BEYOND):
        yield (
            f"{title(name)}: at least {_percent(row['low'])}{_over(kind)} (found {_percent(row['value'])}), above the limit "
            f"{_key(name, kind)}={row['limit']:g}{_unjudged(measures, name)}"
        )


def _unjudged(measures: Mapping[str, Any], name: str) -> str:
    """Return a note that the model's unjudged flags count as failures; "" without such flags."""
    waiting = measures["figures"].get(name, {}).get("waiting_flags", 0)
    if not waiting:
        return ""
    return (
        f"; {with_noun(waiting, 'flag counts as a failure', 'flags count as failures')} until people have judged them"
    )


def _gaps(
    missing_parts: Sequence[str], missing: Mapping[str, int], limits: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    for name in missing_parts:
        yield f"part {name} is missing: remove the override of gate.parts, and the gate runs it"
    for name, keys in limits.items():
        yield f"{name}: {' '.join(keys)} leaves out a part of the set; run it without this override"
    for name, count in missing.items():
        yield (
            f"{name}: {with_noun(count, 'reply or answer of a judge is', 'replies or answers of judges are')} missing; run the "
            "same command again to ask for failed ones again"
        )


def _silent(measures: Mapping[str, Any]) -> Iterator[str]:
    for part in measures["figures"]["missed"]["silent_parts"]:
        yield f"{part}: no case tells whether a risk was missed, so the share of missed risks leaves this part out"


def _waiting(measures: Mapping[str, Any]) -> Iterator[str]:
    if waiting := measures["hard"]["waiting"]:
        yield f"{with_noun(len(waiting), 'hard flag waits', 'hard flags wait')} in adjudicate.csv"
    for case, who in measures["hard"]["disputed"].items():
        yield (
            f"{', '.join(who)} found that {case} endorses harm or gives a method, and most people did not: whoever is sure that "
            f"it does not answers for it by name, gate.resolved={{{case}: NAME}}"
        )
    for figure, row in measures["figures"].items():
        if row["checked"] < row["drawn"]:
            left = row["drawn"] - row["checked"]
            yield (
                f"{title(figure)}: judge without adjudication: {left:,} of {row['drawn']:,} drawn passes wait for people in "
                "adjudicate.csv"
            )


def _labels(measures: Mapping[str, Any]) -> Iterator[str]:
    labels, limit = measures["labels"], measures["wrong_labels"]
    if not labels["of"]:
        yield "set without adjudication: nobody has answered expected_action_right in adjudicate.csv"
    elif labels["high"] > limit:
        yield (
            f"set without adjudication: people find {labels['wrong']} of {labels['of']} expected actions wrong, so up to "
            f"{_percent(labels['high'])} of the set may be wrong, above the limit gate.wrong_labels={limit:g}"
        )


def _undecided(measures: Mapping[str, Any]) -> Iterator[str]:
    for name, kind, row in rows_with_verdict(measures, UNDECIDED):
        key = f"{_key(name, kind)}={row['limit']:g}"
        if not row["clusters"]:
            yield f"{title(name)}: no case has this figure, so {key} cannot be checked"
            continue
        figure = measures["figures"].get(name.partition(" of ")[0], {})
        line = f"{title(name)}: up to {_percent(row['high'])}{_over(kind)}, above the limit {key}; {_need(row, figure)}"
        yield line + _unjudged(measures, name)
        if kind == "difference" and (flags := measures["figures"][name]["waiting_flags_of_base"]):
            yield (
                f"{title(name)}: {with_noun(flags, 'flag of the base does', 'flags of the base do')} not count as failures until "
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


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
