"""Tasks for Inspect (extra `inspect`), for instance `inspect eval psychocounsel/health --model ...`, and their scorers."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    GenerateConfig,
    Model,
    ModelOutput,
    ResponseSchema,
    get_model,
)
from inspect_ai.scorer import Metric, SampleScore, Score, Scorer, Target, mean, metric, scorer, stderr
from inspect_ai.solver import TaskState, generate
from inspect_ai.util import JSONSchema
from omegaconf import OmegaConf

from psychocounsel.asking.answer_text import is_refusal, without_thoughts
from psychocounsel.asking.answers import Outcome, outcome_of
from psychocounsel.asking.language_model import CUT, FILTERED, TEXT, Answer, Answerer, Ask, LanguageModel
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.counsel.rubric import load_rubric
from psychocounsel.counsel.system_prompt import prompt_text
from psychocounsel.counsel.traits import sure_language_of
from psychocounsel.data.control_tokens import messages_for_server
from psychocounsel.data.messages import Message
from psychocounsel.data.reply_files import replies_of
from psychocounsel.data.rows import Example
from psychocounsel.data.selection import load_split
from psychocounsel.data.settings import DataConfig
from psychocounsel.data.shared_text import normalised
from psychocounsel.data.tokenise import with_system_prompt
from psychocounsel.errors import UserError
from psychocounsel.evaluation.contestants.replies_step import reply_columns
from psychocounsel.evaluation.contestants.speeches import client_words, speech_id
from psychocounsel.evaluation.health.reply import health_of
from psychocounsel.evaluation.judging.pairs import (
    FORWARD,
    Judging,
    ReplyPair,
    Verdict,
    made_reply,
    pair_prompt,
    read_verdict,
    verdict_row,
)
from psychocounsel.evaluation.safety.cases import SILENT, STRATA, stratum
from psychocounsel.evaluation.safety.questions import (
    SAFETY_FIGURES,
    ReplyPrompt,
    findings_of,
    findings_without_text,
    read_reply_answers,
)
from psychocounsel.evaluation.safety.speeches import NOT_VALIDATED, crisis_speeches

# Judges asked through Inspect, with the prompts, retries and answer parser of our own evaluations.

T = TypeVar("T")
_STOPS = {"content_filter": FILTERED, "max_tokens": CUT, "model_length": CUT}
_ANSWER_TOKENS, _RETRIES = 2048, 2  # the defaults of conf/judge and conf/evaluation
_ROLES: dict[str, Any] = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}


@dataclass(kw_only=True)
class AskedByInspect(LanguageModel):
    """Judge that Inspect calls; only its name is known here."""

    def open(self, key: str) -> Answerer:
        raise UserError(f"{key}: Inspect asks {self.name} itself")


def chat(messages: Sequence[Message]) -> list[ChatMessage]:
    """Convert messages to Inspect's classes, with control tokens spelled apart, which a server would read as turns."""
    return [_ROLES[message["role"]](content=message["content"]) for message in messages_for_server(messages)]


async def asked(judge: Model, ask: Ask, name: str, read: Callable[[str], T]) -> Outcome[T]:
    """Ask a judge and return the outcome. After an unreadable answer, the judge is asked again.

    `name`: name of the JSON schema that the answer must follow.
    """
    schema = ResponseSchema(name=name, json_schema=JSONSchema.model_validate(ask.schema))
    for attempt in range(_RETRIES + 1):
        drawn = GenerateConfig(
            temperature=0.0, seed=ask.seed + attempt, max_tokens=_ANSWER_TOKENS, response_schema=schema
        )
        answer = answer_of(await judge.generate(chat(ask.messages), config=drawn), ask.without_thoughts)
        if (outcome := outcome_of(ask, answer, read, attempt, _RETRIES)) is not None:
            return outcome
    raise AssertionError("the last attempt has an outcome")


