"""Compare online DPO and PPO with TRL's trainers: `python -m benchmarks.online --data FILE`. See README.md."""

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.against_trl import TOLERANCE
from benchmarks.offline import describe, make_bench
from benchmarks.online_dpo import Measured, OnlineDPO
from benchmarks.ppo import PPO, peer_versions
from benchmarks.training_runs import Bench

TOKENS = 128
CASES = ("online_dpo", "ppo")
ROLLOUTS = ("hf", "vllm")


def main() -> None:
    arguments = read_arguments()
    # SIGTERM raises an exception instead of ending abruptly, so that runs end and temporary folders are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    report: dict[str, Any] = describe(arguments)
    if "ppo" in arguments.cases:
        report["ppo_versions"] = peer_versions(arguments.ppo_python)
    with tempfile.TemporaryDirectory(prefix="psychocounsel-benchmark-") as folder:
        bench = make_bench(arguments, Path(folder))
        for name in arguments.cases:
            report["cases"][name] = measure(name, make_case(name, bench, arguments), arguments)
            if arguments.output:
                arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    errors = [f"{name}: {error}" for name, case in report["cases"].items() for error in case["errors"]]
    if errors:
        sys.exit("FAILED\n" + "\n".join(errors))


def measure(name: str, case: OnlineDPO | PPO, arguments: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {"rollouts": {}, "errors": []}
    for rollout in arguments.rollouts:
        runs = compare(case, rollout, arguments.repeats)
        found["rollouts"][rollout] = outcome(runs)
        print(line(name, rollout, found["rollouts"][rollout], case.floors[rollout]), flush=True)
        threads = {(run["ours"][0].threads, run["trl"][0].threads) for run in runs}
        found["errors"] += [f"threads: ours {ours}, TRL {trl}" for ours, trl in sorted(threads) if ours != trl]
    found["loss_differences"] = case.differences()
    for loss, difference in found["loss_differences"].items():
        print(f"{name}: the {loss}'s loss on the same replies differs by {difference:.0e}", flush=True)
        if not difference <= TOLERANCE:  # written so that NaN fails, too
            found["errors"].append(f"the {loss}'s losses differ by {difference:.1e}, more than {TOLERANCE:.0e}")
    return found


def read_arguments(typed: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.online", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="pairs as JSONL: prompt, chosen, rejected")
    parser.add_argument("--cases", nargs="*", choices=CASES, help="default: online_dpo and, with --ppo-python, ppo")
    parser.add_argument(
        "--rollouts", nargs="*", default=["hf", *(["vllm"] if find_spec("vllm") else [])], choices=ROLLOUTS
    )
    parser.add_argument("--ppo-python", type=os.path.abspath, help="ppo: interpreter of an environment with TRL 0.24")
    parser.add_argument("--passes", type=int, default=2, help="ppo: optimizer steps on the replies of each round")
    parser.add_argument(
        "--trl-micro-batch",
        type=int,
        default=0,
        help="ppo: replies in TRL's micro-batch; 0: the fastest",
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="number of rounds; the first one warms up")
    parser.add_argument("--model", type=Path, help="folder of a model with a fast tokenizer; its rewards are random")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, to test that everything works")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--ours", nargs="*", default=[], help="more overrides of psychocounsel.train, for experiments")
    parser.add_argument("--output", type=Path, help="JSON, rewritten after every case")
    parser.set_defaults(device="cpu", pairs=None)
    arguments = parser.parse_args(typed)
    if arguments.steps < 2:
        parser.error("--steps: must be at least 2, because the first round warms up")
    arguments.cases = arguments.cases or [*CASES[: 2 if arguments.ppo_python else 1]]
    if "ppo" in arguments.cases:
        how = "benchmarks/README.md explains how to create its environment"
        if not arguments.ppo_python:
            parser.error(f"the case ppo needs --ppo-python, an interpreter that has TRL 0.24; {how}")
        try:
            peer_versions(arguments.ppo_python)
        except ValueError as error:
            parser.error(f"--ppo-python: {error}; {how}")
    return arguments


def make_case(name: str, bench: Bench, arguments: argparse.Namespace) -> OnlineDPO | PPO:
    if name == "online_dpo":
        return OnlineDPO(bench, TOKENS)
    return PPO(bench, TOKENS, arguments.ppo_python, arguments.passes, arguments.trl_micro_batch)


def compare(case: OnlineDPO | PPO, rollout: str, repeats: int) -> list[dict[str, Measured]]:
    """Run both sides `repeats` times in alternating order."""
    sides = case.sides(rollout)
    return [{side: sides[side]() for side in sorted(sides, reverse=bool(repeat % 2))} for repeat in range(repeats)]


def outcome(runs: list[dict[str, Measured]]) -> dict[str, Any]:
    ratios = [run["trl"][0].seconds / run["ours"][0].seconds for run in runs]
    return {
        "ratio": median(ratios),
        "ratios": ratios,
        "seconds": {side: median(run[side][0].seconds for run in runs) for side in runs[0]},
        "parts": {side: runs[-1][side][1] for side in runs[0]},
        "peak_memory_gb": {side: runs[-1][side][0].peak_memory_gb for side in runs[0]},
        "settings": {side: runs[-1][side][0].settings for side in runs[0]},
    }


def line(name: str, rollout: str, found: dict[str, Any], floor: float) -> str:
    parts = {
        side: ", ".join(f"{part} {value:.2f}" for part, value in found["parts"][side].items())
        for side in found["parts"]
    }
    seconds = found["seconds"]
    return (
        f"{name}, rollout={rollout}: {found['ratio']:.2f}x (floor {floor}); {seconds['ours']:.2f} s per round "
        f"({parts['ours']}), TRL {seconds['trl']:.2f} s" + (f" ({parts['trl']})" if parts["trl"] else "")
    )


if __name__ == "__main__":
    main()
