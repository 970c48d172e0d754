"""Replies that other weights than the policy's wrote are refused before anything is learned from them."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from psychocounsel.data.group import Completion, Group
from psychocounsel.engine.rounds.held_out import FirstReplies, mean_difference
from psychocounsel.errors import USER_ERROR, UserError
from psychocounsel.rundir.paths import RunDir
from tests.support.harness import ROOT, cli
from tests.support.own_folder import docs_example, write_own

_PAGE = (ROOT / "docs" / "extend.md").read_text()
_CODE, _SETTINGS = docs_example(_PAGE, "# my/phrases.py"), docs_example(_PAGE, "# my/rollout/phrases.yaml")


class Policy:
    """Policy whose log-probabilities are `value`; it counts the replies that it is asked for."""

    def __init__(self, value: float) -> None:
        self.value, self.asked = value, list[int]()

    def logprobs(self, groups: Any) -> list[list[np.ndarray]]:
        self.asked.append(len(groups))
        return [[np.full(len(reply.ids), self.value) for reply in group.completions] for group in groups]


def written(count: int, version: int = 0) -> list[Group]:
    """Return `count` prompts with two replies of two tokens each, with log-probabilities of -1."""
    reply = Completion(np.array([1, 2], np.int32), "well", np.full(2, -1.0, np.float32), policy_version=version)
    return [Group(str(number), np.array([3], np.int32), [reply, reply]) for number in range(count)]


def checking(policy: Any, copies: bool = True, **sampling: Any) -> FirstReplies:
    rollout: Any = SimpleNamespace(writes_with_a_copy=copies)
    config = SimpleNamespace(rollout=SimpleNamespace(**{"top_p": 1.0, "top_k": 0} | sampling))
    run: Any = SimpleNamespace(config=config, files=RunDir(Path("run")))
    return FirstReplies(run, rollout, policy)


def test_equal_weights_are_accepted_and_compared_once() -> None:
    policy = Policy(-1.1)
    first = checking(policy)
    first.check(written(70), 0)
    first.check(written(70), 0)
    assert policy.asked == [24], "one reply to every third prompt"


@pytest.mark.parametrize("value", [-1.3, -0.7, float("nan"), float("-inf")])
def test_other_weights_are_refused(value: float) -> None:
    with pytest.raises(UserError, match=r"^rollout: the replies of step 4 .* use rollout=hf; run/rounds holds these"):
        checking(Policy(value)).check(written(3, version=4), 4)


def test_replies_of_earlier_weights_are_not_compared() -> None:
    policy = Policy(-9.0)
    first = checking(policy)
    first.check(written(3, version=0), 1)
    assert not policy.asked
    with pytest.raises(UserError, match=r"replies of step 2 .* differ by 8 nats"):
        first.check([*written(3, version=1), *written(3, version=2)], 2)
    assert policy.asked == [3]


@pytest.mark.parametrize("given", [{"copies": False}, {"top_p": 0.9}, {"top_k": 20}])
def test_what_cannot_be_compared_is_not(given: dict[str, Any]) -> None:
    policy = Policy(-9.0)
    checking(policy, **given).check(written(3), 0)
    assert not policy.asked


def test_the_difference_is_the_mean_over_tokens() -> None:
    (group,) = written(1)
    long = replace(group.completions[0], ids=np.arange(6, dtype=np.int32), logprobs=np.zeros(6, np.float32))
    group = replace(group, completions=[group.completions[0], long])
    assert mean_difference([group], [[np.full(2, -3.0), np.full(6, 0.5)]]) == pytest.approx((2 * 2.0 + 6 * 0.5) / 8)


def test_a_run_refuses_a_rollout_with_other_weights_at_its_first_round(small_model: Path, tmp_path: Path) -> None:
    """A rollout that claims the log-probability 0 for fixed phrases stands for one whose weights are wrong."""
    copying = _CODE.replace(
        "class PhraseRollout(Rollout):", "class PhraseRollout(Rollout):\n    writes_with_a_copy = True\n"
    )
    write_own(tmp_path / "my", "rollout", "phrases", copying, _SETTINGS)
    small = ("global_batch_size=4", "algo.samples=2", "data.limit=100", "max_steps=2", "cluster.threads=1")
    given = ("algo=rloo", "reward=tiny", "rollout=phrases", f"model.path={small_model}", "eval.every=0", *small)
    ended = cli("train", "--config-dir", "my", *given, "run_dir=run", cwd=tmp_path, check_code=USER_ERROR)
    assert "error: rollout: the replies of step 0 were written with other weights than the policy's" in ended.stderr
    assert not list((tmp_path / "run/rounds").glob("*/groups.parquet")), "nothing is learned from them"
