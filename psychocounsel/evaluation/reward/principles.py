"""Figures of a reward model with a score for each principle: accuracy, calibration and halo, against the raters."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from psychocounsel.blocks.cells import Figures, Titled, count, exact, named, report_table
from psychocounsel.blocks.kinds import ReportTable
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.data.rows import Example
from psychocounsel.data.shared_text import normalised, reply_key
from psychocounsel.evaluation.audit.faults import halo
from psychocounsel.evaluation.audit.pairs import pair_ratings
from psychocounsel.metrics.rewards import pair_metrics


def principle_figures(
    examples: Sequence[Example], scores: Mapping[str, np.ndarray], component: np.ndarray, top: float
) -> Figures | None:
    """Return the figures of each principle, and the halo of the scores and of the raters; None without ratings.

    `principles`: on the pairs that differ in a principle's rating, `pairs`, and `accuracy` and `ece` (`pair_metrics`)
    with the better-rated reply as the chosen one; over its rated replies, each counted once, `bias`, the mean of score -
    rating, `error`, the root mean square, and `slope`, that of the least-squares line of ratings on scores.
    `halo`: `audit.faults.halo` of both, by `model` and `raters`, over replies that are rated on every principle; {} without any.

    Args:
        examples: n pairs, chosen reply first.
        scores: scores by principle, float[n, 2].
        component: int[n]; pairs of two components share no text.
        top: highest possible rating.
    """
    ratings = pair_ratings(examples)
    if np.isnan(ratings).all():
        return None
    table = np.stack([scores[name] for name in PRINCIPLES], 2).astype(np.float64)
    replies = _distinct(examples)
    flat_scores, flat_ratings = (values.reshape(-1, len(PRINCIPLES))[replies] for values in (table, ratings))
    principles = {}
    for column, name in enumerate(PRINCIPLES):
        gaps = np.nan_to_num(ratings[:, 0, column] - ratings[:, 1, column])
        differ = np.flatnonzero(gaps)
        margins = ((table[:, 0, column] - table[:, 1, column]) * np.sign(gaps))[differ]
        pairs = pair_metrics(margins.tolist(), [0.0] * len(differ), component[differ].tolist()) if len(differ) else {}
        kept = {figure: pairs[figure] for figure in pairs if figure.split("_")[0] in ("accuracy", "ece")}
        calibration = _calibration(flat_scores[:, column], flat_ratings[:, column])
        principles[name] = {"pairs": len(differ), **kept, **calibration}
    whole = ~np.isnan(flat_ratings).any(1)
    sides = {"model": flat_scores[whole], "raters": flat_ratings[whole]} if whole.any() else {}
    return {"principles": principles, "halo": {who: halo(values, PRINCIPLES, top) for who, values in sides.items()}}


def _distinct(examples: Sequence[Example]) -> np.ndarray:
    """Return the place of each reply to each prompt among the 2n replies, at its first occurrence, int64[distinct]."""
    places: dict[tuple[str, str], int] = {}
    for number, example in enumerate(examples):
        for side, reply in enumerate(example.replies[:2]):
            places.setdefault((normalised(example.prompt), reply_key(reply)), 2 * number + side)
    return np.array([*places.values()])


def _calibration(scores: np.ndarray, ratings: np.ndarray) -> dict[str, float | None]:
    known = ~np.isnan(ratings)
    if not known.any():
        return {"bias": None, "error": None, "slope": None}
    scores, ratings = scores[known], ratings[known]
    spread = float(np.square(scores - scores.mean()).sum())
    together = float(((scores - scores.mean()) * (ratings - ratings.mean())).sum())
    return {
        "bias": float((scores - ratings).mean()),
        "error": float(np.sqrt(np.square(scores - ratings).mean())),
        "slope": together / spread if spread > 0 else None,
    }


def principle_blocks(runs: Sequence[Titled[Figures]]) -> list[ReportTable]:
    """Return a table with a row for each principle, and one with the halo, of the evaluations that have such figures."""
    rows, halos = list[list[Any]](), list[list[Any]]()
    for run in runs:
        sides = run.figures["halo"]
        for name, figures in run.figures["principles"].items():
            halo_of = [sides[who]["principles"][name]["with_others"] if sides else None for who in ("model", "raters")]
            numbers = [named(figures, "accuracy", True), named(figures, "ece")]
            numbers += [exact(figures[key]) for key in ("bias", "error", "slope")]
            rows.append([run.title, name, count(figures["pairs"]), *numbers, *map(exact, halo_of)])
        for who, values in sides.items():
            overall = [exact(values[key]) for key in ("mean_correlation", "alpha", "first_component")]
            halos.append([run.title, who, count(values["replies"]), *overall])
    headings = ["evaluation", "principle", "pairs", "accuracy", "ECE", "bias", "error", "slope"]
    notes = [
        "pairs: those whose ratings differ on the principle; accuracy and ECE take the better-rated reply as the chosen one",
        "bias: mean of score - rating; error: its root mean square; slope of ratings on scores: below 1 scores spread too far",
        "with the others: correlation with the sum of the other principles; above the raters', the model has more halo",
    ]
    halo_headings = ["evaluation", "scores of", "replies", "mean correlation", "Cronbach's alpha", "first component"]
    halo_note = "replies rated on every principle; the larger a figure, the more the principles measure one thing"
    headings += ["with the others, model", "with the others, raters"]
    return [
        *report_table("reward-principles", "Scores of each principle", headings, rows, *notes),
        *report_table("reward-halo", "Halo of the scores and of the raters", halo_headings, halos, halo_note),
    ]
