"""Summary of safety_answers.parquet for figures.json: each setting by judge, and comparisons."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Generic, NotRequired, TypedDict, TypeVar

from psychocounsel.asking.language_model import TEXT
from psychocounsel.evaluation.flows.questions import QuestionFlow, Scores, severity_shares
from psychocounsel.evaluation.health.figures import ByPrompt, MeanFigure, PairedDifference, compare, means
from psychocounsel.evaluation.health.reply import NEITHER, Figure, Health
from psychocounsel.evaluation.safety.cases import SEEDED, STRATA, Flagged, answers_in, stratum, without_text
from psychocounsel.evaluation.safety.questions import (
    HARD,
    SAFETY_FIGURES,
    Findings,
    findings_of,
    findings_without_text,
    reply_scores,
    scores_without_text,
)
from psychocounsel.evaluation.safety.seeded import CorrectedShare, JudgeQuality, corrected, seeded_quality
from psychocounsel.evaluation.safety.speeches import CrisisSpeech
from psychocounsel.evaluation.safety.swap_figures import SwapFigures
from psychocounsel.evaluation.safety.word_checks import WORDS
from psychocounsel.steps.tables import Row

# Figures as figures.json holds them. Those of judges have the same form in `evaluation=safety` and `evaluation=session`.


class JudgedSetting(TypedDict):
    """A judge's figures of a contestant; `strata` holds them by division (such as `kind`) and stratum."""

    figures: dict[str, MeanFigure]
    strata: dict[str, dict[str, dict[str, MeanFigure]]]


S = TypeVar("S", bound=JudgedSetting)


class Judge(TypedDict, Generic[S]):
    """All figures by one judge.

    - `quality`: its results on replies with planted faults (see `judge_quality`).
    - `settings`: by contestant; the model under evaluation comes first.
    - `against`: by other contestant, the differences of the model to it (see `compare`).
    - `outcomes`: number of calls without answers, by outcome.
    - `quotes`: number of quotations (`of`), and of those that occur in the reply (`found`).
    """

    quality: dict[str, JudgeQuality]
    settings: dict[str, S]
    against: dict[str, dict[str, PairedDifference]]
    outcomes: dict[str, int]
    quotes: dict[str, int]


WordShares = dict[str, dict[str, MeanFigure]]  # by contestant and question of WORDS


class JudgedFigures(TypedDict, Generic[S]):
    """figures.json of an evaluation with judges; `model` is the contestant that `against` compares with the others.

    - `words`: by name of word checks, the shares of replies with their words. They are no judgement, so `judges` lacks them.
    - `notes`: who wrote and who reviewed the speeches or clients; the gate's output has them, too.
    """

    evaluation: str
    model: str
    judges: dict[str, Judge[S]]
    words: NotRequired[dict[str, WordShares]]
    notes: NotRequired[list[str]]
    warnings: list[str]


class SafetySetting(JudgedSetting):
    """A judge's figures of a contestant's replies.

    - `replies`, `speeches`: counts.
    - `figures`: see `means`.
    - `dimensions`: see `severity_shares`.
    - `hard`: flagged replies.
    - `strata`: figures by kind, disclosure and expected action.
    - `corrected`: by figure, the share after the judge's errors (see `corrected`); None if they say nothing.
    - `swaps`: only if variants of the speeches have replies.
    """

    replies: int
    speeches: int
    dimensions: dict[str, dict[str, MeanFigure]]
    hard: Flagged
    corrected: NotRequired[dict[str, CorrectedShare | None]]
    swaps: NotRequired[SwapFigures]


SafetyFigures = JudgedFigures[SafetySetting]


def judge_figures(
    rows: Sequence[Row],
    flow: QuestionFlow,
    settings: dict[str, S],
    findings: Mapping[str, ByPrompt],
    figures: Mapping[str, Figure],
    model: str,
) -> Judge[S]:
    """Return all figures by one judge.

    Args:
        rows: its rows of a table of answers.
        flow: the questions that it answered.
        settings: figures by contestant, in the order of the result.
        findings: by contestant, the findings about each speech or client; contestants without any may be missing.
        figures: the figures by which `model` is compared with the other contestants.
        model: the contestant under evaluation.
    """
    others = [name for name in settings if name != model and name in findings] if model in findings else []
    quotes = [row["quotes_found"] for row in rows if row["quotes_found"] is not None]
    return {
        "quality": seeded_quality(rows, flow),
        "settings": settings,
        "against": {other: compare(findings[model], findings[other], figures) for other in others},
        "outcomes": missing_answers(rows),
        "quotes": {"found": sum(quotes), "of": len(quotes) * len(flow.questions)},
    }


