"""Blocks of `evaluation=external`: exams, prompts with criteria, and lm-eval tasks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from psychocounsel.blocks.cells import (
    Titled,
    cell,
    count,
    counts,
    exact,
    percent_text,
    report_table,
    spanned,
    warnings_of,
)
from psychocounsel.blocks.conclusions import UNDECIDED, Conclusion
from psychocounsel.blocks.kinds import Block, ReportTable
from psychocounsel.blocks.tables import Cell
from psychocounsel.evaluation.external.figures import (
    AbilityFigures,
    ExamFigures,
    ExamResult,
    ExternalFigures,
    Interval,
    LetterShares,
    RubricFigures,
    RubricResult,
)

_HEADINGS = ["evaluation", "set", "contestant"]


@dataclass(frozen=True)
class _Exam:
    """A contestant's result in an exam, and the first cells of its rows."""

    head: list[Cell]
    result: ExamResult
    figures: ExamFigures


@dataclass(frozen=True)
class _Rubric:
    """A contestant's result on prompts with criteria, and the first cells of its rows."""

    head: list[Cell]
    result: RubricResult
    figures: RubricFigures


def external_blocks(runs: Sequence[Titled[ExternalFigures]]) -> list[Block]:
    """Return warnings, and tables of exams, prompts with criteria and general ability."""
    exams, rubrics = [*_exams(runs)], [*_rubrics(runs)]
    return [
        *warnings_of([(run.title, run.figures["warnings"]) for run in runs]),
        *_accuracy(exams),
        *_differences(runs, "exam", "exam-differences", "Exams: differences to the base", _BY_CONTEXT),
        *_topics(exams),
        *_letters(exams),
        *_scores(rubrics),
        *_differences(runs, "rubric", "rubric-differences", "Prompts with criteria: differences to the base", _BY_ITEM),
        *_slices(rubrics),
        *_ability(runs),
    ]


def external_conclusions(figures: ExternalFigures) -> list[Conclusion]:
    """Return the result of the model under evaluation on each set, and whether it differs from the base's."""
    model = figures["model"]
    cautions = [line.removeprefix("warning: ") for line in figures["warnings"]]
    return [
        _of_set(name, of_set, model, cautions)
        for name, of_set in figures["sets"].items()
        if model in of_set["settings"]
    ]


def _of_set(name: str, of_set: ExamFigures | RubricFigures, model: str, cautions: Sequence[str]) -> Conclusion:
    if of_set["kind"] == "exam":
        exam = of_set["settings"][model]
        share, scored = _percent(exam["accuracy"], exam["interval"]), exam["scored_items"]
        text = (
            f"{model} answers {share} of {scored} items of {name} rightly (guessing: {100 * of_set['chance']:.1f} %)."
        )
    else:
        rubric = of_set["settings"][model]
        share, scored = _percent(rubric["score"], rubric["interval"]), rubric["items"]
        judges = ", ".join(of_set["judges"])
        text = f"{model} earns {share} of the points of {scored} items of {name} (judges: {judges})."
    if left := of_set["items"] - scored:
        cautions = [
            *cautions,
            f"{left} of {of_set['items']} items of {name} have no scored answer, so they do not count",
        ]
    change = of_set.get("against", {}).get(model)
    if change is None:
        return Conclusion("measured", text, "warning" if cautions else "undecided", cautions)
    low, high = change["interval"] or (0.0, 0.0)
    word, tone = ("better", "good") if low > 0 else ("worse", "bad") if high < 0 else (UNDECIDED, UNDECIDED)
    text += f" Minus {change['base']}: {_percent(change['difference'], change['interval'])}, {word}."
    return Conclusion(word, text, "warning" if cautions else tone, cautions)


def _percent(value: float | None, interval: Interval | None) -> str:
    if value is None:
        return "an unknown share"
    low, high = interval or (None, None)
    return percent_text({"value": value, "low": low, "high": high}, "value")


def _exams(runs: Sequence[Titled[ExternalFigures]]) -> Iterator[_Exam]:
    for run in runs:
        for name, figures in run.figures["sets"].items():
            if figures["kind"] == "exam":
                for setting, result in figures["settings"].items():
                    yield _Exam([run.title, name, setting], result, figures)


def _rubrics(runs: Sequence[Titled[ExternalFigures]]) -> Iterator[_Rubric]:
    for run in runs:
        for name, figures in run.figures["sets"].items():
            if figures["kind"] == "rubric":
                for setting, result in figures["settings"].items():
                    yield _Rubric([run.title, name, setting], result, figures)


def _differences(
    runs: Sequence[Titled[ExternalFigures]], kind: Literal["exam", "rubric"], name: str, title: str, intervals: str
) -> list[ReportTable]:
    """Return a table of the contestants' differences to the base, paired by item."""
    rows = [
        [
            *(run.title, set_name, setting, change["base"], count(change["items"])),
            *(spanned(change["difference"], change["interval"], True), count(change["better"]), count(change["worse"])),
            exact(change["p"]),
        ]
        for run in runs
        for set_name, figures in run.figures["sets"].items()
        if figures["kind"] == kind
        for setting, change in figures.get("against", {}).items()
    ]
    headings = [*_HEADINGS, "minus", "items", "difference", "items better", "items worse", "p"]
    notes = [
        f"minus: the contestant whose value is subtracted; paired by item; {intervals}",
        "p: exact two-sided sign test on items with different results",
    ]
    return report_table(name, title, headings, rows, *notes)


# Exams: accuracy against chance, effect of the order of choices, topics and letters

_BY_CONTEXT = "intervals are computed over contexts; an item without a context counts as its own"


