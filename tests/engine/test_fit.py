"""`micro_batch_tokens=auto` measures, changes nothing, and keeps to what it found."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from psychocounsel.algo.dpo import DPO
from psychocounsel.engine import fit
from psychocounsel.engine.fit import fitting_tokens
from psychocounsel.errors import UserError
from tests.support.harness import ROOT, cli, make_stepper, metrics_of, random_groups, small_lm

pytestmark = pytest.mark.usefixtures("in_process_training")


def test_no_more_than_a_global_batch_and_no_less_than_the_longest_row(monkeypatch: pytest.MonkeyPatch) -> None:
    stepper, groups = make_stepper(small_lm(), DPO()), random_groups(40, longest=200)
    longest = sorted((group.tokens for group in groups), reverse=True)
    assert fitting_tokens(stepper, groups, 1, 10) == longest[0]
    assert fitting_tokens(stepper, groups, 1, longest[0] + 10) == longest[0] + 10
    assert sum(longest[:16]) > fit._CPU_TOKENS
    assert fitting_tokens(stepper, groups, 16, 10) == fit._CPU_TOKENS
    monkeypatch.setattr(fit, "_CPU_TOKENS", 1 << 20)
    found = fitting_tokens(stepper, groups, 16, 10)
    assert sum(longest[:16]) - 256 < found <= sum(longest[:16])


def test_tokens_are_proportional_to_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    stepper, groups = make_stepper(small_lm(), DPO()), random_groups(400, longest=400)
    monkeypatch.setattr(fit, "_needed_bytes", lambda stepper, some: 1e9 + 1e6 * sum(g.tokens for g in some))
    monkeypatch.setattr(fit, "_memory_bytes", lambda world: (1e9 + 5e9) / fit._SHARE)
    monkeypatch.setattr(fit, "_CPU_TOKENS", 1 << 20)
    found = fitting_tokens(stepper, groups, 400, 10)
    assert 5000 - 256 < found <= 5000


def test_too_little_memory_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    stepper, groups = make_stepper(small_lm(), DPO()), random_groups(4)
    monkeypatch.setattr(fit, "_memory_bytes", lambda world: 1e6)
    with pytest.raises(UserError, match=r"the longest row \(\d+ tokens\) does not fit into 0.0 GB; try"):
        fitting_tokens(stepper, groups, 4, 10)


def test_memory_of_a_pass_is_measured() -> None:
    stepper = make_stepper(small_lm(vocab_size=4096), DPO(), 8192)
    small, large = random_groups(4, longest=100), random_groups(64, longest=400)
    fit._needed_bytes(stepper, small)
    low, high = (fit._needed_bytes(stepper, groups) for groups in (small, large))
    assert high > low + 10e6


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_rehearsing_leaves_no_trace(weight_decay: float) -> None:
    def trained(rehearse: bool) -> dict[str, torch.Tensor]:
        lm, groups = small_lm(), random_groups(6)
        stepper = make_stepper(lm, DPO(weight_decay=weight_decay))
        if rehearse:
            fitting_tokens(stepper, groups, 6, 10)
        for _ in range(3):
            stepper.main.train(True)
            stepper.accumulate(groups, train=True)
            stepper.main.step(1e-3)
        return {name: value.clone() for name, value in lm.state_dict().items()}

    for (name, value), other in zip(trained(True).items(), trained(False).values(), strict=True):
        assert torch.equal(value, other), name


_SHARDED = ["zero=3", "cluster.processes=2", "zero.persistence_elements=0"]


_PPO = [
    "algo=ppo",
    "reward=tiny",
    "algo.samples=2",
    "rollout.max_tokens=200",
    "algo.critic=policy",
    "global_batch_size=8",
]


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        pytest.param(_SHARDED, marks=pytest.mark.slow),
        _PPO,
        pytest.param([*_PPO, "algo.critic=shared", "algo.entropy=true"], marks=pytest.mark.slow),
    ],
    ids=["alone", "sharded", "critic", "shared-critic"],
)
def test_auto_is_frozen_in_the_run(overrides: list[str], small_model: Path, tmp_path: Path) -> None:
    common = ["debug=fast", f"model.path={small_model}", "checkpoint.keep_last=5", *overrides]
    cli("train", *common, f"run_dir={tmp_path}/auto", "micro_batch_tokens=auto", cwd=ROOT)
    found = OmegaConf.load(tmp_path / "auto" / "config.yaml").micro_batch_tokens
    assert isinstance(found, int) and ("algo=ppo" not in overrides or found >= 400), (
        "two replies as long as they may be"
    )
    again = cli("train", *common, f"run_dir={tmp_path}/auto", "micro_batch_tokens=auto", cwd=ROOT)
    assert "already finished" in again.stdout
    cli("train", *common, f"run_dir={tmp_path}/told", f"micro_batch_tokens={found}", cwd=ROOT)
    assert metrics_of(tmp_path / "auto") == metrics_of(tmp_path / "told")
