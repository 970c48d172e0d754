"""Rounds: the policy writes replies, a reward scores them, and the algorithm collects the training groups.

A round is cut into shards, `RUN/rounds/0003/shard-07.parquet`. Each shard is seeded by its number and stored once it is
complete. The collected groups are in `groups.parquet` in the same folder. A run that is killed at any point therefore
repeats no finished work.
"""

from collections.abc import Callable
from typing import Any

from psychocounsel.data.dataset import Dataset
from psychocounsel.data.group import Group, read_groups, reference_of, write_groups
from psychocounsel.data.tokenise import ChatFormat
from psychocounsel.engine.callbacks import Announce
from psychocounsel.engine.collector import Collector
from psychocounsel.engine.references.live import RoundStart
from psychocounsel.engine.rounds.held_out import HeldOutReplies
from psychocounsel.engine.rounds.resting import Resting
from psychocounsel.engine.rounds.scoring import open_scoring
from psychocounsel.engine.rounds.shards import Shards
from psychocounsel.engine.schedule import round_order
from psychocounsel.metrics.replies import reply_metrics
from psychocounsel.metrics.samples import sample_page
from psychocounsel.rollout.base import open_rollout
from psychocounsel.rundir.run import Run
from psychocounsel.settings import config as configs
from psychocounsel.storage.files import await_file, read_json, write_atomically, write_json


class RoundFeed:
    """Feeds the groups of each round, made when the round's first step asks for them, or read from disk if already made."""

    holds_rows = False

    def __init__(
        self, run: Run, shards: Shards, held_out: HeldOutReplies, collector: Collector, announce: Announce
    ) -> None:
        self.run, self.shards, self.order, self.collector = run, shards, shards.order, collector
        self.held_out = held_out
        self.world, self.announce = shards.world, announce
        self.steps = self.order.steps
        self._round: int | None = None
        self._groups: list[Group] = []
        self._metrics: dict[str, float] = {}

    def start(self, weights: str) -> None:
        pass  # a round is collected at its first step

    def groups(self, step: int) -> list[Group]:
        number = self.order.round_of(step)
        if number != self._round:
            self._groups, self._metrics = self._make(number, step)
            self._round = number
        return [self._groups[index] for index in self.order.part(step, len(self._groups))]

    def metrics(self, step: int) -> dict[str, float]:
        return self._metrics if step % self.order.steps_per_round == 0 else {}

    def lengths(self) -> list[list[int]]:
        return []

    def sample(self, step: int) -> str | None:
        number, place = divmod(step - 1, self.order.steps_per_round)
        file = self.run.files.round(number).samples
        return file.read_text() if not place and number >= 0 and file.exists() else None

    def evaluate(self, step: int) -> dict[str, float]:
        self.shards.wait_for_ahead()
        return self.held_out.metrics(step)

    def _make(self, number: int, step: int) -> tuple[list[Group], dict[str, float]]:
        files = self.run.files.round(number)
        replies = self.shards.make(number, step)
        if self.run.is_main and (count := self.run.config.rollout.shown_prompts):
            write_atomically(files.samples, sample_page(replies, count, f"Round {number}"))
        file = files.groups
        self.collector.begin(number)
        known = self.world.broadcast(read_json(files.collected) if self.run.is_main and file.exists() else None)
        if known is None:
            collected = self.collector.algorithm.collect(replies, self.collector)
            counts = {name: value / len(replies) for name, value in self.collector.counts.items()}
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
        metrics = reply_metrics(replies, None, "rollout") | ({} if kl is None else {"rollout/kl": kl}) | noted
        metrics |= {f"rollout/{name}_seconds": value for name, value in self.shards.seconds.items()}
        metrics["rollout/staleness"] = self.shards.staleness
        return collected, metrics


def open_rounds(
    run: Run,
    data: Dataset,
    collector: Collector,
    tokenizer: Any,
    chat: ChatFormat,
    announce: Announce,
    alive: Callable[[], None],
    resting: Resting,
) -> RoundFeed:
    """Return the feed of an algorithm with rollouts, with its rollout and its reward.

    Raises:
        UserError: if the rollout or the reward cannot be loaded, or as in `Algorithm.check_rounds`.
    """
    config: Any = run.config
    algorithm, plan = collector.algorithm, collector.algorithm.round
    assert plan is not None, "the check of the configuration requires it"
    engine, world = collector.stepper.main, collector.world
    order = round_order(config, algorithm, len(data.train))
    algorithm.check_rounds(order.rounds)
    with resting:
        rollout = open_rollout(configs.build(config, "rollout"), config, engine, tokenizer, [chat.end_token()], world)
        scoring = open_scoring(config, world)
    shards = Shards(run, data, order, plan.samples, rollout, scoring, world, announce, alive, resting)
    initial = collector.reference if algorithm.reference_kind == "initial" else None
    policy = RoundStart(collector.stepper, config.global_batch_size)
    held_out = HeldOutReplies(run, data.held_out, rollout, scoring, policy, initial, world, alive, resting)
    return RoundFeed(run, shards, held_out, collector, announce)
