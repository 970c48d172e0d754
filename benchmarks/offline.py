"""Compare offline training with TRL, as a table and JSON: `python -m benchmarks.offline --data FILE`. See README.md."""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import against_trl, without_trl
from benchmarks.against_trl import Outcome
from benchmarks.sizes import CUDA, FULL, SMOKE
from benchmarks.training_runs import ROOT, Bench, Failed, call
from benchmarks.without_trl import Figure

_VERSIONS = ("torch", "transformers", "trl", "deepspeed", "accelerate", "numpy")
_NAMES = [*against_trl.CASES, "memory", *without_trl.CASES]  # memory is measured in the runs of dpo
_CPU_ONLY = {"scaling", "sweep"}


def main() -> None:
    arguments = read_arguments()
    # SIGTERM raises an exception instead of ending abruptly, so that runs end and temporary folders are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    report: dict[str, Any] = describe(arguments)
    with tempfile.TemporaryDirectory(prefix="psychocounsel-benchmark-", dir=arguments.scratch) as folder:
        bench = make_bench(arguments, Path(folder))
        report["work"] = bench.work()
        print(f"{report['hardware']}; {bench.threads} threads; TRL {report['versions']['trl']}", flush=True)
        for name in arguments.cases:
            load = os.getloadavg()[0]
            for figure in measure(bench, name, arguments):
                report["cases"][figure.name] = asdict(figure) | {"verdict": figure.verdict, "load_before": load}
                print(line(figure), flush=True)
                if arguments.output:
                    arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    errors = [
        f"{name}: {error}" for name, case in report["cases"].items() for error in case["details"].get("errors", [])
    ]
    if errors:
        sys.exit("FAILED\n" + "\n".join(errors))


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.offline", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="pairs as JSONL: prompt, chosen, rejected")
    parser.add_argument("--cases", type=_cases, default=None, help=f"some of {','.join(_NAMES)}")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, help="JSON, rewritten after every case")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, to test that everything works")
    parser.add_argument(
        "--trl-micro-batch", type=int, help="TRL's micro-batch in pairs; default: the fastest of 1, 2, 4, 8"
    )
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--steps", type=int, help="number of optimizer steps; the first one warms up")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", type=Path, help="folder of a model with a fast tokenizer, for the cases against TRL")
    parser.add_argument("--pairs", type=int, help="pairs of a step")
    parser.add_argument("--geometry", choices=tuple(CUDA), default="1b", help="model geometry for --device cuda")
    parser.add_argument("--ours", nargs="*", default=[], help="more overrides of psychocounsel.train, for experiments")
    parser.add_argument("--profile", type=Path, help="folder for profiles of the cases; nothing is timed then")
    parser.add_argument("--scratch", type=Path, help="parent folder of temporary models and runs")
    arguments = parser.parse_args()
    arguments.cases = arguments.cases or [name for name in _NAMES if arguments.device == "cpu" or name not in _CPU_ONLY]
    if arguments.model:
        arguments.cases = [name for name in arguments.cases if name in against_trl.CASES]
    if arguments.device == "cuda" and (cases := _CPU_ONLY & set(arguments.cases)):
        parser.error(f"{', '.join(sorted(cases))}: only on the CPU")
    return arguments


def _cases(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(_NAMES):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: cases are {', '.join(_NAMES)}")
    return names


def make_bench(arguments: argparse.Namespace, folder: Path) -> Bench:
    """Create tokenizer, models and rows in another process, because a large parent counts as memory of its children."""
    sizes = SMOKE if arguments.smoke else CUDA[arguments.geometry] if arguments.device == "cuda" else FULL
    given = {name: count for name in ("steps", "pairs") if (count := getattr(arguments, name))}
    sizes = replace(sizes, **given)
    bench = Bench(folder, sizes, arguments.device, arguments.threads, arguments.ours)
    dtype = "bfloat16" if arguments.device == "cuda" else "float32"
    data = str(arguments.data.resolve())
    spec = {"folder": str(folder), "data": data, "sizes": asdict(sizes), "dtype": dtype}
    if arguments.model:
        spec["model"] = str(arguments.model.resolve())
    (folder / "spec.json").write_text(json.dumps(spec))
    call(bench, "-m", "benchmarks.make_inputs", str(folder / "spec.json"))
    return bench


def measure(bench: Bench, name: str, arguments: argparse.Namespace) -> Iterator[Figure]:
    """Yield the figures of one case. If the case fails, yield a figure with its error, so that the other cases still run."""
    try:
        if name in without_trl.CASES:
            yield from without_trl.CASES[name](bench)
        else:
            wanted = "dpo" if name == "memory" else name
            if name == "memory" and "dpo" in arguments.cases:
                return
            case = against_trl.CASES[wanted]
            if arguments.profile:
                against_trl.profile(bench, case, arguments.trl_micro_batch or 4, arguments.profile / name)
                return
            outcome = against_trl.compare(bench, case, arguments.repeats, arguments.trl_micro_batch)
            if name != "memory":
                yield speed(name, case, outcome)
            if wanted == "dpo" and "memory" in arguments.cases:
                yield memory(outcome)
    except Failed as failure:
        yield Figure(name, None, 0, 0, note="failed", details={"errors": [str(failure)]})


def speed(name: str, case: against_trl.Case, outcome: Outcome) -> Figure:
    last = outcome.repeats[-1]
    ours, trl = (last[side]["seconds"] for side in ("ours", "trl"))
    used = last["trl"]["settings"]
    note = (
        f"{ours:.2f} s, TRL {trl:.2f} s ({used['dtype']}, {used['micro_batch']} per micro-batch); "
        f"losses differ by {outcome.largest_loss_difference:.0e}; memory {outcome.memory_ratio:.2f}x"
    )
    return Figure(name, outcome.ratio, case.floor, case.goal, note=note, details=asdict(outcome))


def memory(outcome: Outcome) -> Figure:
    ours, trl = (outcome.repeats[-1][side]["peak_memory_gb"] for side in ("ours", "trl"))
    return Figure("memory", outcome.memory_ratio, 0.5, 0.35, True, f"{ours:.2f} GB, TRL {trl:.2f} GB")


def line(figure: Figure) -> str:
    value = "-" if figure.value is None else f"{figure.value:.3f}"
    bound = "<=" if figure.smaller else ">="
    limits = f"{bound} {figure.floor:g} / {figure.goal:g}"
    return f"{figure.name:<36}{value:>8}  {limits:<15}{figure.verdict:<14}{figure.note}"


def describe(arguments: argparse.Namespace) -> dict[str, Any]:
    asked = {name: str(value) for name, value in vars(arguments).items()}
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    return {
        "date": datetime.now().astimezone().isoformat(timespec="minutes"),
        "hardware": hardware(arguments.device),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in _VERSIONS},
        "commit": commit,
        "arguments": asked,
        "cases": {},
    }


def hardware(device: str) -> str:
    if device == "cuda":
        query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True).stdout.strip()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [text.partition(":")[2].strip() for text in lines if text.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


if __name__ == "__main__":
    main()
