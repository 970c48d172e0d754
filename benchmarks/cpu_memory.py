"""Memory on CPU, as estimated and as reached: `python -m benchmarks.cpu_memory --model MODEL --output result.json`."""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from psychocounsel.rundir.results import read_metrics
from psychocounsel.storage.files import write_json

TOLERANCE = 0.15
ALGORITHMS = ("sft", "reward", "dpo", "simpo", "orpo", "kto", "online_dpo", "online_simpo", "ppo", "rloo", "grpo")
_WRITES = ("reward=tiny", "rollout.max_tokens=128", "data.limit=200")
_CHANGES = {"online_dpo": _WRITES, "online_simpo": _WRITES, "rloo": _WRITES, "grpo": _WRITES}
_CHANGES["ppo"] = (*_WRITES, "algo.critic=policy")
_SAID = re.compile(r"memory per process on CPU: about (\d+\.\d) GB \((.*?)\)")


def measure(model: str, algorithm: str, dtype: str, run_dir: Path, *overrides: str) -> dict[str, float | str]:
    """Train for two steps with full micro-batches; return the estimated and the reached peak memory [10^9 bytes], and parts.

    Raises:
        RuntimeError: with the end of the run's output, if it fails.
    """
    typed = [f"algo={algorithm}", f"model.path={model}", f"model.dtype={dtype}", f"run_dir={run_dir}", "max_steps=2"]
    typed += ["eval.limit=8", "checkpoint.every=0", "global_batch_size=32", *_CHANGES.get(algorithm, ()), *overrides]
    command = [sys.executable, "-m", "psychocounsel.train", *typed, f"paths.cache={run_dir}-cache"]
    done = subprocess.run(command, capture_output=True, text=True)
    said = _SAID.search(done.stdout + done.stderr)
    if done.returncode or said is None:
        raise RuntimeError("\n".join((done.stdout + done.stderr).splitlines()[-12:]))
    reached = max(line.get("peak_memory_gb", 0.0) for line in read_metrics(run_dir / "metrics.jsonl"))
    return {"algorithm": algorithm, "dtype": dtype, "said": float(said[1]), "reached": reached, "parts": said[2]}


def main() -> int:
    """Print a table, and return 1 if an estimate is off by more than `TOLERANCE` of the reached memory."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu_memory", description=__doc__)
    parser.add_argument("--model", required=True, help="folder of a model in Hugging Face format")
    parser.add_argument("--algorithms", default=",".join(ALGORITHMS))
    parser.add_argument("--dtypes", default="fp32,bf16")
    parser.add_argument("--output", type=Path)
    parser.add_argument("overrides", nargs="*", help="more settings of each training, such as micro_batch_tokens=2048")
    asked = parser.parse_args()
    rows = []
    print("| algorithm | dtype | said (GB) | reached (GB) | difference |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="cpu-memory-") as folder:
        for algorithm in asked.algorithms.split(","):
            for dtype in asked.dtypes.split(","):
                run_dir = Path(folder) / f"{algorithm}-{dtype}"
                row = measure(asked.model, algorithm, dtype, run_dir, *asked.overrides)
                off = float(row["said"]) / float(row["reached"]) - 1
                rows.append({**row, "difference": off})
                figures = f"{row['said']:.1f} | {row['reached']:.1f} | {100 * off:+.0f} %"
                print(f"| {algorithm} | {dtype} | {figures} |", flush=True)
    if asked.output:
        write_json(asked.output, {"model": asked.model, "overrides": asked.overrides, "rows": rows})
    return int(any(abs(float(row["difference"])) > TOLERANCE for row in rows))


if __name__ == "__main__":
    sys.exit(main())
