"""Replies on disk: a round's prompts in shards, `RUN/rounds/0003/shard-07.parquet`, each written and scored once."""

import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from psychocounsel.data.dataset import Dataset
from psychocounsel.data.group import Group, read_groups, write_groups
from psychocounsel.distributed.world import World
from psychocounsel.engine.callbacks import Announce
from psychocounsel.engine.rounds.resting import Resting
from psychocounsel.engine.rounds.scoring import Scoring
from psychocounsel.engine.rounds.written_ahead import Batch, WrittenAhead, write_batch
from psychocounsel.engine.schedule import RoundOrder
from psychocounsel.errors import UserError
from psychocounsel.rollout.base import Rollout, Sampling, Shard, at_once, sampling_of, together
from psychocounsel.rundir.run import Run
from psychocounsel.storage.files import await_file, read_json, write_json


class Shards:
    """Writes `samples` replies to each prompt of a round; some rollouts already write the next rounds meanwhile.

    `alive` is called often, on all ranks together; it may raise Stopped.
    """

    def __init__(
        self,
        run: Run,
        data: Dataset,
        order: RoundOrder,
        samples: int,
        rollout: Rollout,
        scoring: Scoring,
        world: World,
        announce: Announce,
        alive: Callable[[], None],
        resting: Resting,
    ) -> None:
        self.run, self.data, self.order, self.world = run, data, order, world
        self.samples, self.rollout, self.scoring = samples, rollout, scoring
        self.announce, self.alive, self.resting = announce, alive, resting
        self.config: Any = run.config
        self.ahead: WrittenAhead | None = None
        self.seconds: dict[str, float] = {}  # of the last round, by phase
        self.staleness = 0.0  # mean age of its replies: steps since the weights that wrote them

    def make(self, number: int, step: int) -> list[Group]:
        """Return the scored replies of a round that begins at `step`; only replies that are not on disk are written.

        Raises:
            UserError: if replies on disk were written with weights that are too old for this round.
        """
        self.wait_for_ahead()
        with self.resting:
            files = self._written(number, step)
        for file in files:
            await_file(file)
        replies = [group for file in files for group in read_groups(file)]
        self._check_versions(number, step, replies)
        return replies

    def _written(self, number: int, step: int) -> list[Path]:
        """Return the files of a round, after all replies are written and scored."""
        started = time.perf_counter()
        self.rollout.sync(step)
        self.resting.leave_weights()
        self.announce("sync_done")
        synced = time.perf_counter()
        self._plan(number)
        files = self._write(number)
        self._begin_ahead(number)
        self.rollout.rest()
        written = time.perf_counter()
        for first in range(0, len(files), self.world.size):
            self.alive()
            self._score_file(files[first + self.world.rank :][:1])
        self.world.barrier()
        scored = time.perf_counter()
        self.seconds = {"sync": synced - started, "write": written - synced, "score": scored - written}
        return files

    def wait_for_ahead(self) -> None:
        """Wait until the rollout has written the next round, because it will now get new weights or other prompts."""
        if self.ahead is not None:
            written, self.ahead = self.ahead.join(), None
            for _ in range(written):  # only now, because callbacks run in the thread of training
                self.announce("shard_done")

    # -- small parts

    def _begin_ahead(self, number: int) -> None:
        """Start to write the following rounds that may be written with this round's weights."""
        coming = range(number + 1, min(number + 1 + self.rollout.rounds_ahead, self.order.rounds))
        for each in coming:
            self._plan(each)
        if coming:
            self.ahead = WrittenAhead([self._batches(each) for each in coming], self.rollout)

    def _check_versions(self, number: int, step: int, replies: list[Group]) -> None:
        """Raise if a reply's weights are older than the rollout's number of rounds ahead allows."""
        oldest = max(0, (number - self.rollout.rounds_ahead) * self.order.steps_per_round)
        versions = [reply.policy_version or 0 for group in replies for reply in group.completions]
        if min(versions, default=oldest) < oldest:
            folder = self.run.files.round(number).path
            raise UserError(
                f"{folder}: holds replies by the weights of step {min(versions)}, but this round needs step {oldest} or newer; "
                "delete this folder"
            )
        self.staleness = step - sum(versions) / max(1, len(versions))

    def _plan(self, number: int) -> None:
        """Write the round's plan; files of another plan in the same folder are deleted."""
        files = self.run.files.round(number)
        plan = {
            "prompts": [self.data.train[index].id for index in self.order.indices(number)],
            "shard_prompts": self._shard_prompts,
            "seed": self.config.seed,
        }
        if self.run.is_main and read_json(files.plan) != plan:
            shutil.rmtree(files.path, ignore_errors=True)
            files.path.mkdir(parents=True)
            write_json(files.plan, plan)
        self.world.barrier()

    @property
    def _shard_prompts(self) -> int:
        """Prompts of a shard: `rollout.shard_prompts`, or fewer for many ranks if the replies stay the same."""
        setting: int = self.config.rollout.shard_prompts
        each = math.ceil(self.order.prompts / self.world.size)
        return min(setting, each) if self.rollout.draws_by_prompt else setting

    def _cut(self, number: int) -> list[tuple[Path, Shard]]:
        """Return file, prompts and sampling settings of each shard of a round."""
        files, size = self.run.files.round(number), self._shard_prompts
        prompts = [self.data.train[index] for index in self.order.indices(number)]
        cut = [prompts[start : start + size] for start in range(0, len(prompts), size)]
        return [
            (files.shard(index), (part, self._sampling(number, index * size, len(part))))
            for index, part in enumerate(cut)
        ]

    def _sampling(self, number: int, first: int, count: int) -> Sampling:
        """Return the sampling settings for `count` prompts from place `first` of a round on.

        Smaller shards get the same seeds as shards of `rollout.shard_prompts` prompts.
        """
        setting = self.config.rollout.shard_prompts
        whole = [
            sampling_of(self.config, self.samples, number, place // setting) for place in range(first, first + count)
        ]
        if self._shard_prompts == setting:
            return whole[0]
        places = range(first, first + count)
        seeds = tuple(each.seed_of(place % setting) for each, place in zip(whole, places, strict=True))
        return replace(whole[0], seeds=seeds)

    def _batches(self, number: int) -> list[Batch]:
        """Return this rank's shards of a round that are not on disk, in batches of as many as the rollout writes at once.

        Every rank has the same number of batches; some may be empty.
        """
        shards, ranks = self._cut(number), self.world.size
        size = ranks * at_once(self.rollout, self._shard_prompts, self.samples)
        parts = [shards[first : first + size] for first in range(0, len(shards), size)]
        return [[each for each in part[self.world.rank :: ranks] if not each[0].exists()] for part in parts]

    def _write(self, number: int) -> list[Path]:
        """Write the replies of all missing shards; return the files of all shards."""
        shards = self._cut(number)
        nothing: Shard = ([], shards[0][1][1])
        for batch in self._batches(number):
            self.alive()
            prompts, sampling = together([shard for _, shard in batch] or [nothing])
            groups = self.rollout.generate(prompts, sampling)
            write_batch(batch, groups)
            for _ in batch:
                self.announce("shard_done")
        return [file for file, _ in shards]

    def _score_file(self, files: Sequence[Path]) -> None:
        """Score the replies in each of `files` that are not scored yet."""
        for file in files:
            groups = read_groups(file)
            if any(completion.reward is None for group in groups for completion in group.completions):
                write_groups(file, self.scoring(groups))
                self.announce("scored")
