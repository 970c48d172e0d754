"""Schema of configurations: one dataclass per group, with types, ranges and choices.

A group whose YAML names a `_target_` (such as `algo` or `cluster`) is checked against the dataclass of that name, so
its schema is defined next to the code that uses it. This module does not import torch, because it runs on login nodes.
"""

import dataclasses
import difflib
import math
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf

from psychocounsel.errors import UserError


def option(default: Any, **limits: Any) -> Any:
    """Return a dataclass field with limits: `above`, `at_least`, `below`, `at_most` (numbers) or `choices` (a tuple).

    `word` is a word that is allowed instead of a number.
    """
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=limits)
    return field(default=default, metadata=limits)


@dataclass
class LoraConfig:
    rank: int | None = option(None, at_least=1)  # null: all weights are trained
    alpha: float = option(32.0, above=0)
    dropout: float = option(0.0, at_least=0, below=1)
    targets: Any = "all-linear"
    merge: bool = False


@dataclass
class ModelConfig:
    name: str = MISSING
    path: str = MISSING  # hub id, local folder, or builtin:tiny
    revision: str | None = None
    license: str | None = None
    dtype: str = option("auto", choices=("auto", "fp32", "bf16"))
    gradient_checkpointing: Any = option(False, choices=(False, True, "auto"))
    chat_template: str | None = None
    template_args: dict[str, Any] = option({})
    attention: str = option("auto", choices=("auto", "dense", "varlen", "flex"))
    kernels: str = option("plain", choices=("plain", "liger"))
    lora: LoraConfig = field(default_factory=LoraConfig)
    quantise: str | None = option(None, choices=("nf4",))


@dataclass
class MixEntry:
    name: str | None = None
    path: str | None = None
    split: str = "train"
    revision: str | None = None
    license: str | None = None
    rows: int | None = option(None, at_least=1)
    weight: float | None = option(None, above=0)


@dataclass
class DataConfig:
    name: str = MISSING
    path: str | None = None  # builtin:sample, a local file or folder, or a hub dataset
    revision: str | None = None
    license: str | None = None
    split: str = "train"
    eval_path: str | None = None
    eval_revision: str | None = None
    eval_split: str | None = None
    dev_fraction: float = option(0.1, at_least=0, below=1)
    split_seed: int = 0
    limit: int | None = option(None, at_least=1)
    fraction: float | None = option(None, above=0, at_most=1)
    pairs: str = option("all", choices=("all", "extremes"))
    min_gap: float | None = option(None, at_least=0)
    gap: str = option("mean", choices=("mean", "sum"))
    principle_weights: dict[str, float] = option({})
    safety_veto: bool = False
    system_prompt: str | None = None
    too_long: str = option("drop", choices=("drop", "shorten"))
    bad_rows: str = option("refuse", choices=("refuse", "drop"))
    rating_range: list[float] = option([1.0, 5.0])
    mix: list[MixEntry] = option([])
    swapped: float = option(0.0, at_least=0, at_most=5)
    soft_labels: bool = False
    balance: list[str] | None = None
    confidential: bool = False
    allowed_hosts: list[str] = option([])


@dataclass
class ZeroConfig:
    stage: int | str = option(0, at_least=0, at_most=3, word="auto")
    offload_optimizer: bool = False
    offload_parameters: bool = False
    bucket_elements: int = option(500_000_000, at_least=1)
    reduce_dtype: str = option("fp32", choices=("fp32", "bf16"))  # format in which ranks sum gradients
    persistence_elements: int = option(100_000, at_least=0)  # stage 3: smaller parameters are kept whole on every rank


@dataclass
class PathsConfig:
    output: str = MISSING
    cache: str = MISSING


@dataclass
class EvalConfig:
    every: int = option(10, at_least=0)
    limit: int | None = option(None, at_least=1)
    replies: bool = False


@dataclass
class GuardConfig:
    repetition: float | None = option(None, at_least=0, at_most=1)
    unfinished: float | None = option(None, at_least=0, at_most=1)
    kl: float | None = option(None, above=0)
    length_ratio: float | None = option(None, at_least=1)
    reward_drop: float | None = option(None, at_least=0)
    stop: bool = False


@dataclass
class CheckpointConfig:
    every: int = option(10, at_least=0)
    minutes: float | None = option(None, above=0)
    background: bool = True
    keep_last: int = option(1, at_least=1)
    metric: str = "eval/loss"
    mode: str = option("auto", choices=("auto", "min", "max"))  # auto: min for a loss, otherwise max
    patience: int | None = option(None, at_least=1)


@dataclass
class EngineConfig:
    watchdog_minutes: float = option(30.0, above=0)
    two_lanes: bool = True
    check_memory: bool = True


