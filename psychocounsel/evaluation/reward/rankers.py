"""Rankers: language models that name the better reply of each pair. Each pair is shown in both orders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from omegaconf import DictConfig, OmegaConf

from psychocounsel.asking.answers import Answers, asks_of
from psychocounsel.asking.budget import Estimate
from psychocounsel.asking.language_model import LanguageModel
from psychocounsel.blocks.kinds import Paragraph
from psychocounsel.counsel.system_prompt import COUNSELLOR, reward_prompt
from psychocounsel.counsel.traits import read_risk_rules, sure_language_of
from psychocounsel.data.messages import client_text
from psychocounsel.data.privacy import paths_of
from psychocounsel.data.rows import Example
from psychocounsel.data.selection import no_pairs, refuse_sessions
from psychocounsel.errors import UserError
from psychocounsel.evaluation.judging.bias import family_in, family_of, labellers_of
from psychocounsel.evaluation.judging.controls import ControlledSpeech, control_pairs, controlled_speeches
from psychocounsel.evaluation.judging.pairs import (
    Judging,
    ReplyPair,
    by_usual_model,
    made_reply,
    pair_prompt,
    read_verdict,
)
from psychocounsel.evaluation.judging.served_models import answered_by
from psychocounsel.evaluation.part import load_evaluated
from psychocounsel.reward.base import RewardSettings, Scorer
from psychocounsel.reward.sections import reward_sections, scorer_sections
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.rundir.run_config import read_config
from psychocounsel.rundir.trained_runs import runs_of
from psychocounsel.settings.schema import option
from psychocounsel.settings.targets import build_section
from psychocounsel.steps.buying import buy
from psychocounsel.steps.course import Bar
from psychocounsel.steps.running import draft_of
from psychocounsel.storage.files import with_noun

if TYPE_CHECKING:
    import torch

# `{use: llm, judge: ...}` in `compare`: settings of a ranker, a language model that names the better reply of a pair.


@dataclass
class Ranker(RewardSettings):
    """Settings of a ranker; `judge` holds the settings of a language model, with the keys of a file in conf/judge."""

    asks: ClassVar[bool] = True

    judge: dict[str, Any] = option({})
    rubric: str = "builtin:en"
    examples: bool = False
    retries: int = option(2, at_least=0)
    crisis_to_third_parties: bool = False

    def open(self, device: torch.device) -> Scorer:
        """Always raise UserError, because a ranker gives no scores."""
        raise UserError(f"reward={self.name}: a language model only ranks pairs; use it in compare=[...] instead")

    def check(self, key: str) -> None:
        if not self.model().reads_prompts:
            raise UserError(f"{key}.judge names no language model; put a reward model into compare=[...] directly")
        self.model().check(f"{key}.judge")

    def receivers(self, key: str) -> list[tuple[str, str]]:
        return self.model().receivers(f"{key}.judge")

    def model(self) -> LanguageModel:
        """Return the language model that ranks."""
        model: LanguageModel = build_section(OmegaConf.create(self.judge), "judge")
        return model


def rankers_of(config: DictConfig) -> Iterator[tuple[str, Ranker]]:
    """Yield each ranker of a checked configuration with its key, such as `compare[0]`."""
    for key, section in scorer_sections(config):
        settings = build_section(section, "reward")
        if isinstance(settings, Ranker):
            yield key, settings


# Warnings about rankers whose accuracy may be biased, because they helped to make the pairs or a reward model.


def ranker_warnings(config: DictConfig, examples: Sequence[Example]) -> Iterator[str]:
    """Yield the warnings about each ranker of a configuration; `examples` are the pairs that it ranks."""
    labellers = {name for path in paths_of(config.data) if path for name in labellers_of(Path(path))}
    writers = [writer for example in examples for writer in example.writers or ()]
    for _, settings in rankers_of(config):
        model, name = settings.model(), f"warning: {settings.name}"
        own, family = {model.name, model.model}, family_of(model)
        kin = sorted(labeller for labeller in labellers if family and family_in(labeller) == family)
        if labellers & own:
            yield f"{name} labelled these pairs: its accuracy only measures agreement with itself"
        elif kin:
            yield f"{name} and {kin[0]}, which labelled these pairs, belong to one model family ({family}): they may share errors"
        for reward, annotators in _labellers_of_training(config).items():
            if annotators & own:
                yield f"{name} labelled the training data of {reward}, which learned to agree with it"
        share = sum(family_in(writer) == family for writer in writers) / len(writers) if writers and family else 0
        if share:
            yield (
                f"{name} belongs to the model family ({family}) that wrote {share:.0%} of these replies: models tend to prefer "
                "their own family"
            )


def _labellers_of_training(config: DictConfig) -> dict[str, set[str]]:
    """Return the annotators of the training data of each reward model that lies in a run, by the model's name."""
    annotators: dict[str, set[str]] = {}
    for _, section in reward_sections(config):
        for run in runs_of(section.get("path")):
            for path in paths_of(read_config(run).data):
                annotators.setdefault(section.name, set()).update(labellers_of(Path(path)) if path else ())
    return annotators


