"""Why the gate does not pass, a line for each reason: what was found, and what to do. No files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from psychocounsel.errors import GATE_NO, GATE_UNDECIDED
from psychocounsel.evaluation.gate.deciding import BEYOND, UNDECIDED, Row, rows_with_verdict
from psychocounsel.evaluation.health.reply_health import FIGURES
from psychocounsel.evaluation.safety.reply_findings import SAFETY_FIGURES

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
    """The exit code that each reason asks for, and its line; those that refuse come first.

    Args:
        found: `figures`, `strata`, `health`, `hard`, `labels` of the decision, and `wrong_labels`.
        missing_parts: parts that are left out.
        missing: by part, replies or answers that there are not.
        limits: by part, the keys that leave out a part of its set.
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
    """What tables call a figure, or a figure of a stratum."""
    figure, _, stratum = name.partition(" of ")
    told = {**FIGURES, **SAFETY_FIGURES}[figure].title
    return f"{told} ({stratum})" if stratum else told


def _refusals(found: Mapping[str, Any]) -> Iterator[str]:
    if confirmed := found["hard"]["confirmed"]:
        yield f"{counted(len(confirmed), 'reply', 'replies')} of the model: people confirm that harm is endorsed or a method told"
    for name, kind, row in rows_with_verdict(found, BEYOND):
        yield (
            f"{title(name)}: at least {_percent(row['low'])}{_over(kind)} (found {_percent(row['value'])}), beyond "
            f"{_key(name, kind)}={row['limit']:g}{_unjudged(found, name)}"
        )


def _unjudged(found: Mapping[str, Any], name: str) -> str:
    """That flags of the model count as failures which nobody has judged."""
    waiting = found["figures"].get(name, {}).get("waiting_flags", 0)
    if not waiting:
        return ""
    return f"; {counted(waiting, 'flag counts as a failure', 'flags count as failures')} until people have judged them"


def _gaps(
    missing_parts: Sequence[str], missing: Mapping[str, int], limits: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    for name in missing_parts:
        yield f"part {name} is missing: leave out gate.parts, and the gate runs it"
    for name, keys in limits.items():
        yield f"{name}: {' '.join(keys)} leaves out a part of the set; run it without"
    for name, count in missing.items():
        yield (
            f"{name}: {counted(count, 'reply or answer of a judge is', 'replies or answers of judges are')} missing; the same "
            "command asks again for those that failed"
        )


def _silent(found: Mapping[str, Any]) -> Iterator[str]:
    for part in found["figures"]["missed"]["silent_parts"]:
        yield f"{part}: none of its cases tells whether a risk is missed, so it decides nothing"


def _waiting(found: Mapping[str, Any]) -> Iterator[str]:
    if waiting := found["hard"]["waiting"]:
        yield f"{counted(len(waiting), 'hard flag waits', 'hard flags wait')} in adjudicate.csv"
    for figure, row in found["figures"].items():
        if row["checked"] < row["drawn"]:
            left = row["drawn"] - row["checked"]
            yield (
                f"{title(figure)}: judge without adjudication: {left:,} of {row['drawn']:,} passes drawn for people wait in "
                "adjudicate.csv"
            )


def _labels(found: Mapping[str, Any]) -> Iterator[str]:
    labels, limit = found["labels"], found["wrong_labels"]
    if not labels["of"]:
        yield "set without adjudication: nobody has answered expected_action_right in adjudicate.csv"
    elif labels["high"] > limit:
        yield (
            f"set without adjudication: people find {labels['wrong']} of {labels['of']} expected actions wrong, so up to "
            f"{_percent(labels['high'])} may be; gate.wrong_labels={limit:g} allows less"
        )


def _undecided(found: Mapping[str, Any]) -> Iterator[str]:
    for name, kind, row in rows_with_verdict(found, UNDECIDED):
        key = f"{_key(name, kind)}={row['limit']:g}"
        if not row["clusters"]:
            yield f"{title(name)}: no case to measure it on, so {key} cannot be checked"
            continue
        figure = found["figures"].get(name.partition(" of ")[0], {})
        told = f"{title(name)}: up to {_percent(row['high'])}{_over(kind)}, beyond {key}; {_need(row, figure)}"
        yield told + _unjudged(found, name)
        if kind == "difference" and (flags := found["figures"][name]["waiting_flags_of_base"]):
            yield (
                f"{title(name)}: {counted(flags, 'flag of the base counts', 'flags of the base count')} as no failure until "
                "people have judged them"
            )


def _key(name: str, kind: str) -> str:
    """The key of the limit of a row (see `rows_with_verdict`)."""
    figure, _, stratum = name.partition(" of ")
    return f"gate.strata.{stratum}.{figure}" if stratum else _KEYS[kind].format(name)


def _over(kind: str) -> str:
    return " above the base" if kind == "difference" else ""


def _need(row: Row, figure: Row) -> str:
    """What to do; `figure` is the row of the figure, whose drawn passes may wait; {} of health."""
    what, count = row["needed"]["what"], row["needed"]["count"]
    if count is None:
        return "needs more than a million further speeches without a failure"
    if what == "speeches":
        return f"needs {count:,} more {'speeches or personas' if figure else 'speeches'} without a failure"
    waiting = figure["drawn"] - figure["checked"]
    if count <= waiting:
        return f"{count:,} of the passes that wait would do, if people find no failure in them"
    return (
        f"needs {count:,} more passes in which people find no failure: gate.passes={figure['checked'] + count} or more"
    )


def counted(number: int, one: str, several: str) -> str:
    return f"{number:,} {one if number == 1 else several}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
