"""The keys of `psychocounsel train` outside the groups `algo`, `rollout`, `reward`, `cluster` and `tracker`. Imports no torch."""

from dataclasses import dataclass, field
from typing import Any

from psychocounsel.asking.model_groups import BudgetConfig
from psychocounsel.data.settings import DataConfig
from psychocounsel.model.settings import ModelConfig
from psychocounsel.settings.schema import PathsConfig, option


@dataclass
class ZeroConfig:
    stage: int | str = option(0, at_least=0, at_most=3, word="auto")
    offload_optimizer: bool = False
    offload_parameters: bool = False
    bucket_elements: int = option(500_000_000, at_least=1)
    reduce_dtype: str = option("fp32", choices=("fp32", "bf16"))  # format in which ranks sum gradients
    persistence_elements: int = option(100_000, at_least=0)  # stage 3: smaller parameters are kept whole on every rank
    hpz: int = option(1, at_least=1)  # stage 3: GPUs that share a second copy of the parameters


@dataclass
class EvalConfig:
    every: int = option(10, at_least=0)
    limit: int | None = option(None, at_least=1)
    replies: bool = False


@dataclass
class GuardConfig:
    repetition: float | None = option(None, at_least=0, at_most=1)
    echo: float | None = option(None, at_least=0, at_most=1)
    recital: float | None = option(None, at_least=0, at_most=1)
    unfinished: float | None = option(None, at_least=0, at_most=1)
    kl: float | None = option(None, above=0)
    length_ratio: float | None = option(None, at_least=1)
    reward_drop: float | None = option(None, at_least=0)
    stop: bool = False


@dataclass
class CheckpointConfig:
    every: int = option(10, at_least=0)
    minutes: float | None = option(None, above=0, at_most=1_000_000)
    background: bool = True
    keep_last: int = option(1, at_least=1)
    metric: str = "eval/loss"
    mode: str = option("auto", choices=("auto", "min", "max"))  # auto: min for a loss, otherwise max
    patience: int | None = option(None, at_least=1)


@dataclass
class EngineConfig:
    watchdog_minutes: float = option(30.0, above=0, at_most=1_000_000)
    two_lanes: bool = True
    check_memory: bool = True


@dataclass
class TrainConfig:
    """The keys of `psychocounsel train`. `algo`, `cluster`, `tracker`, and if the algorithm needs them `reward` and
    `rollout`, are added from their `_target_`."""

    seed: int = option(1, at_least=0, at_most=2**32 - 1)  # the range that every library accepts
    epochs: float | None = option(1.0, above=0)
    max_steps: int | None = option(None, at_least=1)
    global_batch_size: int = option(32, at_least=1)
    micro_batch_tokens: int | str = option(4096, at_least=1, word="auto")
    max_length: int = option(1024, at_least=8)
    max_prompt_length: int | None = option(None, at_least=4)
    deterministic: bool = False
    run_dir: str | None = None
    sweep_dir: str | None = None
    after: list[str] = option([])
    dry_run: bool | str = option(False, choices=(False, True, "script"))
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    zero: ZeroConfig = field(default_factory=ZeroConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    callbacks: dict[str, Any] = option({})
    code_path: list[str] = option([])
    settled: dict[str, Any] = option({})  # keys whose values the job finds at its start: see psychocounsel/search
