"""Language models rank pairs: each pair is shown in both orders, and no answer is bought twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from psychocounsel.asking.answers import Answers, Outcome
from psychocounsel.asking.budget import Estimate
from psychocounsel.asking.language_model import REFUSED, TEXT, Ask, LanguageModel
from psychocounsel.counsel.language import sure_language_of
from psychocounsel.counsel.risk_rules import read_risk_rules
from psychocounsel.data.rows import Example
from psychocounsel.evaluation.judging.judging import JudgeCall, Judging
from psychocounsel.evaluation.judging.pair_prompt import Verdict, pair_prompt, read_verdict
from psychocounsel.evaluation.judging.verdict_rows import EQUAL, FORWARD, OTHER_MODEL, ReplyPair
from psychocounsel.evaluation.reward.evaluated_pairs import evaluated_pairs
from psychocounsel.evaluation.reward.ranker import Ranker, rankers_of
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.steps.buying import buy
from psychocounsel.steps.context import Bar
from psychocounsel.steps.drafts import draft_of


@dataclass(frozen=True)
class JudgedPairs:
    """What a ranker says of n pairs.

    Attributes:
        orders: float64[n, 2], with the chosen reply shown first, and second: 1 where it is the better one, 0 for a tie, -1
            where the other is, NaN without a verdict.
        outcomes: how many calls ended in which way; `other_model` are answers of a model that the server mostly was not.
        models: the names that the server gave, with the number of its answers. Verdicts of the most frequent one count.
    """

    orders: np.ndarray
    outcomes: dict[str, int]
    models: dict[str, int]

    @property
    def verdicts(self) -> np.ndarray:
        """float64[n], the mean of both orders; NaN where one is missing."""
        return np.asarray(self.orders.mean(1))


def rank_pairs(
    settings: Ranker, key: str, examples: Sequence[Example], folder: Path, limits: Any, bar: Bar
) -> JudgedPairs:
    """Ask about every pair in both orders. The journal in `folder` keeps the answers; `limits` is the section `budget`.

    Raises:
        BudgetSpent: if the budget ends first; what was bought is in the journal.
        UserError: for a wrong key, address or rubric, or if no server is left.
    """
    calls = _calls(settings, examples)
    asks = _asks(calls)
    with closing(Answers(folder)) as answers:
        buy(
            asks,
            answers,
            limits,
            models=[settings.model()],
            key=f"{key}.judge",
            read=read_verdict,
            retries=settings.retries,
            count=len(asks),
            bar=bar,
            what=f"ranking by {settings.name}",
        )
        settled = [_settled(call, answers, settings.retries) for call in calls]
    models = Counter(
        found.answer.model for found in settled if isinstance(found, Outcome) and found.answer.model is not None
    )
    mostly = models.most_common(1)[0][0] if models else None
    counted = [OTHER_MODEL if _is_of_another(found, mostly) else found for found in settled]
    sides = [_side(call, found) for call, found in zip(calls, counted, strict=True)]
    return JudgedPairs(
        np.array(sides, np.float64).reshape(-1, 2), dict(Counter(map(_word, counted))), dict(models.most_common())
    )


def ranking_forecast(config: DictConfig) -> list[str]:
    """Lines of a dry run: what rankers would be asked of what is not bought yet."""
    files = EvaluationDir(Path(config.run_dir))
    files.answers = files.ranker_answers
    examples = evaluated_pairs(config, lambda line: None)
    asks = [ask for _, settings in rankers_of(config) for ask in _asks(_calls(settings, examples))]
    with draft_of(files) as draft, closing(Answers(draft.answers)) as answers:
        return Estimate.of(asks, answers).lines("compare")


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


def mixed_models(name: str, ranking: JudgedPairs) -> list[str]:
    """A warning where the server of a ranker answered as several models, most frequent first."""
    if len(ranking.models) < 2:
        return []
    shares = ", ".join(f"{count:,} as {model}" for model, count in ranking.models.items())
    return [f"warning: the server of {name} gave answers of several models ({shares}): only the first one's count"]


def _calls(settings: Ranker, examples: Sequence[Example]) -> list[JudgeCall]:
    prompt = pair_prompt(settings.rubric, settings.examples)
    judging = Judging([settings.model()], prompt, 0, settings.crisis_to_third_parties)
    return list(judging.calls(map(_pair, examples)))


def _asks(calls: Sequence[JudgeCall]) -> list[tuple[LanguageModel, Ask]]:
    return [(call.judge, call.ask) for call in calls if call.ask is not None]


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


def _is_of_another(found: Outcome[Verdict | None] | str, model: str | None) -> bool:
    return isinstance(found, Outcome) and found.answer.model not in (None, model)


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
