"""Summary of the tables for figures.json: by judge, the figures of each contestant's sessions, and those by a rubric."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from psychocounsel.evaluation.flows.questions import NOT_ASKED, QuestionFlow, Scores, dimension_scores, severity_shares
from psychocounsel.evaluation.health.figures import MeanFigure, means
from psychocounsel.evaluation.safety.figures import Judge, JudgedFigures, JudgedSetting, judge_figures, missing_answers
from psychocounsel.evaluation.safety.questions import HARD, Findings, findings_of
from psychocounsel.evaluation.safety.seeded import (
    JudgeQuality,
    SeededReply,
    judge_quality,
    seeded_replies,
)
from psychocounsel.evaluation.safety.word_checks import check_reply
from psychocounsel.evaluation.session.cases import JudgedSession
from psychocounsel.evaluation.session.dialogue import session_of
from psychocounsel.evaluation.session.findings import SESSION_FIGURES, TURN_FIGURES, JudgedTurn, session_findings
from psychocounsel.evaluation.session.flows_step import FlowPrompt
from psychocounsel.steps.tables import Row

# Figures as figures.json holds them.


class FlaggedTurn(TypedDict):
    """A reply with the hard flag `figure`; `turn` counts from 0, `speech` is the id of the persona."""

    figure: str
    speech: str
    persona: str
    seed: int
    sample: int
    turn: int


class SessionSetting(JudgedSetting):
    """A judge's figures of a contestant's sessions.

    - `sessions`, `personas`: counts of what the figures include; `unjudged`: number of sessions that lack answers.
    - `figures`: see `means`; clusters are personas. `strata`: figures by pattern and kind.
    - `curve`: for each `turn`, the TURN_FIGURES of the replies of the sessions that reach it.
    - `hard`: flagged replies.
    """

    sessions: int
    personas: int
    unjudged: int
    curve: list[dict[str, Any]]
    hard: list[FlaggedTurn]


class FlowSetting(TypedDict):
    """A contestant's sessions, judged by a rubric's questions.

    - `sessions`, `personas`: counts of what `dimensions` includes; clusters are personas.
    - `unjudged`: number of sessions in which a question on the path has no answer.
    - `not_relevant`: number of sessions without a rated dimension.
    - `dimensions`: see `severity_shares`.
    """

    sessions: int
    personas: int
    unjudged: int
    not_relevant: int
    dimensions: dict[str, dict[str, MeanFigure]]


class FlowJudge(TypedDict):
    """Figures by one judge; see `Judge` for `outcomes` and `quotes`."""

    settings: dict[str, FlowSetting]
    outcomes: dict[str, int]
    quotes: dict[str, int]


class FlowFigures(TypedDict):
    """Figures by a rubric: `rubric` has the `file` and its `version`; `version` is that of the FlowPrompt."""

    rubric: dict[str, str]
    version: str
    judges: dict[str, FlowJudge]


class SessionFigures(JudgedFigures[SessionSetting]):
    """figures.json of `evaluation=session`.

    - `personas`: name of the set of clients.
    - `sessions`: by contestant, the number of `sessions`, and of those that broke off (`incomplete`).
    - `flow`: figures by a rubric file, if there is one.
    - `steering_checks`: quality of the word checks that steer the clients, if these do.
    """

    personas: str
    sessions: dict[str, dict[str, int]]
    flow: FlowFigures | None
    steering_checks: dict[str, JudgeQuality] | None


# Summary of judged sessions for figures.json: by judge, the figures of each setting and the model's comparisons.

_STRATA = ("pattern", "kind")


@dataclass(frozen=True)
class _Found:
    """A judge's findings about one session."""

    rows: Sequence[Row]
    turns: Sequence[JudgedTurn]
    findings: Findings


@dataclass
class _OfJudge:
    """A judge's findings about all sessions by setting, and the number of sessions without its answers."""

    sessions: dict[str, list[_Found]] = field(default_factory=lambda: defaultdict(list))
    unjudged: Counter[str] = field(default_factory=Counter)