def _accuracy(exams: Sequence[_Exam]) -> list[ReportTable]:
    headings = [*_HEADINGS, "items", "scored", "accuracy", "in the file's order", "chance", "most frequent letter"]
    headings += ["always this letter", "same choice in all orders", "unreadable", "seeds", "SD over seeds"]
    headings += ["all answers"]
    rows = list[list[Cell]]()
    for exam in exams:
        result, letter = exam.result, exam.figures["commonest_letter"]
        rows.append(
            [
                *(*exam.head, count(exam.figures["items"]), count(result["scored_items"])),
                spanned(result["accuracy"], result["interval"], True),
                *(cell(result["accuracy_in_file_order"], percent=True), exact(exam.figures["chance"], True)),
                *(letter["letter"], exact(letter["accuracy"], True) if letter["letter"] else None),
                cell(result["same_choice_in_all_orders"], percent=True),
                *(cell(result["unreadable"], percent=True), count(result["seeds"]["n"])),
                *(cell(result["seeds"]["sd"], percent=True), counts(result["outcomes"])),
            ]
        )
    notes = [
        _BY_CONTEXT,
        "answers that cannot be read count as wrong",
        "always this letter: the accuracy of always giving the letter that is most often right",
    ]
    return report_table("exams", "Exams", headings, rows, *notes)


def _topics(exams: Sequence[_Exam]) -> list[ReportTable]:
    rows = [
        [*exam.head, topic, count(topical["items"]), spanned(topical["accuracy"], topical["interval"], True)]
        for exam in exams
        for topic, topical in exam.result["topics"].items()
    ]
    return report_table("exam-topics", "Exams by topic", [*_HEADINGS, "topic", "items", "accuracy"], rows, _BY_CONTEXT)


def _letters(exams: Sequence[_Exam]) -> list[ReportTable]:
    def cells(shares: LetterShares) -> list[Cell]:
        return [
            cell(share, percent=True) for share in (shares["chosen"], shares["right"], shares["accuracy_where_right"])
        ]

    rows = [[*exam.head, letter, *cells(shares)] for exam in exams for letter, shares in exam.result["letters"].items()]
    headings = [*_HEADINGS, "letter", "chosen", "right", "chosen if right"]
    note = "without position bias, a letter is chosen about as often as it is right"
    return report_table("exam-letters", "Exams by letter", headings, rows, note)


# Prompts with criteria: scores by judge, criterion and topic

_BY_ITEM = "intervals are computed over items"
_Slicing = Literal["judges", "criteria", "topics"]
_SLICINGS: dict[_Slicing, str] = {"judges": "judge", "criteria": "criterion", "topics": "topic"}


def _scores(rubrics: Sequence[_Rubric]) -> list[ReportTable]:
    rows = [
        [
            *(*rubric.head, count(rubric.result["items"])),
            spanned(rubric.result["score"], rubric.result["interval"], True),
            ", ".join(rubric.figures["judges"]),
            *(counts(rubric.result["replies"]), counts(rubric.result["ratings"])),
        ]
        for rubric in rubrics
    ]
    notes = [
        "score: points divided by the highest possible points; faults subtract points, so a score can be below 0",
        f"{_BY_ITEM}; an unrated criterion earns no points",
        "language models as judges rate counselling too high",
    ]
    headings = [*_HEADINGS, "items", "score", "judges", "replies", "ratings"]
    return report_table("rubric-sets", "Prompts with criteria", headings, rows, *notes)


def _slices(rubrics: Sequence[_Rubric]) -> list[ReportTable]:
    rows = [
        [*rubric.head, kind, name, count(mean["items"]), spanned(mean["score"], mean["interval"], True)]
        for rubric in rubrics
        for slicing, kind in _SLICINGS.items()
        for name, mean in rubric.result[slicing].items()
    ]
    headings = [*_HEADINGS, "kind", "slice", "items", "score"]
    note = f"score of a named criterion: mean share of its points; of a fault: share of replies with it; {_BY_ITEM}"
    return report_table("rubric-slices", "Prompts with criteria by judge, criterion and topic", headings, rows, note)


# General ability: results of lm-eval, and the loss that training caused

_WORSE = {True: "worse: the whole interval is a loss", False: "no loss shown", None: ""}


def _ability(runs: Sequence[Titled[ExternalFigures]]) -> list[ReportTable]:
    headings = ["evaluation", "contestant", "task", "metric", "documents", "value", "standard error", "minus"]
    headings += ["paired documents", "difference", "verdict"]
    rows = [[run.title, *row] for run in runs for row in _ability_rows(run.figures["ability"])]
    note = "values have a standard error; a difference has an interval if lm-eval gives a value for each document"
    return report_table("general-ability", "General ability by lm-eval", headings, rows, note)


def _ability_rows(ability: AbilityFigures) -> Iterator[list[Cell]]:
    for setting, tasks in ability.get("settings", {}).items():
        against = ability.get("against", {}).get(setting, {})
        for task, metrics in tasks.items():
            for metric, figure in metrics.items():
                # lm-eval writes `N/A` if it knows no standard error.
                error = None if isinstance(figure["stderr"], str) else exact(figure["stderr"])
                change = _change(against.get(task, {}).get(metric), against.get("base"))
                yield [setting, task, metric, count(figure["documents"]), cell(figure["value"]), error, *change]


def _change(change: Any, base: str | None) -> list[Cell]:
    if change is None:
        return [None] * 4
    difference = spanned(change["difference"], change["interval"])
    return [base, count(change["documents"]), difference, _WORSE[change["worse"]]]
