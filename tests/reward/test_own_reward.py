"""A reward from a user's own folder: its scores, parts and scale are used like the package's; incomplete ones are rejected."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from psychocounsel.data.group import read_groups
from psychocounsel.errors import USER_ERROR, UserError
from psychocounsel.reward.base import RewardSettings, Scorer, open_scorer, scored
from tests.support.composed import check, compose
from tests.support.harness import ROOT, cli, metrics_of
from tests.support.own_folder import docs_example, write_own

_TWO = """
from dataclasses import dataclass
import numpy as np
from psychocounsel.reward.base import RewardSettings, Scorer
from psychocounsel.settings.schema import option


@dataclass
class Two(RewardSettings):
    words: int = option(40, at_least=1)

    def open(self, device):
        return TwoScorer(self.words)


class TwoScorer(Scorer):
    def __init__(self, words):
        self.words = words

    def score(self, conversations, progress=iter):
        replies = [conversation[-1]["content"] for conversation in conversations]
        short = np.array([-abs(len(reply.split()) - self.words) for reply in replies], np.float32)
        asks = np.array([reply.count("?") for reply in replies], np.float32)
        self.parts = {"short": short, "asks": asks}
        return short + asks
"""
_SETTINGS = "_target_: two.Two\nname: two\nwords: 40\n"


def test_a_run_uses_its_scores_and_parts(small_model: Path, tmp_path: Path) -> None:
    write_own(tmp_path / "my", "reward", "two", _TWO, _SETTINGS)
    given = ["algo=grpo", "reward=two", "reward.words=7", f"model.path={small_model}", "max_steps=1", "eval.limit=2"]
    given += ["global_batch_size=4", "algo.samples=2", "rollout.max_tokens=12", "data.limit=100", "run_dir=run"]
    cli("train", "--config-dir", "my", *given, "cluster.threads=1", cwd=tmp_path)
    (shard,) = (tmp_path / "run" / "rounds" / "0000").glob("shard-*.parquet")
    replies = [completion for group in read_groups(shard) for completion in group.completions]
    assert len(replies) == 8
    for reply in replies:
        parts = {"short": -abs(len(reply.text.split()) - 7), "asks": reply.text.count("?")}
        assert (reply.reward_parts, reply.reward) == (parts, sum(parts.values()))
    line = metrics_of(tmp_path / "run")[1]
    assert line["rollout/reward_short"] == pytest.approx(np.mean([reply.reward_parts["short"] for reply in replies]))


def test_the_example_of_the_manual_evaluates(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "extend.md").read_text()
    code, settings = docs_example(page, "# my/brief.py"), docs_example(page, "# my/reward/brief.yaml")
    write_own(tmp_path / "my", "reward", "brief", code, settings)
    cli("evaluate", "--config-dir", "my", "reward=brief", "limit=4", "run_dir=run", cwd=tmp_path)
    scored = [json.loads(line) for line in (tmp_path / "run" / "scores.jsonl").read_text().splitlines()]
    assert len(scored) == 4
    assert all(isinstance(score, float) and score <= 0 for row in scored for score in (row["chosen"], row["rejected"]))


def test_a_field_with_the_name_of_a_method_is_refused_in_one_line(tmp_path: Path) -> None:
    write_own(tmp_path / "my", "reward", "two", _TWO.replace("words", "check"), _SETTINGS)
    found = cli("evaluate", "--config-dir", "my", "reward=two", cwd=tmp_path, check_code=USER_ERROR).stderr
    assert found.startswith("error: reward._target_=two.Two: its field check has the name of a method")
    assert found.count("\n") == 1


def test_a_scorer_that_lacks_what_it_needs_is_refused() -> None:
    class Plain(RewardSettings):
        def open(self, device: torch.device) -> Scorer:
            return object()  # type: ignore[return-value]

    class Silent(Plain):
        def open(self, device: torch.device) -> Scorer:
            return type("Mute", (Scorer,), {})()  # type: ignore[no-any-return]

    with pytest.raises(
        UserError, match="Plain.open returned object; it must return an object of psychocounsel.reward.base"
    ):
        open_scorer(Plain("plain"), torch.device("cpu"))
    with pytest.raises(UserError, match=r"Mute: lacks score \(see psychocounsel.reward.base.Scorer\)"):
        open_scorer(Silent("silent"), torch.device("cpu"))


def test_its_keys_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "limited.py").write_text(_TWO)
    monkeypatch.syspath_prepend(tmp_path)

    def checked(**keys: object) -> int:
        composed = compose(["algo=grpo"])
        composed.reward = {"_target_": "limited.Two", "name": "two", **keys}
        return int(check(composed).reward.words)

    assert (checked(), checked(words=3)) == (40, 3)
    with pytest.raises(UserError, match="reward.words=0: must be at least 1"):
        checked(words=0)
    with pytest.raises(UserError, match=r"unknown key reward.wrods: did you mean reward.words\?"):
        checked(wrods=3)


class _Returns(Scorer):
    def __init__(self, rewards: object, **parts: object) -> None:
        self.rewards, self.parts = rewards, parts

    def score(self, conversations: object, progress: object = iter) -> Any:
        return self.rewards


@pytest.mark.parametrize(
    ("rewards", "parts", "said"),
    [
        ([1.0, 2.0, 3.0], {}, "test_own_reward.py: _Returns.score returned list of 3; it must return 2 numbers"),
        (None, {}, "returned None"),
        (["a", "b"], {}, "returned list of 2"),
        (np.ones((2, 1)), {}, r"float64\[2, 1\]"),
        (np.array([1.0, np.nan]), {}, "score: some rewards are not finite"),
        ([1.0, 2.0], {"brief": [1.0]}, r"parts\['brief'\] returned list of 1; it must return 2 numbers"),
        ([1.0, 2.0], {"brief": [1.0, np.inf]}, r"parts\['brief'\]: some rewards are not finite"),
    ],
)
def test_rewards_of_another_form_are_refused_by_the_name_of_their_class(
    rewards: object, parts: dict[str, object], said: str
) -> None:
    said_by_user = [[{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Yes?"}]] * 2
    with pytest.raises(UserError, match=said):
        scored(_Returns(rewards, **parts), said_by_user)
    assert scored(_Returns([1, 2], brief=[0.5, 1.5]), said_by_user).tolist() == [1, 2]
