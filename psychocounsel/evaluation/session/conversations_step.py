"""The step `conversations` of `evaluation=session`: every contestant talks with every simulated client."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from omegaconf import DictConfig

from psychocounsel.asking.answers import Answers, odd_outcomes
from psychocounsel.asking.budget import Estimate, estimated_tokens
from psychocounsel.asking.language_model import CUT, FAILED, LanguageModel, keys_of
from psychocounsel.asking.system_prompts import replies_prompt
from psychocounsel.evaluation.contestants.replies_step import cut_warnings
from psychocounsel.evaluation.session.dialogue import SCHEMA, Conversation, SessionPlan, SideBySide, replay
from psychocounsel.evaluation.session.personas import Persona
from psychocounsel.evaluation.session.transcripts import write_transcripts
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.settings.targets import build
from psychocounsel.steps.buying import buy
from psychocounsel.steps.course import StepContext
from psychocounsel.steps.tables import Row, written
from psychocounsel.storage.files import with_noun

_CLIENT_TOKENS = 150  # assumed length of a client's turn in estimates; the 80 words of a script take fewer


def run(context: StepContext[EvaluationDir]) -> dict[str, Any]:
    """Run all sessions concurrently, or read finished conversations, and write session_turns.parquet.

    Raises:
        BudgetSpent: if the budget ends before all sessions do; the journal keeps the bought answers.
        UserError: if a key, an address or a prompt is wrong, or no server answers any more.
    """
    config = context.config
    if config.evaluation.transcripts is not None:
        return write_transcripts(context)
    groups = {group: build(config, group).models() for group in asked_groups(config)}
    plans = list(planned_sessions(context))
    with closing(Answers(context.files.answers, context.shard)) as answers:
        sessions = SideBySide(Conversation(plan) for plan in plans)
        budget = buy(
            sessions.calls(),
            answers,
            config.budget,
            models=[model for models in groups.values() for model in models],
            key=[key for group, models in groups.items() for key in keys_of(models, group)],
            retries=config.evaluation.retries,
            count=len(plans) * config.evaluation.turns * len(groups),
            bar=context.bar,
            what="replies in sessions",
            take=sessions.take,
        )
        figures = _write(context, plans, answers)
    limits = {model.name: model.max_tokens for model in groups["contestants"]}
    cut = {name: counts.get(CUT, 0) for name, counts in figures["outcomes"].items()}
    for line in (*_said(figures), *cut_warnings(figures["outcomes"], cut, limits)):
        context.say(line)
    return {**figures, "spent": budget.spent, "bought": budget.made}


def asked_groups(config: DictConfig) -> tuple[str, ...]:
    """Return the config groups whose models are asked; () if finished conversations are judged."""
    if config.evaluation.transcripts is not None:
        return ()
    return ("contestants", "client") if build(config, "personas").asks_client else ("contestants",)


def chosen_personas(config: DictConfig) -> list[Persona]:
    """Return at most `limit` clients, ordered by id. The ids are hashes, so the first ones are a random sample."""
    personas: list[Persona] = build(config, "personas").personas()
    return sorted(personas, key=lambda persona: persona.id)[: config.limit]


def planned_sessions(context: StepContext[EvaluationDir]) -> Iterator[SessionPlan]:
    """Yield the sessions with this process's share of the clients, in the order of session_turns.parquet."""
    config, (index, count) = context.config, context.shard
    prompt = replies_prompt(config, config.replies.length_limits[0])
    contestants = build(config, "contestants").all()
    client = client_of(config)
    for persona in chosen_personas(config)[index::count]:
        for contestant in contestants:
            for sample in range(config.replies.samples):
                turns, seed = config.evaluation.turns, config.replies.seed
                yield SessionPlan(persona, contestant, sample, client, prompt, turns, seed)


def client_of(config: DictConfig) -> LanguageModel | None:
    """Return the model that plays the clients; None if the set of clients needs no model."""
    if "client" not in asked_groups(config):
        return None
    model: LanguageModel = build(config, "client").models()[0]
    return model


def estimate(context: StepContext[EvaluationDir]) -> Estimate:
    """Return an upper limit of the calls that are not bought yet, as if every session had `evaluation.turns` replies."""
    total = Estimate()
    with closing(Answers(context.files.answers)) as answers:
        for plan in planned_sessions(context):
            session = Conversation(plan)
            total.bought += replay(session, answers, context.config.evaluation.retries)
            if session.call is None:
                continue
            tokens = estimated_tokens(session.call[1])
            speakers = [plan.contestant.model, *([plan.client] if plan.client else [])]
            for turn in range(plan.turns - len(session.session)):
                for model in speakers:
                    total.add(model, tokens + turn * (plan.contestant.model.max_tokens + _CLIENT_TOKENS))
    return total


def _write(context: StepContext[EvaluationDir], plans: list[SessionPlan], answers: Answers) -> dict[str, Any]:
    """Write session_turns.parquet from the journal's answers; returns the step's figures."""
    outcomes: dict[str, Counter[str]] = {}
    incomplete, failed = Counter[str](), 0
    with written(context.files.session_turns, SCHEMA) as add:
        for plan in plans:
            rows = session_rows(plan, answers, context.config.evaluation.retries)
            for row in rows:
                add(row)
                outcomes.setdefault(plan.contestant.model.name, Counter())[row["outcome"]] += 1
            incomplete[plan.contestant.model.name] += not any(row["ends"] for row in rows)
            failed += any(row["outcome"] == FAILED for row in rows)
    return {
        "personas": len({plan.persona.id for plan in plans}),
        "sessions": len(plans),
        "replies": sum(count.total() for count in outcomes.values()),
        "outcomes": {name: dict(sorted(counts.items())) for name, counts in outcomes.items()},
        "incomplete": {name: count for name, count in incomplete.items() if count},
        "failed": failed,
    }


def session_rows(plan: SessionPlan, answers: Answers, retries: int) -> list[Row]:
    """Return the rows of a session from the journal's answers; the session breaks off at a missing answer."""
    session = Conversation(plan)
    replay(session, answers, retries)
    if session.call is not None:
        session.take(None)
    return session.rows


def _said(figures: dict[str, Any]) -> Iterator[str]:
    sessions, clients = with_noun(figures["sessions"], "session"), with_noun(figures["personas"], "client")
    yield f"{sessions} with {clients}, {with_noun(figures['replies'], 'reply', 'replies')}"
    for name, counts in figures["outcomes"].items():
        if odd := odd_outcomes(counts):
            yield f"{name}: {odd}"
    for name, count in figures["incomplete"].items():
        yield f"{name}: {with_noun(count, 'session')} broke off; no figure includes them"
