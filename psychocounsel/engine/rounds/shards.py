"""Replies on disk: a round's prompts in shards, `RUN/rounds/0003/shard-07.parquet`, each written and scored once."""

import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from psychocounsel.data.dataset import Dataset
from psychocounsel.data.group import Group, read_groups, write_groups
from psychocounsel.distributed.world import World
from psychocounsel.engine.callbacks import Announce
from psychocounsel.engine.rounds.scoring import Scoring
from psychocounsel.engine.schedule import RoundOrder
from psychocounsel.errors import UserError
from psychocounsel.rollout.base import Rollout, Sampling, sampling_of
from psychocounsel.rundir.run import Run
from psychocounsel.storage.files import await_file, read_json, write_json


class Shards:
    """`samples` replies to each prompt of a round. If the rollout writes ahead, it writes the next round during this one.

    `alive` is called on all ranks together, often; it may raise Stopped.
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
    ) -> None:
        self.run, self.data, self.order, self.world = run, data, order, world
        self.samples, self.rollout, self.scoring = samples, rollout, scoring
        self.announce, self.alive = announce, alive
        self.config: Any = run.config
        self.ahead: _Ahead | None = None
        self.seconds: dict[str, float] = {}  # what the last round took

    def make(self, number: int, step: int) -> list[Group]:
        """The scored replies of a round that begins at `step`; what is on disk stays, the rest is written now."""
        started = time.perf_counter()
        self.wait_for_ahead()
        self.rollout.sync(step)
        self.announce("sync_done")
        synced = time.perf_counter()
        self._plan(number)
        files = self._write(number)
        self.rollout.rest()
        written = time.perf_counter()
        for first in range(0, len(files), self.world.size):
            self.alive()
            self._score_file(files[first + self.world.rank :][:1])
        self.world.barrier()
        scored = time.perf_counter()
        self.seconds = {"sync": synced - started, "write": written - synced, "score": scored - written}
        for file in files:
            await_file(file)
        replies = [group for file in files for group in read_groups(file)]
        self._check_versions(number, replies)
        if self.rollout.writes_ahead and number + 1 < self.order.rounds:
            self._plan(number + 1)
            self.ahead = _Ahead(self._missing(number + 1), self.rollout)
        return replies

    def wait_for_ahead(self) -> None:
        """Let the rollout end what it writes of the next round, before its weights change."""
        if self.ahead is not None:
            self.ahead.join()

    # -- small parts

    def _check_versions(self, number: int, replies: list[Group]) -> None:
        """No reply may be by weights of more than a round before, or with overlap two."""
        rounds = number - self.rollout.writes_ahead
        oldest = max(0, rounds * self.order.steps_per_round)
        versions = [reply.policy_version or 0 for group in replies for reply in group.completions]
        if min(versions, default=oldest) < oldest:
            folder = self.run.files.round(number).path
            raise UserError(f"{folder}: has replies by weights of step {min(versions)}, older than {oldest}; remove it")

    def _plan(self, number: int) -> None:
        """Say what the round is made of; what lies there of another plan goes."""
        files = self.run.files.round(number)
        plan = {
            "prompts": [self.data.train[index].id for index in self.order.indices(number)],
            "shard_prompts": self.config.rollout.shard_prompts,
            "seed": self.config.seed,
        }
        if self.run.is_main and read_json(files.plan) != plan:
            shutil.rmtree(files.path, ignore_errors=True)
            files.path.mkdir(parents=True)
            write_json(files.plan, plan)
        self.world.barrier()

    def _cut(self, number: int) -> list[tuple[Path, list[Group], Sampling]]:
        """File, prompts and settings of each shard of a round."""
        files, size = self.run.files.round(number), self.config.rollout.shard_prompts
        prompts = [self.data.train[index] for index in self.order.indices(number)]
        cut = [prompts[start : start + size] for start in range(0, len(prompts), size)]
        return [
            (files.shard(index), part, sampling_of(self.config, self.samples, number, index))
            for index, part in enumerate(cut)
        ]

    def _missing(self, number: int) -> list[tuple[Path, list[Group], Sampling]]:
        """This rank's shards that are not on disk."""
        return [each for each in self._cut(number)[self.world.rank :: self.world.size] if not each[0].exists()]

    def _write(self, number: int) -> list[Path]:
        """Write the replies of all shards that are not there."""
        shards = self._cut(number)
        for first in range(0, len(shards), self.world.size):
            self.alive()
            mine = shards[first + self.world.rank :][:1]
            missing = [each for each in mine if not each[0].exists()]
            file, prompts, sampling = missing[0] if missing else (None, [], shards[0][2])
            groups = self.rollout.generate(prompts, sampling)
            if file is not None:
                write_groups(file, groups)
                self.announce("shard_done")
        return [file for file, _, _ in shards]

    def _score_file(self, files: Sequence[Path]) -> None:
        """Score the replies in the file, if there is one and they are not."""
        for file in files:
            groups = read_groups(file)
            if any(completion.reward is None for group in groups for completion in group.completions):
                write_groups(file, self.scoring(groups))
                self.announce("scored")


class _Ahead:
    """Writes shards in a thread, with the weights that the servers have now. What it does not get done is made later."""

    def __init__(self, shards: Sequence[tuple[Path, list[Group], Sampling]], rollout: Rollout) -> None:
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(shards, rollout), daemon=True)
        self._thread.start()

    def _run(self, shards: Sequence[tuple[Path, list[Group], Sampling]], rollout: Rollout) -> None:
        try:
            for file, prompts, sampling in shards:
                groups = rollout.generate_alone(prompts, sampling)
                if groups is None:
                    return
                write_groups(file, groups)
        except BaseException as error:
            self.failure = error

    def join(self) -> None:
        """Wait for its end.

        Raises:
            What ended it, other than a server that was lost.
        """
        self._thread.join()
        if self.failure is not None:
            raise self.failure
