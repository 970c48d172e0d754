"""Rows of safety_answers.parquet to what stands in figures.json: of each judge, each setting, and the model against others."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from psychocounsel.asking.language_model import TEXT
from psychocounsel.evaluation.health.health_means import compare, means
from psychocounsel.evaluation.safety.answer_rows import SEEDED, answers_in
from psychocounsel.evaluation.safety.crisis_speeches import CrisisSpeech
from psychocounsel.evaluation.safety.judge_quality import seeded_quality
from psychocounsel.evaluation.safety.question_flow import QuestionFlow
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
    """`{"judges": {NAME: ...}}`; of each judge `quality` (see `judge_quality`), `settings`, `against` and `quotes`.

    A setting has `replies`, `speeches`, `figures` (see `means`), `hard` (flags by figure: speech, reply) and `strata` (of kind,
    disclosure and expected action: their figures). `against`: what `compare` finds of `model` less each other setting.

    Args:
        replies: of replies.parquet: speech, setting, outcome, text.
        answers: of safety_answers.parquet.
        known: the crisis set by speech.
    """
    silent = [row for row in replies if not row["text"] and row["outcome"] in SILENT]
    judged: dict[str, list[Row]] = defaultdict(list)
    for row in answers:
        judged[row["judge"]].append(row)
    return {"judges": {name: _of_judge(rows, silent, known, flow, model) for name, rows in judged.items()}}


def _of_judge(
    rows: list[Row], silent: list[Row], known: Mapping[str, CrisisSpeech], flow: QuestionFlow, model: str
) -> dict[str, Any]:
    found = defaultdict[str, list[tuple[Row, Findings]]](list)
    for row in rows:
        given = answers_in(row)
        if row["setting"] != SEEDED and given is not None:
            expected = known[row["speech"]].expected_action
            found[row["setting"]].append((row, findings_of(flow.path(given), expected)))
    for row in silent:
        expected = known[row["speech"]].expected_action
        found[row["setting"]].append((row | {"reply": None}, findings_without_text(expected)))
    order = sorted(found, key=lambda name: name != model)
    told = {name: _by_speech(found[name]) for name in order}
    others = [name for name in order if name != model] if model in told else []
    quotes = [row["quotes_found"] for row in rows if row["quotes_found"] is not None]
    return {
        "quality": seeded_quality(rows, flow.path),
        "settings": {name: _setting(found[name], known) for name in order},
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
