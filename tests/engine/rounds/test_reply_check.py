"""Replies that other weights than the policy's wrote are refused before anything is learned from them."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from psychocounsel.data.group import Completion, Group, read_groups
from psychocounsel.engine.rounds.held_out import ReplyCheck, engine_differences
from psychocounsel.errors import USER_ERROR, UserError
from psychocounsel.rundir.paths import RunDir
from tests.support.harness import ROOT, cli, metrics_of
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


def checking(policy: Any, copies: bool = True, **sampling: Any) -> ReplyCheck:
    rollout: Any = SimpleNamespace(writes_with_a_copy=copies)
    config = SimpleNamespace(rollout=SimpleNamespace(**{"top_p": 1.0, "top_k": 0} | sampling))
    run: Any = SimpleNamespace(config=config, files=RunDir(Path("run")))
    return ReplyCheck(run, rollout, policy)


def by_engines(*engines: str, bad: str = "", gap: float = 0.3) -> list[Group]:
    """Return four prompts with a reply of two tokens by each engine; those of the engine `bad` are off by `gap` nats."""
    replies = [
        Completion(
            np.array([1, 2], np.int32),
            logprobs=np.full(2, -1.0 - (gap if name == bad else 0.0), np.float32),
            engines=[name],
        )
        for name in engines
    ]
    return [
        Group(str(number), np.array([3], np.int32), [replace(reply, policy_version=0) for reply in replies])
        for number in range(4)
    ]


def test_equal_weights_are_accepted_and_compared_in_each_round() -> None:
    policy = Policy(-1.1)
    checked = checking(policy)
    assert [checked.check(written(70), 0) for _ in range(2)] == pytest.approx([0.1, 0.1])
    assert policy.asked == [28, 28], "every fifth reply"


EIGHT = [f"http://gpu{number}:8000" for number in range(8)]


@pytest.mark.parametrize(
    ("groups", "largest"),
    [
        (by_engines(*EIGHT), 0.0),
        (by_engines(*EIGHT, bad=EIGHT[5], gap=0.19), 0.19),
        (by_engines(*EIGHT, bad=EIGHT[5]), "http://gpu5:8000"),  # 0.04 nats in the mean over engines
        (by_engines(*EIGHT, bad=EIGHT[5], gap=float("nan")), "http://gpu5:8000"),
        (by_engines("the engine of process 0", "the engine of process 2", bad="the engine of process 2"), "process 2"),
        (
            [*by_engines(*EIGHT[:7]) * 40, *by_engines(EIGHT[7], bad=EIGHT[7])],
            "gpu7:8000",
        ),  # it wrote 4 of 1,124 replies
    ],
)
def test_the_engine_that_differs_most_counts(groups: list[Group], largest: float | str) -> None:
    policy = Policy(-1.0)
    if isinstance(largest, str):
        with pytest.raises(UserError, match=f"the log-probabilities of those by .*{largest} differ by (0.3|nan) nats"):
            checking(policy).check(groups, 0)
    else:
        assert checking(policy).check(groups, 0) == pytest.approx(largest, abs=1e-6)
    assert policy.asked[0] <= 40


def test_an_engine_that_loses_its_weights_in_a_later_round_is_refused() -> None:
    checked = checking(Policy(-1.0))
    checked.check(by_engines(*EIGHT), 0)
    with pytest.raises(UserError, match="gpu2"):
        checked.check(by_engines(*EIGHT, bad=EIGHT[2]), 0)


@pytest.mark.parametrize("value", [-1.3, -0.7, float("nan"), float("-inf")])
def test_other_weights_are_refused(value: float) -> None:
    with pytest.raises(UserError, match=r"^rollout: the replies of step 4 .* use rollout=hf; run/rounds holds these"):
        checking(Policy(value)).check(written(3, version=4), 4)


def test_replies_of_earlier_weights_are_not_compared() -> None:
    policy = Policy(-9.0)
    checked = checking(policy)
    assert checked.check(written(3, version=0), 1) is None
    assert not policy.asked
    with pytest.raises(UserError, match=r"replies of step 2 .* differ by 8 nats"):
        checked.check([*written(3, version=1), *written(3, version=2)], 2)
    assert policy.asked == [6]


@pytest.mark.parametrize("given", [{"copies": False}, {"top_p": 0.9}, {"top_k": 20}])
def test_what_cannot_be_compared_is_not(given: dict[str, Any]) -> None:
    policy = Policy(-9.0)
    checking(policy, **given).check(written(3), 0)
    assert not policy.asked


def test_the_difference_is_the_mean_over_tokens() -> None:
    (group,) = written(1)
    long = replace(group.completions[0], ids=np.arange(6, dtype=np.int32), logprobs=np.zeros(6, np.float32))
    group = replace(group, completions=[group.completions[0], long])
    found = engine_differences([group], [[np.full(2, -3.0), np.full(6, 0.5)]])
    assert found == {"": pytest.approx((2 * 2.0 + 6 * 0.5) / 8)}


def test_each_turn_of_a_session_counts_for_the_engine_that_wrote_it() -> None:
    one, other = (
        Completion(np.arange(length, dtype=np.int32), logprobs=np.zeros(length, np.float32), engines=[name])
        for length, name in ((2, "a"), (3, "b"))
    )
    session = one.then(np.array([9], np.int32), other).then(np.array([9], np.int32), one)
    assert session.engines == ["a", "b", "a"]
    found = engine_differences([Group("s", np.array([3], np.int32), [session])], [[np.array([1, 1, 2, 2, 2, 4, 4.0])]])
    assert found == {"a": 2.5, "b": 2.0}
    assert one.then(np.array([9], np.int32), replace(other, engines=None)).engines is None


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


_TWO_ENGINES = """
    from dataclasses import dataclass
    import numpy as np
    from psychocounsel.rollout.hf import HF, HFRollout

    @dataclass
    class TwoEngines(HF):
        other_engine = True

        def open(self, *given):
            rollout = super().open(*given)
            rollout.__class__ = TwoEnginesRollout
            return rollout

    class TwoEnginesRollout(HFRollout):
        writes_with_a_copy = True

        def generate(self, groups, sampling):
            written = super().generate(groups, sampling)
            for group in written:
                for number, reply in enumerate(group.completions):
                    reply.engines = ["ab"[number % 2]]
                    gap = 0.6 if reply.policy_version == 2 and number % 2 else 0.15
                    reply.logprobs = reply.logprobs + gap * (-1.0) ** np.arange(len(reply.ids), dtype=np.float32)
            return written
