"""Step `figures` of `evaluation=external`: computes figures.json from the answers and ratings, and prints the tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psychocounsel.blocks.cells import Titled
from psychocounsel.evaluation.external.ability import ability_figures
from psychocounsel.evaluation.external.exams import ExamSet
from psychocounsel.evaluation.external.figures import ExamFigures, ExternalFigures, RubricFigures
from psychocounsel.evaluation.external.scores import ExamAnswer, RubricRating, exam_figures, rubric_figures
from psychocounsel.evaluation.external.sets_step import EXAMS, RATINGS, sets_of
from psychocounsel.evaluation.external.show import external_blocks, external_conclusions
from psychocounsel.evaluation.judging.bias import judge_warnings
from psychocounsel.evaluation.showing import end_figures
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.settings.targets import build
from psychocounsel.steps.course import StepContext
from psychocounsel.steps.tables import rows_of
from psychocounsel.storage.files import read_mapping


def run(context: StepContext[EvaluationDir]) -> dict[str, Any]:
    """Compute the figures, write figures.json and print the tables.

    The first setting is evaluated, and the second one is the base. The metrics are `accuracy` (mean over exams), `score`
    (mean over rubric sets), and `SET/accuracy` or `SET/score` for each set.
    """
    contestants = build(context.config, "contestants")
    mine, base = contestants.settings[0], next(iter([*dict.fromkeys(contestants.settings)][1:]), None)
    exams, ratings = _exams(context), _ratings(context)
    sets: dict[str, ExamFigures | RubricFigures] = {}
    for item_set in sets_of(context):
        if isinstance(item_set, ExamSet):
            sets[item_set.name] = exam_figures(item_set, exams.get(item_set.name, []), base)
        else:
            sets[item_set.name] = rubric_figures(item_set, ratings.get(item_set.name, []), base)
    names = [model.name for model in contestants.models()]
    ability = ability_figures(
        read_mapping(context.files.ability), names[contestants.settings.index(base)] if base else None
    )
    judged = any(result["kind"] == "rubric" for result in sets.values())
    figures: ExternalFigures = {
        "evaluation": "external",
        "model": mine,
        "base": base,
        "sets": sets,
        "ability": ability,
        "warnings": [*judge_warnings(context.config)] if judged else [],
    }
    blocks = external_blocks([Titled("", figures)])
    return end_figures(context, figures, external_conclusions(figures), blocks, _metrics(sets, mine))


def _exams(context: StepContext[EvaluationDir]) -> dict[str, list[ExamAnswer]]:
    by_set: dict[str, list[ExamAnswer]] = {}
    for row in rows_of(context.files.exams, EXAMS.names):
        name, chosen = row.pop("set"), row.pop("chosen")
        answer = ExamAnswer(
            **row | {"shown": tuple(row["shown"]), "chosen": None if chosen is None else frozenset(chosen)}
        )
        by_set.setdefault(name, []).append(answer)
    return by_set


def _ratings(context: StepContext[EvaluationDir]) -> dict[str, list[RubricRating]]:
    by_set: dict[str, list[RubricRating]] = {}
    for row in rows_of(context.files.ratings, RATINGS.names):
        name, values = row.pop("set"), row.pop("values")
        by_set.setdefault(name, []).append(RubricRating(**row, values=None if values is None else tuple(values)))
    return by_set


def _metrics(sets: Mapping[str, ExamFigures | RubricFigures], mine: str) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for kind, key in (("exam", "accuracy"), ("rubric", "score")):
        values = {
            name: value
            for name, figures in sets.items()
            if figures["kind"] == kind and (value := _main_figure(figures, mine)) is not None
        }
        metrics |= {f"{name}/{key}": value for name, value in values.items()}
        metrics |= {key: sum(values.values()) / len(values)} if values else {}
    return metrics


def _main_figure(figures: ExamFigures | RubricFigures, mine: str) -> float | None:
    if mine not in figures["settings"]:
        return None
    return figures["settings"][mine]["accuracy"] if figures["kind"] == "exam" else figures["settings"][mine]["score"]
