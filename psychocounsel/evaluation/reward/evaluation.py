"""The work of `evaluation=reward`: score both replies of each pair, compute the figures, and write them to files."""

import gc
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from psychocounsel.blocks.cells import Titled
from psychocounsel.blocks.conclusions import recorded
from psychocounsel.data.messages import Message
from psychocounsel.data.rows import Example
from psychocounsel.data.shared_text import components_of, normalised
from psychocounsel.distributed.world import World
from psychocounsel.errors import UserError
from psychocounsel.evaluation.audit.reading import reward_margins
from psychocounsel.evaluation.judging.controls import (
    OVERLAP,
    ControlFigures,
    control_conversations,
    control_pairs,
    overlap_figures,
    ranked_figures,
    scored_figures,
    worst_control,
)
from psychocounsel.evaluation.judging.served_models import MOST_FREQUENT, mixed_models
from psychocounsel.evaluation.reward.comparison import (
    Ground,
    baseline_figures,
    ground_of,
    principle_reading_of,
    reading_of,
    side_by_side,
)
from psychocounsel.evaluation.reward.figures import (
    flipped_figures,
    pair_slices,
    reliability,
    reward_figures,
    risk_coverage_curve,
)
from psychocounsel.evaluation.reward.principles import principle_figures
from psychocounsel.evaluation.reward.rankers import (
    JudgedPairs,
    Ranker,
    consistency,
    evaluated_controls,
    evaluated_pairs,
    rank_pairs,
    ranker_warnings,
    rankers_of,
)
from psychocounsel.evaluation.reward.show import RewardFigures, reward_blocks, reward_conclusions
from psychocounsel.evaluation.showing import show_result
from psychocounsel.metrics.rewards import accuracy, reward_statistics
from psychocounsel.reward.base import Scorer, open_scorer
from psychocounsel.reward.encoding import score_heads_that_fit
from psychocounsel.reward.local_model import format_lines
from psychocounsel.reward.sections import reward_sections, scorer_sections
from psychocounsel.rundir.paths import RunDir
from psychocounsel.rundir.results import FINISHED, write_summary
from psychocounsel.rundir.trained_runs import MEASURED, progress_of_models, unfinished_models
from psychocounsel.settings.targets import build_section
from psychocounsel.steps.course import Bar, Say
from psychocounsel.storage.files import write_atomically, write_json

# Rewards of the pairs of an evaluation. One model is loaded at a time, and every rank scores its share of the pairs.


@dataclass(frozen=True)
class PairScores:
    """Rewards of n pairs by one model; NaN for a reply that is too long for the model.

    Attributes:
        name: the model's name.
        given: rewards as the scorer returns them (possibly normalised), chosen reply first, float32[n, 2].
        raw: the same without normalisation, float32[n, 2].
        reading: margins with the client's own speech, another client's and none, float[n] each, as
            `audit.reading.reward_margins` returns them; None if they are not computed.
        principles: scores of a model with a score for each principle, by its name, float32[n, 2]; None for others.
        principle_reading: as `reading`, for the scores of the principles, float[n, 7] each; None for others.
    """

    name: str
    given: np.ndarray
    raw: np.ndarray
    reading: dict[str, np.ndarray] | None = None
    principles: Mapping[str, np.ndarray] | None = None
    principle_reading: dict[str, np.ndarray] | None = None

    @property
    def margins(self) -> np.ndarray:
        """Unnormalised margins r_chosen - r_rejected, float64[n]."""
        return self.raw[:, 0].astype(np.float64) - self.raw[:, 1]


def free_memory(world: World) -> None:
    """Free the memory of a deleted scorer, so that the next scorer has room."""
    gc.collect()
    if world.device.type == "cuda":
        import torch

        torch.cuda.empty_cache()


def pair_conversations(examples: Sequence[Example]) -> list[list[Message]]:
    """Return two conversations for each pair: with the chosen reply, then with the rejected one."""
    return [
        [*example.prompt, {"role": "assistant", "content": reply}]
        for example in examples
        for reply in example.replies[:2]
    ]


def score_shared(
    scorer: Scorer,
    conversations: Sequence[list[Message]],
    world: World,
    bar: Bar,
    title: str,
) -> np.ndarray:
    """Return the rewards of all conversations and the scores of the scorer's heads, float32[n, 1 + heads], on every rank.

    Each rank scores its share; `bar` shows progress. Conversations 2k and 2k + 1 are scored on one rank because those of
    `pair_conversations` share their prompt. A conversation that is too long for the model gets NaN.
    """
    ranks = np.arange(len(conversations)) // 2 % world.size  # the rank that scores each conversation
    own = [conversations[row] for row in np.flatnonzero(ranks == world.rank)]

    def progress(steps: range) -> Iterable[int]:
        return bar(steps, title)

    share = score_heads_that_fit(scorer, own, progress)
    scores = np.empty((len(conversations), share.shape[1]), np.float32)
    for rank, part in enumerate(world.gather(share)):
        scores[ranks == rank] = part
    return scores


