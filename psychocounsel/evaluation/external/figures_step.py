"""Step `figures` of `evaluation=external`: computes figures.json from the answers and ratings, and prints the tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from psychocounsel.evaluation.external.ability import ability_figures
from psychocounsel.evaluation.external.exams import ExamSet
from psychocounsel.evaluation.external.scores import ExamAnswer, RubricRating, exam_figures, rubric_figures
from psychocounsel.evaluation.external.sets_step import EXAMS, RATINGS, sets_of
from psychocounsel.evaluation.judging.bias import judge_warnings
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.settings.targets import build
from psychocounsel.steps.course import StepContext
from psychocounsel.steps.tables import rows_of
from psychocounsel.storage.files import read_mapping, write_json


def run(context: StepContext[EvaluationDir]) -> dict[str, Any]:
    """Compute the figures, write figures.json and print the tables.

    The first setting is evaluated, and the second one is the base. The metrics are `accuracy` (mean over exams), `score`
    (mean over rubric sets), and `SET/accuracy` or `SET/score` for each set.
    """
    contestants = build(context.config, "contestants")
    mine, base = contestants.settings[0], next(iter([*dict.fromkeys(contestants.settings)][1:]), None)
    exams, ratings = _exams(context), _ratings(context)
    found: dict[str, Any] = {}
    for each in sets_of(context):
        if isinstance(each, ExamSet):
            found[each.name] = {"kind": "exam", **exam_figures(each, exams.get(each.name, []), base)}
        else:
            found[each.name] = {"kind": "rubric", **rubric_figures(each, ratings.get(each.name, []), base)}
    names = [model.name for model in contestants.models()]
    ability = ability_figures(
        read_mapping(context.files.ability), names[contestants.settings.index(base)] if base else None
    )
    judged = any(each["kind"] == "rubric" for each in found.values())
    warnings = [*judge_warnings(context.config)] if judged else []
    write_json(
        context.files.figures,
        {
            **{"evaluation": "external", "model": mine, "base": base},
            **{"sets": found, "ability": ability, "warnings": warnings},
        },
    )
    for line in (*_lines(found, ability), *warnings):
        context.say(line)
    return {"metrics": _metrics(found, mine)}


def _exams(context: StepContext[EvaluationDir]) -> dict[str, list[ExamAnswer]]:
    found: dict[str, list[ExamAnswer]] = {}
    for row in rows_of(context.files.exams, EXAMS.names):
        name, chosen = row.pop("set"), row.pop("chosen")
        answer = ExamAnswer(
            **row | {"shown": tuple(row["shown"]), "chosen": None if chosen is None else frozenset(chosen)}
        )
        found.setdefault(name, []).append(answer)
    return found


def _ratings(context: StepContext[EvaluationDir]) -> dict[str, list[RubricRating]]:
    found: dict[str, list[RubricRating]] = {}
    for row in rows_of(context.files.ratings, RATINGS.names):
        name, values = row.pop("set"), row.pop("values")
        found.setdefault(name, []).append(RubricRating(**row, values=None if values is None else tuple(values)))
    return found


def _metrics(found: dict[str, Any], mine: str) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for kind, key in (("exam", "accuracy"), ("rubric", "score")):
        values = {
            name: value
            for name, each in found.items()
            if each["kind"] == kind and (value := each["settings"].get(mine, {}).get(key)) is not None
        }
        metrics |= {f"{name}/{key}": value for name, value in values.items()}
        metrics |= {key: sum(values.values()) / len(values)} if values else {}
    return metrics


def _lines(found: dict[str, Any], ability: dict[str, Any]) -> Iterator[str]:
    for name, each in found.items():
        is_exam = each["kind"] == "exam"
        yield f"{name}: {each['items']:,} items" + (
            _baselines(each) if is_exam else f", rated by {', '.join(each['judges'])}"
        )
        for setting, of in each["settings"].items():
            said = _value(of["accuracy" if is_exam else "score"], of["interval"])
            yield f"  {setting}: {said}" + (_exam_notes(of) if is_exam else _counts(of["ratings"]))
        for setting, change in each.get("against", {}).items():
            said = _value(change["difference"], change["interval"], sign="+")
            yield f"  {setting} minus {change['base']}: {said}, p {change['p']:.3g} ({change['items']:,} items)"
    for setting, tasks in ability.get("settings", {}).items():
        for task, metrics in tasks.items():
            for metric, value in metrics.items():
                change = ability.get("against", {}).get(setting, {}).get(task, {}).get(metric)
                yield f"  {setting}: {task} {metric} {value['value']:.4g}" + (_change(change) if change else "")


def _baselines(exam: dict[str, Any]) -> str:
    """Return the accuracy of guessing, and of always answering the letter that is right most often, if any is right alone."""
    letter, accuracy = exam["commonest_letter"]["letter"], exam["commonest_letter"]["accuracy"]
    always = "" if letter is None else f", always answering {letter}: {accuracy:.1%}"
    return f", chance {exam['chance']:.1%}{always}"


def _change(change: dict[str, Any]) -> str:
    said = _value(change["difference"], change["interval"], sign="+", share=False)
    return f", difference to the base: {said}{' (worse)' if change['worse'] else ''}"


def _exam_notes(of: dict[str, Any]) -> str:
    same = of["same_choice_in_all_orders"]
    steady = "" if same is None else f", same choice in all orders {same:.1%}"
    return f"{steady}, unreadable {of['unreadable']:.1%}" + _counts(of["outcomes"], ("text", "unreadable"))


def _counts(counts: dict[str, int], known: tuple[str, ...] = ("text",)) -> str:
    return "".join(f", {count:,} {name}" for name, count in counts.items() if name not in known)


def _value(value: float | None, interval: list[float] | None, sign: str = "", share: bool = True) -> str:
    if value is None:
        return "not measured"
    form = f"{sign}.1%" if share else f"{sign}.4g"
    return f"{value:{form}}" + (f" [{interval[0]:{form}}, {interval[1]:{form}}]" if interval else "")
