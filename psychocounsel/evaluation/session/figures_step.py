"""The step `figures` of `evaluation=session`: computes figures.json from the tables."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig

from psychocounsel.asking.language_model import TEXT
from psychocounsel.evaluation.flows.flows_step import SCHEMA as FLOW_ROWS
from psychocounsel.evaluation.flows.flows_step import FlowPrompt, flow_prompt
from psychocounsel.evaluation.flows.questions import (
    NOT_ASKED,
    Scores,
    dimension_scores,
    severity_lines,
    severity_shares,
)
from psychocounsel.evaluation.health.figures import compare, means
from psychocounsel.evaluation.safety.answers_step import prompt_of
from psychocounsel.evaluation.safety.questions import HARD, Findings, findings_of
from psychocounsel.evaluation.safety.seeded import judge_quality, seeded_quality, seeded_replies
from psychocounsel.evaluation.safety.word_checks import Checks, check_reply
from psychocounsel.evaluation.session.answers_step import SCHEMA
from psychocounsel.evaluation.session.cases import JudgedSession, OnTheWay, judged_sessions
from psychocounsel.evaluation.session.findings import SESSION_FIGURES, TURN_FIGURES, JudgedTurn, session_findings
from psychocounsel.evaluation.session.personas import PersonaSet
from psychocounsel.evaluation.session.show import session_lines, session_warnings
from psychocounsel.evaluation.session.transcripts import NAME, transcript_notes
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.settings.targets import build
from psychocounsel.steps.course import StepContext
from psychocounsel.steps.tables import Row, rows_of
from psychocounsel.storage.files import write_json

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

    found: dict[str, list[_Found]] = field(default_factory=lambda: defaultdict(list))
    unjudged: Counter[str] = field(default_factory=Counter)


def summarise_sessions(
    sessions: Iterable[JudgedSession], answers: Sequence[Row], judges: Sequence[str], on_the_way: OnTheWay, model: str
) -> dict[str, Any]:
    """Return `sessions` and `judges`. `sessions` counts all sessions and broken-off sessions of each setting.

    `judges` holds by judge:

    - `quality`: see `judge_quality`.
    - `settings`: by setting `sessions`, `personas` and `unjudged` (counts), `figures` (see `means`; clusters are personas),
      `strata` (figures by pattern and kind), `curve` (figures of the replies of each turn), and `hard` (flagged replies:
      figure, speech, persona, seed, sample, turn).
    - `against`: by other setting, the differences of `model` to it (see `compare`).
    - `outcomes`: number of calls without answers, by outcome.
    - `quotes`: number of quotations, and number of those that occur in the reply.

    Args:
        sessions: all sessions.
        answers: rows of session_answers.parquet.
        judges: names of the judges.
        on_the_way: reduces the answers about a reply to those that count.
        model: the setting under evaluation.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    of = {name: _OfJudge() for name in judges}
    for session in sessions:
        setting = session.rows[0]["setting"]
        counts[setting].update(sessions=1, incomplete=not session.is_complete)
        if not session.is_complete:
            continue
        for judge, mine in of.items():
            turns = session.turns(judge, on_the_way)
            if turns is None:
                mine.unjudged[setting] += 1
            else:
                mine.found[setting].append(_Found(session.rows, turns, session_findings(turns)))
    said: dict[str, list[Row]] = defaultdict(list)
    for row in answers:
        said[row["judge"]].append(row)
    return {
        "sessions": {name: dict(each) for name, each in counts.items()},
        "judges": {name: _of_judge(mine, said[name], on_the_way, model) for name, mine in of.items()},
    }


def checks_quality(on_the_way: OnTheWay) -> dict[str, dict[str, Any]]:
    """Return the `judge_quality` of the word checks that steer scripted clients."""
    said = {seed: check_reply(seed.reply) for seed in seeded_replies()}
    return judge_quality(
        {
            seed: findings_of(on_the_way({name: each.answer for name, each in given.items()}), seed.expected_action)
            for seed, given in said.items()
        }
    )


def _of_judge(mine: _OfJudge, answers: Sequence[Row], on_the_way: OnTheWay, model: str) -> dict[str, Any]:
    told = {name: _by_persona(found) for name, found in mine.found.items()}
    order = sorted(dict.fromkeys([*mine.found, *mine.unjudged]), key=lambda name: name != model)
    others = [name for name in order if name != model and name in told] if model in told else []
    quotes = [row["quotes_found"] for row in answers if row["quotes_found"] is not None]
    questions = sum(name.endswith("_quote") for name in answers[0]) if answers else 0
    return {
        "quality": seeded_quality(answers, on_the_way),
        "settings": {name: _setting(mine.found[name], mine.unjudged[name]) for name in order},
        "against": {other: compare(told[model], told[other], SESSION_FIGURES) for other in others},
        "outcomes": dict(sorted(Counter(row["outcome"] for row in answers if row["outcome"] != TEXT).items())),
        "quotes": {"found": sum(quotes), "of": len(quotes) * questions},
    }


def _setting(found: Sequence[_Found], unjudged: int) -> dict[str, Any]:
    strata: dict[str, dict[str, Any]] = {}
    for stratum in _STRATA:
        groups: dict[str, list[_Found]] = defaultdict(list)
        for each in found:
            groups[each.rows[0][stratum] or "unknown"].append(each)
        strata[stratum] = {name: means(_by_persona(some), SESSION_FIGURES) for name, some in sorted(groups.items())}
    return {
        "sessions": len(found),
        "personas": len({each.rows[0]["speech"] for each in found}),
        "unjudged": unjudged,
        "figures": means(_by_persona(found), SESSION_FIGURES),
        "strata": strata,
        "curve": _curve(found),
        "hard": [
            {"figure": name, **{key: row[key] for key in ("speech", "persona", "seed", "sample", "turn")}}
            for each in found
            for row, turn in zip(each.rows, each.turns, strict=True)
            for name in HARD
            if turn.findings[name]
        ],
    }


