"""Counterfactuals within a reward evaluation: they are made, scored by all ranks, measured and written."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from omegaconf import DictConfig

from psychocounsel.data.control_tokens import may_forge_turns
from psychocounsel.data.rows import Example
from psychocounsel.data.shared_text import components_of
from psychocounsel.distributed.world import World
from psychocounsel.errors import UserError
from psychocounsel.evaluation.counterfactuals.making import Counterfactual, by_model, by_rules, spread, wanted
from psychocounsel.evaluation.counterfactuals.rules import KINDS
from psychocounsel.metrics.intervals import mean_interval, numbered
from psychocounsel.metrics.rewards import wins
from psychocounsel.reward.base import Scorer
from psychocounsel.reward.encoding import score_what_fits
from psychocounsel.rundir.paths import RunDir
from psychocounsel.steps.course import Bar
from psychocounsel.storage.files import write_atomically

# Figures of counterfactuals: a scorer should notice changes of content and ignore changes of style.
#
# With r the scorer's reward, on the model's own scale:
#     sensitivity   share of content changes with r(original) > r(changed); ties count half; 1 is best, 0.5 is chance
#     change        mean of |r(changed) - r(original)| over style changes,
#                   in units of the median |r_chosen - r_rejected|
#     shift         mean of r(changed) - r(original) in the same units; positive if the scorer likes the change
#     flips         share of style changes that reverse the order of the pair's two rewards
# These definitions are ours.

Figures = dict[str, Any]


def counterfactual_figures(
    made: Sequence[Counterfactual], changed: np.ndarray, scores: np.ndarray, clients: Sequence[Hashable]
) -> Figures:
    """Return sensitivity by principle and by kind of content change; change, shift and flips by kind of style change.

    `changed`: rewards of the changed replies, float[made]; NaN marks a reply that is too long for the scorer and is
    skipped. `scores`: rewards of the chosen and the rejected reply of all pairs, float[pairs, 2]. `clients`: client of each
    pair; intervals are over clients. Figures in units of the median gap are None if the median gap is 0.
    """
    scored = [index for index in range(len(made)) if not np.isnan(changed[index])]
    unit = float(np.median(np.abs(scores[:, 0] - scores[:, 1])))
    by_principle, by_kind = defaultdict[str, list[int]](list), defaultdict[str, list[int]](list)
    for index in scored:
        by_kind[made[index].kind.name].append(index)
        if made[index].kind.prefers_original:
            by_principle[made[index].kind.principle].append(index)
    style = [index for index in scored if not made[index].kind.prefers_original]
    original = np.array([scores[edit.pair, edit.side] for edit in made])
    gains = wins(original - changed)
    clusters = [clients[edit.pair] for edit in made]
    flips = np.array([_flips(edit, reward, scores) for edit, reward in zip(made, changed, strict=True)])
    moved = (changed - original) / unit if unit else None

    def looks(rows: list[int]) -> Figures:
        of_flips = _mean("flips", flips, rows, clusters, share=True)
        if moved is None:
            return {"count": len(rows), "change": None, "shift": None, **of_flips}
        shift = float(moved[rows].mean())
        return {"count": len(rows), **_mean("change", np.abs(moved), rows, clusters), "shift": shift, **of_flips}

    kinds = {name: rows for name, rows in by_kind.items() if made[rows[0]].kind.prefers_original}
    return {
        "median_gap": unit,
        "left_out": len(made) - len(scored),
        "sensitivity": {
            name: {"count": len(rows), **_mean("value", gains, rows, clusters, share=True)}
            for name, rows in by_principle.items()
        },
        "kinds": {name: {"count": len(rows), "sensitivity": float(gains[rows].mean())} for name, rows in kinds.items()},
        "invariance": {name: looks(rows) for name, rows in by_kind.items() if name not in kinds},
        "all_styles": looks(style) if style else None,
    }


def _flips(edit: Counterfactual, changed: float, scores: np.ndarray) -> float:
    """Return 1 if the change reverses the sign of the pair's margin, 0.5 if one of the two margins is 0, otherwise 0."""
    chosen, rejected = scores[edit.pair]
    margin = (changed - rejected) if edit.side == 0 else (chosen - changed)
    return float(abs(np.sign(margin) - np.sign(chosen - rejected)) / 2)


def _mean(name: str, values: np.ndarray, rows: list[int], clusters: Sequence[Hashable], share: bool = False) -> Figures:
    own = numbered([clusters[row] for row in rows])
    low, high = mean_interval(values[rows], own, shares=share)
    return {name: float(values[rows].mean()), f"{name}_low": low, f"{name}_high": high}


