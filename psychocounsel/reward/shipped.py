"""The shipped reward models as a default: refused for models and data other than the shipped ones. No torch.

The choices `reward=shipped` and `judge=shipped` are the defaults. Their paths are `${shipped_reward:NAME}`. A user who
types `reward=tiny` or `judge=tiny` gets the same models by their plain paths, for any model and data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from psychocounsel.errors import UserError
from psychocounsel.rundir.run_config import read_config
from psychocounsel.rundir.trained_runs import run_of

Models = Sequence[tuple[str, Any]]  # key and path of each model
_RESOLVER = "${shipped_reward:"
_REWARD = "reward.path=YOUR_REWARD_MODEL, or reward=tiny to use the shipped 3M model anyway"
_JUDGE = "judge=NAME, or judge=tiny to use the shipped 3M reward models anyway"
_JUDGE_REWARD = "judge.reward=YOUR_REWARD_MODEL, or judge.reward=tiny to use the shipped 3M model anyway"


def refuse_shipped_rewards(plain: DictConfig, models: Models) -> None:
    """Refuse a shipped reward model that the user did not ask for, if it would score foreign replies.

    `models` are the keys and paths of the models whose replies are scored, and of the compared reward models.

    Raises:
        UserError: naming the foreign model or data, and what to type.
    """
    for section, group, advice in _defaults(plain):
        if _is_default(section) and (foreign := foreign_source(plain, models)):
            raise UserError(
                f"{foreign}: the default {group} was trained on the shipped sample, so its scores mean nothing here; "
                f"give {advice}"
            )


def foreign_source(config: DictConfig, models: Models) -> str | None:
    """Return the first model or data of a composed configuration that is not shipped, as KEY=VALUE; None if all are shipped.

    A run counts as shipped if it was trained from a shipped model on shipped data.
    """
    for key, path in models:
        if path is not None and not _is_shipped_model(path):
            return f"{key}={path}"
    if target := OmegaConf.select(config, "data._target_"):
        return f"data._target_={target}"
    return next((f"{key}={path}" for key, path in _data(config) if path not in (None, "builtin:sample")), None)


def _defaults(plain: DictConfig) -> Iterator[tuple[Any, str, str]]:
    """Yield each section that may be a default, with its group and the overrides to type instead."""
    yield plain.get("reward"), "reward model", _REWARD
    judge = plain.get("judge")
    if not isinstance(judge, DictConfig):
        return
    if judge.get("members") is not None:
        yield from ((member.get("reward"), "judge", _JUDGE) for member in judge.members)
    else:
        yield judge.get("reward"), "reward model of the judge", _JUDGE_REWARD


def _is_default(section: Any) -> bool:
    """Return True if the path of a reward model comes from the default choice."""
    node = section._get_node("path") if isinstance(section, DictConfig) and section.get("path") is not None else None
    return node is not None and str(node._value()).startswith(_RESOLVER)


def _data(config: DictConfig) -> Iterator[tuple[str, Any]]:
    mix = OmegaConf.select(config, "data.mix")
    entries = list(mix) if OmegaConf.is_list(mix) else []
    for index, entry in enumerate(entries):
        yield f"data.mix[{index}].path", entry.get("path") if OmegaConf.is_dict(entry) else None
    if not entries:
        yield "data.path", OmegaConf.select(config, "data.path")
    yield "data.eval_path", OmegaConf.select(config, "data.eval_path")


def _is_shipped_model(path: Any) -> bool:
    """Return True for a shipped model, and for a run that was trained from one on the shipped sample."""
    if str(path).startswith("builtin:"):
        return True
    run = run_of(str(path))
    if run is None:
        return False
    config = read_config(run)
    return foreign_source(config, [("model.path", config.model.path)]) is None
