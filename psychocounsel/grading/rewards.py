"""`reward=rubric` and `reward=judge`: a language model rates or ranks the policy's replies, and its answers are the rewards.

A reply whose answers are unusable has the reward NaN, and training leaves it out; no reward is ever a default.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from omegaconf import MISSING, DictConfig, OmegaConf

from psychocounsel.asking.answers import Answers, Outcome, Read, answer_key
from psychocounsel.asking.asker import ask_all
from psychocounsel.asking.budget import Budget
from psychocounsel.asking.language_model import (
    FAILED,
    OTHER_LANGUAGE,
    REFUSED,
    TEXT,
    UNPARSABLE,
    Ask,
    LanguageModel,
    open_model,
)
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.counsel.traits import sure_language_of
from psychocounsel.data.messages import Message, client_text
from psychocounsel.errors import UserError
from psychocounsel.grading.criteria import CriteriaFile, criteria_ask, read_values
from psychocounsel.grading.ranking import RankingAsk, rank_scores, ranking_asks, ranking_rules, read_ranks
from psychocounsel.grading.rating import Judgements, RatingPlan, Reader, conversation_text, rating_prompt
from psychocounsel.reward.base import Conversation, RewardSettings, Scorer
from psychocounsel.settings.schema import option, suggestion
from psychocounsel.settings.targets import build_section
from psychocounsel.steps.tables import Row
from psychocounsel.storage.files import with_noun
from psychocounsel.storage.text_hashes import text_hash, text_id

if TYPE_CHECKING:
    import numpy as np
    import torch

# Settings


@dataclass
class JudgeReward(RewardSettings):
    """Base of the rewards that a language model gives. `judge` holds its settings, as in a file of conf/judge.

    A subclass defines `questions`.
    """

    asks: ClassVar[bool] = True

    judge: dict[str, Any] = option({})
    votes: int = option(1, at_least=1, at_most=100)
    retries: int = option(2, at_least=0, at_most=20)
    crisis_to_third_parties: bool = False

    @abstractmethod
    def questions(self) -> Questions:
        """Return the questions to the judge.

        Raises:
            UserError: if a file that they come from is missing or wrong.
        """

    def open(self, device: torch.device) -> Scorer:
        return JudgeScorer(self)

    def check(self, key: str) -> None:
        """Refuse a judge that is no language model, and several votes without sampling."""
        model = self.model()
        if not isinstance(model, LanguageModel) or not model.reads_prompts:
            raise UserError(f"{key}.judge: is not a language model; give one, such as {key}.judge=local_vllm")
        model.check(f"{key}.judge")
        if model.prompt is not None:
            raise UserError(
                f"{key}.judge.prompt: the prompt of a judge is made from the rubric or criteria; leave it null"
            )
        if self.votes > 1 and model.temperature == 0:
            raise UserError(
                f"{key}.votes={self.votes}: all votes would be equal, because the judge does not sample; "
                f"add {key}.judge.temperature=0.7, or leave {key}.votes out"
            )

    def check_sessions(self, key: str, session_reward: str) -> None:
        """Refuse settings that cannot reward sessions with clients, whose rewards `session_reward` combines.

        Raises:
            UserError: naming the setting.
        """
        if self.withholds_crises():
            raise UserError(
                f"{key}.judge: is a third party, and a session may come to a crisis: use a server of your own, or add "
                f"{key}.crisis_to_third_parties=true"
            )

    def receivers(self, key: str) -> list[tuple[str, str]]:
        return self.model().receivers(f"{key}.judge")

    def memory(self, config: DictConfig, key: str) -> dict[str, float | None]:
        """Return no memory for a judge on servers; that of one in this process is unknown."""
        return {} if self.receivers(key) else {f"reward {self.name}": None}

    def model(self) -> LanguageModel:
        """Return the judge."""
        model: LanguageModel = build_section(OmegaConf.create(self.judge), "judge")
        return model

    def withholds_crises(self) -> bool:
        """Return True if the judge may not see speeches about a crisis."""
        return self.model().is_third_party() and not self.crisis_to_third_parties


@dataclass
class RubricReward(JudgeReward):
    """The judge rates each reply by the seven principles of the rubric, from 1 to 5, or ranks the replies to one prompt.

    `ask`: "all" asks for all principles in one answer, "each" for one in each answer; the reward is the weighted mean of
    the ratings. "ranks" shows all replies to a prompt at once, in two opposite orders; the reward is the mean over the
    answers of the share of the other replies that it beats minus the share that beats it. A single reply is rated.

    `weights`: weights of principles; others have weight 1. A principle with weight 0 is not asked about.
    """

    rubric: str = "builtin:en"
    examples: bool = False
    ask: str = option("all", choices=("all", "each", "ranks"))
    weights: dict[str, float] = option({})

    def check(self, key: str) -> None:
        super().check(key)
        for name, weight in self.weights.items():
            if name not in PRINCIPLES:
                raise UserError(f"{key}.weights.{name}: no such principle; {suggestion(name, list(PRINCIPLES))}")
            if weight < 0 or (self.ask == "ranks" and weight not in (0, 1)):
                allowed = "0 or 1 with ask=ranks, which gives no ratings to weigh" if weight > 0 else "at least 0"
                raise UserError(f"{key}.weights.{name}={weight:g}: must be {allowed}")
        if not self.principles():
            raise UserError(f"{key}.weights: are all 0; give at least one principle a weight")

    def check_sessions(self, key: str, session_reward: str) -> None:
        super().check_sessions(key, session_reward)
        if self.ask == "ranks":
            raise UserError(
                f"{key}.ask=ranks: ranks the replies to one prompt, and in sessions every turn follows another conversation; use "
                f"{key}.ask=all"
            )

    def questions(self) -> Questions:
        return RubricQuestions(self)

    def principles(self) -> tuple[str, ...]:
        """Return the principles with a weight."""
        return tuple(name for name in PRINCIPLES if self.weights.get(name, 1.0))

    def part_names(self) -> Sequence[str]:
        return self.principles()


@dataclass
class CriteriaReward(JudgeReward):
    """The judge decides the user's own criteria for each reply; the reward is the share of the points (see `CriteriaFile`)."""

    criteria: str = MISSING

    def questions(self) -> Questions:
        return CriteriaQuestions(self)


