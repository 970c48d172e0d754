"""`python -m benchmarks.online --data FILE`: online DPO against TRL's experimental OnlineDPOTrainer. See README.md."""

import argparse
import json
import os
import tempfile
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.offline import hardware, make_bench
from benchmarks.sides import Bench, Result, run_ours, run_trl

PROMPTS, TOKENS = 8, 128
LIMITS = {"hf": 1.5, "vllm": 2.5}  # floors of TRL's seconds over ours
_PARTS = ("sync", "write", "score")


def main() -> None:
    arguments = read_arguments()
    report: dict[str, Any] = {"hardware": hardware("cpu"), "rollouts": {}}
    with tempfile.TemporaryDirectory(prefix="psychocounsel-benchmark-") as folder:
        bench = make_bench(arguments, Path(folder))
        lines = bench.rows("pairs").read_text().splitlines()[:PROMPTS]
        bench.rows("prompts").write_text("\n".join(lines) + "\n")
        for rollout in arguments.rollouts:
            runs = []
            for repeat in range(arguments.repeats):
                sides = {"ours": lambda name=rollout: ours(bench, name), "trl": lambda: trl(bench)}
                runs.append({side: sides[side]() for side in sorted(sides, reverse=bool(repeat % 2))})
            report["rollouts"][rollout] = outcome(runs)
            print(line(rollout, report["rollouts"][rollout]), flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=1) + "\n")


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.online", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="pairs as JSONL: prompt, chosen, rejected")
    parser.add_argument(
        "--rollouts", nargs="*", default=["hf", *(["vllm"] if find_spec("vllm") else [])], choices=LIMITS
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps, the first of which warms up")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does it all work?")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--ours", nargs="*", default=[], help="further overrides of psychocounsel.train, for trials")
    parser.add_argument("--output", type=Path, help="JSON")
    parser.set_defaults(device="cpu", scratch=None)
    return parser.parse_args()


def ours(bench: Bench, rollout: str) -> tuple[Result, dict[str, float]]:
    """A run and the mean seconds of each part of a step."""
    settings = {
        **{"algo.samples": 2, "algo.temperature": 1.0, "algo.beta": 0.1, "micro_batch_tokens": 4096},
        **{"rollout": rollout, "rollout.max_tokens": TOKENS, "rollout.shard_prompts": PROMPTS, "rollout.samples": 0},
        **{"reward": "local", "reward.path": bench.model("reward")},
    }
    result = run_ours(bench, "online_dpo", "prompts", **settings)
    run = bench.folder / "runs" / f"{bench.runs:03d}-ours-online_dpo" / "run"
    steps = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()][2:]
    parts = {name: sum(step[f"rollout/{name}_seconds"] for step in steps) / len(steps) for name in _PARTS}
    parts["train"] = result.seconds - sum(parts.values())
    return result, parts | {"length": sum(step["rollout/length"] for step in steps) / len(steps)}


def trl(bench: Bench) -> tuple[Result, dict[str, float]]:
    more = {"reward": str(bench.model("reward")), "max_tokens": TOKENS}
    return run_trl(bench, "online_dpo", "prompts", PROMPTS, **more), {}


def outcome(runs: list[dict[str, tuple[Result, dict[str, float]]]]) -> dict[str, Any]:
    ratios = [run["trl"][0].seconds / run["ours"][0].seconds for run in runs]
    last = runs[-1]
    return {
        "ratio": median(ratios),
        "ratios": ratios,
        "seconds": {side: last[side][0].seconds for side in last},
        "parts": last["ours"][1],
    }


def line(rollout: str, found: dict[str, Any]) -> str:
    parts = ", ".join(f"{name} {value:.2f}" for name, value in found["parts"].items())
    seconds = found["seconds"]
    return (
        f"online_dpo, rollout={rollout}: {found['ratio']:.2f}x (floor {LIMITS[rollout]}); "
        f"{seconds['ours']:.2f} s a step, TRL {seconds['trl']:.2f} s; {parts}"
    )


if __name__ == "__main__":
    main()
