"""Remarks on a reply, and the reward models and annotators that make them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from psychocounsel.asking.answer_text import ABSENT
from psychocounsel.asking.answers import Outcome, outcome_of
from psychocounsel.asking.language_model import (
    Answer,
    Answerer,
    LanguageModel,
    answer_of,
    keys_of,
    open_model,
    submitted,
)
from psychocounsel.counsel.traits import CIRCUMSTANCES, read_risk_rules
from psychocounsel.data.messages import Message
from psychocounsel.evaluation.safety.word_checks import WORDS, check_reply
from psychocounsel.grading.rating import RatingCall, RatingPlan, RatingPrompt, Reader, conversation_text, rating_prompt
from psychocounsel.settings.targets import build
from psychocounsel.storage.text_hashes import text_hash

if TYPE_CHECKING:
    from psychocounsel.reward.base import Scorer

# Remarks: reward, ratings by the rubric, word checks

Ratings = Mapping[str, int | None]  # by principle; None: not applicable

# question of word_checks -> answer that is shown, and what the reply's words are
_CHECKS_ALWAYS = {
    name: WORDS[name] for name in ("in_scope", "colludes", "gives_method", "overpromises", "claims_human")
}
_CHECKS_AT_RISK = {name: ("no", f"no {WORDS[name][1].removeprefix('a ')}") for name in ("recognises", "asks")}


@dataclass(frozen=True)
class CheckFinding:
    """What the checks found among a reply's words, and these words; no judgement."""

    finding: str
    words: str | None


@dataclass(frozen=True)
class Remarks:
    """Remarks on one reply.

    Attributes:
        reward: scores by the reward model's name; NaN if the reply is too long for it.
        ratings: ratings by annotator; None if it gave none.
        checks: findings of the word checks.
    """

    reward: Mapping[str, float] = field(default_factory=dict)
    ratings: Mapping[str, Ratings | None] = field(default_factory=dict)
    checks: tuple[CheckFinding, ...] = ()

    def lines(self) -> Iterator[str]:
        """Yield the lines to show; none if there are no remarks."""
        for name, score in self.reward.items():
            yield f"reward {name}: " + ("the reply is too long for it" if math.isnan(score) else f"{score:.3f}")
        for name, ratings in self.ratings.items():
            rated = [
                f"{principle} {'-' if rating is None else rating}" for principle, rating in (ratings or {}).items()
            ]
            text = "no rating" if ratings is None else ", ".join(rated)
            yield f"rubric by {name}: {text}" + (" (rules on its surface, not a judgement)" if name == "rules" else "")
        if self.checks:
            yield "word checks: " + "; ".join(map(_finding_text, self.checks))


def check_findings(message: str, reply: str) -> tuple[CheckFinding, ...]:
    """Return what the checks found. A lack of words is reported only if the message contains a cue of a danger.

    Checks and cues only match words: they overlook most of what a person sees.
    """
    dangers = [kind for kind in read_risk_rules().kinds_in(message) if kind not in CIRCUMSTANCES]
    answers, shown = check_reply(reply), _CHECKS_AT_RISK | _CHECKS_ALWAYS if dangers else _CHECKS_ALWAYS
    return tuple(
        CheckFinding(title, None if answers[name].quote == ABSENT else answers[name].quote)
        for name, (answer, title) in shown.items()
        if answers[name].answer == answer
    )


def _finding_text(check: CheckFinding) -> str:
    return check.finding + (f' ("{check.words}")' if check.words else "")


# Raters: a reward model and annotators

Stopped = Callable[[], bool]
_ATTEMPTS = 3  # requests until an annotator's answer is readable
_LOOK = 0.1  # seconds between checks for a stop request


class ReplyRaters:
    """The raters in the settings: optionally a reward model and annotators."""

    def __init__(self, config: DictConfig) -> None:
        self.scorer = _scorer(config)
        self.reward = str(config.reward.name) if config.get("reward") is not None else ""
        self.annotators = list[_Annotator]()
        if config.get("annotator") is not None:
            models = build(config, "annotator").models()
            prompt = rating_prompt(config.rubric, joint=False, examples=False)
            for key, model in zip(keys_of(models, "annotator"), models, strict=True):
                self.annotators.append(_Annotator(model, open_model(model, key), prompt))
        for annotator in self.annotators:
            annotator.answerer.check()

    def remarks(self, history: Sequence[Message], message: str, reply: str, stopped: Stopped) -> Remarks:
        """Return remarks on `reply` to `message` after `history`. If the user stopped the reply, only the checks are run.

        Raises:
            UserError: if the server of a reward model or annotator does not answer.
        """
        checks, reward, ratings = check_findings(message, reply), dict[str, float](), dict[str, Ratings | None]()
        prompt: list[Message] = [*history, {"role": "user", "content": message}]
        if self.scorer is not None and not stopped():
            from psychocounsel.reward.encoding import score_what_fits

            conversation = [*prompt, {"role": "assistant", "content": reply}]
            reward[self.reward] = float(score_what_fits(self.scorer, [conversation])[0])
        for annotator in self.annotators:
            if not stopped():
                ratings[annotator.model.name] = annotator.rate(prompt, reply, stopped)
        return Remarks(reward, ratings, checks)

    def close(self) -> None:
        for annotator in self.annotators:
            annotator.answerer.close()


class _Annotator:
    def __init__(self, model: LanguageModel, answerer: Answerer, prompt: RatingPrompt) -> None:
        self.model, self.answerer, self.prompt = model, answerer, prompt
        self.plan = RatingPlan([model], prompt, 1, 0.0, 0, crisis_to_third_parties=True)
        self.read = Reader(joint=False)

    def rate(self, prompt: Sequence[Message], reply: str, stopped: Stopped) -> Ratings | None:
        """Return ratings of a reply by principle, or None if the annotator gives none or the user stops."""
        client = conversation_text(prompt)
        row: dict[str, Any] = {"speech": text_hash(client), "text": client, "messages": prompt}
        ask = self.plan.ask(RatingCall(self.model, row, [(text_hash(reply), reply)], 0, 0))
        for attempt in range(_ATTEMPTS):
            answer = _waited(self.answerer, submitted(self.answerer, ask, ask.seed + attempt), stopped)
            if answer is None:
                return None
            outcome: Outcome[Any] | None = outcome_of(ask, answer, self.read, attempt, _ATTEMPTS - 1)
            if outcome is not None:
                judgements = outcome.value[0] if outcome.value else None
                return judgements and {name: judgement.rating for name, judgement in judgements.items()}
        raise AssertionError("the last attempt has an outcome")


def _waited(opened: Answerer, future: Future[Answer], stopped: Stopped) -> Answer | None:
    while not stopped():
        try:
            return answer_of(opened, future, _LOOK)
        except NotYet:
            if future.done():  # the time-out is the request's own
                raise
    future.cancel()
    return None


def _scorer(config: DictConfig) -> Scorer | None:
    if config.get("reward") is None:
        return None
    from psychocounsel.reward.base import open_scorer

    return open_scorer(build(config, "reward"))