@dataclass
class TrainConfig:
    """The keys of `psychocounsel.train`. `algo`, `cluster`, `tracker`, and if the algorithm needs them `reward` and
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
    callbacks: dict[str, Any] = option({})
    code_path: list[str] = option([])
    settled: dict[str, Any] = option({})  # keys whose values the job finds at its start: see psychocounsel/search


@dataclass
class NoKeys:
    """Schema of a configuration that contains only groups."""


@dataclass
class CounterfactualConfig:
    limit: int = option(25, at_least=0)
    addresses: list[str] = option([])
    model: str | None = None
    key_variable: str | None = None
    concurrency: int = option(4, at_least=1)
    timeout_seconds: float = option(120.0, above=0)
    retries: int = option(8, at_least=0)


@dataclass
class PairsConfig:
    """The keys of commands that read pairs and train nothing; `reward` and `cluster` are added from their `_target_`."""

    part: str = option("auto", choices=("auto", "held_out", "all"))
    limit: int | None = option(None, at_least=1)
    run_dir: str | None = None
    sweep_dir: str | None = None
    after: list[str] = option([])
    dry_run: bool | str = option(False, choices=(False, True, "script"))
    data: DataConfig = field(default_factory=DataConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
    code_path: list[str] = option([])
    settled: dict[str, Any] = option({})


def flat_keys(node: Any, prefix: str = "") -> list[str]:
    """Return every dotted key of a configuration, including inner nodes."""
    keys = []
    for key in map(str, node) if isinstance(node, DictConfig) else ():
        keys.append(f"{prefix}{key}")
        keys += flat_keys(node._get_node(key), f"{prefix}{key}.")
    return keys


def suggestion(
    wrong: str, valid: list[str], otherwise: str = "`--help` lists the groups, `--cfg job` every key"
) -> str:
    """Return 'did you mean X?' for the nearest valid name, or `otherwise`; the last part of a dotted key counts most.

    Up to three keys that end in the wrong key's last part are all named, because only its group is wrong.
    """
    tails: dict[str, str] = {key.rsplit(".", 1)[-1]: key for key in reversed(valid)}
    last = wrong.rsplit(".", 1)[-1]
    elsewhere = [key for key in valid if key.rsplit(".", 1)[-1] == last]
    close = elsewhere if len(elsewhere) <= 3 else []
    close = close or difflib.get_close_matches(wrong, valid, 1, 0.75)
    if not close:
        matches = difflib.get_close_matches(last, list(tails), 1, 0.65) or [
            tail for tail in tails if tail.startswith(last)
        ]
        close = [tails[tail] for tail in matches[:1]]
    return f"did you mean {' or '.join(close)}?" if close else otherwise


def check_limits(section: Any, values: Any, prefix: str = "") -> None:
    """Check every value against its field's limits, recursively.

    Raises:
        UserError: naming the key, its value and the allowed values.
    """
    if isinstance(values, DictConfig):
        values = OmegaConf.to_container(values, resolve=True)  # reading plain values is ten times as fast
    for item in dataclasses.fields(section):
        key, missing = f"{prefix}{item.name}", values[item.name] == MISSING
        value: Any = None if missing else values[item.name]
        if dataclasses.is_dataclass(item.type):
            check_limits(item.type, value, f"{key}.")
        if isinstance(value, list) and item.name == "mix":
            for index, entry in enumerate(value):
                check_limits(MixEntry, entry, f"{key}[{index}].")
        if missing:
            raise UserError(f"{key} is not set: add {key}=VALUE")
        if value == "" and item.name not in _MAY_BE_EMPTY:
            raise UserError(f"{key} is empty: give {key}=VALUE, or leave it out")
        if problem := _problem(value, item.metadata):
            raise UserError(f"{key}={value}: must be {problem}")
        if (place := _not_finite(value, key)) is not None:
            raise UserError(f"{place}: must be a finite number")


_MAY_BE_EMPTY = ("system_prompt", "mail_type")


def _not_finite(value: Any, key: str) -> str | None:
    """Return the key and value of the first infinite or NaN number in a list or mapping, or None."""
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{key}={value}"
    if isinstance(value, dict):
        inner = ((f"{key}.{name}", each) for name, each in value.items())
    elif isinstance(value, list):
        inner = ((f"{key}[{index}]", each) for index, each in enumerate(value))
    else:
        return None
    return next((found for name, each in inner if (found := _not_finite(each, name))), None)


_COMPARISONS = {
    "above": ("greater than", lambda value, limit: value > limit),
    "at_least": ("at least", lambda value, limit: value >= limit),
    "below": ("less than", lambda value, limit: value < limit),
    "at_most": ("at most", lambda value, limit: value <= limit),
}


def _problem(value: Any, limits: Any) -> str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return "a finite number"
    if value is None or not limits:
        return None
    if "choices" in limits and value not in limits["choices"]:
        return "one of " + ", ".join(map(str, limits["choices"]))
    if isinstance(value, str) and "word" in limits:
        return None if value == limits["word"] else f"a number or {limits['word']}"
    for name, (words, holds) in _COMPARISONS.items():
        if name in limits and not holds(value, limits[name]):
            return f"{words} {limits[name]}"
    return None