# Questions about the replies to one prompt


@dataclass(frozen=True)
class JudgeQuestion:
    """A call to the judge about the replies at `places` of a prompt, in the order shown; `read` parses the answer."""

    ask: Ask
    read: Read[Any]
    places: tuple[int, ...]


Answered = Sequence[tuple[JudgeQuestion, Any]]  # each question with the value that was read; None: no usable answer


@dataclass(frozen=True)
class Graded:
    """Reward of a reply, and those of its parts by name; NaN: none."""

    reward: float
    parts: Mapping[str, float]


_NOTHING = Graded(float("nan"), {})


class Questions:
    """Base of the questions of a reward about the replies to one prompt. `shorter`: advice that makes them shorter."""

    shorter = ""

    @abstractmethod
    def about(self, prompt: Sequence[Message], replies: Sequence[str], samples: int) -> list[JudgeQuestion]:
        """Return the questions about these replies, which all differ; `samples` also counts equal ones."""

    @abstractmethod
    def graded(self, answered: Answered, count: int) -> list[Graded]:
        """Return the rewards of the prompt's `count` replies."""


class RubricQuestions(Questions):
    shorter = (
        ", reward.ask=each, or weights of 0 for principles that are not needed, such as reward.weights='{safety: 0}'"
    )

    def __init__(self, settings: RubricReward) -> None:
        self.settings = settings
        names = settings.principles()
        groups = [(name,) for name in names] if settings.ask == "each" else [names]
        judge, votes, open_to_all = [settings.model()], settings.votes, settings.crisis_to_third_parties
        self.language = judge[0].language
        self.plans = [
            RatingPlan(
                judge, rating_prompt(settings.rubric, False, settings.examples, group), votes, 0.0, 0, open_to_all
            )
            for group in groups
        ]
        self.read = Reader(joint=False, whole=False)
        self.rules = ranking_rules(settings.rubric, settings.examples, names)

    def about(self, prompt: Sequence[Message], replies: Sequence[str], samples: int) -> list[JudgeQuestion]:
        speech = speech_id(prompt)
        if self.settings.ask == "ranks" and samples > 1:
            asks = ranking_asks(self.rules, speech, prompt, replies, self.settings.votes) if len(replies) > 1 else ()
            return [JudgeQuestion(ask, read_ranks, tuple(map(replies.index, ask.replies))) for ask in asks]
        row: Row = {"speech": speech, "text": conversation_text(prompt), "messages": prompt}
        row |= {"language": self.language, "crisis": False}
        return [
            JudgeQuestion(plan.ask(call), self.read, (place,))
            for place, reply in enumerate(replies)
            for plan in self.plans
            for call in plan.calls(row, [{"reply": text_hash(reply), "text": reply}])
        ]

    def graded(self, answered: Answered, count: int) -> list[Graded]:
        if not answered and self.settings.ask == "ranks":
            return [Graded(0.0, {})] * count  # all replies to rank are the same: a tie
        if isinstance(answered[0][0].ask, RankingAsk):
            return self._ranked(answered, count)
        of_reply = defaultdict[int, list[Judgements]](list)
        for question, value in answered:
            if value is not None:
                of_reply[question.places[0]] += value
        return [self._rated(of_reply[place]) for place in range(count)]

    def _ranked(self, answered: Answered, count: int) -> list[Graded]:
        """Return the mean scores of the votes with both orders, because a single order favours a place."""
        scores = list[list[float]]()
        for forward, backward in zip(answered[::2], answered[1::2], strict=True):
            if forward[1] is not None and backward[1] is not None:
                for question, ranks in (forward, backward):
                    by_place = dict(zip(question.places, rank_scores(ranks), strict=True))
                    scores.append([by_place[place] for place in range(count)])
        if not scores:
            return [_NOTHING] * count
        return [Graded(sum(of_reply) / len(scores), {}) for of_reply in zip(*scores, strict=True)]

    def _rated(self, votes: Sequence[Judgements]) -> Graded:
        """Return the weighted mean of the principles' mean ratings; those that the votes call not applicable are ignored.

        There is no reward if a principle has no answer, or if no principle applies.
        """
        weighted, total, parts = 0.0, 0.0, dict[str, float]()
        for name in self.settings.principles():
            given = [vote[name].rating for vote in votes if name in vote]
            if not given:
                return _NOTHING
            if ratings := [rating for rating in given if rating is not None]:
                parts[name] = sum(ratings) / len(ratings)
                weight = self.settings.weights.get(name, 1.0)
                weighted, total = weighted + weight * parts[name], total + weight
        return Graded(weighted / total, parts) if total else _NOTHING


