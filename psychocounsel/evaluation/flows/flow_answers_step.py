"""Step `flows` of `evaluation=session`: judges that are language models answer a rubric's questions about whole sessions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from psychocounsel.asking.answers import Answers
from psychocounsel.asking.budget import Estimate, estimated_tokens
from psychocounsel.asking.language_model import FAILED, TEXT, LanguageModel, keys_of
from psychocounsel.data.rows import Message
from psychocounsel.errors import UserError
from psychocounsel.evaluation.flows.conversation_questions import FlowPrompt, JudgedFlow, read_answer
from psychocounsel.evaluation.flows.flow_answer_rows import SCHEMA, flow_answer_rows
from psychocounsel.evaluation.flows.vera_rubric import read_vera_rubric, rubric_file
from psychocounsel.evaluation.session.conversation import SCHEMA as TURNS
from psychocounsel.evaluation.session.conversation import messages_of
from psychocounsel.evaluation.session.sessions_at_once import SideBySide, replay
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.settings.targets import build
from psychocounsel.steps.buying import buy
from psychocounsel.steps.context import StepContext
from psychocounsel.steps.tables import Row, by_speech, written

_SESSION = ("setting", "seed", "sample")  # with `speech`, the key of a session


def run(context: StepContext[EvaluationDir]) -> dict[str, Any]:
    """Ask the judges for answers that the journal lacks, then write flow_answers.parquet, which is empty without a rubric.

    Raises:
        BudgetSpent: if the budget is spent before all answers are bought; the journal keeps the bought ones.
        UserError: if a key, an address or the rubric is wrong, no judge is a language model, or no server is left.
    """
    config, prompt = context.config, flow_prompt(context.config)
    if prompt is None:
        with written(context.files.flow_answers, SCHEMA):
            return {}
    judges = flow_judges(config)
    with closing(Answers(context.files.answers, context.shard)) as answers:
        ways = [way for _, way in _ways(context, prompt)]
        asking = SideBySide(ways)
        budget = buy(
            asking.calls(),
            answers,
            config.budget,
            models=list(judges.values()),
            key=list(judges),
            read=read_answer,
            retries=config.evaluation.retries,
            count=len(ways) * len(prompt.flow.questions),
            bar=context.bar,
            what="answers about sessions",
            take=asking.take,
        )
        outcomes = _write(context, prompt, answers)
    for name, counts in outcomes.items():
        odd = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(counts.items()) if outcome != TEXT)
        if odd:
            context.say(
                f"judge {name}: answers about sessions are missing: {odd}; the rubric's figures skip these sessions"
            )
    failed = sum(counts[FAILED] for counts in outcomes.values())
    if failed:
        context.say(f"{failed:,} answers failed; repeat the command with steps=[flows,figures] to ask for them again")
    counted = {name: dict(counts) for name, counts in outcomes.items()}
    return {"outcomes": counted, "failed": failed, "spent": budget.spent, "bought": budget.made}


def flow_prompt(config: DictConfig) -> FlowPrompt | None:
    """Return the maker of requests about whole sessions; None if the configuration names no rubric.

    Raises:
        UserError: if the rubric is missing or malformed.
    """
    path = config.evaluation.flow
    return None if path is None else FlowPrompt(read_vera_rubric(rubric_file(Path(path))))


def flow_judges(config: DictConfig) -> dict[str, LanguageModel]:
    """Return the judges that are language models, by configuration key.

    Raises:
        UserError: if no judge is a language model.
    """
    judges: list[LanguageModel] = build(config, "judge").models()
    found = {key: each for key, each in zip(keys_of(judges, "judge"), judges, strict=True) if each.reads_prompts}
    if not found:
        raise UserError(
            f"evaluation.flow: judge={judges[0].name} cannot answer the questions of a rubric; add judge=local_vllm "
            "judge.model=MODEL, or remove evaluation.flow"
        )
    return found


def estimate(context: StepContext[EvaluationDir]) -> Estimate:
    """Estimate the step's largest cost for the existing sessions, as if every question were on the path."""
    prompt, found = flow_prompt(context.config), Estimate()
    assert prompt is not None
    with closing(Answers(context.files.answers)) as answers:
        for _, way in _ways(context, prompt):
            found.bought += replay(way, answers, context.config.evaluation.retries, read_answer)
            if way.call is not None:
                tokens = estimated_tokens(way.call[1])
                for _ in range(len(prompt.flow.questions) - len(way.outcomes)):
                    found.add(way.judge, tokens)
    return found


def _sessions(context: StepContext[EvaluationDir]) -> Iterator[tuple[Row, list[Message]]]:
    """Yield the first row and all messages of each completed session."""
    for _, turns in by_speech(context.files.session_turns, TURNS.names):
        for _, group in groupby(turns, lambda row: tuple(row[name] for name in _SESSION)):
            rows = list(group)
            if rows[-1]["ends"]:
                before, last = list(messages_of(rows))[-1]
                yield rows[0], [*before, {"role": "assistant", "content": last["text"] or ""}]


def _ways(context: StepContext[EvaluationDir], prompt: FlowPrompt) -> Iterator[tuple[Row, JudgedFlow]]:
    """Yield, for each session and judge, the session's first row and a new path through the questions."""
    judges = flow_judges(context.config).values()
    for row, messages in _sessions(context):
        for judge in judges:
            yield row, JudgedFlow(judge, prompt, row["speech"], messages, context.config.evaluation.seed)


def _write(context: StepContext[EvaluationDir], prompt: FlowPrompt, answers: Answers) -> dict[str, Counter[str]]:
    outcomes = dict[str, Counter[str]]()
    with written(context.files.flow_answers, SCHEMA) as add:
        for session, way in _ways(context, prompt):
            replay(way, answers, context.config.evaluation.retries, read_answer)
            for row in flow_answer_rows(session, way):
                add(row)
                outcomes.setdefault(row["judge"], Counter())[row["outcome"]] += 1
    return outcomes
