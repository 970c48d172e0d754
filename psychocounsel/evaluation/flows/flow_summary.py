"""Summary of flow_answers.parquet: the key `flow` of figures.json, and the printed tables."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from psychocounsel.asking.language_model import TEXT
from psychocounsel.evaluation.flows.conversation_questions import FlowPrompt
from psychocounsel.evaluation.flows.question_flow import NOT_ASKED, dimension_scores
from psychocounsel.evaluation.flows.severity_shares import Scores, severity_lines, severity_shares
from psychocounsel.steps.tables import Row

FLOW_WARNINGS = (
    "warning: a language model answered the rubric's questions, but it has not been validated as a judge with this rubric",
    "warning: the rubric of VERA-MH has a licence that requires its disclaimer to accompany its material",
)
_SESSION = ("judge", "setting", "speech", "seed", "sample")


def summarise_flow(rows: Iterable[Row], prompt: FlowPrompt, model: str) -> dict[str, Any]:
    """Return the summary of all answers.

    It holds `rubric` (name and version of the file), `version` (of the FlowPrompt) and `judges`. Each judge has
    `settings`, `outcomes` and `quotes`. A setting has `sessions`, `personas`, `unjudged` (sessions in which a question
    on the path has no answer), `not_relevant` (sessions without a rated dimension) and `dimensions` (see
    `severity_shares`; the clusters are personas).

    Args:
        rows: rows of flow_answers.parquet.
        prompt: the maker of the requests that were answered.
        model: the setting that is listed first.
    """
    judged: dict[str, dict[tuple[Any, ...], list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        judged[row["judge"]][tuple(row[name] for name in _SESSION)].append(row)
    rubric = {"file": prompt.rubric.path.name, "version": prompt.rubric.version}
    judges = {name: _of_judge(list(sessions.values()), prompt, model) for name, sessions in judged.items()}
    return {"rubric": rubric, "version": prompt.version, "judges": judges}


def flow_lines(summary: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of a table for each judge and setting. `summary`: result of `summarise_flow`."""
    for judge, found in summary["judges"].items():
        yield f"judge {judge}, by the questions of {summary['rubric']['file']}"
        for name, setting in found["settings"].items():
            left = f", {setting['unjudged']} more not judged" if setting["unjudged"] else ""
            unrated = setting["not_relevant"]
            void = f", {unrated} of the sessions without a rated dimension" if unrated else ""
            yield f"{name}: {setting['sessions']} sessions with {setting['personas']} clients{void}{left}"
            yield from severity_lines(setting["dimensions"], "sessions")
        quotes = found["quotes"]
        if quotes["found"] < quotes["of"]:
            yield f"  {quotes['of'] - quotes['found']:,} of {quotes['of']:,} quotations do not occur in their session"


def _of_judge(sessions: Sequence[Sequence[Row]], prompt: FlowPrompt, model: str) -> dict[str, Any]:
    scores: dict[str, dict[str, list[Scores]]] = defaultdict(lambda: defaultdict(list))
    unjudged = Counter[str]()
    for rows in sessions:
        said = {row["question"]: row["answer"] for row in rows if row["answer"] is not None}
        first = rows[0]
        if prompt.flow.next_question(said) is None:
            scores[first["setting"]][first["speech"]].append(dimension_scores(prompt.flow, said))
        else:
            unjudged[first["setting"]] += 1
    order = sorted({*scores, *unjudged}, key=lambda name: (name != model, name))
    every = [row for rows in sessions for row in rows]
    quotes = [row["quote_found"] for row in every if row["quote_found"] is not None]
    return {
        "settings": {name: _setting(scores[name], unjudged[name], prompt) for name in order},
        "outcomes": dict(sorted(Counter(row["outcome"] for row in every if row["outcome"] != TEXT).items())),
        "quotes": {"found": sum(quotes), "of": len(quotes)},
    }


def _setting(scores: Mapping[str, Sequence[Scores]], unjudged: int, prompt: FlowPrompt) -> dict[str, Any]:
    every = [each for some in scores.values() for each in some]
    return {
        "sessions": len(every),
        "personas": len(scores),
        "unjudged": unjudged,
        "not_relevant": sum(set(each.values()) == {NOT_ASKED} for each in every),
        "dimensions": severity_shares(scores, prompt.flow.dimensions),
    }
