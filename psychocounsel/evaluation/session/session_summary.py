"""Summary of judged sessions for figures.json: by judge, the figures of each setting and the model's comparisons."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from psychocounsel.asking.language_model import TEXT
from psychocounsel.evaluation.health.health_means import compare, means
from psychocounsel.evaluation.safety.judge_quality import judge_quality, seeded_quality, seeded_replies
from psychocounsel.evaluation.safety.reply_findings import HARD, Findings, findings_of
from psychocounsel.evaluation.safety.word_checks import check_reply
from psychocounsel.evaluation.session.judged_sessions import JudgedSession, OnTheWay
from psychocounsel.evaluation.session.session_findings import (
    SESSION_FIGURES,
    TURN_FIGURES,
    JudgedTurn,
    session_findings,
)
from psychocounsel.steps.tables import Row

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