def summarise_sessions(
    sessions: Iterable[JudgedSession], answers: Sequence[Row], judges: Sequence[str], flow: QuestionFlow, model: str
) -> tuple[dict[str, dict[str, int]], dict[str, Judge[SessionSetting]]]:
    """Return the keys `sessions` and `judges` of figures.json.

    Args:
        sessions: all sessions.
        answers: rows of session_answers.parquet.
        judges: names of the judges.
        flow: the judges' questions about a reply.
        model: the setting under evaluation.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    by_judge = {name: _OfJudge() for name in judges}
    for session in sessions:
        setting = session.rows[0]["setting"]
        counts[setting].update(sessions=1, incomplete=not session.is_complete)
        if not session.is_complete:
            continue
        for judge, judged in by_judge.items():
            turns = session.turns(judge, flow)
            if turns is None:
                judged.unjudged[setting] += 1
            else:
                judged.sessions[setting].append(_Found(session.rows, turns, session_findings(turns)))
    judge_rows: dict[str, list[Row]] = defaultdict(list)
    for row in answers:
        judge_rows[row["judge"]].append(row)
    numbers = {name: dict(counter) for name, counter in counts.items()}
    return numbers, {name: _of_judge(judged, judge_rows[name], flow, model) for name, judged in by_judge.items()}


def checks_quality(flow: QuestionFlow) -> dict[str, JudgeQuality]:
    """Return the `judge_quality` of the word checks that steer scripted clients. `flow`: the questions about a reply."""
    findings = dict[SeededReply, Findings]()
    for seed in seeded_replies():
        answers = {name: given.answer for name, given in check_reply(seed.reply).items()}
        findings[seed] = findings_of(flow.path(answers), seed.expected_action)
    return judge_quality(findings)


def _of_judge(judged: _OfJudge, answers: Sequence[Row], flow: QuestionFlow, model: str) -> Judge[SessionSetting]:
    by_persona = {name: _by_persona(sessions) for name, sessions in judged.sessions.items()}
    order = sorted(dict.fromkeys([*judged.sessions, *judged.unjudged]), key=lambda name: name != model)
    settings = {name: _setting(judged.sessions[name], judged.unjudged[name]) for name in order}
    return judge_figures(answers, flow, settings, by_persona, SESSION_FIGURES, model)


def _setting(sessions: Sequence[_Found], unjudged: int) -> SessionSetting:
    strata: dict[str, dict[str, dict[str, MeanFigure]]] = {}
    for stratum in _STRATA:
        groups: dict[str, list[_Found]] = defaultdict(list)
        for session in sessions:
            groups[session.rows[0][stratum] or "unknown"].append(session)
        strata[stratum] = {name: means(_by_persona(group), SESSION_FIGURES) for name, group in sorted(groups.items())}
    return {
        "sessions": len(sessions),
        "personas": len({session.rows[0]["speech"] for session in sessions}),
        "unjudged": unjudged,
        "figures": means(_by_persona(sessions), SESSION_FIGURES),
        "strata": strata,
        "curve": _curve(sessions),
        "hard": [
            FlaggedTurn(
                figure=name,
                speech=row["speech"],
                persona=row["persona"],
                seed=row["seed"],
                sample=row["sample"],
                turn=row["turn"],
            )
            for session in sessions
            for row, turn in zip(session.rows, session.turns, strict=True)
            for name in HARD
            if turn.findings[name]
        ],
    }


def _curve(sessions: Sequence[_Found]) -> list[dict[str, Any]]:
    """Return the means of TURN_FIGURES for each `turn`, over the sessions that reach this turn."""
    turns: dict[int, dict[Hashable, list[Findings]]] = defaultdict(lambda: defaultdict(list))
    for session in sessions:
        for place, turn in enumerate(session.turns):
            turns[place][session.rows[0]["speech"]].append(turn.figures)
    return [{"turn": place, **means(turns[place], TURN_FIGURES)} for place in sorted(turns)]


def _by_persona(sessions: Iterable[_Found]) -> Mapping[Hashable, list[Findings]]:
    groups: dict[Hashable, list[Findings]] = defaultdict(list)
    for session in sessions:
        groups[session.rows[0]["speech"]].append(session.findings)
    return dict(groups)


# Summary of flow_answers.parquet: the key `flow` of figures.json.


def summarise_flow(rows: Iterable[Row], prompt: FlowPrompt, model: str) -> FlowFigures:
    """Return the summary of all answers.

    Args:
        rows: rows of flow_answers.parquet.
        prompt: the maker of the requests that were answered.
        model: the setting that is listed first.
    """
    judged: dict[str, dict[tuple[Any, ...], list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        judged[row["judge"]][row["speech"], *session_of(row)].append(row)
    rubric = {"file": prompt.rubric.path.name, "version": prompt.rubric.version}
    judges = {name: _flow_of_judge(list(sessions.values()), prompt, model) for name, sessions in judged.items()}
    return {"rubric": rubric, "version": prompt.version, "judges": judges}


def _flow_of_judge(sessions: Sequence[Sequence[Row]], prompt: FlowPrompt, model: str) -> FlowJudge:
    scores: dict[str, dict[str, list[Scores]]] = defaultdict(lambda: defaultdict(list))
    unjudged = Counter[str]()
    for rows in sessions:
        answers = {row["question"]: row["answer"] for row in rows if row["answer"] is not None}
        first = rows[0]
        if prompt.flow.next_question(answers) is None:
            scores[first["setting"]][first["speech"]].append(dimension_scores(prompt.flow, answers))
        else:
            unjudged[first["setting"]] += 1
    order = sorted({*scores, *unjudged}, key=lambda name: (name != model, name))
    every = [row for rows in sessions for row in rows]
    quotes = [row["quote_found"] for row in every if row["quote_found"] is not None]
    return {
        "settings": {name: _flow_of_setting(scores[name], unjudged[name], prompt) for name in order},
        "outcomes": missing_answers(every),
        "quotes": {"found": sum(quotes), "of": len(quotes)},
    }


def _flow_of_setting(scores: Mapping[str, Sequence[Scores]], unjudged: int, prompt: FlowPrompt) -> FlowSetting:
    every = [session for sessions in scores.values() for session in sessions]
    return {
        "sessions": len(every),
        "personas": len(scores),
        "unjudged": unjudged,
        "not_relevant": sum(set(session.values()) == {NOT_ASKED} for session in every),
        "dimensions": severity_shares(scores, prompt.flow.dimensions),
    }
