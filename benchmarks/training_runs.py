"""Training runs of psychocounsel and TRL in fresh processes, and readers of their results."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.sizes import Sizes
from psychocounsel.storage.files import read_json

ROOT = Path(__file__).parent.parent

# Adam's epsilon is far above the rounding noise of gradients. With a smaller one, Adam would amplify the noise to full updates.
OPTIMIZER = {
    **{"lr": 1e-4, "schedule": "constant", "warmup": 0, "weight_decay": 0.0, "max_grad_norm": 1.0},
    **{"adam_beta1": 0.9, "adam_beta2": 0.999, "adam_eps": 1e-5},
}


class Failed(Exception):
    """Error of a failed run. The message is the end of its output."""


@dataclass
class Result:
    """Result of one training run. `step_seconds` and `losses` have all steps, including the first one, the warm-up."""

    step_seconds: list[float]
    losses: list[float]
    peak_memory_gb: float
    threads: int
    reference_seconds: float = 0.0  # for one pass over all rows
    tokens: list[int] = field(default_factory=list)  # per step; each prompt counts once
    trained_tokens: int | None = None
    command_seconds: float = 0.0
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Return the mean seconds of a step, without the warm-up step."""
        timed = self.step_seconds[1:] or self.step_seconds
        return sum(timed) / len(timed)


@dataclass
class Bench:
    """Folder and common settings of all runs of a benchmark."""

    folder: Path
    sizes: Sizes
    device: str
    threads: int
    ours: list[str]  # more overrides of psychocounsel, for experiments
    runs: int = 0
    last: Path = Path()  # folder of the last run of either side

    def new_folder(self, name: str) -> Path:
        self.runs += 1
        self.last = self.folder / "runs" / f"{self.runs:03d}-{name}"
        return self.last

    def rows(self, name: str) -> Path:
        return self.folder / "rows" / f"{name}.jsonl"

    def lengths(self, name: str) -> list[tuple[int, list[int]]]:
        """Return (tokens of the prompt, tokens of each reply) of every row."""
        lengths: list[tuple[int, list[int]]] = json.loads((self.folder / "lengths.json").read_text())[name]
        return lengths

    def work(self) -> dict[str, Any]:
        """Return the numbers of rows and tokens of every set of rows. Each prompt counts once."""
        names = json.loads((self.folder / "lengths.json").read_text())
        return {name: _totals(self.lengths(name)) for name in names}

    def model(self, name: str) -> Path:
        return self.folder / "models" / name

    def environment(self) -> dict[str, str]:
        """Return the environment of both sides: the same threads, no network, and the benchmark's own cache."""
        offline = {
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(self.folder / "huggingface"),
            "TOKENIZERS_PARALLELISM": "false",
        }
        paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        return {**os.environ, **offline, "OMP_NUM_THREADS": str(self.threads), "PYTHONPATH": paths}


def call(bench: Bench, *arguments: str, python: str = sys.executable) -> tuple[str, float]:
    """Run `python ARGUMENTS` and return its output and seconds.

    Raises:
        Failed: if its exit code is not 0.
    """
    started = time.perf_counter()
    done = subprocess.run(
        [python, *arguments],
        env=bench.environment(),
        cwd=bench.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise Failed(f"{' '.join(arguments)}: exit code {done.returncode}\n{done.stdout[-3000:]}")
    return done.stdout, time.perf_counter() - started


def overrides(
    bench: Bench, algorithm: str, rows: str, model: str = "small", steps: int | None = None, **more: Any
) -> list[str]:
    """Return the overrides of `psychocounsel train`. Every step trains on all rows, unless `more` changes it."""
    optimizer = {f"algo.{name}": value for name, value in OPTIMIZER.items()}
    steps = steps or bench.sizes.steps
    settings = {
        "algo": algorithm,
        "model": "local",
        "model.path": bench.model(model),
        "data": "local",
        "data.path": bench.rows(rows),
        "data.dev_fraction": 0,
        "model.system_prompt": "null",  # the peer trains on the bare rows
        "global_batch_size": _count(bench.rows(rows)),
        "max_steps": steps,
        "micro_batch_tokens": bench.sizes.micro_batch_tokens,
        "eval.every": 0,
        "checkpoint.every": 0,
        "cluster.device": bench.device,
        **optimizer,
        **more,
    }
    return [f"{name}={value}" for name, value in settings.items()] + bench.ours


def run_ours(bench: Bench, algorithm: str, rows: str, cache: Path | None = None, **more: Any) -> Result:
    """Run `psychocounsel train` as a user would. `cache` is a shared folder; None: a new one."""
    run = bench.new_folder(f"ours-{algorithm}")
    clock = "+callbacks.clock={_target_: benchmarks.hooks.Clock}"
    typed = overrides(bench, algorithm, rows, **{"paths.cache": cache or run / "cache", **more})
    _, seconds = call(bench, "-m", "psychocounsel.train", *typed, f"run_dir={run}/run", clock)
    return read_ours(bench, run / "run", seconds, typed)


def step_lines(run: Path) -> list[dict[str, Any]]:
    """Return the metrics of the optimizer steps of one of our runs."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["step"] > 0]


def read_ours(bench: Bench, run: Path, seconds: float, typed: Sequence[str] = ()) -> Result:
    steps = step_lines(run)
    clock = read_json(run / "clock.json") or {"reference_seconds": 0.0, "threads": 0}
    known = ("tokens", "step_seconds", "tokens_per_second", "mfu", "peak_memory_gb", "data_seconds")
    typed = [text.replace(str(bench.folder), ".") for text in typed]
    last = {name: steps[-1][name] for name in known if name in steps[-1]}
    return Result(
        [line["step_seconds"] for line in steps],
        [line["loss"] for line in steps],
        steps[-1]["peak_memory_gb"],
        clock["threads"],
        clock["reference_seconds"],
        [line["tokens"] for line in steps],
        command_seconds=seconds,
        settings={"overrides": typed, "last_step": last},
    )


def run_trl(
    bench: Bench,
    algorithm: str,
    rows: str,
    micro_batch: int,
    dtype: str = "fp32",
    model: str = "small",
    peer: str = "benchmarks.trl_peer",
    python: str = sys.executable,
    **more: Any,
) -> Result:
    """Run the module `peer` once with the interpreter `python`. `more` is added to its SPEC."""
    folder = bench.new_folder(f"trl-{algorithm}")
    folder.mkdir(parents=True)
    on_cuda = bench.device == "cuda"
    spec = {
        "algorithm": algorithm,
        "model": str(bench.model(model)),
        "rows": str(bench.rows(rows)),
        "pairs": _count(bench.rows(rows)),
        "micro_batch": micro_batch,
        "steps": bench.sizes.steps,
        "dtype": dtype,
        "weights": "bfloat16" if on_cuda else "float32",
        "device": bench.device,
        "cached": False,
        "optimizer": OPTIMIZER,
        "output": str(folder / "result.json"),
        **more,
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    _, seconds = call(bench, "-m", peer, str(folder / "spec.json"), python=python)
    kept = {name: spec[name] for name in ("micro_batch", "dtype", "cached")}
    return Result(**json.loads((folder / "result.json").read_text()), command_seconds=seconds, settings=kept)


def _totals(lengths: list[tuple[int, list[int]]]) -> dict[str, int]:
    replies = sum(sum(row) for _, row in lengths)
    return {"rows": len(lengths), "tokens": replies + sum(prompt for prompt, _ in lengths), "reply_tokens": replies}


def _count(path: Path) -> int:
    return len(path.read_text().splitlines())
