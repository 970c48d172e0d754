"""Rounds: the policy writes replies, a reward scores them, and the algorithm collects the training groups.

A round is cut into shards, `RUN/rounds/0003/shard-07.parquet`. Each shard is seeded by its number and stored once it is
complete. The collected groups are in `groups.parquet` in the same folder. A run that is killed at any point therefore
repeats no finished work.
"""

import itertools
import math
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from psychocounsel.algo.base import checked_groups
from psychocounsel.data.dataset import Dataset
from psychocounsel.data.group import Group, read_groups, reference_of, write_groups
from psychocounsel.data.tokenise import ChatFormat
from psychocounsel.engine.callbacks import Announce
from psychocounsel.engine.feed import Collector, Feed
from psychocounsel.engine.rounds.held_out import HeldOutReplies, ScoredRollout, open_scored_rollout
from psychocounsel.engine.rounds.offloading import Offloading
from psychocounsel.engine.rounds.scoring import rewarded
from psychocounsel.engine.schedule import RoundOrder, round_order
from psychocounsel.errors import GoOnLater, UserError
from psychocounsel.metrics.replies import reply_metrics, sample_page
from psychocounsel.rollout.base import Rollout, Sampling, Shard, sampling_of
from psychocounsel.rundir.run import Run
from psychocounsel.storage.files import await_file, read_json, write_atomically, write_json

# Rounds written ahead, in a thread, while earlier rounds are scored and trained on

ShardFile = tuple[Path, Shard]  # a shard that is not written yet, and its file


class WrittenAhead:
    """Writes the shards of the next `rounds` with the servers' current weights.

    Shards that are still missing when their round begins are written by `Shards.make`.
    """

    def __init__(self, rounds: Sequence[Sequence[ShardFile]], rollout: Rollout) -> None:
        self.failure: BaseException | None = None
        self._written = 0  # shards
        self._ends, self._next_is_there = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, args=(rounds, rollout), daemon=True)
        self._thread.start()

    def _run(self, rounds: Sequence[Sequence[ShardFile]], rollout: Rollout) -> None:
        shards, next_round = [shard for of_round in rounds for shard in of_round], set(range(len(rounds[0])))
        try:
            if not next_round:
                self._next_is_there.set()
            for number, groups in rollout.write_alone([shard for _, shard in shards], self._ends.is_set):
                write_groups(shards[number][0], groups)
                self._written += 1
                next_round.discard(number)
                if not next_round:
                    self._next_is_there.set()
        except BaseException as error:
            self.failure = error
        finally:
            self._next_is_there.set()

    def next_is_there(self, seconds: float) -> bool:
        """Wait at most `seconds` for the next round; return True if it is written, or can't be."""
        return self._next_is_there.wait(seconds)

    def join(self) -> int:
        """Return the number of shards written, once the next round is written and replies in progress are finished.

        Raises:
            BaseException: the error that ended the thread, unless it was a lost server.
        """
        self._next_is_there.wait()
        self._ends.set()
        self._thread.join()
        if self.failure is not None:
            raise self.failure
        return self._written


# Replies on disk: a round's prompts in shards, each written and scored once


