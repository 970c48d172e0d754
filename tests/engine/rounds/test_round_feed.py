"""Tests of rounds written ahead: the weights used, their greatest age, and the effect of changed weights."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from psychocounsel.data.dataset import Dataset
from psychocounsel.data.group import Completion, Group, read_groups
from psychocounsel.engine.rounds.held_out import ScoredRollout
from psychocounsel.engine.rounds.round_feed import ShardFile, Shards, WrittenAhead
from psychocounsel.engine.schedule import RoundOrder
from psychocounsel.rollout.base import Arriving, Rollout, Sampling, Shard, together
from psychocounsel.rundir.paths import RunDir
from tests.support.composed import check, compose
from tests.support.harness import ROOT, cli, metrics_of
from tests.support.own_folder import docs_example, write_own

_PAGE = (ROOT / "docs" / "extend.md").read_text()
_CODE, _SETTINGS = docs_example(_PAGE, "# my/phrases.py"), docs_example(_PAGE, "# my/rollout/phrases.yaml")
_AHEAD = """
    rounds_ahead = {ahead}

    def write_alone(self, shards, ends):
        return self.write(shards, lambda: None)

    def reply("""
_COUNTING = """

from psychocounsel.engine.callbacks import Callback

class Counting(Callback):
    def on(self, event, step, run):
        if event == "shard_done":
            with open(run.dir / "announced", "a") as file:
                file.write(f"{step} ")
"""


def sampling(seed: int, n: int = 1) -> Sampling:
    return Sampling(n, 1.0, 4, 16, seed)


def prompt(number: int) -> Group:
    return Group(f"p{number}", np.array([number], np.int32), [])


class Slow(Rollout):
    """A rollout that writes the same reply to all prompts, and waits for `go` from the second shard on."""

    def __init__(self, fails: bool = False) -> None:
        self.go, self.fails, self.asked = threading.Event(), fails, list[list[str]]()

    def sync(self, version: int) -> None:
        """Keep the version that the object was created with."""

    def generate(self, groups: Sequence[Group], sampling: Sampling) -> list[Group]:
        reply = Completion(np.array([1, 2], np.int32), "well")
        return [Group(group.id, group.prompt_ids, [reply]) for group in groups]

    def write_alone(self, shards: Sequence[Shard], ends: Callable[[], bool]) -> Iterator[tuple[int, list[Group]]]:
        for number, (groups, drawn) in enumerate(shards):
            if ends():
                return
            self.asked += [group.id for group in groups]
            if number:
                self.go.wait()
                if self.fails:
                    raise RuntimeError("lost")
            while number == 3 and not ends():
                time.sleep(0.01)
            yield number, self.generate(groups, drawn)


def rounds(folder: Path) -> list[list[ShardFile]]:
    """Return three rounds of two shards, each with one prompt."""
    return [
        [(folder / f"{number}-{shard}", ([prompt(2 * number + shard)], sampling(shard))) for shard in range(2)]
        for number in range(3)
    ]


def test_when_weights_change_what_is_under_way_is_ended_and_nothing_more_begun(tmp_path: Path) -> None:
    rollout = Slow()
    ahead = WrittenAhead(rounds(tmp_path), rollout)
    threading.Timer(0.3, rollout.go.set).start()
    written = ahead.join()
    assert 2 <= written <= 4, "the next round is written"
    assert rollout.asked == ["p0", "p1", "p2", "p3"][:written]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["0-0", "0-1", "1-0", "1-1"][:written]
    assert [group.id for group in read_groups(tmp_path / "0-1")] == ["p1"]


def test_what_fails_ahead_fails_when_it_is_waited_for(tmp_path: Path) -> None:
    rollout = Slow(fails=True)
    rollout.go.set()
    with pytest.raises(RuntimeError, match="lost"):
        WrittenAhead(rounds(tmp_path), rollout).join()


def test_replies_that_arrive_in_any_order_complete_their_shards() -> None:
    shards = [([prompt(0), prompt(1)], sampling(7)), ([], sampling(3)), ([prompt(2)], sampling(9))]
    arriving, reply = Arriving(shards), Completion(np.array([1, 2], np.int32), "well")
    assert not list(arriving.add(1, [reply])) and arriving.left() == [0, 2]
    for place, number, ids in ((2, 2, ["p2"]), (0, 0, ["p0", "p1"])):
        ((shard, groups),) = arriving.add(place, [reply])
        assert (shard, [group.id for group in groups]) == (number, ids)
    assert not arriving.left()


def test_shards_that_are_written_together_keep_their_seeds() -> None:
    shards = [([prompt(0), prompt(1)], sampling(7)), ([prompt(2)], sampling(9)), ([], sampling(3))]
    prompts, one = together(shards)
    assert [each.id for each in prompts] == ["p0", "p1", "p2"]
    alone = [own.seed_of(place) for some, own in shards for place in range(len(some))]
    assert [one.seed_of(place) for place in range(3)] == alone and len(set(alone)) == 3
    assert together(shards[:1]) == shards[0]


@pytest.mark.parametrize(
    ("ahead", "versions"), [pytest.param(0, [0, 1, 2, 3], marks=pytest.mark.slow), (2, [0, 0, 0, 1])]
)
def test_no_reply_is_older_than_rounds_are_written_ahead(
    ahead: int, versions: list[int], small_model: Path, tmp_path: Path
) -> None:
    """Replies are written at once here, so rounds are written as early as possible. Each shard is announced once."""
    code = _CODE.replace("\n    def reply(", _AHEAD.format(ahead=ahead)) + _COUNTING
    write_own(tmp_path / "my", "rollout", "phrases", code, _SETTINGS)
    given = [
        "algo=rloo",
        "reward=tiny",
        "rollout=phrases",
        f"model.path={small_model}",
        "max_steps=4",
        "eval.limit=2",
        "eval.every=0",
    ]
    given += ["global_batch_size=4", "algo.samples=2", "data.limit=100", "run_dir=run", "cluster.threads=1"]
    given += ["+callbacks.counting={_target_: phrases.Counting}"]
    cli("train", "--config-dir", "my", *given, cwd=tmp_path)
    assert len((tmp_path / "run" / "announced").read_text().split()) == 4
    files = sorted((tmp_path / "run").glob("rounds/*/shard-*.parquet"))
    written: list[Any] = [
        {reply.policy_version for group in read_groups(file) for reply in group.completions} for file in files
    ]
    assert written == [{version} for version in versions]
    told = [line["rollout/staleness"] for line in metrics_of(tmp_path / "run") if "rollout/staleness" in line]
    assert told == [number - version for number, version in enumerate(versions)]


def shards_of(folder: Path, ranks: int, by_prompt: bool = True) -> Shards:
    """Return the shards of a run in `folder` as one of `ranks` ranks writes them."""
    run: Any = SimpleNamespace(files=RunDir(folder), is_main=True, config=check(compose(["algo=rloo"])))
    world: Any = SimpleNamespace(size=ranks, rank=0, broadcast=lambda value: value, any=bool)
    rollout, data, no = Slow(), Dataset([prompt(number) for number in range(8)], []), cast(Any, None)
    rollout.draws_by_prompt = by_prompt
    writing = ScoredRollout(rollout, no, no, no, world, no, no)
    return Shards(run, data, RoundOrder(8, 4, 4, 1, None, 2, 1), 2, writing, no)


def cut(folder: Path, ranks: int, by_prompt: bool = True) -> list[tuple[str, list[str], list[int]]]:
    """Return name, prompts and seeds of each shard of a round, as a run in `folder` on `ranks` ranks plans it."""
    shards = shards_of(folder, ranks, by_prompt)
    shards._plan(0)
    return [
        (file.name, [group.id for group in groups], [drawn.seed_of(place) for place in range(len(groups))])
        for file, (groups, drawn) in shards._cut(0)
    ]


def test_a_rank_without_a_missing_shard_writes_nothing_ahead(tmp_path: Path) -> None:
    """So it is after a resume, if the next round was written ahead before the end."""
    shards = shards_of(tmp_path / "run", 1, True)
    shards.rollout.rounds_ahead = 1
    for number in (0, 1):
        shards._plan(number)
    for file, _ in shards._cut(1):
        file.touch()
    shards._begin_ahead(0)
    assert shards.ahead is None
    shards.wait_for_ahead()


def test_while_the_next_round_is_awaited_the_run_is_alive_and_can_be_stopped(tmp_path: Path) -> None:
    class Asked(Exception):
        pass

    rollout, alive = Slow(), list[int]()

    def asked() -> None:
        alive.append(1)
        if len(alive) == 2:
            raise Asked

    shards = shards_of(tmp_path / "run", 1, True)
    shards.rollout, shards.alive, shards.announce = rollout, asked, lambda event: None
    shards.rollout.rounds_ahead, shards.ahead = 1, WrittenAhead(rounds(tmp_path), rollout)
    with pytest.raises(Asked):
        shards.wait_for_ahead()
    rollout.go.set()
    shards.wait_for_ahead()
    assert shards.ahead is None and len(alive) == 2


def test_a_run_that_goes_on_with_other_ranks_keeps_its_finished_shards(tmp_path: Path) -> None:
    ((name, prompts, seeds),) = cut(tmp_path / "one", 1)
    file = RunDir(tmp_path / "one").round(0).path / name
    file.touch()
    assert cut(tmp_path / "one", 4) == [(name, prompts, seeds)] and file.exists()
    four = cut(tmp_path / "four", 4)
    assert [(of_shard, drawn) for _, of_shard, drawn in four] == [
        ([each], [seed]) for each, seed in zip(prompts, seeds, strict=True)
    ]
    assert cut(tmp_path / "whole", 4, by_prompt=False) == [(name, prompts, seeds)], "no other draws would be the same"


@pytest.mark.slow
@pytest.mark.parametrize(("by_prompt", "ranks", "shards"), [(True, 2, 2), (False, 2, 1)])
def test_a_small_round_has_a_shard_for_each_rank_if_each_prompt_has_its_own_seed(
    by_prompt: bool, ranks: int, shards: int, small_model: Path, tmp_path: Path
) -> None:
    """Each reply here is its prompt's seed, which is the same for any number of ranks."""
    seeded = _CODE.replace("\n    def reply(", f"\n    draws_by_prompt = {by_prompt}\n\n    def reply(").replace(
        "completions=[self.reply(n) for n in range(sampling.n)]) for group in groups",
        "completions=[self.reply(sampling.seed_of(p) % 7 + n) for n in range(sampling.n)]) for p, group in enumerate(groups)",
    )
    assert "seed_of" in seeded
    write_own(tmp_path / "my", "rollout", "phrases", seeded, _SETTINGS)
    given = [
        "algo=rloo",
        "reward=tiny",
        "rollout=phrases",
        f"model.path={small_model}",
        "max_steps=1",
        "eval.limit=2",
        "eval.every=0",
    ]
    given += ["global_batch_size=4", "algo.samples=2", "data.limit=100", "run_dir=run", "cluster.threads=1"]
    given += ["rollout.phrases=[Oh.,Yes.,No.,Why?,Since when?,I see.,And then?]"]
    cli("train", "--config-dir", "my", *given, f"cluster.processes={ranks}", cwd=tmp_path)
    files = sorted((tmp_path / "run").glob("rounds/0000/shard-*.parquet"))
    groups = [group for file in files for group in read_groups(file)]
    assert [len(read_groups(file)) for file in files] == [4 // shards] * shards
    first = int(np.random.SeedSequence([1, 0, 0]).generate_state(1)[0])
    phrases = ["Oh.", "Yes.", "No.", "Why?", "Since when?", "I see.", "And then?"]
    expected = [phrases[(first + 1_000_003 * place) % (1 << 31) % 7] for place in range(4)]
    assert [group.completions[0].text for group in groups] == expected
