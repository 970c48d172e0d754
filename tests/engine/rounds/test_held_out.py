"""With `eval.replies`, algorithms without rollouts reply to held-out prompts at evaluations; training is unchanged."""

from math import isnan, nan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from psychocounsel.data.group import Completion, Group, read_groups
from psychocounsel.engine.rounds.held_out import held_out_metrics
from psychocounsel.errors import UserError
from psychocounsel.metrics.replies import reply_metrics
from psychocounsel.rundir.paths import RunDir
from psychocounsel.rundir.results import read_metrics
from tests.engine.test_resume import assert_bitwise_equal
from tests.support.composed import check, compose
from tests.support.harness import ROOT, cli, metrics_of, world

STEPS = ["max_steps=6", "data.limit=40", "eval.limit=6", "global_batch_size=4", "eval.every=2", "checkpoint.every=2"]
REPLIES = ["eval.replies=true", "reward=tiny", "rollout.max_tokens=12", "checkpoint.metric=eval/loss"]
MEASURED = ("reward", "kl", "length", "unfinished", "repetition", "echo", "recital", "win_rate")
MEASURED += tuple(f"{name}_{end}" for name in MEASURED for end in ("low", "high"))


def train(run_dir: Path, model: Path, *more: str, code: int = 0) -> Path:
    given = [f"run_dir={run_dir}", f"model.path={model}", *STEPS, "algo.lr=1e-3", *more]
    cli("train", *given, cwd=ROOT, check_code=code)
    return run_dir


@pytest.fixture(scope="module")
def with_replies(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Path:
    return train(tmp_path_factory.mktemp("replies") / "run", small_model, *REPLIES)


@pytest.mark.parametrize("later", [[2.0, nan], [nan, nan]])
def test_held_out_replies_without_a_reward_leave_the_other_figures(later: list[float], tmp_path: Path) -> None:
    run: Any = SimpleNamespace(files=RunDir(tmp_path), is_main=True)

    def replies(rewards: list[float]) -> list[Group]:
        texts = enumerate(rewards)
        ids = np.arange(6, dtype=np.int32)
        return [Group(f"{n}", ids, [Completion(ids[: 4 + n], f"word {n}", reward=reward)]) for n, reward in texts]

    held_out_metrics(run, world(), 0, replies([1.0, 3.0]), None)
    metrics = held_out_metrics(run, world(), 5, replies(later), None)
    if isnan(later[0]):
        assert isnan(metrics["eval/reward"]) and "eval/win_rate" not in metrics and metrics["eval/length"] == 4.5
    else:
        assert (metrics["eval/reward"], metrics["eval/win_rate"], metrics["eval/length"]) == (2.0, 1.0, 4.0)


@pytest.mark.slow
def test_the_run_learns_as_without_replies(with_replies: Path, small_model: Path, tmp_path: Path) -> None:
    plain = train(tmp_path / "plain", small_model)
    names = {f"eval/{name}" for name in MEASURED}
    lines = [{key: value for key, value in line.items() if key not in names} for line in metrics_of(with_replies)]
    assert lines == metrics_of(plain)
    mine, theirs = (load_file(run / "model" / "model.safetensors") for run in (with_replies, plain))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_every_evaluation_has_the_figures_of_replies(with_replies: Path) -> None:
    before = read_groups(RunDir(with_replies).before)
    assert len({group.prompt_ids.tobytes() for group in before}) == len(before) == 6, "each held-out prompt occurs once"
    first, *later = [line for line in read_metrics(RunDir(with_replies).metrics) if "eval/reward" in line]
    expected = reply_metrics(before, None, "eval")
    assert {name: first[name] for name in expected} == expected
    assert first["eval/kl"] == pytest.approx(0, abs=1e-4) and first["eval/win_rate"] == 0.5
    assert len(later) == 3 and all(line["eval/kl"] > 0.01 for line in later)


@pytest.mark.slow
def test_the_first_replies_are_those_of_an_online_run(with_replies: Path, small_model: Path, tmp_path: Path) -> None:
    online = ["algo=online_dpo", "reward=tiny", "rollout.max_tokens=12", "max_steps=1"]
    run = train(tmp_path / "online", small_model, *online)
    mine, theirs = (read_groups(RunDir(folder).before) for folder in (with_replies, run))
    written = [{group.prompt_ids.tobytes(): group.completions[0].reward for group in some} for some in (mine, theirs)]
    assert len(written[0]) == 6 and written[0] == written[1]


@pytest.mark.slow
def test_killed_it_goes_on_with_the_same_replies(with_replies: Path, small_model: Path, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    death = "+callbacks.kill={_target_: tests.support.killer.Kill, event: step_end, step: 3}"
    train(run, small_model, *REPLIES, death, code=137)
    train(run, small_model, *REPLIES)
    assert_bitwise_equal(run, with_replies)


@pytest.mark.slow
def test_a_guard_looks_at_these_replies(small_model: Path, tmp_path: Path) -> None:
    run = train(tmp_path / "run", small_model, *REPLIES, "guard.unfinished=0.5", "max_steps=2")
    last = read_metrics(RunDir(run).metrics)[-1]
    assert last["eval/unfinished"] > 0.5 and last["guard/unfinished"] == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["algo=reward"], "generates no replies"),
        (["data.dev_fraction=0"], "leaves none"),
        (["rollout.temperature=0.5"], "trains at temperature 1"),
        (["guard.kl=4", "eval.replies=false"], "add eval.replies=true"),
        (["reward.path=no/such/folder/here"], "reward.path"),
    ],
)
def test_what_cannot_be_measured_is_refused(given: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        check(compose(["eval.replies=true", *given]))
