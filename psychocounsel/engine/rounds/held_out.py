"""The policy's replies to held-out prompts, compared with its replies before training."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from psychocounsel.data.group import Array, Group, read_groups, write_groups
from psychocounsel.data.shared_text import clients_of_groups
from psychocounsel.data.tokenise import ChatFormat
from psychocounsel.distributed.world import World
from psychocounsel.engine.references import Reference, RoundStart
from psychocounsel.engine.rounds.offloading import Offloading
from psychocounsel.engine.rounds.scoring import Scoring, open_scoring, rewarded
from psychocounsel.engine.step import Stepper
from psychocounsel.errors import UserError
from psychocounsel.metrics.replies import reply_intervals, reply_metrics
from psychocounsel.metrics.rewards import win_rate
from psychocounsel.rollout.base import Rollout, Shard, sampling_of
from psychocounsel.rollout.sessions import open_rollout
from psychocounsel.rundir.run import Run
from psychocounsel.settings import config as configs

_ROUND = 1 << 20  # in place of a round's number in seeds; no run has as many rounds
# Largest mean difference of log-probabilities per token [nats]. vLLM and the trainer round differently: by 1e-5 in float32, and
# bfloat16 from float32 by 0.04 (SmolLM2-135M). With one of its weight matrices replaced by noise, it differs by 0.5 to 4.
LARGEST_DIFFERENCE = 0.2
_CHECKED = 32  # replies of a round, of each engine as many, but at least two


class ReplyCheck:
    """Checks in each round that some replies of each engine have the log-probabilities that `policy` gives them.

    A rollout that writes with the trainer's own weights is not checked. Nor is one with `rollout.top_p` or `top_k`, because
    its log-probabilities belong to another distribution than the policy's.
    """

    def __init__(self, run: Run, rollout: Rollout, policy: Reference) -> None:
        config: Any = run.config
        self.run, self.policy = run, policy
        self.needed = rollout.writes_with_a_copy and config.rollout.top_p == 1 and not config.rollout.top_k

    def check(self, groups: Sequence[Group], step: int) -> float | None:
        """Compare about 32 replies, spread over the engines, of those that the weights after `step` steps wrote.

        All ranks call it together, with the same groups. Replies that were written ahead with earlier weights are not
        compared.

        Returns:
            The largest mean absolute difference per token of an engine [nats]; None if nothing can be compared.

        Raises:
            UserError: if it exceeds LARGEST_DIFFERENCE, or is not a number.
        """
        some = _of_each_engine(groups, step) if self.needed else []
        if not some:
            return None
        differences = engine_differences(some, self.policy.logprobs(some))
        engine = max(differences, key=lambda name: np.nan_to_num(differences[name], nan=np.inf))
        difference = differences[engine]
        if not difference <= LARGEST_DIFFERENCE:
            whose = f"the log-probabilities of those by {engine}" if engine else "their log-probabilities"
            raise UserError(
                f"rollout: the replies of step {step} were written with other weights than the policy's: by the trainer, "
                f"{whose} differ by {difference:.3g} nats per token (at most {LARGEST_DIFFERENCE} is "
                "accepted); start servers at rollout.addresses with the model.* settings of this run, or use rollout=hf; "
                f"{self.run.files.rounds} holds these replies, so use another run_dir"
            )
        return difference


def _of_each_engine(groups: Sequence[Group], step: int) -> list[Group]:
    """Return groups of one reply each, written by the weights after `step` steps: for each engine some, spread over `groups`."""
    by_engine: dict[str, list[Group]] = {}  # in the order of `groups`, which is the same on all ranks
    for group in groups:
        for reply in group.completions:
            comparable = reply.policy_version == step and reply.logprobs is not None
            for engine in dict.fromkeys(reply.engines or [""]) if comparable else ():
                by_engine.setdefault(engine, []).append(replace(group, completions=[reply]))
    most = max(2, _CHECKED // max(1, len(by_engine)))
    return [one for written in by_engine.values() for one in written[:: -(-len(written) // most)]]


def engine_differences(groups: Sequence[Group], logprobs: Sequence[Sequence[np.ndarray]]) -> dict[str, float]:
    """Return for each engine the mean over its tokens of |`logprobs` - the rollout's log-probabilities| [nats].

    `logprobs`: float32[trained tokens] for each completion of each group. An engine without a name is "".
    """
    by_engine: dict[str, list[np.ndarray]] = {}
    for group, of_group in zip(groups, logprobs, strict=True):
        for reply, values in zip(group.completions, of_group, strict=True):
            assert reply.logprobs is not None
            of_turns = np.split(np.abs(values - reply.logprobs), np.cumsum(reply.turn_lengths)[:-1])
            for engine, differences in zip(reply.engines or [""] * len(of_turns), of_turns, strict=True):
                by_engine.setdefault(engine, []).append(differences)
    return {engine: float(np.concatenate(differences).mean()) for engine, differences in by_engine.items()}


@dataclass(frozen=True)
class ScoredRollout:
    """The rollout of a run with what scores its replies and checks them, for prompts of rounds and held-out ones.

    `policy` gives log-probabilities of the trained policy as it is now. `alive` is called often, on all ranks together; it
    may raise Stopped.
    """

    rollout: Rollout
    scoring: Scoring
    policy: Reference
    reply_check: ReplyCheck
    world: World
    alive: Callable[[], None]
    offloading: Offloading


def open_scored_rollout(
    run: Run,
    prompts: Iterable[Group],
    stepper: Stepper,
    chat: ChatFormat,
    alive: Callable[[], None],
    offloading: Offloading,
) -> ScoredRollout:
    """Return the rollout that writes replies to `prompts`, with what scores them.

    Raises:
        UserError: if the rollout or the reward cannot be loaded.
    """
    config, world = run.config, stepper.world
    with offloading:
        scoring = open_scoring(run, world, chat.system_prompt, prompts)
        offloading.leave_weights()  # last, because the rollout may take the memory that is free now
        settings = configs.build(config, "rollout")
        rollout = open_rollout(settings, config, stepper.main, chat, world, run.files.client_answers)
    offloading.make_room = rollout.rest
    policy = RoundStart(stepper)
    return ScoredRollout(rollout, scoring, policy, ReplyCheck(run, rollout, policy), world, alive, offloading)


class HeldOutReplies:
    """Writes and scores a reply to each of `prompts` at an evaluation, and compares it with `reference`, if there is one.

    The reference is the policy before training, or the algorithm's teacher.
    """

    def __init__(self, run: Run, prompts: Sequence[Group], writing: ScoredRollout, reference: Reference | None) -> None:
        self.run, self.prompts, self.writing, self.reference = run, prompts, writing, reference
        self.scoring, self.world = writing.scoring, writing.world

    def metrics(self, step: int) -> dict[str, float]:
        """Return the `eval/...` metrics of the replies after `step` steps. All ranks call it together.

        Raises:
            UserError: if the file of the replies before training, which these are compared with, is missing, none of the
                replies before training has a reward, or as in `ReplyCheck.check`.
        """
        replies = self.write(step)
        self.writing.reply_check.check(replies, step)
        if line := self.scoring.left_out(replies, f"replies to held-out prompts at step {step}", needed=not step):
            self.run.say(line)
        reference = self.reference.logprobs(replies) if self.reference else None
        if reference is not None:
            # The rollout's own log-probabilities are rounded differently, which would count as divergence.
            for group, logprobs in zip(replies, self.writing.policy.logprobs(replies), strict=True):
                for completion, values in zip(group.completions, logprobs, strict=True):
                    completion.logprobs = values
        metrics = held_out_metrics(self.run, self.world, step, replies, reference)
        if self.scoring.asks:
            metrics["eval/left_out"] = 1 - len(rewarded(replies)) / len(replies)
        return metrics

    def write(self, step: int) -> list[Group]:
        """Return a scored reply to each prompt by the weights after `step` steps; the seed is the same at each evaluation."""
        with self.writing.offloading:
            parts = self.world.gather(self._written(step))
        count, ranks = len(self.prompts), self.world.size
        return [parts[index % ranks][index // ranks] for index in range(count)]

    def _written(self, step: int) -> Sequence[Group]:
        """Return this rank's scored replies."""
        rollout, alive = self.writing.rollout, self.writing.alive
        rollout.sync(step)
        self.writing.offloading.leave_weights()
        by_shard = dict(rollout.write(self._shards(), alive))
        written = [group for number in sorted(by_shard) for group in by_shard[number]]
        rollout.rest()
        with self.scoring.on_device:
            return self.scoring(written, alive)

    def _shards(self) -> list[Shard]:
        """Return this rank's prompts, in as many shards as every other rank has."""
        config, rank, ranks = self.run.config, self.world.rank, self.world.size
        size, mine = config.rollout.shard_prompts, self.prompts[rank::ranks]
        starts = range(0, len(self.prompts), size * ranks)
        return [(list(mine[start // ranks :][:size]), sampling_of(config, 1, _ROUND, start + rank)) for start in starts]


def held_out_metrics(
    run: Run, world: World, step: int, groups: list[Group], reference: list[list[Array]] | None
) -> dict[str, float]:
    """Return the `eval/...` metrics of the scored replies in `groups` after `step` steps: `reply_metrics` and the win rate.

    The 95 % intervals, `_low` and `_high`, are those of `reply_intervals` and `win_rate`. The win rate compares with
    the replies of step 0, stored in RUN/rounds/before.parquet for resumed runs; rank 0 reads it. A reply without a reward
    counts in no figure; if none has one, the reward is NaN, there is no win rate, and the other figures are those of all.

    Raises:
        UserError: if that file is missing.
    """
    file = run.files.before
    if not step and run.is_main:
        file.parent.mkdir(exist_ok=True)
        write_groups(file, groups)
    own = _rewards(groups)
    known = [index for index, rewards in enumerate(own) if not np.isnan(rewards).any()] or [*range(len(groups))]
    used, logprobs = [groups[index] for index in known], reference and [reference[index] for index in known]
    metrics = reply_metrics(used, logprobs, "eval") | reply_intervals(used, logprobs, "eval")
    if "eval/reward" in metrics:
        before = world.broadcast(_rewards(_before(file)) if step and run.is_main else None) or own
        both = [index for index in known if not np.isnan([*own[index], *before[index]]).any()]
        if both:
            clients = clients_of_groups([groups[index] for index in both]).tolist()
            figures = win_rate([own[index] for index in both], [before[index] for index in both], clients)
            metrics |= {f"eval/{name}": value for name, value in figures.items()}
    return metrics


def _before(file: Path) -> list[Group]:
    if not file.exists():
        raise UserError(f"{file}: is missing, but eval/win_rate needs it: restore it, or use another run_dir")
    return read_groups(file)


def _rewards(groups: list[Group]) -> list[list[float]]:
    return [[reply.reward or 0.0 for reply in group.completions] for group in groups]