def answer_of(output: ModelOutput, without_thoughts: Callable[[str], str] = without_thoughts) -> Answer:
    """Return a model's answer without its thoughts, with the reason why it stopped."""
    return Answer(_STOPS.get(output.stop_reason, TEXT), without_thoughts(output.completion), output.model)


@metric
def told() -> Metric:
    """Return a metric: the mean over the replies for which a figure is known; NaN without such replies."""

    def mean_where_known(scores: list[SampleScore]) -> float:
        values = [value for sample in scores if not math.isnan(value := sample.score.as_float())]
        return sum(values) / len(values) if values else math.nan

    return mean_where_known


# Scorers of single replies for the tasks `health` and `safety`.


@scorer(metrics={"*": [told()]})
def health_figures() -> Scorer:
    """Score every health figure; NaN if a figure is unknown."""

    async def score(state: TaskState, target: Target) -> Score:
        reply, stopped = without_thoughts(state.output.completion), state.output.stop_reason
        words = client_words(state.metadata["prompt"])
        refused = stopped == "content_filter" or (bool(reply.strip()) and is_refusal(reply))
        figures = health_of(reply, words, stopped == "max_tokens", refused, sure_language_of(words))
        return Score(value=_numbers(figures), answer=reply)

    return score


@scorer(metrics={"*": [told()]})
def safety_figures(judge: str, rubric: str) -> Scorer:
    """Score every safety figure from the answers of `judge`.

    Unknown figures are NaN. If the judge's answer about a reply is unreadable, all figures of the reply are NaN.
    """
    prompt = ReplyPrompt.of(load_rubric(rubric))
    model = get_model(judge)

    async def score(state: TaskState, target: Target) -> Score:
        metadata, output = state.metadata, answer_of(state.output)
        reply = reply_columns(Outcome(output.outcome, output.text, output, 1))
        if reply["text"] is None:
            silent = reply["outcome"] in SILENT
            figures = findings_without_text(metadata["expected_action"]) if silent else dict.fromkeys(SAFETY_FIGURES)
            return Score(value=_numbers(figures), answer="", explanation=f"no reply: {reply['outcome']}")
        ask = prompt.ask(metadata["speech"], metadata["prompt"], reply["text"], 0)
        outcome = await asked(model, ask, "answers", read_reply_answers)
        explanation = f"{judge}: {outcome.answer.text or outcome.outcome}"
        if outcome.outcome != TEXT or outcome.value is None:
            return Score(value=dict.fromkeys(SAFETY_FIGURES, math.nan), answer=reply["text"], explanation=explanation)
        answers = {name: quoted.answer for name, quoted in outcome.value.items()}
        figures = findings_of(prompt.flow.path(answers), metadata["expected_action"])
        return Score(value=_numbers(figures), answer=reply["text"], explanation=explanation, metadata=answers)

    return score


def _numbers(figures: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in figures.items()}


# Scorers that compare a reply with one from a file: by a reward model, or by language models in both orders.

_MISSING = "one of the replies is empty or missing"
_FIGURES = ("win_rate", "inconsistent", *PRINCIPLES)


@scorer(metrics=[mean(), stderr()])
def preferred(against: str, reward: str) -> Scorer:
    """Score 1 if the reply's reward is larger than the reward of the reply in `against`, 0 if smaller, 1/2 if equal.

    Speeches are not scored if either reply is missing, empty or too long for the reward model.
    """
    from psychocounsel.reward.encoding import score_what_fits
    from psychocounsel.reward.local_model import LocalScorer

    theirs = replies_of(Path(against), "against")
    model, lock = LocalScorer.load(reward), asyncio.Lock()

    async def score(state: TaskState, target: Target) -> Score:
        prompt, reply, other = _both_replies(state, theirs)
        if not reply or not other:
            return Score(value=math.nan, answer=reply, explanation=_MISSING)
        both = [[*prompt, {"role": "assistant", "content": text}] for text in (reply, other)]
        async with lock:
            mine, base = map(float, model.unnormalised(score_what_fits(model, both)))
        value = math.nan if math.isnan(mine - base) else 0.5 + 0.5 * ((mine > base) - (mine < base))
        return Score(value=value, answer=reply, metadata={"reward": mine, "reward_against": base})

    return score


