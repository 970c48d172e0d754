"""Limits that an evaluation of the policy's own replies must keep: the keys of `guard`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from omegaconf import DictConfig

Figures = Mapping[str, float]


@dataclass(frozen=True)
class Exceeded:
    """A limit `guard.<name>` that an evaluation does not keep, with what was measured."""

    name: str
    measured: float
    limit: float

    def __str__(self) -> str:
        return f"{_MEASURES[self.name].title} is {self.measured:.3g}, and guard.{self.name}={self.limit:g}"


@dataclass(frozen=True)
class _Measure:
    title: str
    of: Callable[[Figures, Figures], float]  # an evaluation, and the one before training


def _length_ratio(now: Figures, before: Figures) -> float:
    """How many times longer, or shorter, replies are than before training."""
    lengths = now["eval/length"], before["eval/length"]
    return max(lengths) / min(lengths)


_MEASURES = {
    "repetition": _Measure("held-out repetition", lambda now, before: now["eval/repetition"]),
    "unfinished": _Measure("the share of unfinished replies", lambda now, before: now["eval/unfinished"]),
    "kl": _Measure("the divergence in nats", lambda now, before: now["eval/kl"]),
    "length_ratio": _Measure("the change of the length", _length_ratio),
    "reward_drop": _Measure("the drop of the reward", lambda now, before: before["eval/reward"] - now["eval/reward"]),
}
LIMITS = tuple(_MEASURES)


def set_limits(guard: DictConfig) -> dict[str, float]:
    """The limits of `guard` that are given, by name."""
    return {name: float(guard[name]) for name in LIMITS if guard[name] is not None}


def exceeded(evaluation: Figures, before: Figures, guard: DictConfig) -> list[Exceeded]:
    """The limits of `guard` that `evaluation`, with the keys of `reply_metrics` under `eval/`, does not keep.

    `before` is the evaluation before training, with which the length and the reward are compared.
    """
    found = [Exceeded(name, _MEASURES[name].of(evaluation, before), limit) for name, limit in set_limits(guard).items()]
    return [each for each in found if not each.measured <= each.limit]  # so that NaN keeps no limit