class CriteriaQuestions(Questions):
    def __init__(self, settings: CriteriaReward) -> None:
        self.file, self.votes = CriteriaFile(settings.criteria, "reward.criteria"), settings.votes

    def about(self, prompt: Sequence[Message], replies: Sequence[str], samples: int) -> list[JudgeQuestion]:
        item = self.file.item(prompt, speech_id(prompt))
        return [
            JudgeQuestion(criteria_ask(item, reply, seed=vote, part=f"vote {vote}"), read_values, (place,))
            for place, reply in enumerate(replies)
            for vote in range(self.votes)
        ]

    def graded(self, answered: Answered, count: int) -> list[Graded]:
        scores = defaultdict[int, list[float]](list)
        for question, value in answered:
            if value is not None:
                scores[question.places[0]].append(question.ask.item.score(value))  # type: ignore[attr-defined]
        return [
            Graded(sum(scores[place]) / len(scores[place]), {}) if scores[place] else _NOTHING for place in range(count)
        ]


def speech_id(prompt: Sequence[Message]) -> str:
    """Return the id of a prompt in the journal: a hash of its messages."""
    return text_id(json.dumps([*prompt]))


# The scorer

_SAMPLE = "I hear how much this weighs on you. What would help most today?"  # a reply, to try the questions on


@dataclass(frozen=True)
class _Group:
    """The replies to one prompt, the different ones among them, and the questions; None: in a language the judge lacks."""

    replies: list[str]
    distinct: list[str]
    questions: list[JudgeQuestion] | None