def _curve(found: Sequence[_Found]) -> list[dict[str, Any]]:
    """Return the means of TURN_FIGURES for each `turn`, over the sessions that reach this turn."""
    turns: dict[int, dict[Hashable, list[Findings]]] = defaultdict(lambda: defaultdict(list))
    for each in found:
        for place, turn in enumerate(each.turns):
            turns[place][each.rows[0]["speech"]].append(turn.figures)
    return [{"turn": place, **means(turns[place], TURN_FIGURES)} for place in sorted(turns)]


def _by_persona(found: Iterable[_Found]) -> Mapping[Hashable, list[Findings]]:
    groups: dict[Hashable, list[Findings]] = defaultdict(list)
    for each in found:
        groups[each.rows[0]["speech"]].append(each.findings)
    return dict(groups)


# Summary of flow_answers.parquet: the key `flow` of figures.json, and the printed tables.

FLOW_WARNINGS = (
    "warning: a language model answered the rubric's questions, but it has not been validated as a judge with this rubric",
    "warning: the rubric of VERA-MH has a licence that requires its disclaimer to accompany its material",
)
_JUDGED_SESSION = ("judge", "setting", "speech", "seed", "sample")


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
        judged[row["judge"]][tuple(row[name] for name in _JUDGED_SESSION)].append(row)
    rubric = {"file": prompt.rubric.path.name, "version": prompt.rubric.version}
    judges = {name: _flow_of_judge(list(sessions.values()), prompt, model) for name, sessions in judged.items()}
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


def _flow_of_judge(sessions: Sequence[Sequence[Row]], prompt: FlowPrompt, model: str) -> dict[str, Any]:
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
        "settings": {name: _flow_of_setting(scores[name], unjudged[name], prompt) for name in order},
        "outcomes": dict(sorted(Counter(row["outcome"] for row in every if row["outcome"] != TEXT).items())),
        "quotes": {"found": sum(quotes), "of": len(quotes)},
    }


def _flow_of_setting(scores: Mapping[str, Sequence[Scores]], unjudged: int, prompt: FlowPrompt) -> dict[str, Any]:
    every = [each for some in scores.values() for each in some]
    return {
        "sessions": len(every),
        "personas": len(scores),
        "unjudged": unjudged,
        "not_relevant": sum(set(each.values()) == {NOT_ASKED} for each in every),
        "dimensions": severity_shares(scores, prompt.flow.dimensions),
    }


# The step.


def run(context: StepContext[EvaluationDir]) -> dict[str, Any]:
    """Compute the figures, write figures.json and print the table.

    The returned metrics describe the setting under evaluation, by the first judge.
    """
    files, config = context.files, context.config
    setting, clients = _evaluated(context), _clients(config)
    judges = build(config, "judge").models()
    path = prompt_of(context).flow.path
    answers = list(rows_of(files.session_answers, SCHEMA.names))
    summary = summarise_sessions(judged_sessions(files), answers, [judge.name for judge in judges], path, setting)
    steering = checks_quality(path) if clients.follows_checks else None
    by_checks = {judge.name for judge in judges if isinstance(judge, Checks)}
    about = {"evaluation": "session", "model": setting, "personas": clients.name}
    prompt = flow_prompt(config)
    flow = None if prompt is None else summarise_flow(rows_of(files.flow_answers, FLOW_ROWS.names), prompt, setting)
    warnings = [*session_warnings(summary, by_checks, clients.notes), *(FLOW_WARNINGS if flow is not None else ())]
    write_json(files.figures, {**about, **summary, "flow": flow, "steering_checks": steering, "warnings": warnings})
    by_rubric = [] if flow is None else flow_lines(flow)
    for line in (*session_lines(summary, by_checks, steering), *by_rubric, *warnings):
        context.say(line)
    return {"metrics": _metrics(summary, judges[0].name, setting)}


@dataclass(frozen=True)
class _Clients:
    """Source of the sessions: its name, its notes for every output, and True if word checks steer the clients."""

    name: str
    notes: list[str]
    follows_checks: bool


def _clients(config: DictConfig) -> _Clients:
    if config.evaluation.transcripts is not None:
        return _Clients(NAME, transcript_notes(config), False)
    clients: PersonaSet = build(config, "personas")
    return _Clients(clients.name, clients.notes(), clients.follows_checks)


def _evaluated(context: StepContext[EvaluationDir]) -> str:
    """Return the setting under evaluation; for finished conversations, the first setting by name."""
    if context.config.evaluation.transcripts is not None:
        return min(row["setting"] for row in rows_of(context.files.session_turns, ["setting"]))
    setting: str = build(context.config, "contestants").settings[0]
    return setting


def _metrics(summary: dict[str, Any], judge: str, setting: str) -> dict[str, Any]:
    broken = {"incomplete": summary["sessions"].get(setting, {}).get("incomplete", 0)}
    found = summary["judges"][judge]["settings"].get(setting)
    if found is None or not found["sessions"]:
        return broken
    told = {name: each["mean"] for name, each in found["figures"].items() if each["mean"] is not None}
    return {**told, **broken, "hard_flags": len(found["hard"])}