class Shards:
    """Writes `samples` replies to each prompt of a round; some rollouts already write the next rounds meanwhile."""

    def __init__(
        self, run: Run, data: Dataset, order: RoundOrder, samples: int, writing: ScoredRollout, announce: Announce
    ) -> None:
        self.run, self.data, self.order, self.samples, self.announce = run, data, order, samples, announce
        self.rollout, self.scoring, self.reply_check = writing.rollout, writing.scoring, writing.reply_check
        self.world, self.alive, self.offloading = writing.world, writing.alive, writing.offloading
        self.config: Any = run.config
        self.ahead: WrittenAhead | None = None
        self.seconds: dict[str, float] = {}  # of the last round, by phase
        self._sizes: dict[int, int] = {}  # prompts of a shard, by round
        self.staleness = 0.0  # mean age of its replies: steps since the weights that wrote them
        self.engine_difference: float | None = None  # of the round's replies, as `ReplyCheck.check` returns it
        self._further: Sequence[Sequence[int]] = ()

    def make(self, number: int, step: int, further: Sequence[Sequence[int]] = ()) -> list[Group]:
        """Return the scored replies of a round that begins at `step`; only replies that are not on disk are written.

        `further`: rows whose prompts follow the round's own, one list for each time that prompts were replaced.

        Raises:
            UserError: if replies on disk were written with weights that are too old for this round, or as in
                `ReplyCheck.check`.
        """
        self.wait_for_ahead()
        self._further = further
        with self.offloading:
            files = self._written(number, step)
        for file in files:
            await_file(file)
        replies = [group for file in files for group in read_groups(file)]
        self._check_versions(number, step, replies)
        self.engine_difference = self.reply_check.check(replies, step)
        return replies

    def _written(self, number: int, step: int) -> list[Path]:
        """Return the files of a round, after all replies are written and scored."""
        started = time.perf_counter()
        self.rollout.sync(step)
        self.offloading.leave_weights()
        self.announce("sync_done")
        synced = time.perf_counter()
        self._plan(number)
        files = self._write(number)
        self._begin_ahead(number)
        self.rollout.rest()
        written = time.perf_counter()
        with self.scoring.on_device:
            for first in range(0, len(files), self.world.size):
                self.alive()
                self._score_file(files[first + self.world.rank :][:1])
        self.world.barrier()
        scored = time.perf_counter()
        spent = {"sync": synced - started, "write": written - synced, "score": scored - written}
        self.seconds = {name: value + (self.seconds[name] if self._further else 0.0) for name, value in spent.items()}
        return files

    def wait_for_ahead(self) -> None:
        """Wait until the rollout has written the next round, because it will now get new weights or other prompts.

        All ranks call it together, and `alive` together every second until the next round is there.
        """
        while self.rollout.rounds_ahead and self.world.any(
            self.ahead is not None and not self.ahead.next_is_there(1.0)
        ):
            self.alive()
        if self.ahead is not None:
            written, self.ahead = self.ahead.join(), None
            for _ in range(written):  # only now, because callbacks run in the thread of training
                self.announce("shard_done")

    # -- small parts

    def _begin_ahead(self, number: int) -> None:
        """Start to write the following rounds that may be written with this round's weights."""
        coming = range(number + 1, min(number + 1 + self.rollout.rounds_ahead, self.order.rounds))
        for later in coming:
            self._plan(later)
        rounds = [[shard for shard in self._own(later) if shard[1][0]] for later in coming]
        if any(rounds):
            self.ahead = WrittenAhead(rounds, self.rollout)

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
        """Write the round's plan; files of another plan in the same folder are deleted.

        A plan that was cut for another number of ranks is kept, so that a resumed run keeps its finished shards.
        """
        files, size = self.run.files.round(number), self.config.rollout.shard_prompts
        if self.rollout.draws_by_prompt:  # then smaller shards, one for each rank, hold the same replies
            size = min(size, math.ceil(self.order.prompts / self.world.size))
        plan = {
            "prompts": [self.data.train[index].id for index in self.order.indices(number)],
            "shard_prompts": size,
            "seed": self.config.seed,
        }
        if self.run.is_main:
            known = read_json(files.plan) or {}
            begun = known == plan or any(files.path.glob("shard-*"))
            if begun and {**known, "shard_prompts": size} == plan:
                plan = known
            else:
                shutil.rmtree(files.path, ignore_errors=True)
                files.path.mkdir(parents=True)
                write_json(files.plan, plan)
        self._sizes[number] = self.world.broadcast(plan["shard_prompts"])

    def _cut(self, number: int) -> list[tuple[Path, Shard]]:
        """Return file, prompts and sampling settings of each shard of a round."""
        files, size, whole = self.run.files.round(number), self._sizes[number], self.config.rollout.shard_prompts
        cut, first = list[tuple[Path, Shard]](), 0
        for rows in (self.order.indices(number), *self._further):
            prompts = [self.data.train[row] for row in rows]
            for start in range(0, len(prompts), size):
                part = prompts[start : start + size]
                cut.append((files.shard(len(cut)), (part, self._sampling(number, first + start, len(part)))))
            first += whole * math.ceil(len(rows) / whole)  # so that seeds do not depend on the size of smaller shards
        return cut

    def _sampling(self, number: int, first: int, count: int) -> Sampling:
        """Return the sampling settings for `count` prompts from place `first` of a round on.

        Smaller shards get the same seeds as shards of `rollout.shard_prompts` prompts.
        """
        setting = self.config.rollout.shard_prompts
        whole = [
            sampling_of(self.config, self.samples, number, place // setting) for place in range(first, first + count)
        ]
        if self._sizes[number] == setting:
            return whole[0]
        places = range(first, first + count)
        seeds = tuple(shard.seed_of(place % setting) for shard, place in zip(whole, places, strict=True))
        return replace(whole[0], seeds=seeds)

    def _own(self, number: int) -> list[ShardFile]:
        """Return this rank's shards of a round, as many as on every other rank; those that are on disk have no prompts."""
        shards, ranks = self._cut(number), self.world.size
        nothing: Shard = ([], shards[0][1][1])
        shards += [(shards[0][0], nothing)] * (-len(shards) % ranks)
        return [(file, nothing if file.exists() else shard) for file, shard in shards[self.world.rank :: ranks]]

    def _write(self, number: int) -> list[Path]:
        """Write the replies of all missing shards; return the files of all shards."""
        own = self._own(number)
        for place, groups in self.rollout.write([shard for _, shard in own], self.alive):
            write_groups(own[place][0], groups)
            self.scoring.ahead(groups)
            self.announce("shard_done")
        return [file for file, _ in self._cut(number)]

    def _score_file(self, files: Sequence[Path]) -> None:
        """Score the replies in each of `files` that are not scored yet. All ranks call it together."""
        if self.scoring.scorer is None:
            return
        read = [(file, read_groups(file)) for file in files]
        unscored = [(file, groups) for file, groups in read if any(map(_lacks_scores, groups))]
        self.scoring([group for _, groups in unscored for group in groups], self.alive)
        for file, groups in unscored:
            write_groups(file, groups)
            self.announce("scored")


# Rounds

_MOST_UNREWARDED = 3  # rounds in a row


class Unrewarded(GoOnLater):
    """Error: several rounds in a row had no rewards to train on."""


class RoundFeed(Feed):
    """Feeds the groups of each round, made when the round's first step asks for them, or read from disk if already made."""

    def __init__(
        self, run: Run, shards: Shards, held_out: HeldOutReplies, collector: Collector, announce: Announce
    ) -> None:
        self.run, self.shards, self.order, self.collector = run, shards, shards.order, collector
        self.held_out = held_out
        self.resample = collector.algorithm.round.resample if collector.algorithm.round else 0
        self.world, self.announce = shards.world, announce
        self.steps = self.order.steps
        self._unrewarded = 0  # rounds in a row, in this process, of which no prompt had enough rewards
        self._round: int | None = None
        self._groups: list[Group] = []
        self._metrics: dict[str, float] = {}

    def groups(self, step: int) -> list[Group]:
        number = self.order.round_of(step)
        if number != self._round:
            self._groups, self._metrics = self._make(number, step)
            self._round = number
        return [self._groups[index] for index in self.order.part(step, len(self._groups))]

    def metrics(self, step: int) -> dict[str, float]:
        return self._metrics if step % self.order.steps_per_round == 0 else {}

    def sample(self, step: int) -> str | None:
        number, place = divmod(step - 1, self.order.steps_per_round)
        file = self.run.files.round(number).samples
        return file.read_text() if not place and number >= 0 and file.exists() else None

    def evaluate(self, step: int) -> dict[str, float]:
        self.shards.wait_for_ahead()
        return self.held_out.metrics(step)

    def _make(self, number: int, step: int) -> tuple[list[Group], dict[str, float]]:
        files = self.run.files.round(number)
        written, replies, useful = self._replies(number, step)
        self._count_unrewarded(number, replies)
        if rewritten := sum(reply.finish_reason == "rewritten" for group in written for reply in group.completions):
            self.run.say(
                f"round {number}: {rewritten:,} of {_count(written):,} sessions ended early, because the chat template changes "
                "a reply once the client answers, such as its thoughts (<think>); see rollout/rewritten, and "
                "model.chat_template=FILE.jinja for a template that keeps replies"
            )
        self.collector.begin(number)  # only now, because `is_useful` may count penalties
        self.shards.scoring.finish_round(replies, self.collector)
        if self.run.is_main and (count := self.run.config.rollout.shown_prompts):
            write_atomically(files.samples, sample_page(replies or written, count, f"Round {number}"))
        file = files.groups
        known = self.world.broadcast(read_json(files.collected) if self.run.is_main and file.exists() else None)
        if known is None:
            algorithm = self.collector.algorithm
            collected = algorithm.collect(useful, self.collector) if useful else []
            checked_groups(algorithm, "collect", collected)
            counts = {name: value / len(useful) for name, value in self.collector.counts.items()}
            known = counts | self.collector.notes
            if self.run.is_main:
                write_json(files.collected, known)
                write_groups(file, collected)
            self.announce("pairs_written")
        self.world.barrier()
        self.collector.notes = known
        await_file(file)
        collected = read_groups(file)
        noted = {f"rollout/{name}": value for name, value in known.items()}
        kl = reply_metrics(collected, reference_of(collected), "rollout").get("rollout/kl")
        metrics = reply_metrics(replies or written, None, "rollout")
        metrics |= ({} if kl is None else {"rollout/kl": kl}) | noted
        metrics |= {f"rollout/{name}_seconds": value for name, value in self.shards.seconds.items()}
        if self.shards.scoring.asks:
            metrics["rollout/left_out"] = 1 - _count(replies) / _count(written)
        metrics["rollout/staleness"] = self.shards.staleness
        if self.shards.engine_difference is not None:
            metrics["rollout/logprob_difference_engine"] = self.shards.engine_difference
        if self.resample:
            metrics["rollout/resampled"] = len(written) - self.order.prompts
            metrics["rollout/useless"] = 1 - len(useful) / max(1, len(replies))
        return collected, metrics

    def _replies(self, number: int, step: int) -> tuple[list[Group], list[Group], list[Group]]:
        """Return all replies of a round, those with a reward, and those that are of use to the algorithm.

        With `RoundPlan.resample`, groups of no use are left out, and new prompts replace them while there are any.

        Raises:
            UserError: if too few replies have a reward, unless a judge gives rewards.
        """
        rows, further = self.order.further(number), list[list[int]]()
        while True:
            written = self.shards.make(number, step, further)
            replies = self._with_reward(number, written)
            if not self.resample:
                return written, replies, replies
            useful = [group for group in replies if self.collector.algorithm.is_useful(group, self.collector)]
            lacking = self.order.prompts - len(useful)
            new = list(itertools.islice(rows, lacking)) if len(further) < self.resample else []
            if not new:
                return written, replies, useful
            further.append(new)

    def _with_reward(self, number: int, written: list[Group]) -> list[Group]:
        plan = self.collector.algorithm.round
        assert plan is not None, "the check of the configuration requires it"
        if line := self.shards.scoring.left_out(written, f"replies of round {number}", needed=False):
            self.run.say(line)
        replies = rewarded(written, plan.fewest)
        if not replies and not self.shards.scoring.asks:
            raise UserError(
                f"round {number}: no prompt has {plan.fewest} replies with a reward, which the algorithm needs; "
                "use more algo.samples"
            )
        return replies

    def _count_unrewarded(self, number: int, replies: list[Group]) -> None:
        """Say that a round trains nothing, because no prompt has enough rewards of the judge.

        Raises:
            Unrewarded: at the third such round in a row.
        """
        self._unrewarded = 0 if replies else self._unrewarded + 1
        if self._unrewarded == _MOST_UNREWARDED:
            raise Unrewarded(
                f"round {number} is number {_MOST_UNREWARDED} in a row without enough rewards to train on: RUN/reward_answers "
                "holds the judge's answers; check that it works. The same command continues"
            )
        if not replies:
            self.run.say(f"round {number} trains nothing, because no prompt has enough replies with a reward")


def _lacks_scores(group: Group) -> bool:
    """Return True if a reply has no score yet, or is a session of an earlier version, which did not keep its turns' scores."""
    return any(
        reply.reward is None or (reply.turn_rewards is not None and reply.turn_scores is None)
        for reply in group.completions
    )


def _count(groups: Sequence[Group]) -> int:
    return sum(len(group.completions) for group in groups)


def open_rounds(
    run: Run,
    data: Dataset,
    collector: Collector,
    chat: ChatFormat,
    announce: Announce,
    alive: Callable[[], None],
    offloading: Offloading,
) -> RoundFeed:
    """Return the feed of an algorithm with rollouts, with its rollout and its reward.

    Raises:
        UserError: as in `Algorithm.check_rounds` or `open_scored_rollout`.
    """
    algorithm, plan = collector.algorithm, collector.algorithm.round
    assert plan is not None, "the check of the configuration requires it"
    order = round_order(run.config, algorithm, len(data.train))
    algorithm.check_rounds(order.rounds)
    prompts = [*data.train, *data.held_out]
    writing = open_scored_rollout(run, prompts, collector.stepper, chat, alive, offloading)
    fixed = collector.reference if algorithm.reference_kind in ("initial", "model") else None
    held_out = HeldOutReplies(run, data.held_out, writing, fixed)
    return RoundFeed(run, Shards(run, data, order, plan.samples, writing, announce), held_out, collector, announce)