# The work from pairs to files.


def evaluate_reward(config: DictConfig, folder: Path, world: World, say: Say, bar: Bar) -> None:
    """Write figures and scores to `folder` and print the tables. Every rank scores its share; `bar` shows progress.

    `summary.json` holds the figures, `reliability.json` the reliability diagrams and risk-coverage curves, and
    `scores.jsonl` the rewards of each pair. With `compare`, other reward models score the same pairs, and language models
    rank them. Pairs that are too long for `reward` are left out, and a warning counts them.

    Raises:
        BudgetSpent: if `budget` ends before language models have ranked all pairs; their answers are kept.
        UserError: if there are no pairs, a model cannot score them, or every pair is too long.
    """
    examples = evaluated_pairs(config, say)
    for line in format_lines(build_section(section, "reward") for _, section in reward_sections(config)):
        say(line)
    ground = ground_of(examples, config.evaluation.baselines, say)
    controlled = evaluated_controls(config, examples)
    conversations, controls = control_conversations(controlled), dict[str, ControlFigures]()
    scores, doubts = [], list[str]()
    for key, section in scorer_sections(config):
        settings = build_section(section, "reward")
        if isinstance(settings, Ranker):
            continue
        scorer = open_scorer(settings, world.device)
        own = score_shared(scorer, pair_conversations(examples), world, bar, f"scoring by {section.name}")
        fits = ~np.isnan(own[:, 0]).reshape(-1, 2).any(1)
        if key == "reward" and not fits.all():
            doubts.append(
                f"{(~fits).sum()} of {len(fits)} pairs are left out, because they are too long for {section.name} "
                "(reward.max_length)"
            )
            say(f"warning: {doubts[0]}")
            if not fits.any():
                raise UserError("every pair is too long for the reward model: raise reward.max_length")
            examples, own = [examples[row] for row in np.flatnonzero(fits)], own[np.repeat(fits, 2)]
            ground = ground_of(examples, config.evaluation.baselines, lambda line: None)
        scores.append(_score(section.name, scorer, own, ground, world, bar))
        rewards = score_shared(scorer, conversations, world, bar, f"controls, by {section.name}")
        controls[section.name] = scored_figures(controlled, rewards[:, 0].tolist())
        del scorer  # one model is in memory at a time
        free_memory(world)
    # Paid models are asked last, after everything else has worked.
    rankings = {
        ranker.name: _rank(config, ranker, key, examples, folder, world, bar) for key, ranker in rankers_of(config)
    }
    pairs = control_pairs(controlled)
    for key, ranker in rankers_of(config):
        ranking = _rank(config, ranker, key, pairs, folder, world, bar)
        controls[ranker.name] = ranked_figures(controlled, ranking.verdicts.tolist())
    if world.rank:
        return
    folder.mkdir(parents=True, exist_ok=True)
    figures = _figures(config, examples, ground, scores, rankings)
    if progress := progress_of_models(section.get("path") for _, section in reward_sections(config)):
        figures[MEASURED] = progress
    for line in (partial := unfinished_models(progress)):
        say(f"warning: {line}")
    if doubts := [*partial, *doubts]:
        figures["doubts"] = doubts
    if controlled:
        figures["controls"] = {**controls, OVERLAP: overlap_figures(controlled)}
        figures["metrics"] |= worst_control(controls[config.reward.name])
    curves = _curves(scores)
    measured = RewardFigures(config.reward.name, figures, curves)
    conclusions = reward_conclusions(measured)
    figures["verdicts"] = recorded(conclusions)
    _write(folder, examples, scores, rankings, figures, curves)
    consistencies = [block for name, ranking in rankings.items() for block in consistency(name, ranking)]
    show_result(config, folder, say, conclusions, [*reward_blocks([Titled("", measured)]), *consistencies])
    say(f"written to {folder}")


def _score(
    name: str,
    scorer: Scorer,
    scores: np.ndarray,
    ground: Ground | None,
    world: World,
    bar: Bar,
) -> PairScores:
    """Return the rewards of the pairs. With `ground`, the result includes their margins after the speech of another client.

    `scores`: those of `score_shared` for `pair_conversations`.
    """
    principles = {head: scores[:, column].reshape(-1, 2) for column, head in enumerate(scorer.heads, 1)}
    reading, by_principle = None, None
    if ground is not None:
        score = partial(score_shared, scorer, world=world, bar=bar, title=f"other speeches, by {name}")
        margins = reward_margins(ground.pairs, ground.other, score)
        reading = {condition: values[:, 0] for condition, values in margins.items()}
        if scorer.heads:
            by_principle = {condition: values[:, 1:] for condition, values in margins.items()}
    rewards = scores[:, 0].reshape(-1, 2)
    # All figures use unnormalised rewards, even if scores.jsonl holds normalised ones.
    return PairScores(name, rewards, scorer.unnormalised(rewards), reading, principles or None, by_principle)