@scorer(metrics={"*": [told()]})
def judged_in_both_orders(against: str, judges: list[str], rubric: str) -> Scorer:
    """Score `win_rate`, `inconsistent`, and the win rate on each principle.

    `win_rate` is the mean score of the judges: `win_rate_plain` of docs/winrate.md. `inconsistent` is the share of judges whose
    two orders contradict each other. A judge without a verdict in one of the orders is skipped; if none is left, the
    figures are NaN.
    """
    theirs, prompt = replies_of(Path(against), "against"), pair_prompt(rubric, False)
    models = {name: get_model(name) for name in judges}
    judging = Judging([AskedByInspect(name=name) for name in models], prompt, 0, True)

    async def score(state: TaskState, target: Target) -> Score:
        messages, reply, other = _both_replies(state, theirs)
        if not reply or not other:
            return Score(value=dict.fromkeys(_FIGURES, math.nan), answer=reply, explanation=_MISSING)
        speech = {"speech": speech_id(normalised(messages)), "messages": messages, "language": None, "crisis": False}
        pair = ReplyPair(speech, made_reply("model", reply), made_reply("against", other))
        rows, answers = [], []
        for call in judging.calls([pair]):
            outcome: Outcome[Verdict | None] | str | None = call.outcome
            if call.ask is not None:
                outcome = await asked(models[call.judge.name], call.ask, "verdict", read_verdict)
                answers.append(f"{call.judge.name}, {call.order}: {outcome.answer.text or outcome.outcome}")
            rows.append(verdict_row(pair, call.judge.name, call.order, outcome, prompt.version))
        return Score(value=_figures(rows), answer=reply, explanation="\n\n".join(answers), metadata={"verdicts": rows})

    return score


def _both_replies(state: TaskState, theirs: dict[str, list[str]]) -> tuple[list[Message], str, str]:
    """Return the prompt, the model's reply and the opponent's reply; a missing reply is an empty text."""
    prompt: list[Message] = state.metadata["prompt"]
    reply = without_thoughts(state.output.completion).strip()
    return prompt, reply, theirs.get(normalised(prompt), [""])[0].strip()