# Work within a reward evaluation.

T = TypeVar("T")


def make_counterfactuals(
    config: DictConfig, examples: Sequence[Example], folder: Path, world: World, bar: Bar
) -> list[Counterfactual]:
    """Return the counterfactuals of at most `counterfactuals.limit` pairs, the same on every rank.

    If `counterfactuals.addresses` names a server, rank 0 asks it and sends its answers to the other ranks.

    Raises:
        UserError: on every rank, if the server cannot be used.
    """
    settings = config.counterfactuals
    pairs = spread(examples, settings.limit)
    if not settings.addresses:
        return by_rules(examples, pairs)
    asked = [kind for kind in KINDS if kind.instruction]
    journal = RunDir(folder).counterfactual_answers

    def progress(steps: range) -> Iterable[int]:
        return bar(steps, "asking for counterfactuals")

    edits = by_main_rank(world, lambda: by_model(settings, journal, examples, pairs, asked, progress))
    return edits + by_rules(examples, pairs, [kind for kind in KINDS if not kind.instruction])


def by_main_rank(world: World, work: Callable[[], T]) -> T:
    """Return the result of rank 0's `work`, which must be picklable, on every rank; no rank's wait for it is limited.

    Raises:
        UserError: on every rank, if `work` raises one.
    """

    def result_or_error() -> T | UserError:
        try:
            return work()
        except UserError as error:
            return error

    result: T | UserError = world.from_main(result_or_error, lambda: None)
    if isinstance(result, UserError):
        raise result
    return result


def score_counterfactuals(
    made: Sequence[Counterfactual],
    examples: Sequence[Example],
    scorer: Scorer,
    world: World,
    bar: Bar,
) -> np.ndarray:
    """Return the rewards of the changed replies, float32[made], on every rank; NaN if the changed reply is too long."""
    prompts = [examples[edit.pair].prompt for edit in made]
    keys = [(repr(prompt), edit.text) for prompt, edit in zip(prompts, made, strict=True)]
    # Each distinct reply is scored once. Neighbours in this order share their prompt, which is then computed only once.
    distinct = sorted(dict(zip(keys, range(len(made)), strict=True)).values(), key=lambda index: made[index].pair)
    conversations = [
        [*prompts[index], {"role": "assistant", "content": made[index].text}]
        for index in distinct[world.rank :: world.size]
    ]
    share = score_what_fits(scorer, conversations, lambda steps: bar(steps, "scoring counterfactuals"))
    rewards: dict[tuple[str, str], float] = {}
    for rank, part in enumerate(world.gather(share)):
        rewards |= zip((keys[index] for index in distinct[rank :: world.size]), part.tolist(), strict=True)
    return np.array([rewards[key] for key in keys], np.float32)


def figures_and_rows(
    settings: DictConfig,
    made: Sequence[Counterfactual],
    rewards: np.ndarray,
    scores: np.ndarray,
    examples: Sequence[Example],
    folder: Path,
) -> Figures:
    """Return the figures, and write `counterfactuals.jsonl` with one line per counterfactual, its text included.

    `rewards` and `scores` are on the model's own scale. The result adds to `counterfactual_figures`: `pairs`, their number;
    `not_sent`, the number of replies that the server might read as several turns; and `made`, for each kind, the number of
    `replies` considered, the number `changed`, and the author of the change (`by`: `rules` or `language model`).
    """
    clients = components_of([replace(example, replies=[]) for example in examples]).tolist()
    rows = [
        {
            **{"id": examples[edit.pair].id, "reply": ("chosen", "rejected")[edit.side], "kind": edit.kind.name},
            **{"original": float(scores[edit.pair, edit.side]), "text": edit.text},
            "changed": None if np.isnan(reward) else float(reward),
        }
        for edit, reward in zip(made, rewards, strict=True)
    ]
    write_atomically(RunDir(folder).counterfactuals, "".join(json.dumps(row) + "\n" for row in rows))
    pairs, changed = spread(examples, settings.limit), Counter(edit.kind.name for edit in made)
    counts = {
        kind.name: {
            "replies": len(wanted(examples, pairs, kind)),
            "changed": changed[kind.name],
            "by": "language model" if settings.addresses and kind.instruction else "rules",
        }
        for kind in KINDS
    }
    figures = {"pairs": len(pairs), "made": counts, **counterfactual_figures(made, rewards, scores, clients)}
    asked = {place for kind in KINDS if kind.instruction for place in wanted(examples, pairs, kind)}
    return figures | {
        "not_sent": sum(may_forge_turns(examples[pair].replies[side]) for pair, side in asked if settings.addresses)
    }
