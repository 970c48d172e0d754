"""Ensembles of reward models, and settings of server rewards and ensembles that are rejected before a run starts."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import DictConfig

from psychocounsel.data.group import read_groups
from psychocounsel.errors import UserError
from psychocounsel.reward.local_model import LocalScorer
from psychocounsel.rundir.identity import check_same_run
from tests.algo.test_online_learning import mine
from tests.reward.test_local_model import CONVERSATIONS
from tests.reward.test_servers import REWARD, Model, model, open_scorer, served, settled
from tests.support.answering import no_proxy, serving
from tests.support.harness import cli, metrics_of

__all__ = ["mine", "model", "no_proxy"]


@pytest.mark.parametrize("combine", ["mean", "min", "lower"])
@pytest.mark.parametrize("normalise", [True, False])
def test_several_reward_models_are_their_mean_or_their_least(combine: str, normalise: bool, model: Model) -> None:
    raw = LocalScorer.load(str(REWARD)).score(CONVERSATIONS)
    centre = 3 * float(raw.mean())  # so that each member is the minimum for some replies

    def shifted(payload: Any, number: int) -> Any:
        return {"rewards": [centre - 2 * score for score in model.openrlhf(payload, number)["rewards"]]}

    with serving(shifted) as server:
        other = f"{{name: openrlhf_server, path: {REWARD}, addresses: [{server.address}], normalise: false}}"
        members = f"reward.members=[builtin:tiny_reward,{other}]"
        scorer = open_scorer("reward=ensemble", members, f"reward.combine={combine}", f"reward.normalise={normalise}")
        rewards = scorer.score(CONVERSATIONS)
        assert scorer.score([]).shape == (0,)
        scorer.score(CONVERSATIONS)
    first = LocalScorer.load(str(REWARD), normalise=normalise).score(CONVERSATIONS)
    second = centre - 2 * raw
    of_pair = {"mean": np.mean, "min": np.min, "lower": lambda both: np.mean(both) - 0.5 * abs(both[0] - both[1])}[
        combine
    ]
    expected = [of_pair([a, b]) for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(rewards, expected, atol=5e-5)
    assert rewards.dtype == np.float32
    assert (first < second).any() and (second < first).any(), "otherwise the minimum would prove nothing"
    assert list(scorer.parts) == ["local", "openrlhf_server"]
    np.testing.assert_allclose(scorer.parts["openrlhf_server"], second, atol=5e-5)


def test_each_members_mean_reward_is_a_metric(small_model: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(REWARD, tmp_path / "other" / "model"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"mean": 1.0, "std": 2.0}))
    members = "reward.members=[builtin:tiny_reward,other/model,{name: tiny, normalise: false}]"
    settings = ["algo=grpo", "reward=ensemble", members, f"model.path={small_model}", "max_steps=1", "eval.limit=3"]
    settings += ["global_batch_size=4", "algo.samples=2", "rollout.max_tokens=12", "data.limit=100", "run_dir=run"]
    cli("train", *settings, "cluster.threads=1", cwd=tmp_path)
    first, second = metrics_of(tmp_path / "run")
    for line, prefix in ((first, "eval"), (second, "rollout")):
        one, two, raw = (line[f"{prefix}/reward_{name}"] for name in ("local", "other", "tiny"))
        assert one == pytest.approx((raw - config["mean"]) / config["std"], abs=1e-4)
        assert two == pytest.approx((raw - 1) / 2, abs=1e-4)
        assert line[f"{prefix}/reward"] == pytest.approx((one + two + raw) / 3, abs=1e-4)
    (shard,) = (tmp_path / "run" / "rounds" / "0000").glob("shard-*.parquet")
    for completion in (each for group in read_groups(shard) for each in group.completions):
        parts = completion.reward_parts or {}
        assert completion.reward == pytest.approx(np.mean(list(parts.values())), abs=1e-5) and len(parts) == 3


@pytest.mark.slow
def test_a_reward_of_ones_own_can_be_a_member(mine: Path) -> None:
    members = "reward.members=[{name: letter, letter: a},{name: tiny, normalise: false}]"
    cli("evaluate", "--config-dir", "my", "reward=ensemble", members, "limit=6", "run_dir=run", cwd=mine)
    for name, folder in (("letter", "one"), ("tiny", "two")):
        more = ["reward.letter=a"] if name == "letter" else []
        cli("evaluate", "--config-dir", "my", f"reward={name}", *more, "limit=6", f"run_dir={folder}", cwd=mine)
    rows = [(mine / folder / "scores.jsonl").read_text().splitlines() for folder in ("run", "one", "two")]
    for both, one, two in (map(json.loads, row) for row in zip(*rows, strict=True)):
        assert both["chosen"] == pytest.approx((one["chosen"] + two["chosen"]) / 2, abs=1e-5)


WRONG = [
    (["reward=ensemble"], "reward.members: give two or more"),
    (["reward=ensemble", "reward.members=[builtin:tiny_reward]"], "reward.members: give two or more"),
    (["reward=ensemble", "reward.members=[tiny,3]"], "reward.members[1]: is a path, or a mapping"),
    (
        ["reward=ensemble", "reward.members=[{name: tini},{name: tiny}]"],
        "no reward config named tini; did you mean tiny?",
    ),
    (["reward=ensemble", "reward.members=[{name: tiny, beta: 1},{name: tiny}]"], "reward.members[0]: has no key beta"),
    (["reward=ensemble", "reward.members=[{name: ensemble},{name: tiny}]"], "an ensemble cannot be a member"),
    (["reward=ensemble", "reward.members=[{name: tiny},{dtype: fp32}]"], "reward.members[1]: path is not set"),
    (
        ["reward=ensemble", "reward.members=[{name: tiny, dtype: half},{name: tiny}]"],
        "reward.members[0]: dtype=half: must",
    ),
    (["reward=ensemble", "reward.members=[{name: tiny},./nowhere]"], "reward.members[1].path=./nowhere: no such file"),
    (["reward=ensemble", "reward.combine=max", "reward.members=[a/b,c/d]"], "must be one of mean, min, lower"),
    (["reward=vllm_server", "reward.path=a/b"], "reward.addresses is empty"),
    (["reward=vllm_server", "reward.addresses=[http://a:1]"], "reward.path is not set"),
    (
        ["reward=vllm_server", "reward.path=a/b", "reward.addresses=[localhost:1]"],
        "localhost:1 is not a server address",
    ),
    (
        ["reward=openrlhf_server", "reward.path=a/b", "reward.addresses=[http://a:1]", "reward.route=x"],
        "must begin with /",
    ),
    (["reward=openrlhf_server", "reward.path=a/b", "reward.addresses=[http://a:1]", "reward.retries=-1"], "at least 0"),
]


@pytest.mark.parametrize(("overrides", "said"), WRONG, ids=[" ".join(case[0]) for case in WRONG])
def test_wrong_settings_are_refused_in_one_line(overrides: list[str], said: str) -> None:
    with pytest.raises(UserError) as caught:
        settled(*overrides)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_critic_cannot_begin_as_what_a_server_runs() -> None:
    with pytest.raises(UserError, match="use algo.critic=policy"):
        settled("algo=ppo", *served("vllm", "http://a:1"), name="train")
    assert settled("algo=ppo", "algo.critic=policy", *served("vllm", "http://a:1"), name="train").reward.retries == 1


@pytest.mark.slow
def test_checks_of_servers_and_several_import_no_torch(tmp_path: Path) -> None:
    member = "{name: openrlhf_server, addresses: [http://a:1], path: org/name}"
    code = (
        "import runpy, sys\n"
        "try: runpy.run_module('psychocounsel.train', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert not {'torch', 'transformers', 'numpy', 'httpx'} & set(sys.modules)"
    )
    settings = ["algo=grpo", "reward=ensemble", f"reward.members=[{member},org/other]", "dry_run=true"]
    result = subprocess.run([sys.executable, "-c", code, *settings], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_how_servers_are_reached_may_change_when_a_run_goes_on(tmp_path: Path) -> None:
    def of(address: str, path: str = "a/b", size: int = 8) -> tuple[DictConfig, DictConfig]:
        given = [f"reward.addresses=[{address}]", f"reward.path={path}", f"reward.batch_size={size}"]
        member = f"{{name: vllm_server, addresses: [{address}], path: {path}, batch_size: {size}}}"
        several = ["reward=ensemble", f"reward.members=[{member},builtin:tiny_reward]"]
        alone = settled("algo=grpo", "reward=vllm_server", *given, name="train")
        return alone, settled("algo=grpo", *several, name="train")

    for old, new, other in zip(of("http://a:1"), of("http://b:2"), of("http://a:1", path="a/c"), strict=True):
        check_same_run(new, old, tmp_path)
        with pytest.raises(UserError, match=r"settings \(reward(\.members\[0\])?\.path"):
            check_same_run(other, old, tmp_path)
