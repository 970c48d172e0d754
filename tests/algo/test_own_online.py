"""A user's own online algorithms, from a folder outside the package: they run, and a wrong order of bases is rejected."""

import re
from pathlib import Path

import numpy as np
import pytest

from psychocounsel.algo.online import OnlinePairs
from psychocounsel.algo.orpo import ORPO
from psychocounsel.data.group import read_groups
from psychocounsel.errors import USER_ERROR, UserError
from tests.support.composed import check, compose
from tests.support.harness import ROOT, cli, metrics_of

ORDERS = """
from dataclasses import dataclass

from psychocounsel.algo.dpo import DPO
from psychocounsel.algo.kto import KTO
from psychocounsel.algo.online import OnlinePairs
from psychocounsel.algo.orpo import ORPO


@dataclass
class OnlineORPO({bases}):
    pass
"""
SHORT = ["debug=fast", "global_batch_size=8", "data.limit=40", "rollout.max_tokens=8", "algo.samples=3"]


def documented(kind: str, file: str) -> str:
    """Return the text of a file that docs/extend.md shows."""
    blocks = re.findall(r"```(\w+)\n# my/(\S+)\n(.*?)```", (ROOT / "docs" / "extend.md").read_text(), re.DOTALL)
    (text,) = [text for name, path, text in blocks if (name, path) == (kind, file)]
    return text


@pytest.fixture
def my(tmp_path: Path) -> Path:
    (tmp_path / "my" / "algo").mkdir(parents=True)
    return tmp_path / "my"


@pytest.mark.slow
def test_the_documented_algorithm_trains_on_the_best_reply_to_each_prompt(my: Path, small_model: Path) -> None:
    (my / "raft.py").write_text(documented("python", "raft.py"))
    (my / "algo" / "raft.yaml").write_text(documented("yaml", "algo/raft.yaml"))
    run = my.parent / "run"
    common = ["--config-dir=my", "algo=raft", "reward=tiny", f"model.path={small_model}"]
    cli("train", *common, *SHORT, f"run_dir={run}", "algo.length_penalty=0.5", cwd=my.parent)
    lines = metrics_of(run)
    assert [line["rollout/kept"] for line in lines[1:]] == [1, 1] and all(line["loss"] > 0 for line in lines[1:])
    replies = [group for file in sorted(run.glob("rounds/0000/shard-*.parquet")) for group in read_groups(file)]
    for group, best in zip(replies, read_groups(run / "rounds" / "0000" / "groups.parquet"), strict=True):
        counted = [(reply.reward or 0) - 0.5 * len(reply.ids) for reply in group.completions]
        (kept,) = best.completions
        np.testing.assert_array_equal(kept.ids, group.completions[int(np.argmax(counted))].ids)
    refused = cli("train", *common, "algo.samples=0", cwd=my.parent, check_code=USER_ERROR)
    assert refused.stderr == "error: algo.samples=0: must be at least 1\n"


@pytest.mark.slow
def test_pairs_of_replies_go_with_any_loss_of_pairs(my: Path, small_model: Path) -> None:
    (my / "mine.py").write_text(ORDERS.format(bases="OnlinePairs, ORPO"))
    (my / "algo" / "online_orpo.yaml").write_text(
        "defaults: [orpo, /shared/rounds@_here_]\n_target_: mine.OnlineORPO\nlr: 1e-4\n"
    )
    command = ["--config-dir=my", "algo=online_orpo", *SHORT, "reward=tiny", f"model.path={small_model}", "run_dir=run"]
    cli("train", *command, cwd=my.parent)
    pairs = read_groups(my.parent / "run" / "rounds" / "0000" / "groups.parquet")
    assert pairs and all(one.reward > other.reward for one, other in (pair.completions for pair in pairs))
    last = metrics_of(my.parent / "run")[-1]
    assert last["loss"] == pytest.approx(last["loss_sft"] + 0.1 * last["loss_preference"], rel=1e-6)
    assert "eval/kl" not in last, "it has no reference"


@pytest.mark.parametrize("bases", ["ORPO, OnlinePairs", "DPO, OnlinePairs, KTO"])
def test_an_offline_base_before_the_online_one_is_refused_in_one_line(bases: str, my: Path) -> None:
    (my / "mine.py").write_text(ORDERS.format(bases=bases))
    (my / "algo" / "online_orpo.yaml").write_text("_target_: mine.OnlineORPO\n")
    done = cli("train", "--config-dir=my", "algo=online_orpo", cwd=my.parent, check_code=USER_ERROR)
    (line,) = done.stderr.splitlines()
    right = ", ".join(sorted(bases.split(", "), key=lambda base: base != "OnlinePairs"))
    first = bases.partition(",")[0]
    assert line == (
        f"error: algo._target_=mine.OnlineORPO: class OnlineORPO({bases}): {first} hides how OnlinePairs collects replies; "
        f"write the online base first: class OnlineORPO({right})"
    )


def test_what_an_online_algorithm_needs_follows_from_its_bases() -> None:
    class Mine(OnlinePairs, ORPO):
        pass

    assert (Mine.needs.models, Mine.needs.data, Mine.needs.rollouts) == ({"policy"}, "prompts", True)


def test_a_forgotten_decorator_is_named(my: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (my / "bare.py").write_text(ORDERS.format(bases="OnlinePairs, ORPO").replace("@dataclass", ""))
    monkeypatch.syspath_prepend(my)
    with pytest.raises(UserError, match="bare.OnlineORPO: is not a dataclass; write @dataclass above the class"):
        check(compose(["algo=online_dpo", "algo._target_=bare.OnlineORPO"]))


def test_rollouts_without_an_online_base_are_refused(my: Path) -> None:
    (my / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from psychocounsel.algo.base import Algorithm, Needs\n\n\n"
        "@dataclass\n"
        "class Mine(Algorithm):\n"
        "    needs = Needs(data='prompts', rollouts=True, reward=True)\n"
        "    def loss(self, outputs, batch):\n"
        "        return {}\n"
    )
    (my / "algo" / "mine.yaml").write_text("_target_: mine.Mine\n")
    done = cli("train", "--config-dir=my", "algo=mine", cwd=my.parent, check_code=USER_ERROR)
    (line,) = done.stderr.splitlines()
    assert "is a subclass of psychocounsel.algo.online.Online" in line
