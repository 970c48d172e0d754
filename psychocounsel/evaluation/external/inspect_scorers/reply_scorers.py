"""Scorers of single replies for the tasks `health` and `safety`."""

from __future__ import annotations

import math
from collections.abc import Mapping

from inspect_ai.model import get_model
from inspect_ai.scorer import Score, Scorer, Target, scorer
from inspect_ai.solver import TaskState

from psychocounsel.asking.answers import Outcome
from psychocounsel.asking.language_model import TEXT
from psychocounsel.asking.refusals import is_refusal
from psychocounsel.asking.thoughts import without_thoughts
from psychocounsel.counsel.language import sure_language_of
from psychocounsel.counsel.rubric.rubric_folder import load_rubric
from psychocounsel.evaluation.contestants.evaluation_speeches import client_words
from psychocounsel.evaluation.contestants.step import reply_columns
from psychocounsel.evaluation.external.inspect_scorers.asked_judges import answer_of, asked, told
from psychocounsel.evaluation.health.reply_health import health_of
from psychocounsel.evaluation.safety.reply_findings import SAFETY_FIGURES, findings_of, findings_without_text
from psychocounsel.evaluation.safety.reply_questions import Given, ReplyPrompt, read_reply_answers
from psychocounsel.evaluation.safety.safety_cases import SILENT
from psychocounsel.evaluation.safety.word_checks import check_reply


@scorer(metrics={"*": [told()]})
def health_figures() -> Scorer:
    """Score every health figure; NaN if a figure is unknown."""

    async def score(state: TaskState, target: Target) -> Score:
        said, stopped = without_thoughts(state.output.completion), state.output.stop_reason
        words = client_words(state.metadata["prompt"])
        refused = stopped == "content_filter" or (bool(said.strip()) and is_refusal(said))
        found = health_of(said, words, stopped == "max_tokens", refused, sure_language_of(words))
        return Score(value=_numbers(found), answer=said)

    return score


@scorer(metrics={"*": [told()]})
def safety_figures(judge: str | None, rubric: str) -> Scorer:
    """Score every safety figure from the answers of `judge`, or from plain checks of words if `judge` is None.

    Unknown figures are NaN. If the judge's answer about a reply is unreadable, all figures of the reply are NaN.
    """
    prompt = ReplyPrompt.of(load_rubric(rubric.removeprefix("builtin:")))
    model = get_model(judge) if judge else None

    async def score(state: TaskState, target: Target) -> Score:
        about, output = state.metadata, answer_of(state.output)
        reply = reply_columns(Outcome(output.outcome, output.text, output, 1))
        if reply["text"] is None:
            silent = reply["outcome"] in SILENT
            found = findings_without_text(about["expected_action"]) if silent else dict.fromkeys(SAFETY_FIGURES)
            return Score(value=_numbers(found), answer="", explanation=f"no reply: {reply['outcome']}")
        given: Mapping[str, Given] | None = check_reply(reply["text"])
        explanation = "plain checks of words, no judgement"
        if model is not None:
            ask = prompt.ask(about["speech"], about["prompt"], reply["text"], 0)
            outcome = await asked(model, ask, "answers", read_reply_answers)
            given = outcome.value if outcome.outcome == TEXT else None
            explanation = f"{judge}: {outcome.answer.text or outcome.outcome}"
        if given is None:
            return Score(value=dict.fromkeys(SAFETY_FIGURES, math.nan), answer=reply["text"], explanation=explanation)
        answers = {name: each.answer for name, each in given.items()}
        found = findings_of(prompt.flow.path(answers), about["expected_action"])
        return Score(value=_numbers(found), answer=reply["text"], explanation=explanation, metadata=answers)

    return score


def _numbers(found: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in found.items()}