def _rank(
    config: DictConfig,
    settings: Ranker,
    key: str,
    examples: Sequence[Example],
    folder: Path,
    world: World,
    bar: Bar,
) -> JudgedPairs:
    """Return a language model's verdicts on the pairs; rank 0 asks the model and sends the verdicts to all ranks.

    Raises:
        BudgetSpent, UserError: on every rank, if `rank_pairs` raises them on rank 0.
    """
    journal = RunDir(folder).ranker_answers

    def verdicts_or_error() -> JudgedPairs | UserError:
        try:
            return rank_pairs(settings, key, examples, journal, config.budget, bar)
        except UserError as error:
            return error

    result: JudgedPairs | UserError = world.from_main(verdicts_or_error, lambda: None)
    if isinstance(result, UserError):
        raise result
    return result


def _figures(
    config: DictConfig,
    examples: Sequence[Example],
    ground: Ground | None,
    scores: Sequence[PairScores],
    rankings: Mapping[str, JudgedPairs],
) -> dict[str, Any]:
    """Return the content of `summary.json`; `metrics` and `slices` describe `reward`, the first model in `scores`."""
    first, component = scores[0], components_of(examples)
    longer = accuracy(np.array([len(example.replies[0]) - len(example.replies[1]) for example in examples]))
    metrics = {
        **{"pairs": len(examples), "prompts": len({normalised(example.prompt) for example in examples})},
        **reward_figures([example.id for example in examples], first.margins, component),
        **reward_statistics(list(first.raw)),
        **flipped_figures(examples, first.margins),
        "longer_reply_accuracy": longer,
    }
    figures: dict[str, Any] = {"metrics": metrics}
    figures["slices"] = pair_slices(examples, first.margins, component, config.data.rating_range)
    if first.principles and (
        of := principle_figures(examples, first.principles, component, config.data.rating_range[1])
    ):
        figures["principles"] = of
    if ground is not None:
        figures["baselines"] = baseline_figures(ground)
        figures["reading"] = {model.name: reading_of(ground, model.reading) for model in scores if model.reading}
        figures["principle_reading"] = {
            model.name: principle_reading_of(ground, examples, model.principle_reading)
            for model in scores
            if model.principle_reading
        }
    if len(scores) > 1 or rankings:
        margins = {model.name: model.margins for model in scores}
        verdicts = {name: ranking.verdicts for name, ranking in rankings.items()}
        figures["compare"] = side_by_side(examples, margins, component, verdicts)
        for name, ranking in rankings.items():
            figures["compare"]["models"][name] |= {"outcomes": ranking.outcomes, "answered_by": ranking.models}
        mixed = mixed_models({name: ranking.models for name, ranking in rankings.items()}, MOST_FREQUENT)
        figures["compare"]["warnings"] = [
            *ranker_warnings(config, examples),
            *(f"warning: {line}" for line in mixed),
        ]
    return figures


def _curves(scores: Sequence[PairScores]) -> dict[str, Any]:
    """Return the content of reliability.json: reliability diagrams and risk-coverage curve of each model."""
    curves = {}
    for model in scores:
        margins = model.margins[~np.isnan(model.margins)]
        if len(margins):
            curves[model.name] = {**reliability(margins), "risk_coverage": risk_coverage_curve(margins)}
    return curves


def _write(
    folder: Path,
    examples: Sequence[Example],
    scores: Sequence[PairScores],
    rankings: Mapping[str, JudgedPairs],
    figures: dict[str, Any],
    curves: dict[str, Any],
) -> None:
    """Write scores.jsonl, reliability.json and summary.json.

    In scores.jsonl, `chosen` and `rejected` are rewards; with several models, they are mappings from model name to reward.
    `verdicts` holds two verdicts by ranker: with the chosen reply shown first, then with it shown second.
    """
    rows: list[dict[str, Any]] = []
    for index, example in enumerate(examples):
        sides = [{model.name: _number(model.given[index, side]) for model in scores} for side in (0, 1)]
        chosen, rejected = sides if len(scores) > 1 else [next(iter(side.values())) for side in sides]
        rows.append({"id": example.id, "chosen": chosen, "rejected": rejected})
        if rankings:
            orders = {
                name: [_number(verdict) for verdict in ranking.orders[index]] for name, ranking in rankings.items()
            }
            rows[-1]["verdicts"] = orders
    files = RunDir(folder)
    write_atomically(files.scores, "".join(json.dumps(row) + "\n" for row in rows))
    write_json(files.reliability, curves)
    write_summary(folder, FINISHED, **figures)


def _number(value: float) -> float | None:
    """Return the value as a float; None for NaN (a reply too long to score, or a missing verdict)."""
    return None if np.isnan(value) else float(value)
