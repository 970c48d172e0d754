"""Measured memory per token in the cache, for later runs of the same models and settings."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from psychocounsel.storage.blob import Damaged, Foreign, read_blob, write_blob
from psychocounsel.storage.cache_entries import Entry, about_of
from psychocounsel.storage.files import PACKAGE
from psychocounsel.storage.hashes import code_id
from psychocounsel.storage.modes import make_shared

if TYPE_CHECKING:
    from psychocounsel.engine.step import Stepper
    from psychocounsel.model.packed import PackedModel

_ENTRY = re.compile(r"[0-9a-f]{32}\.memory")
_IRRELEVANT = ("name", "path", "revision", "license", "chat_template", "template_args")  # keys of model
_CODE = ("model/**/*.py", "data/batch.py", "engine/step.py", "engine/zero.py", "engine/sizing/*.py")


@dataclass(frozen=True)
class TokenMemory:
    """Peak memory of a process: `fixed` bytes, and `per_token` bytes for each token of its micro-batch."""

    fixed: float
    per_token: float

    def bytes_of(self, tokens: int) -> float:
        return self.fixed + self.per_token * tokens

    def tokens_in(self, limit: float) -> int:
        """Return the number of tokens for which `limit` bytes suffice."""
        return math.floor((limit - self.fixed) / self.per_token)


class KeptMeasure:
    """The cache entry of one setup: architecture, algorithm, resident models, ZeRO, processes, dtype, device, length."""

    def __init__(self, config: DictConfig, stepper: Stepper) -> None:
        identity = memory_identity(config, stepper)
        key = hashlib.sha256(json.dumps(identity, sort_keys=True, default=repr).encode()).hexdigest()[:32]
        self.file = _home(config.paths.cache) / f"{key}.memory"
        how = f"zero={config.zero.stage}, processes={stepper.world.size}"
        self._of = f"{type(stepper.algorithm).__name__} of {config.model.path}, {how}"

    def read(self) -> TokenMemory | None:
        """Return the kept measure; None without a usable entry."""
        with contextlib.suppress(OSError, Damaged, Foreign, KeyError, TypeError, ValueError):
            about, _ = read_blob(self.file)
            os.utime(self.file)  # time of its last use
            memory = TokenMemory(float(about["fixed"]), float(about["per_token"]))
            return memory if 0 < memory.per_token < math.inf and 0 <= memory.fixed < math.inf else None
        return None

    def write(self, memory: TokenMemory) -> None:
        """Keep a measure. If the cache cannot be written, the run continues, and the next run measures again."""
        about = {"of": self._of, "rows": 0, "fixed": memory.fixed, "per_token": memory.per_token}
        with contextlib.suppress(OSError):
            make_shared(self.file.parent)
            write_blob(self.file, about, {})


def memory_identity(config: DictConfig, stepper: Stepper) -> dict[str, Any]:
    """Return everything that the memory of a process depends on except the tokens of its micro-batch."""
    import torch

    algorithm, engine, device = stepper.algorithm, stepper.main, stepper.world.device
    model: Any = OmegaConf.to_container(config.model)
    others = {
        name: OmegaConf.to_container(config[name], resolve=True) for name in ("reward", "rollout") if name in config
    }
    return {
        "models": {name: _shape(trained.module) for name, trained in stepper.engines.items()},
        "model": {name: value for name, value in model.items() if name not in _IRRELEVANT},
        "algorithm": [type(algorithm).__qualname__, algorithm.reads_entropy, algorithm.critic_kind],
        "resident": [algorithm.reference_kind, config.eval.replies, others],
        "zero": OmegaConf.to_container(config.zero),
        "processes": stepper.world.size,
        "dtype": str(engine.dtype),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": [engine.at_once, torch.get_num_threads()],
        "lengths": [config.max_length, config.get("max_prompt_length")],
        "versions": [version(name) for name in ("torch", "transformers", "deepspeed")],
        "code": code_id(*(file for pattern in _CODE for file in PACKAGE.glob(pattern))),
    }


def _shape(module: PackedModel) -> list[Any]:
    """Return the architecture of a model, its number of weights and its number of trained weights."""
    sizes = [
        (getattr(parameter, "ds_numel", parameter.numel()), parameter.requires_grad)
        for parameter in module.parameters()
    ]
    architecture = {name: value for name, value in module.lm.config.to_dict().items() if name != "_name_or_path"}
    return [architecture, sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)]


def _home(cache: str | Path) -> Path:
    return Path(cache) / "micro-batch"


# -- for `psychocounsel cache`


def folders(cache: Path) -> list[Path]:
    return [_home(cache)]


def entries(cache: Path) -> Iterator[Entry]:
    for file in sorted(_home(cache).glob("*")):
        if _ENTRY.fullmatch(file.name) and (about := about_of(file)) is not None:
            yield Entry("micro-batch", about["of"], about["rows"], file.stat().st_mtime, [file])
