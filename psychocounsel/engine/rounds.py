"""Rounds: the policy writes replies, a reward model scores them, the algorithm collects what to train on.

A round is cut into shards, `RUN/rounds/0003/shard-07.parquet`, each seeded by its number and kept once it is whole; what was
collected of them is in `groups.parquet` beside them. So a run that is killed anywhere makes nothing again that was done.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from psychocounsel import config as configs
from psychocounsel.data.build import Dataset
from psychocounsel.data.group import Group, read_groups, reference_of, write_groups
from psychocounsel.data.tokenise import ChatFormat
from psychocounsel.engine.build import build_reference
from psychocounsel.engine.collect import Collector, notes_file, round_folder
from psychocounsel.engine.distributed import World
from psychocounsel.engine.held_out import held_out_metrics
from psychocounsel.engine.run import Run
from psychocounsel.engine.schedule import RoundOrder
from psychocounsel.evaluation.replies import reply_metrics
from psychocounsel.evaluation.samples import sample_page
from psychocounsel.files import read_json, write_atomically, write_json
from psychocounsel.reward.base import Scorer
from psychocounsel.rollout.base import Rollout, Sampling

_HELD_OUT = 1 << 20  # in the place of a round's number in seeds
Announce = Callable[[str], None]


class RoundFeed:
    """The groups of each round, made when its first step asks for them, or read where they were made before.

    `alive` is called on all ranks together, often; it may raise Stopped.
    """

    def __init__(
        self,
        run: Run,
        data: Dataset,
        order: RoundOrder,
        collector: Collector,
        rollout: Rollout,
        scorer: Scorer,
        world: World,
        announce: Announce,
        alive: Callable[[], None],
    ) -> None:
        self.run, self.data, self.order, self.collector = run, data, order, collector
        self.rollout, self.scorer, self.world = rollout, scorer, world
        self.announce, self.alive = announce, alive
        self.steps = order.steps
        self._round: int | None = None
        self._groups: list[Group] = []
        self._metrics: dict[str, float] = {}

    def start(self, weights: str) -> None:
        pass  # a round is collected when its first step comes

    def groups(self, step: int) -> list[Group]:
        number = self.order.round_of(step)
        if number != self._round:
            self.rollout.sync(step)
            self._groups, self._metrics = self._make(number)
            self._round = number
        return [self._groups[index] for index in self.order.part(step, len(self._groups))]

    def metrics(self, step: int) -> dict[str, float]:
        return self._metrics if step % self.order.steps_per_round == 0 else {}

    def lengths(self) -> list[list[int]]:
        return []

    def sample(self, step: int) -> str | None:
        number, place = divmod(step - 1, self.order.steps_per_round)
        file = round_folder(self.run.dir, number) / "samples.md"
        return file.read_text() if not place and number >= 0 and file.exists() else None

    def evaluate(self, step: int) -> dict[str, float] | None:
        """Figures of one reply to each held-out prompt, always drawn with the same seed."""
        mine = self.data.held_out[self.world.rank :: self.world.size]
        self.rollout.sync(step)
        size = self.run.config.rollout.shard_prompts
        written: list[Group] = []
        for start in range(0, len(self.data.held_out), size * self.world.size):
            self.alive()
            first = start // self.world.size
            settings = self._sampling(1, _HELD_OUT, start + self.world.rank)
            written += self._score(self.rollout.generate(mine[first : first + size], settings))
        everyone = self._in_order(written, len(self.data.held_out))
        initial = self.collector.reference_is_initial
        reference = self.collector.logprobs("reference", everyone) if initial else None
        return held_out_metrics(self.run, step, everyone, reference)

    def _in_order(self, mine: list[Group], count: int) -> list[Group]:
        """What the ranks have of groups that were dealt out one by one."""
        parts = self.world.gather(mine)
        return [parts[index % self.world.size][index // self.world.size] for index in range(count)]

    # -- one round

    def _make(self, number: int) -> tuple[list[Group], dict[str, float]]:
        folder = round_folder(self.run.dir, number)
        self._plan(number, folder)
        replies = [group for part in self._shards(number, folder) for group in part]
        if self.run.is_main and (count := self.run.config.rollout.samples):
            write_atomically(folder / "samples.md", sample_page(replies, count, f"Round {number}"))
        file = folder / "groups.parquet"
        self.collector.begin(number)
        known = self.world.broadcast(read_json(notes_file(self.run.dir, number)) if file.exists() else None)
        if known is None:
            collected = self.collector.algorithm.collect(replies, self.collector)
            counts = {name: value / len(replies) for name, value in self.collector.counts.items()}
            known = counts | self.collector.notes
            if self.run.is_main:
                write_json(notes_file(self.run.dir, number), known)
                write_groups(file, collected)
            self.announce("pairs_written")
        self.world.barrier()
        self.collector.notes = known
        collected = read_groups(file)
        noted = {f"rollout/{name}": value for name, value in known.items()}
        kl = reply_metrics(collected, reference_of(collected), "rollout").get("rollout/kl")
        metrics = reply_metrics(replies, None, "rollout") | noted
        return collected, metrics | ({} if kl is None else {"rollout/kl": kl})

    def _plan(self, number: int, folder: Path) -> None:
        """Say what the round is made of; what lies there of another plan goes."""
        config: Any = self.run.config
        plan = {
            "prompts": [self.data.train[index].id for index in self.order.indices(number)],
            "shard_prompts": config.rollout.shard_prompts,
            "seed": config.seed,
        }
        if self.run.is_main and read_json(folder / "plan.json") != plan:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            write_json(folder / "plan.json", plan)
        self.world.barrier()

    def _shards(self, number: int, folder: Path) -> list[list[Group]]:
        prompts = [self.data.train[index] for index in self.order.indices(number)]
        size = self.run.config.rollout.shard_prompts
        shards = [prompts[start : start + size] for start in range(0, len(prompts), size)]
        for first in range(0, len(shards), self.world.size):
            self.alive()
            mine = first + self.world.rank
            if mine < len(shards):
                self._shard(number, mine, shards[mine], folder)
        self.world.barrier()
        return [read_groups(self._file(folder, index)) for index in range(len(shards))]

    def _file(self, folder: Path, shard: int) -> Path:
        return folder / f"shard-{shard:02d}.parquet"

    def _shard(self, number: int, shard: int, prompts: Sequence[Group], folder: Path) -> None:
        """Write the replies of one shard, then score them; each half that is on disk already stays."""
        file = self._file(folder, shard)
        if file.exists():
            groups = read_groups(file)
        else:
            groups = self.rollout.generate(prompts, self._sampling(self.run.config.algo.samples, number, shard))
            write_groups(file, groups)
            self.announce("shard_done")
        if any(completion.reward is None for group in groups for completion in group.completions):
            write_groups(file, self._score(groups))
            self.announce("scored")

    def _score(self, groups: list[Group]) -> list[Group]:
        conversations = [
            [*(group.messages or []), {"role": "assistant", "content": completion.text}]
            for group in groups
            for completion in group.completions
        ]
        rewards = iter(self.scorer.score(conversations).tolist()) if conversations else iter(())
        for group in groups:
            for completion in group.completions:
                completion.reward = next(rewards)
        return groups

    def _sampling(self, samples: int, number: int, shard: int) -> Sampling:
        config: Any = self.run.config
        seed = int(np.random.SeedSequence([config.seed, number, shard]).generate_state(1)[0])
        rollout = config.rollout
        limits = (samples, config.algo.temperature, rollout.max_tokens, config.max_length, seed)
        return Sampling(*limits, rollout.top_p, rollout.top_k)


def open_rounds(
    run: Run,
    data: Dataset,
    collector: Collector,
    tokenizer: Any,
    chat: ChatFormat,
    announce: Announce,
    alive: Callable[[], None],
) -> RoundFeed:
    """The feed of an algorithm with rollouts, with what writes, scores and is the reference.

    Raises:
        UserError: if one of them cannot be loaded.
    """
    config: Any = run.config
    algo = config.algo
    batch = config.global_batch_size - collector.algorithm.offline_groups(config.global_batch_size)
    engine, world = collector.stepper.main, collector.world
    if engine.module.adapter is None and collector.reference_is_initial:
        collector.frozen = build_reference(config, collector.algorithm, world, tokenizer)
    length = (config.epochs, config.max_steps, config.seed)
    order = RoundOrder(len(data.train), algo.prompts_per_round or batch, batch, algo.passes, *length)
    rollout = configs.build(config, "rollout").open(engine, tokenizer, [chat.end_token()])
    scorer = configs.build(config, "reward").open(world.device)
    return RoundFeed(run, data, order, collector, rollout, scorer, world, announce, alive)
