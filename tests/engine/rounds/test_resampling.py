"""Dynamic sampling: prompts whose replies have equal rewards are replaced by new prompts of the data, and left out."""

from pathlib import Path

import pytest

from psychocounsel.data.group import Group, read_groups
from psychocounsel.errors import UserError
from psychocounsel.storage.files import read_json
from tests.engine.test_resume import assert_bitwise_equal
from tests.support.composed import check, compose
from tests.support.harness import cli, metrics_of
from tests.support.own_folder import write_own

_EVEN = """
    from dataclasses import dataclass
    import numpy as np
    from psychocounsel.reward.base import RewardSettings, Scorer

    @dataclass
    class Even(RewardSettings, Scorer):
        every: int = 4

        def open(self, device):
            return self

        def score(self, conversations, progress=iter):
            return np.array([len(conversation[-1]["content"]) % self.every == 0 for conversation in conversations], np.float32)
"""
_SETTINGS = ["algo=dapo", "reward=even", "algo.samples=3", "global_batch_size=3", "algo.prompts_per_round=6"]
_SETTINGS += ["max_steps=6", "data.limit=60", "eval.limit=4", "eval.every=2", "checkpoint.every=2", "algo.lr=1e-3"]
_SETTINGS += ["rollout.max_tokens=12", "rollout.shard_prompts=4", "cluster.threads=1"]


def train(folder: Path, name: str, model: Path, *more: str, code: int = 0) -> Path:
    write_own(folder / "my", "reward", "even", _EVEN, "_target_: even.Even\nname: even\nevery: 4\n")
    given = ["--config-dir", "my", f"model.path={model}", f"run_dir={name}", *_SETTINGS, *more]
    cli("train", *given, cwd=folder, check_code=code)
    return folder / name


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Path:
    return train(tmp_path_factory.mktemp("resampling"), "run", small_model)


def rewards(group: Group) -> set[float | None]:
    """Return the rewards of a group's replies before DAPO's penalty of long ones (arXiv 2503.14476, eq. 11)."""
    return {reply.reward for reply in group.completions}


@pytest.mark.slow
def test_only_groups_with_a_spread_of_rewards_are_trained_on(unbroken: Path) -> None:
    for number, line in enumerate(metrics_of(unbroken)[1::2]):
        folder = unbroken / "rounds" / f"{number:04d}"
        replies = [group for file in sorted(folder.glob("shard-*")) for group in read_groups(file)]
        collected = read_groups(folder / "groups.parquet")
        useful = {group.id for group in replies if len(rewards(group)) > 1}
        assert [group.id for group in replies[:6]] == read_json(folder / "plan.json")["prompts"]
        assert len({group.id for group in replies}) == len(replies) > 6, "a new prompt replaces another"
        assert {group.id for group in collected} == useful and len(useful) == 6
        assert line["rollout/resampled"] == len(replies) - 6
        assert line["rollout/useless"] == pytest.approx(1 - 6 / len(replies))
        assert "eval/kl" not in line and all(c.ref_logprobs is None for group in collected for c in group.completions)


def test_prompts_that_stay_without_a_spread_are_left_out(small_model: Path, tmp_path: Path) -> None:
    run = train(tmp_path, "run", small_model, "algo.resample=2", "reward.every=1", "max_steps=2")
    first, last = metrics_of(run)[1:]
    assert first["rollout/useless"] == 1 and first["rollout/resampled"] == 2 * 6
    assert "loss" not in first and "loss" not in last and "grad_norm" not in last


# test_online_dpo.py kills at these as well
_AS_WITHOUT_RESAMPLING = [pytest.param(event, marks=pytest.mark.proof) for event in ("pairs_written", "step_end")]


@pytest.mark.slow
@pytest.mark.parametrize("event", ["scored", *_AS_WITHOUT_RESAMPLING])
def test_killed_in_a_round_it_replaces_the_same_prompts(
    event: str, unbroken: Path, small_model: Path, tmp_path: Path
) -> None:
    kill = f"+callbacks.kill={{_target_: tests.support.killer.Kill, event: {event}, step: 2}}"
    train(tmp_path, "run", small_model, kill, code=137)
    assert_bitwise_equal(train(tmp_path, "run", small_model), unbroken)


@pytest.mark.slow
def test_two_processes_replace_the_same_prompts(unbroken: Path, small_model: Path, tmp_path: Path) -> None:
    run = train(tmp_path, "run", small_model, "cluster.processes=2", "zero=2")
    for mine, expected in zip(metrics_of(run), metrics_of(unbroken), strict=True):
        assert mine.keys() == expected.keys()
        for name in expected.keys() & {"loss", "grad_norm", "rollout/reward", "rollout/resampled", "rollout/useless"}:
            assert mine[name] == pytest.approx(expected[name], rel=2e-4, abs=1e-5), (mine["step"], name)


def test_rounds_written_ahead_are_refused() -> None:
    ahead = [
        "algo.importance_cap=2",
        "rollout=vllm_server",
        "rollout.max_staleness=1",
        "rollout.addresses=[http://a:1]",
    ]
    with pytest.raises(UserError, match="algo.resample=10 and rollout.max_staleness=1: a round that is written ahead"):
        check(compose(["algo=dapo", "reward=tiny", *ahead]))
