"""Online DPO: pairs of the policy's replies, round by round; after a kill no finished part is repeated."""

import itertools
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from psychocounsel.algo.online_dpo import OnlineDPO
from psychocounsel.algo.online_simpo import OnlineSimPO
from psychocounsel.counsel.pairs import reward_pairs
from psychocounsel.data.group import Group, read_groups
from psychocounsel.engine.schedule import RoundOrder
from psychocounsel.errors import USER_ERROR
from tests.algo.test_policy_gradient import Context, rollouts, tables
from tests.engine.test_resume import assert_bitwise_equal
from tests.support.composed import check, compose
from tests.support.harness import ROOT, cli, metrics_of
from tests.support.in_process import run_here

BASE = [
    "algo=online_dpo",
    "data.limit=200",
    "eval.limit=4",
    "max_steps=6",
    "global_batch_size=4",
    "algo.prompts_per_round=8",
    "algo.samples=3",
    "reward=tiny",
    "rollout.max_tokens=12",
    "rollout.shard_prompts=3",
    "eval.every=2",
    "checkpoint.every=2",
    "algo.lr=1e-3",
    "cluster.threads=1",
]


def train(run: Path, model: Path, *more: str, code: int = 0) -> str:
    return cli("train", f"run_dir={run}", f"model.path={model}", *BASE, *more, cwd=ROOT, check_code=code).stderr


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Path:
    run = tmp_path_factory.mktemp("online") / "run"
    train(run, small_model)
    return run


def test_pairs_are_the_best_and_the_worst_of_each_rounds_replies(unbroken: Path) -> None:
    for number in range(3):
        folder = unbroken / "rounds" / f"{number:04d}"
        replies = [group for file in sorted(folder.glob("shard-*.parquet")) for group in read_groups(file)]
        assert len(replies) == 8 and len(list(folder.glob("shard-*"))) == 3
        pairs = {group.id: group for group in read_groups(folder / "groups.parquet")}
        for group in replies:
            rewards = [completion.reward for completion in group.completions]
            assert len(rewards) == 3 and {completion.policy_version for completion in group.completions} == {2 * number}
            best, worst = int(np.argmax(rewards)), int(np.argmin(rewards))
            pair = pairs[f"{group.id}-{best}-{worst}"]
            assert [c.ids.tolist() for c in pair.completions] == [
                group.completions[i].ids.tolist() for i in (best, worst)
            ]
            assert all(completion.ref_logprobs is not None for completion in pair.completions)
    first = read_groups(unbroken / "rounds" / "0000" / "groups.parquet")
    for completion in (completion for group in first for completion in group.completions):
        np.testing.assert_allclose(completion.ref_logprobs, completion.logprobs, atol=2e-5)
    lines = metrics_of(unbroken)
    assert [line["step"] for line in lines if "rollout/reward" in line] == [1, 3, 5]
    for line in lines[1::2]:
        assert 0 < line["rollout/logprob_difference_mean"] < line["rollout/logprob_difference_max"] < 1e-3
    assert [line["step"] for line in lines if "eval/reward" in line] == [0, 2, 4, 6]
    assert lines[0]["eval/kl"] == pytest.approx(0, abs=1e-4) and lines[1]["loss"] == pytest.approx(np.log(2), abs=1e-5)


@pytest.mark.parametrize(
    ("event", "step"),
    [
        pytest.param("sync_done", 2, marks=pytest.mark.slow),
        pytest.param("shard_done", 2, marks=pytest.mark.proof),
        pytest.param("scored", 2, marks=pytest.mark.proof),
        pytest.param("pairs_written", 4, marks=pytest.mark.slow),
        pytest.param("step_end", 3, marks=pytest.mark.proof),
        pytest.param("checkpoint_written", 4, marks=pytest.mark.proof),
    ],
)
def test_killed_anywhere_it_goes_on_and_makes_nothing_twice(
    event: str, step: int, unbroken: Path, small_model: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(
        run,
        small_model,
        f"+callbacks.kill={{_target_: tests.support.killer.Kill, event: {event}, step: {step}}}",
        code=137,
    )
    done, unscored = written(run)
    assert done and bool(unscored) == (event in ("shard_done", "scored"))
    train(run, small_model)
    again = {file for file, time in done.items() if file.stat().st_mtime_ns != time}
    assert again == unscored, "rewards are added to replies that had none yet, and nothing else is rewritten"
    assert_bitwise_equal(run, unbroken)


def written(run: Path) -> tuple[dict[Path, int], set[Path]]:
    """Return the write time of each file of a killed run's rounds, and the shards without rewards."""
    done = {file: file.stat().st_mtime_ns for file in (run / "rounds").glob("*/*.parquet")}
    shards = {file: read_groups(file) for file in done if file.name.startswith("shard-")}
    return done, {
        file for file, groups in shards.items() if any(c.reward is None for g in groups for c in g.completions)
    }


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["0", "3"])
def test_two_processes_train_on_the_same_replies_as_one(
    stage: str, unbroken: Path, small_model: Path, tmp_path: Path
) -> None:
    train(tmp_path / "run", small_model, "cluster.processes=2", f"zero={stage}")
    for mine, expected in zip(metrics_of(tmp_path / "run"), metrics_of(unbroken), strict=True):
        alike = {"loss", "grad_norm", "rollout/reward", "rollout/length", "rewards/margin"} & expected.keys()
        assert {name: mine[name] for name in alike} == {
            name: pytest.approx(expected[name], rel=2e-3, abs=1e-4) for name in alike
        }