# The pairs on which `evaluation=reward` measures reward models.


def evaluated_pairs(config: DictConfig, say: Callable[[str], None]) -> list[Example]:
    """Return the pairs that the keys `part` and `limit` select.

    Raises:
        UserError: if the selection is empty or contains rows without two replies.
    """
    rows = load_evaluated(config, say)
    say(rows.part.line(config, len(rows.used), len(rows.whole), "pairs"))
    examples = rows.used[: config.limit]
    if not examples or any(len(example.replies) < 2 for example in examples):
        raise no_pairs("evaluate")
    refuse_sessions(examples, "evaluation=reward")
    return examples


def evaluated_controls(config: DictConfig, examples: Sequence[Example]) -> list[ControlledSpeech]:
    """Return the controls of `evaluation.controls` speeches of the evaluated pairs."""
    path, given = config.reward.get("path"), config.reward.get("system_prompt")
    prompt = reward_prompt(given, path, "reward.system_prompt") if path else None
    return controlled_speeches(examples, prompt or COUNSELLOR, config.evaluation.controls)


# Ranking of pairs by language models. Each pair is shown in both orders, and no answer is bought twice.


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
    judging = _judging(settings)
    calls = [*judging.calls(map(_pair, examples))]
    asks = [*asks_of(calls)]
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
        rows = [judging.row(call, answers, settings.retries) for call in calls]
    models = answered_by(rows)
    rows = [by_usual_model(row, models) for row in rows]
    orders = np.array([row["overall"] for row in rows], np.float64).reshape(-1, 2)  # None becomes NaN
    names = models.get(settings.model().name, Counter())
    return JudgedPairs(orders, dict(Counter(row["outcome"] for row in rows)), dict(names.most_common()))


def ranking_forecast(config: DictConfig) -> list[str]:
    """Return the lines of a dry run: an estimate of the questions to rankers that are not answered yet."""
    files = EvaluationDir(Path(config.run_dir))
    files.answers = files.ranker_answers
    examples = evaluated_pairs(config, lambda line: None)
    pairs = [*examples, *control_pairs(evaluated_controls(config, examples))]
    asks = [ask for _, settings in rankers_of(config) for ask in asks_of(_judging(settings).calls(map(_pair, pairs)))]
    with draft_of(files) as draft, closing(Answers(draft.answers)) as answers:
        return Estimate.of(asks, answers).lines("compare")


def consistency(name: str, ranking: JudgedPairs) -> list[Paragraph]:
    """Return a sentence on how often a ranker gives the same verdict in both orders; [] if it judged no pair."""
    both = ranking.orders[~np.isnan(ranking.verdicts)]
    if not len(both):
        return []
    same = float((both[:, 0] == both[:, 1]).mean())
    text = f"{name}: the same verdict in both orders on {same:.1%} of {with_noun(len(both), 'pair')}; it has no probabilities"
    return [Paragraph(text)]


def _judging(settings: Ranker) -> Judging:
    prompt = pair_prompt(settings.rubric, settings.examples)
    return Judging([settings.model()], prompt, 0, settings.crisis_to_third_parties)


def _pair(example: Example) -> ReplyPair:
    """Return a pair with the chosen reply as `first`; nothing in the judge's prompt reveals the chosen reply."""
    speech = client_text(example.prompt)
    crisis = read_risk_rules().of(speech, example.risk).crisis
    chosen, rejected = (made_reply("", reply) for reply in example.replies[:2])
    return ReplyPair(
        {"speech": example.id, "messages": example.prompt, "language": sure_language_of(speech), "crisis": crisis},
        chosen,
        rejected,
    )
