"""verdicts.parquet as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from psychocounsel.asking.language_model import EMPTY
from psychocounsel.counsel.cues import CUES
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.evaluation.health.figures_step import READ, measured_replies
from psychocounsel.evaluation.health.reply import unhealthy
from psychocounsel.evaluation.judging.pairs import BACKWARD, EQUAL, FORWARD
from psychocounsel.metrics.win_rates import Verdicts
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.steps.tables import Row, rows_of

# verdicts.parquet as arrays: one row for each pair of replies and judge, with the verdicts of both orders.

# PLAIN: the judges' own verdicts; OVERALL: the same, with unhealthy replies as lost
OVERALL, PLAIN = "overall", "plain"
_KEY = ("speech", "sample", "first_setting", "first_seed", "second_setting", "second_seed", "judge")
_FORMATS = ("bullets", "headings", "bold")
_REPLIES = ("length_limit", "first_reply", "second_reply")
_COLUMNS_READ = (*_KEY, *_REPLIES, "order", "outcome", "first_score", "second_score")


@dataclass
class Variant:
    """All verdicts on replies with one length limit.

    Attributes:
        length_limit: the limit in words; None for no limit.
        verdicts: `overall` and `plain` verdicts, and verdicts on each principle that a judge compared, with the same rows.
        settings, judges, speeches: names, indexed by the numbers in the arrays of `verdicts`.
        topics: topic of each speech.
        risks: risk of each speech: `none`, `unknown` or a kind of risk.
        asked: bool[rows]; False if both replies are the same text, because no judge was asked then.
        pairs: ids of the speech and of the replies of a and b, for each row.
    """

    length_limit: int | None
    settings: list[str]
    judges: list[str]
    speeches: list[str]
    topics: list[str | None]
    pairs: list[tuple[str, str, str]]
    risks: list[str]
    asked: np.ndarray
    verdicts: dict[str, Verdicts] = field(default_factory=dict)


ReplyKey = tuple[str, str, int, int | None, int]  # speech, setting, seed, length limit, sample


def unhealthy_replies(files: EvaluationDir, system_prompts: Mapping[int | None, str]) -> set[ReplyKey]:
    """Return the replies of a run directory that are empty, cut, loops, echoes, recitals, or in another language."""
    rows = rows_of(files.replies, [*READ, "sample"])
    speeches = rows_of(files.speeches, ["speech", "text", "language"])
    return {
        (row["speech"], row["setting"], row["seed"], row["length_limit"], row["sample"])
        for row, health in measured_replies(rows, speeches, system_prompts)
        if health is not None and unhealthy(health)
    }


def variants(
    files: EvaluationDir, settings: Sequence[str], lost: Set[ReplyKey], clients: Mapping[str, int]
) -> list[Variant]:
    """Return the verdicts of a run directory, one variant for each length limit.

    `settings`: names of the settings, in the order of the contestants. `lost`: replies that lose against all others, and
    tie with each other, whatever the judges say. `clients`: the client of each speech.
    """
    speeches = {row["speech"]: row for row in rows_of(files.speeches, ["speech", "topic", "risk"])}
    texts = {row["reply"]: row["text"] for row in rows_of(files.replies, ["reply", "text"]) if row["reply"]}
    grouped: dict[int | None, dict[tuple[Any, ...], dict[str, Row]]] = {}
    for row in rows_of(files.verdicts, [*_COLUMNS_READ, OVERALL, *PRINCIPLES]):
        pairs = grouped.setdefault(row["length_limit"], {})
        pairs.setdefault(tuple(row[name] for name in _KEY), {})[row["order"]] = row
    limits = sorted(grouped, key=lambda limit: (limit is not None, limit or 0))
    return [_variant(limit, grouped[limit], list(settings), speeches, texts, lost, clients) for limit in limits]


def _variant(
    limit: int | None,
    pairs: dict[tuple[Any, ...], dict[str, Row]],
    settings: list[str],
    speeches: dict[str, Row],
    texts: dict[str, str],
    lost: Set[ReplyKey],
    clients: Mapping[str, int],
) -> Variant:
    rows = [next(iter(orders.values())) for orders in pairs.values()]
    judges, named = _names(rows, "judge"), _names(rows, "speech")
    topics = [speeches[speech]["topic"] for speech in named]
    keys = [(row["speech"], row["first_reply"], row["second_reply"]) for row in rows]
    risks = [speeches[speech]["risk"] for speech in named]
    asked = np.array([row["outcome"] not in (EQUAL, EMPTY) for row in rows], bool)
    variant = Variant(limit, settings, judges, named, topics, keys, risks, asked)
    sides = [[texts.get(row[f"{side}_reply"], "") for row in rows] for side in ("first", "second")]
    common: dict[str, Any] = {
        "prompt": _numbers(rows, "speech", named),
        "client": np.array([clients[row["speech"]] for row in rows], np.int64),
        "sample": np.array([row["sample"] for row in rows], np.int64),
        "judge": _numbers(rows, "judge", judges),
    }
    for letter, side, written in zip("ab", ("first", "second"), sides, strict=True):
        common[letter] = _numbers(rows, f"{side}_setting", settings)
        common[f"seed_{letter}"] = np.array([row[f"{side}_seed"] for row in rows], np.int64)
        common[f"length_{letter}"] = np.array([len(text) for text in written], np.float64)
        common[f"question_{letter}"] = np.array([CUES["ending"](text) for text in written], bool)
        common[f"formatted_{letter}"] = np.array([any(CUES[name](text) for name in _FORMATS) for text in written], bool)
    for name in (OVERALL, *PRINCIPLES):
        forward, backward = (
            np.array([verdict_of(orders, name, order) for orders in pairs.values()], np.float64)
            for order in (FORWARD, BACKWARD)
        )
        if name == OVERALL:
            variant.verdicts[PLAIN] = Verdicts(forward=forward, backward=backward, **common)
            empty = np.array([row["outcome"] == EMPTY for row in rows], bool)
            first_lost, second_lost = _lost(rows, lost)
            forward, backward = (_decided(order, first_lost, second_lost, empty) for order in (forward, backward))
        if not np.isnan(forward).all() or not np.isnan(backward).all():
            variant.verdicts[name] = Verdicts(forward=forward, backward=backward, **common)
    return variant


def _lost(rows: Sequence[Row], lost: Set[ReplyKey]) -> list[np.ndarray]:
    """Return for each row whether the first reply is in `lost`, bool[rows], and whether the second one is."""
    return [
        np.array(
            [
                (row["speech"], row[f"{side}_setting"], row[f"{side}_seed"], row["length_limit"], row["sample"]) in lost
                for row in rows
            ],
            bool,
        )
        for side in ("first", "second")
    ]


def _decided(verdicts: np.ndarray, first_lost: np.ndarray, second_lost: np.ndarray, empty: np.ndarray) -> np.ndarray:
    """Return the verdicts with lost replies as lost: -1 if only the first is, 1 if only the second is, 0 if both are.

    A pair without a verdict stays without one, unless a reply is `empty` and so lost without a call: otherwise pairs that no
    judge could read would count if one of their replies is unhealthy, and only then.
    """
    sides = second_lost.astype(np.float64) - first_lost
    return np.where((first_lost | second_lost) & (empty | ~np.isnan(verdicts)), sides, verdicts)


def verdict_of(orders: Mapping[str, Row], name: str, order: str) -> float:
    """Return the verdict `name` that one judge gave in one order; NaN: none. A judge that scores gives it in both orders."""
    row, forward = orders.get(order), orders.get(FORWARD)
    if row is None and forward is not None and _sees_no_order(forward):
        row = forward
    return float("nan") if row is None or row[name] is None else float(row[name])


def _sees_no_order(row: Row) -> bool:
    """Return True if the judge gave scores, or was not asked because the replies are equal."""
    return row["first_score"] is not None or row["outcome"] == EQUAL


def _names(rows: Sequence[Row], column: str) -> list[str]:
    return [*dict.fromkeys(row[column] for row in rows)]


def _numbers(rows: Sequence[Row], column: str, names: Sequence[str]) -> np.ndarray:
    places = {name: place for place, name in enumerate(names)}
    return np.array([places[row[column]] for row in rows], np.int64)
