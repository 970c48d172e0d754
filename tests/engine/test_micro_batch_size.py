"""`micro_batch_tokens=auto` measures quickly, changes no weights, weighs time against memory, and keeps its choice."""

import math
import re
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from psychocounsel.algo.dpo import DPO
from psychocounsel.algo.simpo import SimPO
from psychocounsel.engine.sizing import micro_batch
from psychocounsel.engine.sizing.kept_measures import KeptMeasure, TokenMemory
from psychocounsel.engine.sizing.micro_batch import LONG, SHORT, chosen_tokens, longest_of, measure
from psychocounsel.engine.step import Stepper
from psychocounsel.errors import UserError
from tests.support.composed import check, compose
from tests.support.harness import ROOT, cli, make_stepper, metrics_of, random_groups, small_lm

pytestmark = pytest.mark.usefixtures("in_process_training")
FREE = TokenMemory(1e9, 1.0)  # a token needs almost no memory


def test_no_more_than_a_global_batch_and_no_less_than_the_longest_row(monkeypatch: pytest.MonkeyPatch) -> None:
    stepper, groups = make_stepper(small_lm(), DPO()), random_groups(40, longest=200)
    longest = sorted((group.tokens for group in groups), reverse=True)
    assert chosen_tokens(stepper, groups, FREE, 1, 10) == longest[0]
    assert chosen_tokens(stepper, groups, FREE, 1, longest[0] + 10) == longest[0] + 10
    assert chosen_tokens(stepper, groups * 9, FREE, 360, 10) == micro_batch._CPU_TOKENS
    monkeypatch.setattr(stepper.world, "device", torch.device("cuda"))
    monkeypatch.setattr(micro_batch, "usable_bytes", lambda world: 1e12)
    found = chosen_tokens(stepper, groups, FREE, 16, 10)
    assert sum(longest[:16]) - 256 < found <= sum(longest[:16]), "on a GPU the largest size is taken"


def test_on_gpu_tokens_are_proportional_to_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    stepper, groups = make_stepper(small_lm(), DPO()), random_groups(400, longest=400)
    monkeypatch.setattr(stepper.world, "device", torch.device("cuda"))
    monkeypatch.setattr(micro_batch, "usable_bytes", lambda world: (1e9 + 5e9) / micro_batch._SHARE)
    found = chosen_tokens(stepper, groups, TokenMemory(1e9, 1e6), 400, 10)
    assert 5000 - 256 < found <= 5000


def test_a_lot_of_memory_is_not_spent_on_a_small_gain() -> None:
    """2,048 tokens are 10 to 15 % faster than 1,280, which is too little for 8.1 GB instead of 5.8 GB."""
    stepper, groups = make_stepper(small_lm(), DPO()), random_groups(64, longest=160)
    large, small = TokenMemory(2.0e9, 3.0e6), TokenMemory(2.0e9, 0.05e6)
    assert (large.bytes_of(1280) / 1e9, large.bytes_of(2048) / 1e9) == pytest.approx((5.8, 8.1), abs=0.1)
    assert chosen_tokens(stepper, groups, large, 64, 1280) == 1280
    assert chosen_tokens(stepper, groups, small, 64, 1280) > 1280, "6 % less time for 2 % more memory"


def test_too_little_memory_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    stepper, groups = make_stepper(small_lm(), DPO()), random_groups(4)
    monkeypatch.setattr(micro_batch, "usable_bytes", lambda world: 1e6)
    with pytest.raises(UserError, match=r"the longest row \(\d+ tokens\) does not fit into 0.0 GB; try"):
        chosen_tokens(stepper, groups, TokenMemory(1e9, 1e6), 4, 10)