"""


def test_a_run_weighs_masks_and_measures_and_ends_when_one_of_two_engines_goes_wrong(
    small_model: Path, tmp_path: Path
) -> None:
    settings = "defaults: [hf]\n_target_: two_engines.TwoEngines\n"
    write_own(tmp_path / "my", "rollout", "two_engines", _TWO_ENGINES, settings)
    given = [
        "algo=grpo",
        "reward=tiny",
        "rollout=two_engines",
        f"model.path={small_model}",
        "algo.importance_floor=0.9",
    ]
    given += ["global_batch_size=2", "algo.samples=2", "data.limit=100", "eval.every=0", "cluster.threads=1"]
    given += ["max_steps=3", "rollout.max_tokens=12", "max_length=600"]
    ended = cli("train", "--config-dir", "my", *given, "run_dir=run", cwd=tmp_path, check_code=USER_ERROR)
    assert (
        "step 2 were written with other weights" in ended.stderr and "of those by b differ by 0.6 nats" in ended.stderr
    )
    rounds = [line for line in metrics_of(tmp_path / "run") if line["step"]]
    assert len(rounds) == 2
    for line in rounds:
        assert line["rollout/logprob_difference_engine"] == pytest.approx(0.15, abs=1e-3)
        assert line["rollout/mismatch_kl"] == pytest.approx(np.cosh(0.15) - 1, rel=0.2)
        assert 0.3 < line["rollout/masked"] < 0.7, "every second token has the ratio exp(-0.15)"
        assert line["rollout/importance"] == pytest.approx((1 - line["rollout/masked"]) * np.exp(0.15), rel=1e-2)
    trained = read_groups(tmp_path / "run/rounds/0000/groups.parquet")
    written = [group for file in sorted((tmp_path / "run/rounds/0000").glob("shard-*")) for group in read_groups(file)]
    assert {name for group in written for reply in group.completions for name in reply.engines or []} == {"a", "b"}
    tokens = [
        sum(reply.trained_tokens for group in groups for reply in group.completions) for groups in (trained, written)
    ]
    assert tokens[0] / tokens[1] == pytest.approx(1 - rounds[0]["rollout/masked"])
