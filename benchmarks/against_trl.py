"""Cases that compare psychocounsel with TRL on the same rows."""

import itertools
import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.training_runs import Bench, Result, run_ours, run_trl

TOLERANCE = 1e-4  # largest allowed relative difference of losses in fp32


@dataclass(frozen=True)
class Case:
    """One comparison. `floor` and `goal` are limits of the speed ratio.

    `reference` says how both sides get reference log-probabilities: "inside" (within the measured time), "cached", or ""
    if the algorithm needs no reference.
    """

    algorithm: str
    floor: float
    goal: float
    rows: str = "pairs"
    model: str = "small"
    reference: str = ""
    dtype: str = "fp32"  # of our run
    trl_dtypes: tuple[str, ...] = ("fp32",)
    trl_reference: str | None = None  # TRL's `reference` if it differs from ours


CASES = {
    "dpo": Case("dpo", 3.0, 3.8, reference="inside"),
    "dpo_cached": Case("dpo", 3.0, 3.8, reference="cached"),
    "dpo_bf16": Case("dpo", 4.0, 6.0, "pairs", "small", "cached", "bf16", ("fp32", "bf16"), "inside"),
    "simpo": Case("simpo", 2.5, 3.0),
    "reward": Case("reward", 1.6, 1.9, model="reward"),
    "sft": Case("sft", 1.0, 1.2, rows="demonstrations"),
}


@dataclass
class Outcome:
    """Result of a case. `ratio` is the median over repeats of TRL's seconds divided by ours."""

    ratio: float
    ratios: list[float]
    repeats: list[dict[str, Any]]
    tried: list[dict[str, Any]]  # TRL runs with other micro-batches, one each
    largest_loss_difference: float
    errors: list[str] = field(default_factory=list)
    memory_ratio: float | None = None  # our peak memory divided by TRL's


def compare(bench: Bench, case: Case, repeats: int, micro_batch: int | None) -> Outcome:
    """Run both sides alternately `repeats` times. TRL uses `micro_batch`, or its fastest one if that is None."""
    if bench.device == "cuda":
        case = replace(case, dtype="bf16", trl_dtypes=("bf16",))
    batches = (micro_batch,) if micro_batch else bench.sizes.trl_batches
    choices = list(itertools.product(batches, case.trl_dtypes))
    tried = [_trl(bench, case, *choice) for choice in choices] if len(choices) > 1 else []
    best = min(range(len(tried)), key=lambda number: tried[number].seconds, default=0)
    cache = bench.folder / "cache" / f"{case.algorithm}-{case.dtype}"
    if case.reference == "cached":
        _ours(bench, case, cache, steps=1)
    runs = []
    for repeat in range(repeats):
        sides = {"ours": lambda: _ours(bench, case, cache), "trl": lambda: _trl(bench, case, *choices[best])}
        order = sorted(sides, reverse=bool(repeat % 2))
        runs.append({side: sides[side]() for side in order})
    return summarise(case, runs, tried)


def _ours(bench: Bench, case: Case, cache: Path, **more: Any) -> Result:
    shared = cache if case.reference == "cached" else None
    settings = {"model": case.model, "model.dtype": case.dtype, **more}
    result = run_ours(bench, case.algorithm, case.rows, shared, **settings)
    result.trained_tokens = sum(sum(replies) for _, replies in bench.lengths(case.rows))
    return result


def _trl(bench: Bench, case: Case, micro_batch: int, dtype: str = "fp32", **more: Any) -> Result:
    reference = case.reference if case.trl_reference is None else case.trl_reference
    more |= {"cached": reference == "cached"}
    return run_trl(bench, case.algorithm, case.rows, micro_batch, dtype, case.model, **more)


def seconds(case: Case, result: Result) -> float:
    """Return the seconds of one pass over the rows.

    With reference "inside", our reference for all rows, computed before the first step, is added, because TRL computes its
    reference inside each step.
    """
    return result.seconds + (result.reference_seconds if case.reference == "inside" else 0.0)


def summarise(case: Case, runs: list[dict[str, Result]], tried: list[Result]) -> Outcome:
    ratios = [seconds(case, run["trl"]) / seconds(case, run["ours"]) for run in runs]
    memory = [run["ours"].peak_memory_gb / run["trl"].peak_memory_gb for run in runs]
    differences = [_difference(run["ours"].losses, run["trl"].losses) for run in runs]
    repeats = [{side: _record(case, result) for side, result in run.items()} for run in runs]
    return Outcome(
        median(ratios),
        ratios,
        repeats,
        [_record(case, result) for result in tried],
        max(differences),
        _errors(case, runs, max(differences)),
        median(memory),
    )


def _record(case: Case, result: Result) -> dict[str, Any]:
    return asdict(result) | {"seconds": seconds(case, result)}


def profile(bench: Bench, case: Case, micro_batch: int, folder: Path) -> None:
    """Write the operations of each side, sorted by their own time, to `ours.txt` and `trl.txt`."""
    folder.mkdir(parents=True, exist_ok=True)
    watch = f"{{_target_: benchmarks.hooks.Operations, path: {folder.resolve()}/ours.txt}}"
    _ours(
        bench, case, bench.folder / "cache" / "profile", **{"+callbacks.operations": watch, "engine.two_lanes": "false"}
    )
    _trl(bench, case, micro_batch, profile=f"{folder.resolve()}/trl.txt")


def _difference(ours: list[float], theirs: list[float]) -> float:
    if len(ours) != len(theirs):
        return float("inf")
    differences = [abs(mine - other) / abs(other) for mine, other in zip(ours, theirs, strict=True)]
    return max(differences) if all(map(math.isfinite, differences)) else float("inf")


def _errors(case: Case, runs: list[dict[str, Result]], difference: float) -> list[str]:
    """Return the reasons for which the comparison is invalid."""
    errors = []
    if case.dtype == "fp32" and difference > TOLERANCE:
        errors.append(f"losses differ by {difference:.1e}, more than {TOLERANCE:.0e}")
    for run in runs:
        if run["ours"].threads != run["trl"].threads:
            errors.append(f"threads: ours {run['ours'].threads}, TRL {run['trl'].threads}")
        trained = run["ours"].trained_tokens, run["trl"].trained_tokens
        if None not in trained and trained[0] != trained[1]:
            errors.append(f"trained tokens: ours {trained[0]}, TRL {trained[1]}")
    return errors
