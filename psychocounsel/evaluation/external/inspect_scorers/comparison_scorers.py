"""Scorers that compare a reply with one from a file: by a reward model, or by language models in both orders."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inspect_ai.model import get_model
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import TaskState

from psychocounsel.asking.answers import Outcome
from psychocounsel.asking.thoughts import without_thoughts
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.data.rows import Message
from psychocounsel.data.selection.shared_text import normalised
from psychocounsel.evaluation.contestants.evaluation_speeches import speech_id
from psychocounsel.evaluation.contestants.reply_file import replies_of
from psychocounsel.evaluation.external.inspect_scorers.asked_judges import AskedByInspect, asked, told
from psychocounsel.evaluation.judging.judging import Judging
from psychocounsel.evaluation.judging.pair_prompt import Verdict, pair_prompt, read_verdict
from psychocounsel.evaluation.judging.verdict_rows import FORWARD, ReplyPair, verdict_row

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
        prompt, said, other = _both_replies(state, theirs)
        if not said or not other:
            return Score(value=math.nan, answer=said, explanation=_MISSING)
        both = [[*prompt, {"role": "assistant", "content": reply}] for reply in (said, other)]
        async with lock:
            mine, base = (float(each) for each in model.unnormalised(score_what_fits(model, both)))
        value = math.nan if math.isnan(mine - base) else 0.5 + 0.5 * ((mine > base) - (mine < base))
        return Score(value=value, answer=said, metadata={"reward": mine, "reward_against": base})

    return score


@scorer(metrics={"*": [told()]})
def judged_in_both_orders(against: str, judges: list[str], rubric: str) -> Scorer:
    """Score `win_rate`, `inconsistent`, and the win rate on each principle.

    `win_rate` is the mean score of the judges, as defined in docs/winrate.md. `inconsistent` is the share of judges whose
    two orders contradict each other. A judge without a verdict in one of the orders is skipped; if none is left, the
    figures are NaN.
    """
    theirs, prompt = replies_of(Path(against), "against"), pair_prompt(rubric, False)
    models = {name: get_model(name) for name in judges}
    judging = Judging([AskedByInspect(name=name) for name in models], prompt, 0, True)

    async def score(state: TaskState, target: Target) -> Score:
        messages, said, other = _both_replies(state, theirs)
        if not said or not other:
            return Score(value=dict.fromkeys(_FIGURES, math.nan), answer=said, explanation=_MISSING)
        speech = {"speech": speech_id(normalised(messages)), "messages": messages, "language": None, "crisis": False}
        pair = ReplyPair(speech, _reply("model", said), _reply("against", other))
        rows, answers = [], []
        for call in judging.calls([pair]):
            outcome: Outcome[Verdict | None] | str | None = call.outcome
            if call.ask is not None:
                outcome = await asked(models[call.judge.name], call.ask, "verdict", read_verdict)
                answers.append(f"{call.judge.name}, {call.order}: {outcome.answer.text or outcome.outcome}")
            rows.append(verdict_row(pair, call.judge.name, call.order, outcome, prompt.version))
        return Score(value=_figures(rows), answer=said, explanation="\n\n".join(answers), metadata={"verdicts": rows})

    return score


def _both_replies(state: TaskState, theirs: dict[str, list[str]]) -> tuple[list[Message], str, str]:
    """Return the prompt, the model's reply and the opponent's reply; a missing reply is an empty text."""
    prompt: list[Message] = state.metadata["prompt"]
    said = without_thoughts(state.output.completion).strip()
    return prompt, said, theirs.get(normalised(prompt), [""])[0].strip()


def _reply(setting: str, text: str) -> dict[str, Any]:
    return {"setting": setting, "seed": 0, "length_limit": None, "sample": 0, "reply": setting, "text": text}


def _figures(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the figures of one comparison from the verdict rows of all judges in both orders."""
    said: dict[str, list[tuple[int, int]]] = {name: [] for name in ("overall", *PRINCIPLES)}
    for judge in {row["judge"]: row for row in rows}:
        orders = sorted((row for row in rows if row["judge"] == judge), key=lambda row: row["order"] != FORWARD)
        for name, both in said.items():
            forward, backward = (row[name] for row in orders)
            if forward is not None and backward is not None:
                both.append((forward, backward))
    found = {name: _mean([0.5 + sum(each) / 4 for each in both]) for name, both in said.items()}
    contradicting = [float(forward * backward < 0) for forward, backward in said["overall"]]
    return {"win_rate": found.pop("overall"), "inconsistent": _mean(contradicting), **found}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
