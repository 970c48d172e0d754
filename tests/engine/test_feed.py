"""Tests of online SimPO, and of batches that mix the policy's replies with pairs of the dataset."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from psychocounsel.algo.base import Outputs
from psychocounsel.algo.online_dpo import OnlineDPO
from psychocounsel.algo.online_simpo import OnlineSimPO
from psychocounsel.algo.simpo import SimPO
from psychocounsel.data.batch import build_batch
from psychocounsel.data.dataset import Dataset
from psychocounsel.data.group import Group
from psychocounsel.engine.feed import Feed, MixedFeed, OfflineFeed
from psychocounsel.engine.schedule import DataOrder
from psychocounsel.errors import UserError
from psychocounsel.storage.files import read_json
from tests.algo.test_policy_gradient import Context, rollouts, tables
from tests.engine.test_resume import assert_bitwise_equal
from tests.support.composed import check, compose
from tests.support.harness import ROOT, cli, metrics_of, random_groups


def test_online_simpo_has_simpos_loss_on_the_best_and_the_worst() -> None:
    class Alone(Context):
        def logprobs(self, model: str, groups: list[Group]) -> list[list[np.ndarray]]:
            assert model == "policy", "SimPO has no reference"
            return [[reply.logprobs for reply in group.completions] for group in groups]  # type: ignore[misc]

    groups, ctx = rollouts(tables(0)["rollout"]), Alone({})
    algorithm = OnlineSimPO(beta=2.0, gamma_beta_ratio=0.4)
    pairs = algorithm.collect(groups, ctx)  # type: ignore[arg-type]
    for group, pair in zip(groups, pairs, strict=True):
        rewards: list[Any] = [completion.reward for completion in group.completions]
        assert [completion.reward for completion in pair.completions] == [max(rewards), min(rewards)]
        assert all(completion.ref_logprobs is None for completion in pair.completions)
    batch = build_batch([pairs])
    outputs = Outputs(logprobs=torch.from_numpy(np.concatenate([c.logprobs for p in pairs for c in p.completions])))
    mine, theirs = (each.loss(outputs, batch) for each in (algorithm, SimPO(beta=2.0, gamma_beta_ratio=0.4)))
    assert mine["loss_preference"].sum == theirs["loss_preference"].sum
    expected = sum(
        -np.log(1 / (1 + np.exp(-2.0 * (chosen.logprobs.mean() - rejected.logprobs.mean() - 0.4))))
        for chosen, rejected in (pair.completions for pair in pairs)
    )
    assert mine["loss_preference"].sum.item() == pytest.approx(expected, rel=1e-5)


class Rounds(Feed):
    """A feed with a given number of groups per step."""

    steps = 12

    def __init__(self, counts: list[int]) -> None:
        self.counts = counts

    def groups(self, step: int) -> list:
        return random_groups(self.counts[step])


def test_each_batch_has_its_share_of_the_datas_pairs() -> None:
    pairs = random_groups(7, seed=1)
    order = DataOrder(7, 2, 12 * 2 / 7, 12, 1)
    feed = MixedFeed(Rounds([3] * 11 + [0]), OfflineFeed(Dataset(pairs, []), order, None))  # type: ignore[arg-type]
    mine = {id(group) for group in pairs}
    seen = [[id(group) in mine for group in feed.groups(step)] for step in range(feed.steps)]
    assert seen == [[False] * 3 + [True] * 2] * 11 + [[True] * 2]
    used = Counter(index for step in range(12) for index in order.indices(step))
    assert sorted(used) == list(range(7)) and set(used.values()) <= {3, 4}, "pairs are used epoch by epoch"


@pytest.mark.parametrize(("fraction", "batch", "pairs"), [(0.25, 4, 1), (0.5, 64, 32), (0.1, 32, 3), (0.0, 4, 0)])
def test_a_share_is_of_whole_groups(fraction: float, batch: int, pairs: int) -> None:
    assert OnlineDPO(offline_fraction=fraction).offline_groups(batch) == pairs
    prompts = 5 * (batch - pairs)
    overrides = [f"algo.offline_fraction={fraction}", f"global_batch_size={batch}", f"algo.prompts_per_round={prompts}"]
    for algo in ("online_dpo", "online_simpo"):
        check(compose([f"algo={algo}", *overrides]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["algo.offline_fraction=0.01"], "global_batch_size=32 would hold 0 pairs of the data"),
        (["algo.offline_fraction=0.99"], "32 pairs of the data and 0 prompts"),
        (["algo.offline_fraction=1"], "must be less than 1"),
        (["algo.offline_fraction=0.25", "algo.reference=round"], "use algo.reference=initial"),
        (["algo.offline_fraction=0.25", "algo.prompts_per_round=32"], "global_batch_size=32 less 8 by algo.offline_fraction"),
        (["algo=online_simpo", "+algo.reference=initial"], "unknown key algo.reference"),
        (["algo=online_simpo", "guard.kl=3"], "guard.kl=3"),
    ],
)  # fmt: skip
def test_what_cannot_be_mixed_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        check(compose(["algo=online_dpo", *arguments]))


# -- through the loop

BASE = ["reward=tiny", "data.limit=200", "eval.limit=4", "max_steps=6", "global_batch_size=4", "algo.samples=2"]
BASE += ["rollout.max_tokens=12", "eval.every=0", "checkpoint.every=2", "algo.lr=1e-3", "cluster.threads=1"]
BASE += ["algo.offline_fraction=0.5", "algo.prompts_per_round=4", "algo.min_margin=1e6"]  # drops all pairs of a round


def train(run: Path, model: Path, *more: str, code: int = 0) -> str:
    return cli("train", f"run_dir={run}", f"model.path={model}", *BASE, *more, cwd=ROOT, check_code=code).stderr


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> tuple[Path, str]:
    run = tmp_path_factory.mktemp("mixing") / "run"
    return run, train(run, small_model, "algo=online_dpo")


@pytest.mark.slow
def test_the_datas_pairs_are_learned_from_where_a_round_has_none(unbroken: tuple[Path, str]) -> None:
    run, said = unbroken
    lines = metrics_of(run)
    assert all(line["grad_norm"] > 0 for line in lines[1:]) and [line.get("groups") for line in lines] == [None] * 7
    assert lines[1]["loss"] == pytest.approx(np.log(2), abs=1e-5), "the pairs' reference is the policy before training"
    assert lines[2]["loss"] != pytest.approx(np.log(2), abs=1e-5)
    assert [line["step"] for line in lines if line.get("rollout/too_close") == 1] == [1, 3, 5]
    assert len(read_json(run / "rounds" / "0000" / "plan.json")["prompts"]) == 4, (
        "two prompts for each of the two steps"
    )
    assert re.search(r"reference log-probabilities: 0 replies from the cache, \d+ computed", said)


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["online_dpo", pytest.param("online_simpo", marks=pytest.mark.proof)])
def test_killed_it_goes_on_with_the_same_pairs(
    algo: str, unbroken: tuple[Path, str], small_model: Path, tmp_path: Path
) -> None:
    more = [f"algo={algo}", "algo.min_margin=0"] if algo == "online_simpo" else [f"algo={algo}"]
    expected = unbroken[0]
    if algo == "online_simpo":
        expected = tmp_path / "unbroken"
        train(expected, small_model, *more)
        assert "eval/kl" not in metrics_of(expected)[0] and metrics_of(expected)[1]["rollout/pairs"] > 0
    kill = "+callbacks.kill={_target_: tests.support.killer.Kill, event: step_end, step: 3}"
    train(tmp_path / "run", small_model, kill, *more, code=137)
    train(tmp_path / "run", small_model, *more)
    assert_bitwise_equal(tmp_path / "run", expected)


@pytest.mark.slow
def test_two_processes_mix_as_one(unbroken: tuple[Path, str], small_model: Path, tmp_path: Path) -> None:
    train(tmp_path / "run", small_model, "algo=online_dpo", "cluster.processes=2")
    for mine, expected in zip(metrics_of(tmp_path / "run")[1:], metrics_of(unbroken[0])[1:], strict=True):
        assert mine["loss"] == pytest.approx(expected["loss"], rel=2e-3)
