"""Limits of `guard`: bounds on evaluations of the policy's replies."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from omegaconf import DictConfig

Figures = Mapping[str, float]


@dataclass(frozen=True)
class Exceeded:
    """Limit `guard.<name>` that an evaluation exceeds, with the measured value."""

    name: str
    measured: float
    limit: float

    def __str__(self) -> str:
        return f"{_MEASURES[self.name].title} is {self.measured:.3g}, but the limit is guard.{self.name}={self.limit:g}"


@dataclass(frozen=True)
class _Measure:
    title: str
    of: Callable[[Figures, Figures], float]  # arguments: this evaluation, and the one before training


def _length_ratio(now: Figures, before: Figures) -> float:
    """Return the larger of the mean lengths now and before training, divided by the smaller one."""
    lengths = now["eval/length"], before["eval/length"]
    return max(lengths) / min(lengths)


_MEASURES = {
    "repetition": _Measure("held-out repetition", lambda now, before: now["eval/repetition"]),
    "echo": _Measure("the share of words taken from the client", lambda now, before: now["eval/echo"]),
    "recital": _Measure(
        "the share of words taken from the system prompt", lambda now, before: now.get("eval/recital", 0.0)
    ),
    "unfinished": _Measure("the share of unfinished replies", lambda now, before: now["eval/unfinished"]),
    "kl": _Measure("the divergence from the reference [nats]", lambda now, before: now["eval/kl"]),
    "length_ratio": _Measure("the ratio of the mean reply lengths before and now", _length_ratio),
    "reward_drop": _Measure("the drop of the reward", lambda now, before: before["eval/reward"] - now["eval/reward"]),
}
LIMITS = tuple(_MEASURES)


def set_limits(guard: DictConfig) -> dict[str, float]:
    """Return the limits that are set in `guard`, by name."""
    return {name: float(guard[name]) for name in LIMITS if guard[name] is not None}


def exceeded(evaluation: Figures, before: Figures, guard: DictConfig) -> list[Exceeded]:
    """Return the limits of `guard` that `evaluation` exceeds.

    `evaluation` has the keys of `reply_metrics` under `eval/`. `before` is the evaluation before training, against
    which length and reward are compared.
    """
    figures = [
        Exceeded(name, _MEASURES[name].of(evaluation, before), limit) for name, limit in set_limits(guard).items()
    ]
    return [figure for figure in figures if not figure.measured <= figure.limit]  # NaN must count as exceeded
