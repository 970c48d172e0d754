"""Invented metrics and summary of a training run that improves. The figures depend only on the seed."""

import random
from collections.abc import Sequence
from typing import Any

Line = dict[str, Any]


def learning_lines(seed: int, steps: int, every: int, online: bool = False) -> list[Line]:
    """Return lines of metrics.jsonl with a falling, noisy loss. With `online`, they also have the figures of rounds."""
    rng = random.Random(seed)
    made = [{"step": 0, "attempt": 1, **_evaluation(rng, 0.0, online)}]
    for step in range(1, steps + 1):
        share = step / steps
        line = {"step": step, "attempt": 1, "loss": 0.7 - 0.3 * share + rng.gauss(0, 0.02), "lr": 3e-4 * (1 - share)}
        line |= {"tokens": 12000 + rng.randrange(500), "step_seconds": 2.0 + rng.random(), "mfu": 0.4, "grad_norm": 1.5}
        line |= {"tokens_per_second": 5000.0, "peak_memory_gb": 1.5, "data_seconds": 0.003}
        line |= {"rewards/accuracy": 0.5 + 0.3 * share, "rewards/chosen": -0.1 * share, "rewards/margin": 0.4 * share}
        if online:
            line |= {
                "rollout/reward": share + rng.gauss(0, 0.1),
                "rollout/length": 60 + 20 * share,
                "rollout/kl": 4 * share,
            }
            line |= {"rollout/unfinished": 0.3, "rollout/repetition": 0.0, "rollout/write_seconds": 1.2}
        if step % every == 0 or step == steps:
            line |= _evaluation(rng, share, online)
        made.append(line)
    return made


def _evaluation(rng: random.Random, share: float, online: bool) -> Line:
    accuracy = 0.5 + 0.2 * share + rng.gauss(0, 0.01)
    found = {"eval/accuracy": accuracy, "eval/accuracy_low": accuracy - 0.05, "eval/accuracy_high": accuracy + 0.05}
    found |= {"eval/margin": 0.3 * share, "eval/loss": 0.69 - 0.2 * share + rng.gauss(0, 0.01)}
    if online:
        rate = 0.5 + 0.3 * share
        found = {"eval/reward": share, "eval/length": 60 + 20 * share, "eval/unfinished": 0.3, "eval/repetition": 0.0}
        found |= {
            "eval/kl": 4 * share,
            "eval/win_rate": rate,
            "eval/win_rate_low": rate - 0.1,
            "eval/win_rate_high": rate + 0.1,
        }
    return found


def summary_of(status: str, steps: int, made: Sequence[Line]) -> Line:
    """Return the content of `summary.json` for these lines."""
    evaluated = [line for line in made if any(key.startswith("eval/") for key in line)]

    def figures(line: Line) -> Line:
        return {key: value for key, value in line.items() if key.startswith("eval/")}

    metric = "eval/reward" if evaluated and "eval/reward" in evaluated[-1] else "eval/loss"
    sign = -1 if metric == "eval/reward" else 1
    later = [line for line in evaluated if line["step"] > 0 and metric in line]
    best = min(later, key=lambda line: sign * line[metric], default=None)
    metrics = {
        "before": figures(evaluated[0]) if evaluated and evaluated[0]["step"] == 0 else {},
        "best": {"step": best["step"], **figures(best)} if best else {},
        "last": figures(later[-1]) if later else {},
    }
    done = max((line["step"] for line in made), default=0)
    seconds = round(sum(line.get("step_seconds", 0.0) for line in made) + 5.0, 3)
    about = {"status": status, "steps": done, "total_steps": steps, "metrics": metrics}
    return {**about, "fingerprint": "ffc8eff9" * 8, "seconds": seconds}
