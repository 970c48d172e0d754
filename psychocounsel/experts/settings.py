"""The keys of `psychocounsel review` and `psychocounsel agreement`."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from urllib.parse import urlsplit

from omegaconf import DictConfig

from psychocounsel.errors import UserError
from psychocounsel.settings.command_line import read_typed
from psychocounsel.settings.schema import option
from psychocounsel.storage.files import with_noun

# The keys of `psychocounsel review`

DATA_MISSING = "data is not set: give data=FOLDER of annotate, evaluate or audit, data=PAIRS.jsonl, or data=crisis_set"
MOST_ITEMS = 100_000
_PSEUDONYM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,23}")


@dataclass
class ContactOptions:
    """Contact for an expert's report that a client may be a real person at risk."""

    name: str | None = None
    reached_by: str | None = None
    command: list[str] = option([])


@dataclass
class ReviewOptions:
    """Settings of one review."""

    title: str | None = None  # null: a title for the kind of items
    items: int = option(100, at_least=1, at_most=MOST_ITEMS)
    overlap: int | None = option(None, at_least=1)
    repeats: float = option(0.1, at_least=0, at_most=1)
    seed: int = option(0, at_least=0, at_most=2**32 - 1)
    draw: str = option("risk_first", choices=("risk_first", "even"))
    flagged: bool = False
    only: str | None = None
    sense: bool = False
    ratings: bool = True
    safety: str = option("crisis", choices=("crisis", "all", "none"))
    rubric: str = "builtin:en"
    practice: int = option(8, at_least=0, at_most=20)
    practice_share: float = option(0.75, above=0, at_most=1)
    practice_rounds: int = option(2, at_least=1, at_most=10)
    crisis_in_a_row: int = option(3, at_least=1)
    minutes_at_once: float = option(45.0, above=0, at_most=1_000_000)
    minutes_a_day: float = option(120.0, above=0, at_most=1_000_000)
    break_minutes: float = option(10.0, at_least=0, at_most=1_000_000)
    consent: str | None = None
    support: str | None = None
    contact: ContactOptions = field(default_factory=ContactOptions)
    address: str | None = None
    port: int = option(0, at_least=0, at_most=65_535)
    protocol: str | None = None
    sheet: str | None = None


@dataclass
class ReviewConfig:
    data: str | None = None
    experts: list[str] = option([])
    out: str | None = None
    review: ReviewOptions = field(default_factory=ReviewOptions)


def read_review(arguments: Sequence[str]) -> DictConfig:
    """Return the typed configuration, checked for types and limits.

    Raises:
        UserError: for an unknown key or an invalid value, with what to type instead.
    """
    config = read_typed(ReviewConfig, arguments)
    if config.data is None:
        raise UserError(DATA_MISSING)
    _check_experts(list(config.experts))
    options = config.review
    if options.overlap is not None and options.overlap > len(config.experts):
        raise UserError(
            f"review.overlap={options.overlap}: only {with_noun(len(config.experts), 'expert')} can see each item"
        )
    if options.address is not None:
        _check_address(options.address)
    if options.contact.command and not options.contact.name:
        raise UserError("review.contact.command: needs a contact; give review.contact.name=NAME, which experts see")
    return config


def _check_experts(experts: list[str]) -> None:
    if not experts:
        raise UserError("experts is not set: give a pseudonym for each expert, as experts=[e01,e02]")
    if wrong := next((name for name in experts if not _PSEUDONYM.fullmatch(name)), None):
        raise UserError(
            f"experts: {wrong!r} is not a pseudonym (up to 24 letters of a to z, digits, - and _, for instance e01); "
            "exports contain it, so give no names and no addresses"
        )
    if len(set(experts)) < len(experts):
        raise UserError("experts: a pseudonym is given twice; each expert needs a different one")


def _check_address(address: str) -> None:
    try:
        parts = urlsplit(address)
        bad = (
            parts.scheme not in ("http", "https")
            or not parts.hostname
            or parts.query
            or parts.fragment
            or "@" in parts.netloc
        )
        parts.port  # noqa: B018  raises ValueError for an invalid port
    except ValueError:
        bad = True
    if bad:
        raise UserError(
            f"review.address={address}: give the address that the proxy serves, for instance https://study.example/review"
        )


# The keys of `psychocounsel agreement`


@dataclass
class AgreementOptions:
    """Settings for reading and counting answers."""

    columns: dict[str, str] = option({})
    values: dict[str, str] = option({})
    dimensions: list[str] = option([])
    rating_range: list[float] = option([1, 5])
    not_rated: list[float] = option([])
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
    limits = config.agreement.rating_range
    if len(limits) != 2 or not -math.inf < limits[0] < limits[1] < math.inf:
        raise UserError(f"agreement.rating_range={list(limits)}: give the lowest and the highest rating, as [1,5]")
    return config


def require_packages(command: str, names: Sequence[str]) -> None:
    """Refuse to start `command` without the libraries of the extra that has its name.

    Raises:
        UserError: naming the first missing library.
    """
    if missing := next((name for name in names if find_spec(name) is None), None):
        raise UserError(f"{command}: {missing} is not installed; run: pip install 'psychocounsel[{command}]'")
