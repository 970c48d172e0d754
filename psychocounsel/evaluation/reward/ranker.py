"""`{use: llm, judge: ...}` in `compare`: a language model that says of each pair which reply is better, in both orders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import OmegaConf

from psychocounsel.asking.answers import Answers, Outcome
from psychocounsel.asking.asker import ask_all
from psychocounsel.asking.budget import Budget
from psychocounsel.asking.language_model import REFUSED, TEXT, LanguageModel
from psychocounsel.counsel.language import sure_language_of
from psychocounsel.counsel.risk_rules import read_risk_rules
from psychocounsel.data.rows import Example
from psychocounsel.errors import UserError
from psychocounsel.evaluation.judging.judging import JudgeCall, Judging
from psychocounsel.evaluation.judging.pair_prompt import Verdict, pair_prompt, read_verdict
from psychocounsel.evaluation.judging.verdict_rows import EQUAL, FORWARD, ReplyPair
from psychocounsel.reward.base import RewardSettings, Scorer
from psychocounsel.settings.schema import option
from psychocounsel.settings.targets import build_section

if TYPE_CHECKING:
    import torch

Bar = Callable[[range, str], Iterable[int]]


@dataclass
class Ranker(RewardSettings):
    """`judge` holds the settings of a language model, as files of conf/judge do."""

    judge: dict[str, Any] = option({})
    rubric: str = "builtin:en"
    examples: bool = False
    retries: int = option(2, at_least=0)
    crisis_to_third_parties: bool = False

    def open(self, device: torch.device) -> Scorer:
        """Raises UserError: there is no scorer."""
        raise UserError(f"reward={self.name}: a language model ranks pairs, so it can stand in compare=[...] alone")

    def check(self, key: str) -> None:
        if not self.model().reads_prompts:
            raise UserError(f"{key}.judge: is no language model; name a reward model in compare=[...] itself")
        self.model().check(f"{key}.judge")

    def receivers(self, key: str) -> list[tuple[str, str]]:
        return self.model().receivers(f"{key}.judge")

    def model(self) -> LanguageModel:
        """The language model that is asked."""
        found: LanguageModel = build_section(OmegaConf.create(self.judge), "judge")
        return found


@dataclass(frozen=True)
class JudgedPairs:
    """What a ranker says of n pairs.

    Attributes:
        orders: float64[n, 2], with the chosen reply shown first, and second: 1 where it is the better one, 0 for a tie, -1
            where the other is, NaN without a verdict.
        outcomes: how many calls ended in which way.
        models: the names that the server gave, with the number of its answers.
    """

    orders: np.ndarray
    outcomes: dict[str, int]
    models: dict[str, int]

    @property
    def verdicts(self) -> np.ndarray:
        """float64[n], the mean of both orders; NaN where one is missing."""
        return np.asarray(self.orders.mean(1))


def rank_pairs(settings: Ranker, key: str, examples: Sequence[Example], answers: Path, bar: Bar) -> JudgedPairs:
    """Ask about every pair in both orders. Answers are kept in the folder `answers`, and none is bought twice.

    Raises:
        UserError: for a wrong key, address or rubric, or if no server is left.
    """
    model = settings.model()
    prompt = pair_prompt(settings.rubric, settings.examples)
    judging = Judging([model], prompt, 0, settings.crisis_to_third_parties)
    calls = list(judging.calls(map(_pair, examples)))
    asks = [(call.judge, call.ask) for call in calls if call.ask is not None]
    with closing(Answers(answers)) as kept:
        came = ask_all(
            asks, kept, Budget(), read=read_verdict, models=[model], key=f"{key}.judge", retries=settings.retries
        )
        with closing(came):
            for _ in bar(range(len(asks)), f"ranking by {settings.name}"):
                next(came, None)
        settled = [_settled(call, kept, settings.retries) for call in calls]
    sides = [_side(call, found) for call, found in zip(calls, settled, strict=True)]
    answered = [found for found in settled if isinstance(found, Outcome)]
    return JudgedPairs(
        np.array(sides, np.float64).reshape(-1, 2),
        dict(Counter(map(_word, settled))),
        dict(Counter(found.answer.model for found in answered if found.answer.model)),
    )


def say_ranking(name: str, ranking: JudgedPairs, say: Callable[[str], None]) -> None:
    """How consistent it is, and what it gave no verdict on."""
    both = ranking.orders[~np.isnan(ranking.verdicts)]
    if len(both):
        same = float((both[:, 0] == both[:, 1]).mean())
        say(f"{name}: the same verdict in both orders on {same:.1%} of {len(both)} pairs; it has no probabilities")
    odd = {outcome: count for outcome, count in ranking.outcomes.items() if outcome not in (TEXT, EQUAL)}
    if odd:
        said = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(odd.items()))
        say(f"{name}: no verdict from {said}; these pairs count for no model")
    if len(ranking.models) > 1:
        say(f"warning: {name} answered as several models: {', '.join(sorted(ranking.models))}; its figures mix them")


def _pair(example: Example) -> ReplyPair:
    """The chosen reply is the first; no name tells the judge which that is."""
    speech = "\n".join(message["content"] for message in example.prompt if message["role"] == "user")
    crisis = read_risk_rules().of(speech, example.risk).crisis
    chosen, rejected = ({"text": reply} for reply in example.replies[:2])
    return ReplyPair(
        {"speech": example.id, "messages": example.prompt, "language": sure_language_of(speech), "crisis": crisis},
        chosen,
        rejected,
    )


def _settled(call: JudgeCall, answers: Answers, retries: int) -> Outcome[Verdict | None] | str:
    if call.ask is None:
        return str(call.outcome)
    found: Outcome[Verdict | None] | int = answers.settled(call.judge, call.ask, read_verdict, retries)
    return found if isinstance(found, Outcome) else "failed"


def _word(found: Outcome[Verdict | None] | str) -> str:
    """What became of a call; a text without a verdict is a refusal in prose."""
    if isinstance(found, str):
        return found
    return REFUSED if found.outcome == TEXT and found.value is None else found.outcome


def _side(call: JudgeCall, found: Outcome[Verdict | None] | str) -> float:
    """1 where the chosen reply is better, -1 where the other is, 0 for a tie, NaN without a verdict."""
    if isinstance(found, str):
        return 0.0 if found == EQUAL else float("nan")
    if found.outcome != TEXT or found.value is None:
        return float("nan")
    return float(found.value.overall if call.order == FORWARD else -found.value.overall)