def missing_answers(rows: Iterable[Row]) -> dict[str, int]:
    """Return the number of calls without an answer by outcome, from rows of a table of answers."""
    return dict(sorted(Counter(row["outcome"] for row in rows if row["outcome"] != TEXT).items()))


# By judge, the figures of each setting and the model's comparisons.


def summarise_safety(
    replies: Iterable[Row], answers: Iterable[Row], known: Mapping[str, CrisisSpeech], flow: QuestionFlow, model: str
) -> dict[str, Judge[SafetySetting]]:
    """Return the figures by judge, without those of swaps.

    Args:
        replies: rows of replies.parquet with speech, setting, outcome and text.
        answers: rows of safety_answers.parquet.
        known: the crisis set, by id of the speech.
        flow: the judge's questions.
        model: the setting under evaluation.
    """
    silent = without_text(replies)
    judged: dict[str, list[Row]] = defaultdict(list)
    for row in answers:
        judged[row["judge"]].append(row)
    return {name: _of_judge(rows, silent, known, flow, model) for name, rows in judged.items()}


def _of_judge(
    rows: list[Row], silent: list[Row], known: Mapping[str, CrisisSpeech], flow: QuestionFlow, model: str
) -> Judge[SafetySetting]:
    judged = defaultdict[str, list[tuple[Row, Findings]]](list)
    scores: dict[str, dict[Any, list[Scores]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        answers = answers_in(row)
        if row["setting"] != SEEDED and answers is not None:
            expected = known[row["speech"]].expected_action
            judged[row["setting"]].append((row, findings_of(flow.path(answers), expected)))
            scores[row["setting"]][row["speech"]].append(reply_scores(flow, answers, expected))
    for row in silent:
        expected = known[row["speech"]].expected_action
        judged[row["setting"]].append((row | {"reply": None}, findings_without_text(expected)))
        scores[row["setting"]][row["speech"]].append(scores_without_text(expected))
    order = sorted(judged, key=lambda name: name != model)
    by_speech = {name: _by_speech(judged[name]) for name in order}
    settings = {name: _setting(judged[name], known, severity_shares(scores[name], flow.dimensions)) for name in order}
    figures = judge_figures(rows, flow, settings, by_speech, SAFETY_FIGURES, model)
    quality = figures["quality"]
    for setting in settings.values():
        setting["corrected"] = {
            figure: corrected(mean["mean"], mean["prompts"], quality[figure])
            for figure, mean in setting["figures"].items()
            if figure in quality and mean["mean"] is not None
        }
    return figures


def _setting(
    judged: list[tuple[Row, Findings]],
    known: Mapping[str, CrisisSpeech],
    dimensions: dict[str, dict[str, MeanFigure]],
) -> SafetySetting:
    strata: dict[str, dict[str, dict[str, MeanFigure]]] = {}
    for name in STRATA:
        groups: dict[str, list[tuple[Row, Findings]]] = defaultdict(list)
        for row, findings in judged:
            groups[stratum(known[row["speech"]], name)].append((row, findings))
        strata[name] = {value: means(_by_speech(rows), SAFETY_FIGURES) for value, rows in sorted(groups.items())}
    return {
        "replies": len(judged),
        "speeches": len({row["speech"] for row, _ in judged}),
        "figures": means(_by_speech(judged), SAFETY_FIGURES),
        "dimensions": dimensions,
        "hard": {
            name: [{"speech": row["speech"], "reply": row["reply"]} for row, findings in judged if findings[name]]
            for name in HARD
        },
        "strata": strata,
    }


def _by_speech(judged: Iterable[tuple[Row, Findings]]) -> dict[Any, list[Findings]]:
    groups: dict[Any, list[Findings]] = defaultdict(list)
    for row, findings in judged:
        groups[row["speech"]].append(findings)
    return dict(groups)


# Words in replies, by `judge=checks`.


def word_shares(answers: Iterable[Row], checks: Collection[str]) -> dict[str, WordShares]:
    """Return the shares of replies with each kind of WORDS, by name of the `checks` and contestant.

    `answers`: rows of safety_answers.parquet or session_answers.parquet.
    """
    found: dict[str, dict[str, dict[Any, list[Health]]]] = {name: {} for name in checks}
    for row in answers:
        given = answers_in(row)
        if row["judge"] in found and row["setting"] != SEEDED and given is not None:
            by_speech = found[row["judge"]].setdefault(row["setting"], defaultdict(list))
            by_speech[row["speech"]].append({name: float(given[name] == word) for name, (word, _) in WORDS.items()})
    titles = {name: Figure(title, NEITHER) for name, (_, title) in WORDS.items()}
    return {
        name: {setting: means(by_speech, titles) for setting, by_speech in settings.items()}
        for name, settings in found.items()
    }
