"""Checks of `data.balance`, `data.swapped` and `data.soft_labels`, for algorithms that learn from pairs."""

from typing import Any

from omegaconf import DictConfig

from psychocounsel.counsel.cues import CUES
from psychocounsel.errors import UserError
from psychocounsel.settings.schema import suggestion


def check_training_pairs(config: DictConfig, algorithm: Any) -> None:
    """Refuse unknown cues, and pair weights, additional pairs or soft labels that the algorithm cannot use.

    Raises:
        UserError: naming the cue, or the algorithms to use instead.
    """
    _check_balance(config, algorithm)
    _check_swapped(config, algorithm)
    if config.data.soft_labels and not algorithm.needs.soft_labels:
        raise UserError(
            f"data.soft_labels=true: the loss of algo={type(algorithm).__name__} does not use soft labels: use algo=dpo or "
            "reward, or leave data.soft_labels out"
        )


def _check_balance(config: DictConfig, algorithm: Any) -> None:
    names = config.data.balance or []
    for name in names:
        if name not in CUES:
            near = suggestion(name, list(CUES)) if suggestion(name, list(CUES)).startswith("did") else ""
            raise UserError(f"data.balance: there is no cue {name}; {near or 'cues are ' + ', '.join(CUES)}")
    if len(set(names)) < len(names):
        raise UserError(f"data.balance=[{','.join(names)}]: names a cue twice; give each cue once")
    if names and not algorithm.needs.weights:
        raise UserError(
            f"data.balance=[{','.join(names)}]: weights pairs of the data, but the loss of algo={type(algorithm).__name__} "
            "does not use such weights: use algo=reward, dpo, simpo or orpo, or leave data.balance out"
        )


def _check_swapped(config: DictConfig, algorithm: Any) -> None:
    mixes = algorithm.offline_groups(config.global_batch_size) > 0
    if config.data.swapped and algorithm.needs.data != "pairs" and not mixes:
        raise UserError(
            f"data.swapped={config.data.swapped:g}: adds pairs, but algo={type(algorithm).__name__} does not use pairs "
            "of the data: use algo=reward, dpo, simpo or orpo, online_dpo with algo.offline_fraction, or leave data.swapped out"
        )