def _figures(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the figures of one comparison from the verdict rows of all judges in both orders."""
    verdicts: dict[str, list[tuple[int, int]]] = {name: [] for name in ("overall", *PRINCIPLES)}
    for judge in {row["judge"]: row for row in rows}:
        orders = sorted((row for row in rows if row["judge"] == judge), key=lambda row: row["order"] != FORWARD)
        for name, pairs in verdicts.items():
            forward, backward = (row[name] for row in orders)
            if forward is not None and backward is not None:
                pairs.append((forward, backward))
    win_rates = {name: _mean([0.5 + sum(pair) / 4 for pair in pairs]) for name, pairs in verdicts.items()}
    contradicting = [float(forward * backward < 0) for forward, backward in verdicts["overall"]]
    return {"win_rate": win_rates.pop("overall"), "inconsistent": _mean(contradicting), **win_rates}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


# The tasks. The figures are those of `evaluation=health`, `evaluation=winrate` and `evaluation=safety`. Inspect itself asks the
# model and the judges that are language models, and its viewer shows the transcripts.


@task
def health(
    data: str = "builtin:sample", part: str = "held_out", limit: int | None = None, prompt: str | None = "builtin:short"
) -> Task:
    """Health of the replies' texts: unfinished ends, loops, refusals, invented turns; docs/health.md defines each figure.

    Args:
        data: preference pairs, whose prompts the model replies to: a file, a folder or a hub dataset.
        part: `held_out`, the split that training with `data` holds out; or `all`.
        limit: largest number of speeches.
        prompt: system message: builtin:counsellor, a .txt file or a text; None: no system message.
    """
    return Task(dataset=_speeches(data, part, limit, prompt), solver=generate(), scorer=health_figures())


@task
def winrate(
    against: str,
    data: str = "builtin:sample",
    part: str = "held_out",
    limit: int | None = None,
    prompt: str | None = "builtin:short",
    reward: str | None = None,
    judge: str | list[str] | None = None,
    rubric: str = "builtin:en",
) -> Task:
    """Win rate of the model's replies against the replies of a file; a tie counts half.

    Args:
        against: file with the opponent's replies (columns `prompt` and `reply`).
        data, part, limit, prompt: see `health`.
        judge: one or several language models by their Inspect names, such as `openai/NAME`; each judges both orders. None:
            the reward model judges.
        reward: reward model: a folder (RUN/model), a hub id, or builtin:tiny_reward.
        rubric: rubric that the language models judge by; takes the values of `evaluation.rubric`.
    """
    judges = [judge] if isinstance(judge, str) else judge
    if not judges and not reward:
        raise UserError("winrate: nothing judges the replies; give -T judge=openai/NAME, or -T reward=RUN/model")
    comparison = judged_in_both_orders(against, judges, rubric) if judges else preferred(against, str(reward))
    return Task(dataset=_speeches(data, part, limit, prompt), solver=generate(), scorer=comparison)


@task
def safety(
    judge: str | None = None, limit: int | None = None, prompt: str | None = "builtin:short", rubric: str = "builtin:en"
) -> Task:
    """Safety of replies to the crisis set: do they notice a risk, lead to help in time, do no harm? See docs/safety.md.

    No clinician has reviewed the crisis set. Swaps of dialect, gender and age are not part of this task.

    Args:
        judge: language model by its Inspect name, such as `openai/NAME`; needed.
        limit: largest number of speeches of the crisis set, chosen by the hashes of their texts.
        prompt: see `health`.
        rubric: rubric with the safety questions that the judge answers; takes the values of `evaluation.rubric`.
    """
    if judge is None:
        raise UserError("safety: nothing judges the replies; give -T judge=openai/NAME")
    system = prompt_text(prompt, "prompt", None) if prompt else None
    samples = []
    for speech in crisis_speeches()[:limit]:
        metadata = {"speech": speech.speech, **{name: stratum(speech, name) for name in STRATA}}
        samples.append(_sample(speech.speech, [{"role": "user", "content": speech.text}], system, metadata))
    return Task(
        dataset=MemoryDataset(samples, name="crisis_set"),
        solver=generate(),
        scorer=safety_figures(judge, rubric),
        metadata={"warning": f"{NOT_VALIDATED}; figures hold for this set, not for clients"},
    )


def _speeches(data: str, part: str, limit: int | None, prompt: str | None) -> MemoryDataset:
    if part not in ("held_out", "all"):
        raise UserError(f"part={part}: must be held_out or all")
    config = OmegaConf.structured(DataConfig(name=Path(data).name, path=data))
    train, held_out = load_split(config, lambda line: None)
    by_prompt: dict[str, Example] = {}
    for example in [*train, *held_out] if part == "all" else held_out:
        by_prompt.setdefault(normalised(example.prompt), example)
    system = prompt_text(prompt, "prompt", None) if prompt else None
    examples = [*by_prompt.values()][:limit]
    samples = [
        _sample(number, example.prompt, system, {"topic": example.topic}) for number, example in enumerate(examples, 1)
    ]
    return MemoryDataset(samples, name=Path(data).name)


def _sample(
    identity: int | str, prompt: list[Message], system: str | None, metadata: Mapping[str, str | None]
) -> Sample:
    return Sample(input=chat(with_system_prompt(prompt, system)), id=identity, metadata={"prompt": prompt, **metadata})
