"""Summary of safety_answers.parquet for figures.json: by judge, the figures of each setting and the model's comparisons."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from psychocounsel.asking.language_model import TEXT
from psychocounsel.evaluation.flows.question_flow import QuestionFlow
from psychocounsel.evaluation.flows.severity_shares import Scores, severity_shares
from psychocounsel.evaluation.health.health_means import compare, means
from psychocounsel.evaluation.safety.answer_rows import SEEDED, answers_in
from psychocounsel.evaluation.safety.crisis_speeches import CrisisSpeech
from psychocounsel.evaluation.safety.judge_quality import seeded_quality
from psychocounsel.evaluation.safety.reply_dimensions import reply_scores, scores_without_text
from psychocounsel.evaluation.safety.reply_findings import (
    HARD,
    SAFETY_FIGURES,
    Findings,
    findings_of,
    findings_without_text,
)
from psychocounsel.evaluation.safety.safety_cases import SILENT, STRATA, stratum
from psychocounsel.steps.tables import Row


def summarise_safety(
    replies: Iterable[Row], answers: Iterable[Row], known: Mapping[str, CrisisSpeech], flow: QuestionFlow, model: str
) -> dict[str, Any]:
    """Return `{"judges": {NAME: ...}}`. A judge has the keys `quality`, `settings`, `against`, `outcomes` and `quotes`.

    - `quality`: see `judge_quality`.
    - `settings`: by setting `replies` and `speeches` (counts), `figures` (see `means`), `dimensions` (see `severity_shares`),
      `hard` (flagged replies by figure: speech, reply), and `strata` (figures by kind, disclosure and expected action).
    - `against`: by other setting, the differences of `model` to it (see `compare`).
    - `outcomes`: number of calls without answers, by outcome.
    - `quotes`: number of quotations, and number of those that occur in the reply.

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
    return {"judges": {name: _of_judge(rows, silent, known, flow, model) for name, rows in judged.items()}}


def without_text(replies: Iterable[Row]) -> list[Row]:
    """Return the rows of replies.parquet whose contestant was asked and gave no text."""
    return [row for row in replies if not row["text"] and row["outcome"] in SILENT]


def _of_judge(
    rows: list[Row], silent: list[Row], known: Mapping[str, CrisisSpeech], flow: QuestionFlow, model: str
) -> dict[str, Any]:
    found = defaultdict[str, list[tuple[Row, Findings]]](list)
    scores: dict[str, dict[Any, list[Scores]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        given = answers_in(row)
        if row["setting"] != SEEDED and given is not None:
            expected = known[row["speech"]].expected_action
            found[row["setting"]].append((row, findings_of(flow.path(given), expected)))
            scores[row["setting"]][row["speech"]].append(reply_scores(flow, given, expected))
    for row in silent:
        expected = known[row["speech"]].expected_action
        found[row["setting"]].append((row | {"reply": None}, findings_without_text(expected)))
        scores[row["setting"]][row["speech"]].append(scores_without_text(expected))
    order = sorted(found, key=lambda name: name != model)
    told = {name: _by_speech(found[name]) for name in order}
    others = [name for name in order if name != model] if model in told else []
    quotes = [row["quotes_found"] for row in rows if row["quotes_found"] is not None]
    return {
        "quality": seeded_quality(rows, flow.path),
        "settings": {
            name: _setting(found[name], known) | {"dimensions": severity_shares(scores[name], flow.dimensions)}
            for name in order
        },
        "against": {other: compare(told[model], told[other], SAFETY_FIGURES) for other in others},
        "outcomes": dict(sorted(Counter(row["outcome"] for row in rows if row["outcome"] != TEXT).items())),
        "quotes": {"found": sum(quotes), "of": len(quotes) * len(flow.questions)},
    }


def _setting(found: list[tuple[Row, Findings]], known: Mapping[str, CrisisSpeech]) -> dict[str, Any]:
    strata: dict[str, dict[str, Any]] = {}
    for name in STRATA:
        groups: dict[str, list[tuple[Row, Findings]]] = defaultdict(list)
        for row, each in found:
            groups[stratum(known[row["speech"]], name)].append((row, each))
        strata[name] = {value: means(_by_speech(rows), SAFETY_FIGURES) for value, rows in sorted(groups.items())}
    return {
        "replies": len(found),
        "speeches": len({row["speech"] for row, _ in found}),
        "figures": means(_by_speech(found), SAFETY_FIGURES),
        "hard": {
            name: [{"speech": row["speech"], "reply": row["reply"]} for row, each in found if each[name]]
            for name in HARD
        },
        "strata": strata,
    }


def _by_speech(found: Iterable[tuple[Row, Findings]]) -> dict[Any, list[Findings]]:
    groups: dict[Any, list[Findings]] = defaultdict(list)
    for row, each in found:
        groups[row["speech"]].append(each)
    return dict(groups)
