"""One precision for policy, reference, critic and rollout at every ZeRO stage: before an update they agree exactly."""

from pathlib import Path

import pytest

from tests.support.harness import ROOT, cli, metrics_of

PAIRS = ("data.limit=24", "eval.limit=6")
WRITES = ("rollout.max_tokens=12", "reward=tiny", "algo.samples=2", *PAIRS)
NOTHING = {
    "dpo": {"rewards/margin": 0, "rewards/chosen": 0, "loss": pytest.approx(0.6931472, abs=1e-7)},
    "kto": {"rewards/margin": 0, "kl": 0},
    "online_dpo": {"rewards/margin": 0, "rewards/chosen": 0, "rollout/kl": 0},
    "ppo": {"ratio": 1, "approx_kl": 0, "rollout/kl": 0},
    "rloo": {"ratio": 1, "approx_kl": 0, "rollout/kl": 0},
    "grpo": {"ratio": 1, "approx_kl": 0, "rollout/kl": 0},
    "sft": {},
    "simpo": {},
    "orpo": {},
    "reward": {},
    "online_simpo": {},
}
ONLINE = ("online_dpo", "online_simpo", "ppo", "rloo", "grpo")
FP32 = [pytest.param(algo, "fp32", (0, 1, 2, 3), marks=pytest.mark.proof) for algo in NOTHING]
# Stages 1 and 2 change the optimizer alone. DPO (one engine) and PPO (a critic has a second one) stand for all algorithms,
# GRPO, online DPO and reward models for those that are like them.
BF16 = [
    pytest.param(
        algo,
        "bf16",
        (0, 1, 2, 3) if algo in ("dpo", "ppo") else (0, 3),
        marks=pytest.mark.slow if algo in ("dpo", "ppo", "grpo", "online_dpo", "reward") else pytest.mark.proof,
    )
    for algo in NOTHING
]


@pytest.mark.parametrize(("algo", "dtype", "stages"), [*BF16, *FP32])
def test_an_untrained_policy_equals_its_reference(
    algo: str, dtype: str, stages: tuple[int, ...], wide_model: Path, tmp_path: Path
) -> None:
    """The first step's figures are computed before its update. Its loss is the same at every stage."""
    losses = []
    for stage in stages:
        run = tmp_path / f"{stage}"
        more = WRITES if algo in ONLINE else PAIRS
        setting = [
            f"algo={algo}",
            f"zero='{stage}'",
            f"model.dtype={dtype}",
            f"model.path={wide_model}",
            f"run_dir={run}",
        ]
        cli(
            "train",
            *setting,
            *more,
            "max_steps=1",
            "global_batch_size=4",
            "max_length=512",
            "micro_batch_tokens=512",
            "cluster.threads=1",  # with two, stage 0 computes in two lanes, whose products bf16 rounds otherwise
            cwd=ROOT,
        )
        before, line = metrics_of(run)
        for name, value in NOTHING[algo].items():
            assert line[name] == value, (stage, name)
        assert before.get("eval/kl", 0) == 0
        losses.append(line["loss"])
    assert losses == pytest.approx([losses[0]] * len(losses), rel=1e-6, abs=1e-7)
