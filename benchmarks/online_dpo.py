"""Case that compares online DPO with TRL's experimental OnlineDPOTrainer."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean
from typing import Any, ClassVar

from benchmarks.training_runs import Bench, Result, run_ours, run_trl, step_lines

PARTS = ("sync", "write", "score")
Measured = tuple[Result, dict[str, float]]  # (a run, mean seconds of each part of a round)


@dataclass
class OnlineDPO:
    """Online DPO with two replies of `tokens` tokens to each prompt, and one optimizer step per round."""

    bench: Bench
    tokens: int

    floors: ClassVar[dict[str, float]] = {"hf": 1.5, "vllm": 2.5}  # smallest ratio of TRL's seconds to ours

    def sides(self, rollout: str) -> dict[str, Callable[[], Measured]]:
        return {"ours": lambda: self.ours(rollout), "trl": self.trl}

    def ours(self, rollout: str) -> Measured:
        prompts = self.bench.sizes.prompts
        settings: dict[str, Any] = {
            **{"algo.samples": 2, "rollout.temperature": 1.0, "algo.beta": 0.1, "micro_batch_tokens": 4096},
            **{"rollout": rollout, "rollout.max_tokens": self.tokens, "rollout.shard_prompts": prompts},
            **{"rollout.shown_prompts": 0, "reward": "local", "reward.path": self.bench.model("reward")},
        }
        result = run_ours(self.bench, "online_dpo", "prompts", **settings)
        steps = step_lines(self.bench.last / "run")[1:]
        parts = {name: mean(step[f"rollout/{name}_seconds"] for step in steps) for name in PARTS}
        parts["train"] = result.seconds - sum(parts.values())
        return result, parts | {"length": mean(step["rollout/length"] for step in steps)}

    def trl(self) -> Measured:
        more: dict[str, Any] = {"reward": str(self.bench.model("reward")), "max_tokens": self.tokens}
        return run_trl(self.bench, "online_dpo", "prompts", self.bench.sizes.prompts, **more), {}

    def differences(self) -> dict[str, float]:
        return {}  # losses are not comparable, because each side trains on its own replies
