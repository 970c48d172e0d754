"""Ranking of pairs by language models. Each pair is shown in both orders, and no answer is bought twice."""

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
    """Verdicts of a ranker on n pairs.

    Attributes:
        orders: verdicts with the chosen reply shown first, and shown second, float64[n, 2]: 1 if the chosen reply is better,
            0 for a tie, -1 if the rejected reply is better, NaN without a verdict.
        outcomes: number of calls by outcome. `other_model` counts answers of a model other than the most frequent one.
        models: number of answers by the model name that the server gave. Only verdicts of the most frequent model count.
    """

    orders: np.ndarray
    outcomes: dict[str, int]
    models: dict[str, int]

    @property
    def verdicts(self) -> np.ndarray:
        """Mean verdict of both orders, float64[n]; NaN if either verdict is missing."""
        return np.asarray(self.orders.mean(1))


def rank_pairs(
    settings: Ranker, key: str, examples: Sequence[Example], folder: Path, limits: Any, bar: Bar
) -> JudgedPairs:
    """Ask a ranker about every pair in both orders and return its verdicts.

    The journal in `folder` keeps the answers; `limits` is the section `budget`.

    Raises:
        BudgetSpent: if the budget ends before all answers are bought; the journal keeps the bought ones.
        UserError: if a key, an address or the rubric is wrong, or no server answers any more.
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
    """Return the lines of a dry run: an estimate of the questions to rankers that are not answered yet."""
    files = EvaluationDir(Path(config.run_dir))
    files.answers = files.ranker_answers
    examples = evaluated_pairs(config, lambda line: None)
    asks = [ask for _, settings in rankers_of(config) for ask in _asks(_calls(settings, examples))]
    with draft_of(files) as draft, closing(Answers(draft.answers)) as answers:
        return Estimate.of(asks, answers).lines("compare")


def say_ranking(name: str, ranking: JudgedPairs, say: Callable[[str], None]) -> None:
    """Print how consistent a ranker is, and how many of its calls gave no verdict."""
    both = ranking.orders[~np.isnan(ranking.verdicts)]
    if len(both):
        same = float((both[:, 0] == both[:, 1]).mean())
        say(f"{name}: the same verdict in both orders on {same:.1%} of {len(both)} pairs; it has no probabilities")
    odd = {outcome: count for outcome, count in ranking.outcomes.items() if outcome not in (TEXT, EQUAL)}
    if odd:
        said = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(odd.items()))
        say(f"{name}: calls without a verdict: {said}; these pairs are excluded for all models")


def mixed_models(name: str, ranking: JudgedPairs) -> list[str]:
    """Return a warning if the server of a ranker answered as several models, the most frequent model first; else []."""
    if len(ranking.models) < 2:
        return []
    shares = ", ".join(f"{count:,} as {model}" for model, count in ranking.models.items())
    return [f"warning: the server of {name} gave answers of several models ({shares}): only answers of the first count"]


def _calls(settings: Ranker, examples: Sequence[Example]) -> list[JudgeCall]:
    prompt = pair_prompt(settings.rubric, settings.examples)
    judging = Judging([settings.model()], prompt, 0, settings.crisis_to_third_parties)
    return list(judging.calls(map(_pair, examples)))


def _asks(calls: Sequence[JudgeCall]) -> list[tuple[LanguageModel, Ask]]:
    return [(call.judge, call.ask) for call in calls if call.ask is not None]


def _pair(example: Example) -> ReplyPair:
    """Return a pair with the chosen reply as `first`; nothing in the judge's prompt reveals the chosen reply."""
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
    """Return the outcome of a call in one word; a text without a verdict counts as a refusal."""
    if isinstance(found, str):
        return found
    return REFUSED if found.outcome == TEXT and found.value is None else found.outcome


def _side(call: JudgeCall, found: Outcome[Verdict | None] | str) -> float:
    """Return 1 if the chosen reply is better, -1 if the rejected one is, 0 for a tie, NaN without a verdict."""
    if isinstance(found, str):
        return 0.0 if found == EQUAL else float("nan")
    if found.outcome != TEXT or found.value is None:
        return float("nan")
    return float(found.value.overall if call.order == FORWARD else -found.value.overall)
