"""A reward model against pairs: score both replies of each, compute the figures, write them down."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from psychocounsel.data.rows import Example
from psychocounsel.data.selection.select import load_split
from psychocounsel.data.selection.shared_text import components_of, normalised
from psychocounsel.data.tokenise import with_system_prompt
from psychocounsel.distributed.world import World
from psychocounsel.errors import UserError
from psychocounsel.evaluation.counterfactuals.measuring import (
    figures_and_rows,
    make_counterfactuals,
    say_counterfactuals,
    score_counterfactuals,
)
from psychocounsel.evaluation.reward.flipped import flipped_figures, say_flipped
from psychocounsel.metrics.reward_metrics import accuracy, pair_metrics, reward_statistics
from psychocounsel.reward.base import Scorer, open_scorer
from psychocounsel.rundir.paths import RunDir
from psychocounsel.rundir.summary import FINISHED, write_summary
from psychocounsel.settings import config as configs
from psychocounsel.storage.files import write_atomically

_NAMES = {"accuracy": "accuracy", "auc": "AUC", "ece": "ECE (10 bins)", "brier": "Brier score"}


def evaluate_reward(
    config: DictConfig,
    folder: Path,
    world: World,
    say: Callable[[str], None],
    bar: Callable[[range, str], Iterable[int]],
) -> None:
    """Write `summary.json` and `scores.jsonl` to `folder` and say the table; every rank scores its share, and shows it by `bar`.

    With `counterfactuals.limit` the replies of so many pairs are changed and scored, too.

    Raises:
        UserError: if there are no pairs, or the model cannot score them.
    """
    examples = _pairs(config, say)
    scorer = open_scorer(configs.build(config, "reward"), world.device)
    scores = _score_pairs(examples, config.data.system_prompt, scorer, world, bar)
    made = make_counterfactuals(config, examples, folder, world, bar) if config.counterfactuals.limit else []
    changed = score_counterfactuals(made, examples, config.data.system_prompt, scorer, world, bar)
    if world.rank:
        return
    prompts = [normalised(example.prompt) for example in examples]
    # Figures are of unnormalised rewards, whatever scores.jsonl is to hold.
    raw = scorer.unnormalised(scores)
    clusters = components_of(examples).tolist()
    metrics = pair_metrics(raw[:, 0].tolist(), raw[:, 1].tolist(), clusters) | reward_statistics(list(raw))
    flipped = flipped_figures(examples, raw[:, 0] - raw[:, 1])
    longer = accuracy(np.array([len(example.replies[0]) - len(example.replies[1]) for example in examples]))
    counts = {"pairs": len(examples), "prompts": len(set(prompts))}
    folder.mkdir(parents=True, exist_ok=True)
    more = {}
    if made:
        more["counterfactuals"] = figures_and_rows(
            config.counterfactuals, made, scorer.unnormalised(changed), raw, examples, folder
        )
    _write(folder, examples, scores, {**counts, **metrics, **flipped, "longer_reply_accuracy": longer}, more)
    say(
        f"\nreward={config.reward.name} on {counts['pairs']} pairs of {counts['prompts']} prompts, data={config.data.name}"
    )
    _say_figures(metrics, longer, say)
    say_flipped(flipped, say)
    if made:
        say_counterfactuals(more["counterfactuals"], say)
    say(f"written to {folder}")


def _pairs(config: DictConfig, say: Callable[[str], None]) -> list[Example]:
    """The pairs that `part` and `limit` select."""
    train, held_out = load_split(config.data, say)
    examples = [*train, *held_out] if config.part == "all" else held_out
    examples = examples[: config.limit]
    if not examples or any(len(example.replies) < 2 for example in examples):
        raise UserError(
            "there are no pairs to evaluate: data need chosen and rejected, and part=held_out a held-out part"
        )
    return examples


def _score_pairs(
    examples: list[Example],
    system_prompt: str | None,
    scorer: Scorer,
    world: World,
    bar: Callable[[range, str], Iterable[int]],
) -> np.ndarray:
    """float32[pairs, 2] rewards of chosen and rejected replies, on every rank, each of which scores its share."""
    conversations = [
        [*with_system_prompt(example.prompt, system_prompt), {"role": "assistant", "content": reply}]
        for example in examples[world.rank :: world.size]
        for reply in example.replies[:2]
    ]
    scores = np.empty((len(examples), 2), np.float32)
    shares = world.gather(scorer.score(conversations, lambda steps: bar(steps, "scoring")).reshape(-1, 2))
    for rank, share in enumerate(shares):
        scores[rank :: world.size] = share
    return scores


def _say_figures(metrics: dict[str, float], longer: float, say: Callable[[str], None]) -> None:
    """`longer`: the accuracy of choosing the longer reply."""
    for name, title in _NAMES.items():
        low, high = metrics[f"{name}_low"], metrics[f"{name}_high"]
        say(
            f"{title:<22}{metrics[name]:>7.3f}   95 % interval, by prompts that share no reply: {low:.3f} to {high:.3f}"
        )
    say(f"{'the longer reply wins':<22}{longer:>7.3f}   what length alone would give")


def _write(
    folder: Path, examples: list[Example], scores: np.ndarray, metrics: dict[str, float], more: dict[str, Any]
) -> None:
    rows = [
        {"id": example.id, "chosen": float(pair[0]), "rejected": float(pair[1])}
        for example, pair in zip(examples, scores, strict=True)
    ]
    write_atomically(RunDir(folder).scores, "".join(json.dumps(row) + "\n" for row in rows))
    write_summary(folder, FINISHED, metrics=metrics, **more)
