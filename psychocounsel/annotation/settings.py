"""The keys of `psychocounsel annotate`; its groups `speeches`, `writers` and `annotator` are typed by their `_target_`."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig

from psychocounsel.asking.model_groups import BudgetConfig
from psychocounsel.data.settings import check_principle_weights
from psychocounsel.errors import UserError
from psychocounsel.settings.schema import PathsConfig, option
from psychocounsel.steps.course import check_steps
from psychocounsel.storage.files import expanded

STEPS = ("speeches", "replies", "scores", "pairs", "card")
SPLITS = {"train": "train.parquet", "test": "test.parquet"}  # files in the folder of the dataset
SIDES = ("chosen", "rejected")  # of a pair


@dataclass
class RepliesConfig:
    per_speech: int = option(4, at_least=1, at_most=100)
    seed: int = option(0, at_least=0, at_most=2**32 - 1)
    system_prompt: str = "builtin:counsellor"
    length_limit: int | None = option(None, at_least=10)


@dataclass
class ScoresConfig:
    rubric: str = "builtin:en"
    examples: bool = False
    joint: bool = False
    votes: int = option(1, at_least=1, at_most=100)
    repeat: float = option(0.0, at_least=0, at_most=1)
    retries: int = option(2, at_least=0, at_most=20)
    seed: int = option(0, at_least=0, at_most=2**32 - 1)


@dataclass
class PairRules:
    kind: str = option("all", choices=("all", "extremes"))
    min_gap: float = option(1.0, at_least=0)
    gap: str = option("mean", choices=("mean", "sum"))
    principle_weights: dict[str, float] = option({})
    safety_veto: bool = True
    test_fraction: float = option(0.06, at_least=0, below=1)
    split_seed: int = option(0, at_least=0, at_most=2**32 - 1)


@dataclass
class CardConfig:
    name: str | None = None
    license: str | None = None
    lawful_basis: str | None = None
    ethics_approval: str | None = None
    retention: str | None = None
    contact: str | None = None
    intended_use: str | None = None


@dataclass
class AnnotateConfig:
    """The keys of `psychocounsel annotate`; `speeches`, `writers`, `annotator` and `cluster` are added from their `_target_`."""

    steps: list[str] = option([*STEPS])
    out: str | None = None
    remove: str | None = None
    shards: int = option(1, at_least=1, at_most=1000)
    clean_in_shards_above_mb: int = option(200, at_least=0)
    replies: RepliesConfig = field(default_factory=RepliesConfig)
    scores: ScoresConfig = field(default_factory=ScoresConfig)
    pairs: PairRules = field(default_factory=PairRules)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    crisis_to_third_parties: bool = False
    accept_terms: list[str] = option([])
    card: CardConfig = field(default_factory=CardConfig)
    share: int | None = None  # shard number of an array job, set at submission
    run_dir: str | None = None  # equal to `out`; jobs of every command have this key
    sweep_dir: str | None = None
    after: list[str] = option([])
    dry_run: bool | str = option(False, choices=(False, True, "script"))
    paths: PathsConfig = field(default_factory=PathsConfig)
    code_path: list[str] = option([])
    settled: dict[str, Any] = option({})


def check_annotate(config: DictConfig) -> None:
    """Refuse invalid steps, weights and files.

    Raises:
        UserError: naming the key and what to type instead.
    """
    check_steps(config.steps, STEPS)
    check_principle_weights(config.pairs.principle_weights, "pairs.principle_weights")
    rubric = config.scores.rubric
    if rubric != "builtin:en" and not expanded(rubric).is_dir():
        raise UserError(
            f"scores.rubric={rubric}: no such folder; give one like psychocounsel/counsel/principles/en, or builtin:en"
        )
    if config.remove:
        if not config.out:
            raise UserError("remove: name the dataset by out=DIR")
        if not expanded(config.remove).is_file():
            raise UserError(f"remove={config.remove}: no such file; give a file with one speech id per line")