@pytest.mark.parametrize("algorithm", [OnlineDPO(samples=3), OnlineSimPO(samples=3)])
def test_log_probabilities_of_trainer_and_rollout_are_compared_in_the_first_pairs(algorithm: Any) -> None:
    every = tables(0)
    before = rollouts(every["rollout"] * 12)  # 36 prompts give 36 pairs, an eighth of which are 4

    class Trainer(Context):
        def logprobs(self, model: str, groups: list[Group]) -> list[list[np.ndarray]]:
            return [[np.cos(reply.ids).astype(np.float32) for reply in group.completions] for group in groups]

    ctx: Any = Trainer({})
    pairs = algorithm.collect(before, ctx)
    assert len(pairs) == 36
    gaps = np.concatenate([np.abs(np.cos(c.ids) - c.logprobs) for pair in pairs[:5] for c in pair.completions])
    assert ctx.notes["logprob_difference_mean"] == pytest.approx(gaps.mean(), rel=1e-5)
    assert ctx.notes["logprob_difference_max"] == pytest.approx(gaps.max(), rel=1e-5)
    equal = [Group("", before[0].prompt_ids, [before[0].completions[0]] * 2)]
    nothing: Any = Trainer({})
    assert algorithm.collect(equal, nothing) == [] and "logprob_difference_max" not in nothing.notes


@pytest.mark.parametrize("kind", ["best_worst", "best_random", "margin", "top_k"])
def test_pairs_by_reward_against_all_combinations(kind: str) -> None:
    rng = np.random.default_rng(0)
    for trial in range(200):
        count = int(rng.integers(1, 6))
        rewards = rng.integers(0, 4, count).astype(float).tolist()
        replies = rng.integers(0, 5, count).tolist()
        margin = float(rng.integers(0, 3))
        made = reward_pairs(rewards, replies, kind, margin, 2, np.random.default_rng(trial))
        differ = [
            (first, second)
            for first, second in itertools.permutations(range(count), 2)
            if rewards[first] > rewards[second]
            and rewards[first] - rewards[second] >= margin
            and replies[first] != replies[second]
        ]
        assert set(made.pairs) <= set(differ)
        best, worst = max(rewards), min(rewards)
        gaps = sorted((rewards[first] - rewards[second] for first, second in differ), reverse=True)
        found = [rewards[first] - rewards[second] for first, second in made.pairs]
        if kind == "margin":
            assert set(made.pairs) == set(differ)
        elif kind == "top_k":
            assert found == gaps[:2]
        elif found:
            assert len(found) == 1 and rewards[made.pairs[0][0]] == best
            assert kind == "best_random" or rewards[made.pairs[0][1]] == worst
        if kind in ("best_worst", "best_random"):
            assert len(made.pairs) + made.ties + made.equal + made.too_close == (1 if count > 1 else 0)


def test_a_rounds_groups_are_spread_over_its_steps() -> None:
    order = RoundOrder(rows=10, prompts=8, batch_size=4, passes=2, epochs=2, max_steps=None, seed=1)
    assert (order.steps_per_round, order.steps) == (4, 12)
    assert sorted(order.indices(0) + order.indices(1)[:2]) == list(range(10)), "an epoch sees each prompt once"
    for step in (0, 2, 4, 6):
        for count in (0, 1, 5, 8):
            halves = order.part(step, count), order.part(step + 1, count)
            assert sorted([*halves[0], *halves[1]]) == list(range(count))
            assert abs(len(halves[0]) - len(halves[1])) <= 1
    assert order.part(0, 8) != order.part(2, 8), "each pass has its own order"


def test_a_round_without_pairs_changes_nothing_and_counts(small_model: Path, tmp_path: Path) -> None:
    said = train(tmp_path / "run", small_model, "algo.min_margin=1e6", "max_steps=2")
    lines = metrics_of(tmp_path / "run")
    assert [line.get("groups") for line in lines] == [None, 0, 0]
    assert lines[1]["rollout/too_close"] == 1 and lines[1]["rollout/pairs"] == 0
    assert lines[0]["eval/reward"] == lines[2]["eval/reward"]
    assert said.count("trains nothing") == 1 and "step 1: trains nothing, because its round left no group" in said
    assert "nothing was trained: no step had a group" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["algo.prompts_per_round=7"], "must be a multiple of global_batch_size=4"),
        (["reward=tinny"], "did you mean tiny?"),
        (["reward.path=nowhere/at/all"], "no such file or folder"),
        (["rollout.max_token=3"], "did you mean rollout.max_tokens?"),
        (["algo.pairs=best"], "must be one of best_worst, best_random, margin, top_k"),
        (["rollout.top_p=0"], "rollout.top_p=0.0: must be greater than 0"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_environment: None
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run_here(shlex.join(["train", *BASE, *arguments]))
    assert done.code == USER_ERROR
    (line,) = done.stderr.splitlines()
    assert message in line
    assert not list(tmp_path.iterdir())


def test_other_algorithms_leave_reward_and_rollout_out() -> None:
    config = check(compose(["algo=dpo"]))
    assert "rollout" not in config and "reward" not in config
