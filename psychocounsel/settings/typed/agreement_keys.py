"""The keys of `psychocounsel.agreement`: the table of answers, the counting of answers, and the planned study."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig

from psychocounsel.errors import UserError
from psychocounsel.settings.schema import option
from psychocounsel.settings.typed.typed_keys import read_typed


@dataclass
class AgreementOptions:
    """Settings for reading and counting answers."""

    columns: dict[str, str] = option({})
    values: dict[str, str] = option({})
    dimensions: list[str] = option([])
    rating_range: list[float] = option([1, 5])
    sides: str = option("shown", choices=("shown", "balanced", "label"))
    ties: str = option("category", choices=("category", "drop", "half"))
    harmful: str = option("category", choices=("category", "drop", "tie"))
    weights: str = option("quadratic", choices=("quadratic", "linear"))
    adjudicators: list[str] = option([])
    least_items: int = option(10, at_least=2)
    samples: int = option(1000, at_least=0, at_most=100_000)
    seed: int = option(0, at_least=0, at_most=2**32 - 1)


@dataclass
class PlanOptions:
    """Aim and assumptions of a planned study."""

    kind: str | None = option(None, choices=("kappa", "failures", "noninferiority"))
    kappa: float = option(0.6, at_least=-1, below=1)
    prevalence: float = option(0.5, above=0, below=1)
    half_width: float = option(0.1, above=0, below=1)
    ceiling: float = option(0.01, above=0, below=1)
    true_rate: float = option(0.002, at_least=0, below=1)
    margin: float = option(0.05, above=0, below=1)
    discordant: float = option(0.1, above=0, at_most=1)
    power: float = option(0.8, above=0, below=1)
    per_speech: float = option(1.0, at_least=1)
    correlation: float = option(0.0, at_least=0, at_most=1)


@dataclass
class AgreementConfig:
    data: str | None = None
    out: str | None = None
    agreement: AgreementOptions = field(default_factory=AgreementOptions)
    plan: PlanOptions = field(default_factory=PlanOptions)


def read_agreement(arguments: Sequence[str]) -> DictConfig:
    """Return the typed configuration, checked for types and limits.

    Raises:
        UserError: for an unknown key or an invalid value, with what to type instead.
    """
    config = read_typed(AgreementConfig, arguments)
    if config.data is None and config.plan.kind is None:
        raise UserError("data is not set: give data=ANSWERS.jsonl, or plan.kind=kappa|failures|noninferiority")
    _check_range(config.agreement.rating_range)
    return config


def _check_range(limits: Any) -> None:
    if len(limits) != 2 or not limits[0] < limits[1]:
        raise UserError(f"agreement.rating_range={list(limits)}: give the lowest and the highest rating, as [1,5]")