class JudgeScorer(Scorer):
    """Scores replies by a judge's answers. Adjacent conversations with one prompt are its group.

    `begin` must be called first, in the only process that scores.

    Attributes:
        troubles: number of unusable answers by reason, since the last `take_troubles`.
    """

    asks = True

    def __init__(self, settings: JudgeReward) -> None:
        self.settings, self.model = settings, settings.model()
        self.withholds_crises = settings.withholds_crises()
        self.is_elsewhere = bool(settings.receivers("reward"))  # it needs nothing of this process but requests
        self.troubles = Counter[str]()

    def begin(self, folder: Path, limits: Any, prompts: Iterable[Sequence[Message]]) -> None:
        """Open the judge, and the journal in `folder`.

        `limits` is the section `budget` of the configuration, `prompts` are those whose replies will be scored.

        Raises:
            UserError: if the judge cannot be opened, its context is too short for the questions, a prompt has no criteria,
                the journal is damaged, or a price is unknown.
        """
        self.questions = self.settings.questions()
        samples = [self.questions.about(prompt, [_SAMPLE], 1) for prompt in prompts]
        self.answers = Answers(folder)
        self.budget = Budget.of(limits.cost, limits.calls, self.answers, [self.model])
        self.answerer = open_model(self.model, "reward.judge")
        if not all(self.answerer.has_room(question.ask) for question in samples[0]):
            raise UserError(
                f"reward.judge.model={self.model.model}: its context is too short for the questions of "
                f"reward={self.settings.name} (the whole rubric has about 20,000 tokens); use a judge with a longer context"
                + self.questions.shorter
            )
        self.answerer.check()

    def buy(self, conversations: Sequence[Conversation]) -> None:
        """Buy the answers about these replies that the journal lacks; may be called from any thread, by one at a time.

        Raises:
            BudgetSpent: if the next call would exceed the budget; the journal keeps the bought answers.
            UserError: if the judge cannot be reached.
        """
        by_read: dict[Any, dict[str, Ask]] = {}  # a session's turns, and sessions that begin alike, share questions
        for group in self._grouped(conversations):
            for question in group.questions or ():
                by_read.setdefault(question.read, {})[answer_key(self.model, question.ask, 0)] = question.ask
        for read, asks in by_read.items():
            outcomes = ask_all(
                ((self.model, ask) for ask in asks.values()),
                self.answers,
                self.budget,
                read=read,
                models=[self.model],
                key="reward.judge",
                retries=self.settings.retries,
                opened={self.model.digest: self.answerer},
            )
            for _ in outcomes:
                pass

    def score(
        self, conversations: Sequence[Conversation], progress: Callable[[range], Iterable[int]] = iter
    ) -> np.ndarray:
        """Implements `Scorer.score`; the reward of a reply without a usable answer is NaN.

        Raises:
            BudgetSpent, UserError: as `buy` does.
        """
        import numpy as np

        self.buy(conversations)
        graded = [reply for group in self._grouped(conversations) for reply in self._graded(group)]
        names = [name for name in self.settings.part_names() if any(name in reply.parts for reply in graded)]
        self.parts = {name: np.array([reply.parts.get(name, np.nan) for reply in graded], np.float32) for name in names}
        return np.array([reply.reward for reply in graded], np.float32)

    def take_troubles(self) -> list[str]:
        """Return the reasons of unusable answers since the last call, each with their number, the most frequent first."""
        counted = self.troubles.most_common()
        self.troubles.clear()
        return [f"{with_noun(count, 'answer')} {reason}" for reason, count in counted]

    def _grouped(self, conversations: Sequence[Conversation]) -> Iterator[_Group]:
        """Yield the replies to each prompt with the questions about them."""
        for prompt, group in groupby(conversations, key=lambda conversation: [*conversation[:-1]]):
            replies = [conversation[-1]["content"] for conversation in group]
            distinct = list(dict.fromkeys(replies))
            said = client_text(prompt)
            speaks = self.model.language in (None, sure_language_of(said) if self.model.language else None)
            yield _Group(replies, distinct, self.questions.about(prompt, distinct, len(replies)) if speaks else None)

    def _graded(self, group: _Group) -> list[Graded]:
        """Return the rewards of a group's replies from the answers in the journal."""
        if group.questions is None:
            self.troubles[OTHER_LANGUAGE] += len(group.replies)
            return [_NOTHING] * len(group.replies)
        answered = [(question, self._value(question)) for question in group.questions]
        of_text = dict(zip(group.distinct, self.questions.graded(answered, len(group.distinct)), strict=True))
        return [of_text[reply] for reply in group.replies]

    def _value(self, question: JudgeQuestion) -> Any:
        """Return the value in the journal's answer to a question; None, with a note of the reason, if it is unusable."""
        outcome = self.answers.settled(self.model, question.ask, question.read, self.settings.retries)
        if isinstance(outcome, Outcome) and outcome.outcome == TEXT and outcome.value is not None:
            return outcome.value
        self.troubles[_reason(question, outcome)] += 1
        return None


def _reason(question: JudgeQuestion, outcome: Outcome[Any] | int) -> str:
    if not isinstance(outcome, Outcome):
        return FAILED
    if outcome.outcome == TEXT:
        return REFUSED
    if outcome.outcome != UNPARSABLE:
        return outcome.outcome
    try:
        question.ask.value_in(outcome.answer.text, question.read)
    except ValueError as error:
        return f"unreadable: {error}"
    raise AssertionError("an unreadable answer cannot be read")
