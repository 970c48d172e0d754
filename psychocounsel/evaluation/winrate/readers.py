"""What experts say of pairs of replies (the files of `evaluation.experts`): their own win rate, and whether judges agree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from psychocounsel.data.reply_files import messages_of
from psychocounsel.data.shared_text import normalised
from psychocounsel.data.sources import StandardSource, read_rows
from psychocounsel.errors import UserError
from psychocounsel.evaluation.contestants.speeches import speech_id
from psychocounsel.evaluation.winrate.verdict_table import Variant
from psychocounsel.metrics.agreement import Agreement, agreement, labels
from psychocounsel.metrics.intervals import Measure, mean_interval
from psychocounsel.metrics.win_rates import Verdicts, pair_figures
from psychocounsel.storage.text_hashes import text_id

# Labels of pairs of replies

_BETTER = {"a": 1.0, "b": -1.0, "tie": 0.0}
_COLUMNS = ("prompt", "reply_a", "reply_b", "better")

PairKey = tuple[str, str, str]  # ids of the speech and of the two replies
Experts = dict[str, dict[PairKey, float]]  # labels by expert


def read_experts(files: Sequence[str]) -> Experts:
    """Return the labels of pairs by expert: 1 if the first reply of the key is better, -1 if the second is, 0 for a tie.

    The files have the columns prompt, reply_a, reply_b, better (`a`, `b` or `tie`) and optionally expert (the expert's
    name; default: the file's name), sense_a and sense_b (1 to 5), harm_a and harm_b. A reply that the expert marks as harmful
    loses against one without the mark, and two such replies tie, whatever `better` says.

    Raises:
        UserError: if a column is missing, a value is wrong, or an expert gives two answers about one pair. The message names
            file and row.
    """
    experts: Experts = {}
    for where, expert, speech, (first, second), row in _expert_rows(files):
        if first == second and _BETTER[row["better"]]:
            raise UserError(f"evaluation.experts: {where}: both replies are the same text; better must be tie")
        harm = [bool(row.get(f"harm_{letter}")) for letter in "ab"]
        side = float(harm[1]) - float(harm[0]) if any(harm) else _BETTER[row["better"]]
        expert_labels = experts.setdefault(expert, {})
        if expert_labels.get((speech, first, second), side) != side:
            raise UserError(
                f"evaluation.experts: {where}: {expert} compared these replies before, with another answer; keep one of "
                "the rows, or name each expert in the column expert"
            )
        expert_labels[speech, first, second], expert_labels[speech, second, first] = side, -side
    return experts


ReplyMark = tuple[str, str]  # ids of the speech and of the reply


@dataclass
class Marks:
    """What experts say of single replies: `sense`, 1 to 5, and `harm`, True or False, a value for each expert who says it."""

    sense: dict[ReplyMark, list[float]] = field(default_factory=dict)
    harm: dict[ReplyMark, list[bool]] = field(default_factory=dict)


def read_marks(files: Sequence[str]) -> Marks:
    """Return the experts' ratings of sense and marks of harm, by reply, from the files that `read_experts` reads.

    Raises:
        UserError: as `read_experts`, and for a sense outside 1 to 5.
    """
    marks = Marks()
    for where, _, speech, replies, row in _expert_rows(files):
        for letter, reply in zip("ab", replies, strict=True):
            sense, harm = row.get(f"sense_{letter}"), row.get(f"harm_{letter}")
            if sense is not None:
                if isinstance(sense, bool) or not isinstance(sense, int | float) or not 1 <= sense <= 5:
                    raise UserError(f"evaluation.experts: {where}: sense_{letter} must be a number from 1 to 5")
                marks.sense.setdefault((speech, reply), []).append(float(sense))
            if sense is not None or harm is not None:  # an unmarked reply of a reader who marks replies is not harmful
                marks.harm.setdefault((speech, reply), []).append(bool(harm))
    return marks


def _expert_rows(files: Sequence[str]) -> Iterator[tuple[str, str, str, tuple[str, str], Mapping[str, Any]]]:
    """Yield each row with its place, the expert's name, and the ids of the speech and of both replies."""
    for file in files:
        for where, row in read_rows(StandardSource(), file, "train", None):
            if isinstance(row, UserError):
                raise row
            if lacking := [name for name in _COLUMNS if not row.get(name)]:
                raise UserError(
                    f"evaluation.experts: {where}: {lacking[0]} is missing; the columns are {', '.join(_COLUMNS)}"
                )
            if not all(isinstance(row[name], str) for name in _COLUMNS[1:]):
                raise UserError(f"evaluation.experts: {where}: {', '.join(_COLUMNS[1:])} must be texts")
            if row["better"] not in _BETTER:
                raise UserError(f"evaluation.experts: {where}: better must be a, b or tie")
            if wrong := [name for name in ("harm_a", "harm_b") if row.get(name) not in (None, True, False)]:
                raise UserError(f"evaluation.experts: {where}: {wrong[0]} must be true or false")
            prompt = normalised(messages_of(row["prompt"], f"evaluation.experts: {where}"))
            replies = text_id(row["reply_a"].strip()), text_id(row["reply_b"].strip())
            yield where, str(row.get("expert") or Path(file).stem), speech_id(prompt), replies, row


# The experts' own win rate


def readers_result(
    variant: Variant, verdicts: Verdicts, opponent: int, experts: Experts, marks: Marks
) -> dict[str, Any] | None:
    """Return how experts compare replies of the evaluated setting (number 0) with those of `opponent`; None if none did.

    `result`: as of judges, with the experts as judges. `agreement`: of each two experts, pooled; None with one expert.
    `sense`: for each side, the mean (over experts, then over replies of a client, then over clients) and the share of 4 and
    5; None if nobody rated sense. `harmful`: for each side, replies that at least one expert marked, and replies marked or not.
    """
    rows = np.flatnonzero((verdicts.a == 0) & (verdicts.b == opponent))
    _, first = np.unique([variant.pairs[row] for row in rows], axis=0, return_index=True)  # one row, whoever judged
    rows = rows[np.sort(first)]
    given = np.array(
        [[labels_of.get(variant.pairs[row], np.nan) for row in rows] for labels_of in experts.values()], np.float64
    ).reshape(len(experts), len(rows))
    if np.isnan(given).all():
        return None
    every = [
        replace(verdicts.where(rows), forward=side, backward=side, judge=np.full(len(rows), reader))
        for reader, side in enumerate(given)
    ]
    read = rows[~np.isnan(given).all(0)]
    together = {field.name: np.concatenate([getattr(part, field.name) for part in every]) for field in fields(Verdicts)}
    two = [*combinations(range(len(given)), 2)]
    shared: Agreement | None = None
    if two:
        left, right = (np.concatenate([given[pair[side]] for pair in two]) for side in (0, 1))
        prompts, clients = (np.tile(values[rows], len(two)) for values in (verdicts.prompt, verdicts.client))
        shared = agreement(left, right, prompts, clients=clients)
    sides = [[(variant.pairs[row][0], variant.pairs[row][1 + side]) for row in read] for side in (0, 1)]
    return {
        "readers": [name for name, labelled in zip(experts, given, strict=True) if not np.isnan(labelled).all()],
        "result": pair_figures(Verdicts(**together)),
        "agreement": shared if shared is not None and shared.rows else None,
        "sense": [_sense(keys, verdicts.client[read], marks) for keys in sides],
        "harmful": [_harmful(keys, marks) for keys in sides],
    }


def _sense(keys: Sequence[ReplyMark], clients: np.ndarray, marks: Marks) -> dict[str, Measure] | None:
    rated = [
        (float(np.mean(marks.sense[key])), client)
        for key, client in zip(keys, clients, strict=True)
        if key in marks.sense
    ]
    if not rated:
        return None
    values, numbers = np.array([value for value, _ in rated]), np.array([client for _, client in rated])
    high = np.array([np.mean([value >= 4 for value in marks.sense[key]]) for key in keys if key in marks.sense])
    return {
        "mean": Measure(float(values.mean()), *mean_interval(values, numbers)),
        "high": Measure(float(high.mean()), *mean_interval(high, numbers, shares=True)),
    }


def _harmful(keys: Sequence[ReplyMark], marks: Marks) -> dict[str, int] | None:
    known = [marks.harm[key] for key in {*keys} if key in marks.harm]
    return {"marked": sum(map(any, known)), "replies": len(known)} if known else None


# Agreement with the judges


def beside_win_rate(
    variant: Variant, verdicts: Verdicts, opponent: int, experts: Experts, options: Any
) -> dict[str, Any]:
    """Return how well judges agree with the experts about replies of the evaluated setting (number 0) and of `opponent`.

    `together`: of all judges; None if no expert compared any of the pairs. `by_judge`: of each judge that shares a pair with
    an expert.
    """
    verdict_labels, against = labels(verdicts), verdicts.b == opponent

    def pooled(rows: np.ndarray) -> Agreement:
        theirs = [
            [expert_labels.get(key, np.nan) for key, taken in zip(variant.pairs, rows, strict=True) if taken]
            for expert_labels in experts.values()
        ]
        count = len(experts)
        labelled = np.array(theirs, np.float64).reshape(-1)
        ours, prompts, clients = (
            np.tile(values[rows], count) for values in (verdict_labels, verdicts.prompt, verdicts.client)
        )
        return agreement(ours, labelled, prompts, clients=clients, **options)

    by_judge = {judge: pooled(against & (verdicts.judge == number)) for number, judge in enumerate(variant.judges)}
    together = pooled(against)
    return {
        "together": together if together.rows else None,
        "by_judge": {judge: shared for judge, shared in by_judge.items() if shared.rows},
    }


def agreement_with_experts(
    variant: Variant, verdicts: Verdicts, experts: Experts, options: Any
) -> Iterator[dict[str, Any]]:
    """Yield the agreement of each judge with each expert on the pairs that both compared."""
    verdict_labels = labels(verdicts)
    for name, expert_labels in experts.items():
        theirs = np.array([expert_labels.get(key, np.nan) for key in variant.pairs], np.float64)
        for number, judge in enumerate(variant.judges):
            rows = verdicts.judge == number
            shared = agreement(
                verdict_labels[rows], theirs[rows], verdicts.prompt[rows], clients=verdicts.client[rows], **options
            )
            if shared.rows:
                yield {"expert": name, "judge": judge, "agreement": shared}
