"""Helpers of many tests: tiny models of several architectures, an engine in the test's process, and a command runner."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from psychocounsel.algo.base import Algorithm
from psychocounsel.data.group import Completion, Group
from psychocounsel.distributed.world import World
from psychocounsel.engine.step import Stepper
from psychocounsel.engine.zero import Engine
from psychocounsel.model.cpu import prepare_process
from psychocounsel.model.packed import Policy, RewardModel
from psychocounsel.model.quiet import quiet_libraries
from psychocounsel.rundir.results import read_metrics
from tests.support.composed import check, compose
from tests.support.warm import Forked, Warm

ROOT = Path(__file__).parent.parent.parent
SESSION_CACHE = os.environ["PSYCHOCOUNSEL_CACHE"]  # set by conftest.py
SESSION = Path(os.environ["PSYCHOCOUNSEL_TEST_SESSION"])  # set by conftest.py
TINY = ROOT / "psychocounsel" / "model" / "shipped" / "tiny"
TIMINGS = ("step_seconds", "tokens_per_second", "peak_memory_gb", "attempt", "mfu", "data_seconds")
TIMINGS += ("rollout/sync_seconds", "rollout/write_seconds", "rollout/score_seconds")

_FORKED = ("train", "evaluate", "audit", "annotate", "export", "prepare", "jobs", "launch")
_FORKED += ("agreement", "cache", "report", "review")
_READ_AT_IMPORT = ("HF_", "VLLM_", "PATH")

_SMALL = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 256,
    "max_position_embeddings": 512,
    "head_dim": 12,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {},
    "mistral": {"sliding_window": 6},
    "gemma": {},
    "gemma2": {
        "sliding_window": 6,
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 4.0,
        "query_pre_attn_scalar": 12,
    },
    "gemma3_text": {"sliding_window": 6, "query_pre_attn_scalar": 12, "sliding_window_pattern": 2},
}


def small_lm(
    kind: str = "llama", seed: int = 0, dtype: torch.dtype = torch.float32, rewards: bool = False, **changes: Any
) -> Any:
    """Return a tiny, randomly initialised language model of the architecture `kind`.

    With `rewards`, return a sequence-classification model with one label, as reward models have.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    quiet_libraries()
    torch.manual_seed(seed)
    labels = {"num_labels": 1} if rewards else {}
    config = AutoConfig.for_model(kind, **{**_SMALL, **ARCHITECTURES[kind], **labels, **changes})
    auto = AutoModelForSequenceClassification if rewards else AutoModelForCausalLM
    lm = auto.from_config(config, dtype=dtype)
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))  # so that layers initialised to constants differ, too
    lm.config.use_cache = False
    return lm.eval()


def random_groups(
    count: int, completions: int = 2, seed: int = 0, vocabulary: int = 256, longest: int = 14
) -> list[Group]:
    """Return groups of random tokens with different lengths and random reference log-probabilities."""
    rng = np.random.default_rng(seed)

    def ids(low: int) -> np.ndarray:
        return rng.integers(0, vocabulary, rng.integers(low, longest), dtype=np.int32)

    def completion() -> Completion:
        made = Completion(ids(1))
        made.ref_logprobs = rng.normal(-5, 1, len(made.ids)).astype(np.float32)
        return made

    return [Group(f"g{number}", ids(2), [completion() for _ in range(completions)]) for number in range(count)]


@cache
def world() -> World:
    """Return the process group of the test session, which has one process."""
    quiet_libraries()
    folder = tempfile.mkdtemp(prefix="psychocounsel-test-")
    os.environ["PSYCHOCOUNSEL_RENDEZVOUS"] = f"file://{folder}/store"
    prepare_process()
    return World(0, 1)


def make_stepper(
    lm: Any,
    algorithm: Algorithm,
    budget: int = 4096,
    dtype: torch.dtype = torch.float32,
    *overrides: str,
    at_once: int = 1,
) -> Stepper:
    """Return a Stepper that trains `lm` in this process; `stepper.main.step(lr)` updates the weights."""
    here = world()
    config = deepcopy(_checked(*overrides))
    main = algorithm.needs.main
    make = Policy if main == "policy" else RewardModel
    model = make(lm.to(dtype), "test", attention=config.model.attention)
    if algorithm.critic_kind == "shared":
        model.add_value_head(dtype)
    engine = Engine(model, config, algorithm, dtype, at_once)
    return Stepper(algorithm, {main: engine}, here, budget)


@cache
def _checked(*overrides: str) -> DictConfig:
    return check(compose(list(overrides)))


def cli(
    *arguments: str,
    cwd: Path | None = None,
    check_code: int | None = 0,
    minutes: float = 7,
    cold: bool = False,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Run `python -m psychocounsel.<first argument>` as a user would.

    Each run directory has its own cache. With a shared cache, the second of two compared runs would read results of the
    first one instead of computing them. A test that needs a shared cache sets PSYCHOCOUNSEL_CACHE.

    Commands are forked from a process that has done the imports (`tests/support/warm.py`), unless `cold` is true or the
    test sets variables that libraries read at import.
    """
    module, *rest = arguments
    changed = [name for name, value in environment.items() if os.environ.get(name) != value]
    is_warm = module in _FORKED and not cold and not any(name.startswith(_READ_AT_IMPORT) for name in changed)
    if os.environ["PSYCHOCOUNSEL_CACHE"] == SESSION_CACHE:
        environment = {"PSYCHOCOUNSEL_CACHE": own_cache(rest, cwd), **environment}
    whole = {**os.environ, **environment}
    if is_warm:
        result = _warm(_threads(rest), SESSION).run(module, rest, cwd, whole, 60 * minutes)
    else:
        result = subprocess.run(
            [sys.executable, "-m", f"psychocounsel.{module}", *rest],
            cwd=cwd,
            env=whole,
            capture_output=True,
            text=True,
            timeout=60 * minutes,
        )
    if check_code is not None:
        assert result.returncode == check_code, f"exit code {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result


_warm = cache(Warm)


def forked(module: str, *arguments: str, output: Path) -> Forked:
    """Start a command that the test talks to while it runs, and return its process; `output` is a file or a named pipe."""
    return _warm(_threads([*arguments]), SESSION).start(module, [*arguments], None, {**os.environ}, [str(output)] * 2)


def _threads(overrides: list[str]) -> str:
    """Return the number of OpenMP threads of each rank of a local run."""
    given = dict(text.split("=", 1) for text in overrides if text.startswith("cluster.") and "=" in text)
    cores = len(os.sched_getaffinity(0)) // int(given.get("cluster.processes", 1))
    return given.get("cluster.threads") or os.environ.get("OMP_NUM_THREADS") or str(max(1, cores))


def own_cache(arguments: list[str], cwd: Path | None) -> str:
    """Return the cache folder of the run directory in `arguments`, or of the working directory if they name none."""
    run_dir = next((text.partition("=")[2] for text in arguments if text.startswith("run_dir=")), ".")
    place = (cwd or Path()).resolve() / run_dir
    return f"{SESSION_CACHE}/runs/{hashlib.sha256(str(place).encode()).hexdigest()[:16]}"


def metrics_of(run_dir: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl without keys that depend on time or machine."""
    return [
        {key: value for key, value in line.items() if key not in TIMINGS}
        for line in read_metrics(run_dir / "metrics.jsonl")
    ]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
