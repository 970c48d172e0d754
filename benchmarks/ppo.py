"""Case that compares PPO with the PPOTrainer of TRL 0.24, the last version with one. TRL has its own environment."""

import json
import math
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any, ClassVar

from benchmarks.online_dpo import PARTS, Measured
from benchmarks.training_runs import OPTIMIZER, Bench, Result, run_ours, run_trl, step_lines

_VERSIONS = "from importlib.metadata import version; print(*map(version, ('torch', 'transformers', 'trl')))"


def peer_versions(python: str) -> dict[str, str]:
    """Return the versions of the packages of the interpreter `python`.

    Raises:
        ValueError: if it cannot run or has no TRL 0.24.
    """
    try:
        asked = subprocess.run([python, "-c", _VERSIONS], capture_output=True, text=True)
    except OSError as error:
        raise ValueError(f"{python}: {error.strerror}") from error
    found = dict(zip(("torch", "transformers", "trl"), asked.stdout.split(), strict=False))
    if not found.get("trl", "").startswith("0.24."):
        raise ValueError(f"{python} has {'TRL ' + found['trl'] if found else 'no TRL'}, not 0.24")
    return found


@dataclass
class PPO:
    """PPO with one reply of `tokens` tokens to each prompt, and `passes` optimizer steps on each round.

    `python` is an interpreter with TRL 0.24. `micro_batch` is TRL's micro-batch in replies; 0: the fastest one, found by one
    run of each size.
    """

    bench: Bench
    tokens: int
    python: str
    passes: int
    micro_batch: int

    floors: ClassVar[dict[str, float]] = {"hf": 2.0, "vllm": 2.0}  # smallest ratio of TRL's seconds to ours

    @property
    def replies(self) -> Path:
        """Return the file with the replies and losses of TRL's last run."""
        return self.bench.folder / "replies.json"

    def sides(self, rollout: str) -> dict[str, Callable[[], Measured]]:
        self.micro_batch = self.micro_batch or self._fastest()
        return {"ours": lambda: self.ours(rollout), "trl": lambda: self.trl(self.micro_batch)}

    def ours(self, rollout: str, **more: Any) -> Measured:
        rounds, passes = self.bench.sizes.steps, self.passes
        settings: dict[str, Any] = {
            **{"algo.passes": passes, "algo.critic_lr": OPTIMIZER["lr"], "algo.max_grad_norm": "null"},
            **{"max_steps": rounds * passes, "micro_batch_tokens": 4096},
            **{"rollout": rollout, "rollout.max_tokens": self.tokens, "rollout.shown_prompts": 0},
            **{"rollout.shard_prompts": self.bench.sizes.prompts},
            **{"reward": "local", "reward.path": self.bench.model("reward"), **more},
        }
        result = run_ours(self.bench, "ppo", "prompts", **settings)
        by_rounds = [sum(result.step_seconds[at : at + passes]) for at in range(0, rounds * passes, passes)]
        result = replace(result, step_seconds=by_rounds)
        return result, self._parts(result)

    def _parts(self, result: Result) -> dict[str, float]:
        """Return the mean seconds of the parts of a round.

        The first step of a round also writes, scores and collects (log-probabilities and values). Other steps only train.
        """
        steps = step_lines(self.bench.last / "run")[self.passes :]
        firsts = steps[:: self.passes]
        others = [step for number, step in enumerate(steps) if number % self.passes]
        parts = {name: mean(step[f"rollout/{name}_seconds"] for step in firsts) for name in PARTS}
        if others:
            training = self.passes * mean(step["step_seconds"] for step in others)
            parts |= {"collect": result.seconds - sum(parts.values()) - training, "train": training}
        return parts | {"length": mean(step["rollout/length"] for step in firsts)}

    def trl(self, micro_batch: int) -> Measured:
        more: dict[str, Any] = {
            **{"peer": "benchmarks.ppo_peer", "python": self.python, "reward": str(self.bench.model("reward"))},
            **{"max_tokens": self.tokens, "passes": self.passes, "replies": str(self.replies)},
        }
        result = run_trl(self.bench, "ppo", "prompts", micro_batch, **more)
        rounds = json.loads(self.replies.read_text())[1:]
        return result, {"write": mean(found["write"] for found in rounds)}

    def _fastest(self) -> int:
        choices = [size for size in self.bench.sizes.trl_batches if self.bench.sizes.prompts % size == 0]
        return min(choices, key=lambda size: self.trl(size)[0].seconds) if len(choices) > 1 else choices[0]

    def differences(self) -> dict[str, float]:
        """Train on the replies of TRL's last run, and return the largest relative difference of each loss over all rounds.

        The standard deviation that whitens advantages divides by n - 1 in TRL and by n in psychocounsel; the policy's loss
        is corrected for this.
        """
        replay = {"rollout._target_": "benchmarks.replay.Replay", "+rollout.replies": self.replies}
        self.ours("hf", **replay, **{"reward._target_": "benchmarks.replay.ReplayReward"})
        steps = step_lines(self.bench.last / "run")
        factors = {"policy": math.sqrt(1 - 1 / (self.tokens * self.bench.sizes.prompts)), "value": 1.0}
        found = dict.fromkeys(factors, 0.0)
        for number, theirs in enumerate(json.loads(self.replies.read_text())):
            of_round = steps[number * self.passes : (number + 1) * self.passes]
            for name, factor in factors.items():
                ours = factor * mean(step[f"loss_{name}"] for step in of_round)
                size = max(abs(theirs[name]), 1e-3)  # with one pass per round, the policy's loss is zero
                found[name] = max(found[name], abs(ours - theirs[name]) / size)
        return found