def test_measuring_costs_less_than_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two short passes and the longer one together have fewer tokens than a step, for rows of any length."""
    stepper, groups = make_stepper(small_lm(), DPO()), random_groups(16, longest=900)
    passes: list[int] = []
    rehearse = Stepper.rehearse

    def counted(self: Stepper, batches: list) -> None:
        passes.append(sum(int(batch.input_ids.numel()) for batch in batches))
        rehearse(self, batches)

    monkeypatch.setattr(Stepper, "rehearse", counted)
    measure(stepper, longest_of(groups), 10_000)
    assert len(passes) == 3 and sum(passes) <= 2 * SHORT + LONG + 96, "rows are padded to 32 tokens"
    passes.clear()
    measure(stepper, longest_of(groups), 400)
    assert sum(passes) <= 400


def test_rows_of_both_lanes_are_in_memory_together(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = random_groups(8, longest=300)
    longest = sorted((group.tokens for group in groups), reverse=True)
    monkeypatch.setattr(micro_batch, "usable_bytes", lambda world: (longest[0] + 1) * 1e6 / micro_batch._SHARE)
    memory = TokenMemory(0.0, 1e6)
    assert chosen_tokens(make_stepper(small_lm(), DPO()), groups, memory, 8, 10) == longest[0]
    with pytest.raises(UserError, match=r"try engine.two_lanes=false, model.gradient"):
        chosen_tokens(make_stepper(small_lm(), DPO(), at_once=2), groups, memory, 8, 10)


@pytest.mark.slow
def test_memory_of_a_pass_grows_with_its_tokens() -> None:
    stepper = make_stepper(small_lm(vocab_size=4096), DPO(), 8192)
    small, large = random_groups(4, longest=100), random_groups(64, longest=400)
    micro_batch._peak(stepper, small, small)
    low, high = (micro_batch._peak(stepper, groups, groups) for groups in (small, large))
    assert high > low + 10e6


def test_a_measure_is_kept_for_the_same_setup_alone(tmp_path: Path) -> None:
    cache = f"paths.cache={tmp_path}"
    stepper, config = make_stepper(small_lm(), DPO()), check(compose([cache]))
    kept = KeptMeasure(config, stepper)
    assert kept.read() is None
    kept.write(TokenMemory(1.5e9, 2e6))
    assert KeptMeasure(check(compose([cache, "algo.beta=0.3", "seed=5"])), stepper).read() == TokenMemory(1.5e9, 2e6)
    for other in ("max_length=512", "zero=2", "model.lora.rank=4", "model.gradient_checkpointing=true"):
        assert KeptMeasure(check(compose([cache, other])), stepper).read() is None, other
    for stranger in (
        make_stepper(small_lm(), SimPO()),
        make_stepper(small_lm(hidden_size=64), DPO()),
        make_stepper(small_lm(), DPO(), 4096, torch.bfloat16),
        make_stepper(small_lm(), DPO(), at_once=2),
    ):
        assert KeptMeasure(config, stranger).read() is None
    kept.file.write_bytes(kept.file.read_bytes()[:-10])
    assert kept.read() is None, "a damaged entry is measured again"
    for fixed, per_token in ((1.5e9, 0.0), (1.5e9, math.nan), (math.inf, 2e6), (-1.0, 2e6), ("much", 2e6), (None, 2e6)):
        kept.write(TokenMemory(fixed, per_token))  # type: ignore[arg-type]
        assert kept.read() is None, (fixed, per_token)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_rehearsing_leaves_no_trace(weight_decay: float) -> None:
    def trained(rehearse: bool) -> dict[str, torch.Tensor]:
        lm, groups = small_lm(), random_groups(6)
        stepper = make_stepper(lm, DPO(weight_decay=weight_decay))
        if rehearse:
            measure(stepper, longest_of(groups), 100)
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [[], _SHARDED, _PPO, [*_PPO, "algo.critic=shared", "algo.entropy=true"]],
    ids=["alone", "sharded", "critic", "shared-critic"],
)
def test_auto_is_frozen_in_the_run(overrides: list[str], small_model: Path, tmp_path: Path) -> None:
    common = ["debug=fast", f"model.path={small_model}", "checkpoint.keep_last=5", *overrides]
    cache = {"PSYCHOCOUNSEL_CACHE": str(tmp_path / "cache")}
    said = cli("train", *common, f"run_dir={tmp_path}/auto", "micro_batch_tokens=auto", cwd=ROOT, **cache).stderr
    assert re.search(r"micro_batch_tokens=auto: .* \(measured in \d+ s\)", said)
    found = OmegaConf.load(tmp_path / "auto" / "config.yaml").micro_batch_tokens
    assert isinstance(found, int) and ("algo=ppo" not in overrides or found >= 400), (
        "two replies of the greatest length"
    )
    again = cli("train", *common, f"run_dir={tmp_path}/auto", "micro_batch_tokens=auto", cwd=ROOT, **cache)
    assert "already finished" in again.stdout
    cached = cli("train", *common, f"run_dir={tmp_path}/cached", "micro_batch_tokens=auto", cwd=ROOT, **cache).stderr
    assert re.search(r"micro_batch_tokens=auto: \d+ tokens, about \d+\.\d GB per process \(from the cache\)", cached)
    cli("train", *common, f"run_dir={tmp_path}/told", f"micro_batch_tokens={found}", cwd=ROOT)
    assert metrics_of(tmp_path / "auto") == metrics_of(tmp_path / "told")
