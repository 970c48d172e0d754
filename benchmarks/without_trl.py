"""Cases that measure psychocounsel alone: MFU, scaling and sweeps."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.flops import training_flops
from benchmarks.sizes import Geometry
from benchmarks.training_runs import Bench, Result, call, overrides, read_ours, run_ours


@dataclass
class Figure:
    """Measured value with two limits. It passes at `floor` and reaches the goal at `goal`.

    Larger values are better, unless `smaller`. A `value` of None was not measured.
    """

    name: str
    value: float | None
    floor: float
    goal: float
    smaller: bool = False
    note: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "skipped"
        sign = -1 if self.smaller else 1
        reached = [sign * self.value >= sign * limit for limit in (self.floor, self.goal)]
        return "goal reached" if all(reached) else "passes" if reached[0] else "FALLS SHORT"


def mfu(bench: Bench) -> list[Figure]:
    """Measure MFU of DPO with the large model: FLOPs of steps relative to the fastest matrix product around each run.

    The value is the median of the runs.
    """
    sizes = bench.sizes
    flops = training_flops(sizes.models["large"], bench.lengths("mfu"))
    more: dict[str, Any] = {
        "model.dtype": "bf16" if bench.device == "cuda" else "fp32",
        "micro_batch_tokens": sizes.mfu_micro_batch_tokens,
    }
    peaks, values, seconds = [_peak(bench)], [], []
    for _ in range(sizes.mfu_runs):
        result = run_ours(bench, "dpo", "mfu", model="large", **more)
        peaks.append(_peak(bench))
        values.append(flops / result.seconds / max(peaks[-2:]))
        seconds.append(result.seconds)
    details = {"peak_flops": peaks, "step_flops": flops, "step_seconds": seconds, "mfu": values}
    details |= {"settings": result.settings}
    note = f"{flops / 1e12:.2f} TFLOP in {median(seconds):.1f} s, peak {median(peaks) / 1e9:.0f} GFLOP/s"
    return [Figure("mfu", median(values), 0.60, 0.75, note=note, details=details)]


def _peak(bench: Bench) -> float:
    dtype = "bfloat16" if bench.device == "cuda" else "float32"
    output, _ = call(bench, "-m", "benchmarks.flops", bench.device, dtype, *map(str, bench.sizes.peak_sizes))
    return float(output.split()[-1])


def scaling(bench: Bench) -> list[Figure]:
    return [_time_by_pairs(bench), _memory_by_vocabulary(bench)]


def _time_by_pairs(bench: Bench) -> Figure:
    """Compare seconds per token between few and many pairs. The run with few pairs is done before and after the other."""
    few, many = bench.sizes.scaling_pairs
    runs = [_many_pairs(bench, count) for count in (few, many, few)]
    per_token = [_per_token(run) for run in runs]
    value = per_token[1] / median([per_token[0], per_token[2]]) - 1
    reference = [run.reference_seconds for run in runs]
    details = {"seconds_per_token": per_token, "reference_seconds": reference, "pairs": [few, many, few]}
    details |= {"command_seconds": [run.command_seconds for run in runs]}
    return Figure(f"time per token, {few} to {many} pairs", value, 0.10, 0.0, True, _micros(per_token), details)


def _many_pairs(bench: Bench, count: int) -> Result:
    epochs = max(1, 1000 // count)
    more: dict[str, Any] = {"global_batch_size": 32, "epochs": epochs, "max_steps": "null"}
    return run_ours(bench, "dpo", f"scaling_{count}", model="toy", **more)


def _per_token(run: Result) -> float:
    """Return the seconds per token of all steps except the first and the last, which may be smaller."""
    return sum(run.step_seconds[1:-1]) / sum(run.tokens[1:-1])


def _micros(values: Sequence[float]) -> str:
    return ", ".join(f"{1e6 * value:.1f}" for value in values) + " us per token"


def _memory_by_vocabulary(bench: Bench) -> Figure:
    """Compare the peak memory of a step with that for a vocabulary four times as large, without the added weights.

    The added memory of weights, gradients and optimizer states is subtracted.
    """
    runs = {name: run_ours(bench, "dpo", "mfu", model=name) for name in ("small", "wide")}
    small, wide = (runs[name].peak_memory_gb for name in ("small", "wide"))
    extra = _weights(bench.sizes.models["wide"]) - _weights(bench.sizes.models["small"])
    states = 4 * 4 * extra / 1e9  # weights, gradients and Adam's two moments in fp32
    details = {"peak_memory_gb": {"small": small, "wide": wide}, "weights_and_optimizer_gb": states}
    note = f"{small:.2f} to {wide:.2f} GB, of which {states:.2f} GB are weights, gradients and optimizer"
    return Figure("memory, vocabulary x 4", (wide - states) / small - 1, 0.15, 0.0, True, note, details)


def _weights(geometry: Geometry) -> int:
    """Return the number of embedding weights, which depends on the vocabulary."""
    return int(geometry["vocab_size"] * geometry["hidden_size"]) * (1 if geometry["tie_word_embeddings"] else 2)


def sweep(bench: Bench) -> list[Figure]:
    """Compare a sweep on one dataset with the same number of single runs that share no cache."""
    name, limits = "sweep against single runs", (0.85, 0.75, True)
    epoch = {"global_batch_size": 32, "max_steps": "null", "steps": 1}
    combinations = list(itertools.product(bench.sizes.sweep_betas, bench.sizes.sweep_seeds))
    chosen = combinations[:: max(1, len(combinations) // bench.sizes.single_runs)][: bench.sizes.single_runs]
    half = len(chosen) // 2
    singles = [_single(bench, epoch, *combination) for combination in chosen[:half]]
    total, jobs = _sweep(bench, epoch)
    singles += [_single(bench, epoch, *combination) for combination in chosen[half:]]
    seconds = [single.command_seconds for single in singles]
    value = total / (len(combinations) * median(seconds))
    details = {"sweep_seconds": total, "single_seconds": seconds, "jobs": len(combinations)}
    details |= {"reference_seconds": {"sweep": jobs, "single": [single.reference_seconds for single in singles]}}
    note = (
        f"{total:.0f} s for {len(combinations)} jobs; a single run {median(seconds):.0f} s (median of {len(seconds)})"
    )
    return [Figure(name, value, *limits, note=note, details=details)]


def _single(bench: Bench, epoch: dict[str, Any], beta: float, seed: int) -> Result:
    return run_ours(bench, "dpo", "sweep", **(epoch | {"algo.beta": beta, "seed": seed}))


def _sweep(bench: Bench, epoch: dict[str, Any]) -> tuple[float, list[float]]:
    folder = bench.new_folder("ours-sweep")
    values: dict[str, Any] = {
        "algo.beta": ",".join(map(str, bench.sizes.sweep_betas)),
        "seed": ",".join(map(str, bench.sizes.sweep_seeds)),
        "sweep_dir": folder / "jobs",
        "paths.cache": folder / "cache",
    }
    typed = overrides(bench, "dpo", "sweep", **epoch, **values)
    clock = "+callbacks.clock={_target_: benchmarks.hooks.Clock}"
    _, seconds = call(bench, "-m", "psychocounsel.train", "-m", *typed, clock)
    runs: list[Path] = sorted(path.parent for path in (folder / "jobs").glob("*/metrics.jsonl"))
    return seconds, [read_ours(bench, run, 0.0).reference_seconds for run in runs]


CASES = {"mfu": mfu, "scaling": scaling, "sweep": sweep}
