"""Scoring of replies by the reward, and the replies that get none."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from math import isnan, nan
from threading import Thread
from typing import Any

import numpy as np

from psychocounsel.counsel.traits import read_risk_rules
from psychocounsel.data.group import Array, Completion, Group
from psychocounsel.data.messages import Message, client_text
from psychocounsel.data.selection import prompted_rows
from psychocounsel.data.shared_text import hash_of
from psychocounsel.data.tokenise import without_system_prompt
from psychocounsel.distributed.world import World
from psychocounsel.engine.rounds.offloading import on_device
from psychocounsel.errors import UserError
from psychocounsel.grading.rewards import JudgeScorer
from psychocounsel.reward.base import Conversation, RoundNotes, Scorer, open_scorer, scored
from psychocounsel.reward.encoding import TooManyTokens, Unscorable
from psychocounsel.rundir.run import Run
from psychocounsel.settings import config as configs

_TOO_LONG = "longer than the reward model's limit (reward.max_length, or the model's own)"
Scores = list[tuple[float, dict[str, float] | None]]  # reward and parts of each conversation


class Scoring:
    """Scores replies by `scorer`, in the context `on_device`; without a scorer, replies get no reward.

    With `offload`, the scorer's models are on the GPU only in this context, which a round enters once, because an 8B
    model moves 16 GB each time. The scorer gets conversations without the policy's `system_prompt`, because a reward
    model has its own.

    Replies to the prompts in `withheld` (ids of groups) are not shown to the scorer.

    In a session each turn of the policy is scored as a reply to all that was said before it. `over_turns` makes one reward of
    them: "mean", "min", or "last", which scores the last turn alone.
    """

    def __init__(
        self,
        scorer: Scorer | None,
        world: World,
        offload: bool,
        system_prompt: str | None,
        withheld: frozenset[str] = frozenset(),
        over_turns: str = "mean",
    ) -> None:
        self.scorer, self.world, self.system_prompt, self.withheld = scorer, world, system_prompt, withheld
        self.over_turns = over_turns
        self.on_device = on_device(scorer.models if scorer else (), world, offload)
        self._ahead: Thread | None = None
        self._unscorable = _TOO_LONG  # why the last conversation without a score has none

    @property
    def asks(self) -> bool:
        """True if a language model gives the rewards."""
        return self.scorer is not None and self.scorer.asks

    def __call__(self, groups: Sequence[Group], alive: Callable[[], None]) -> Sequence[Group]:
        """Return the same groups with the `reward` of each completion, NaN for none, and `reward_parts` if there are parts.

        All ranks call it together, each with groups of its own. If a language model gives the rewards, rank 0 asks it for
        all ranks, so that one process keeps the journal and the budget; meanwhile all ranks call `alive`.
        """
        if self.scorer is None:
            return groups
        for completion in (completion for group in groups for completion in group.completions):
            completion.reward = nan
        shown = [completion for group in self._shown(groups) for completion in group.completions]
        conversations = self._conversations(groups)
        scores = iter(self._of_main(conversations, alive) if self.asks else self._scores(conversations))
        for completion in shown:
            of_turns = list(islice(scores, len(self._scored_turns(completion))))
            rewards, parts = [reward for reward, _ in of_turns], [parts or {} for _, parts in of_turns]
            completion.reward, completion.reward_parts = rewards[0], parts[0] or None
            if completion.session is not None:
                completion.turn_scores, completion.turn_parts = np.array(rewards), parts
                self._combine(completion)
        return groups

    def _combine(self, session: Completion) -> None:
        """Set the reward of a session, and what its turns earned, by the scores of its turns; NaN if one of them has none."""
        scores, parts, turns = session.turn_scores, session.turn_parts or [], len(session.turn_lengths)
        assert scores is not None
        earned, session.turn_shares = earned_by_turns(scores, turns, self.over_turns)
        session.reward, session.turn_rewards = float(earned.sum()), earned.astype(np.float32)
        names = {name for of_turn in parts for name in of_turn}
        known = {name: [of_turn[name] for of_turn in parts if name in of_turn] for name in sorted(names)}
        session.reward_parts = {name: sum(values) / len(values) for name, values in known.items()} or None

    def finish_round(self, groups: Sequence[Group], notes: RoundNotes) -> None:
        """Let the scorer change the rewards of a round's scored replies; those of sessions follow from their turns' scores."""
        if self.scorer is None or not groups:
            return
        self.scorer.finish_round(groups, notes)
        for completion in (completion for group in groups for completion in group.completions):
            if completion.turn_scores is not None:
                self._combine(completion)

    def ahead(self, groups: Sequence[Group]) -> None:
        """Let a judge on servers answer about `groups` while more replies are written; `self` then finds its answers.

        Errors are left to the call that scores these groups, because it meets them, too.
        """
        if not (isinstance(self.scorer, JudgeScorer) and self.world.rank == 0 and self.scorer.is_elsewhere):
            return
        scorer, conversations, before = self.scorer, self._conversations(groups), self._ahead

        def work() -> None:
            if before is not None:
                before.join()
            with suppress(Exception):
                scorer.buy(conversations)

        self._ahead = Thread(target=work, name="judge", daemon=True)
        self._ahead.start()

    def _shown(self, groups: Sequence[Group]) -> list[Group]:
        return [group for group in groups if group.id not in self.withheld]

    def _conversations(self, groups: Sequence[Group]) -> list[Conversation]:
        """Return a conversation for each reply, and each scored turn of a session, that the scorer may see."""
        return [
            [*prompt, *said]
            for group in self._shown(groups)
            for prompt in [without_system_prompt(group.messages or [], self.system_prompt)]
            for completion in group.completions
            for said in self._scored_turns(completion)
        ]

    def _scored_turns(self, completion: Completion) -> list[list[Message]]:
        """Return what follows the prompt, up to each turn of the policy that gets a score.

        Space around replies is removed: a reward model's tokenizer may join a leading newline with the template's.
        """
        messages: list[Message] = completion.session or [{"role": "assistant", "content": completion.text}]
        said: list[Message] = [{**message, "content": message["content"].strip()} for message in messages]
        ends = range(1, len(said) + 1, 2)
        return [said[:end] for end in (ends[-1:] if self.over_turns == "last" else ends)]

    def _scores(self, conversations: Sequence[Conversation]) -> Scores:
        """Return reward and parts of each conversation; NaN for one that the reward model cannot read whole."""
        if not conversations or self.scorer is None:
            return []
        try:
            return self._scores_of(self.scorer, conversations)
        except Unscorable as error:
            if len(conversations) > 1:  # by halves, so that few calls find them
                half = len(conversations) // 2
                return [*self._scores(conversations[:half]), *self._scores(conversations[half:])]
            self._unscorable = _TOO_LONG if isinstance(error, TooManyTokens) else str(error)
            return [(nan, None)]

    @staticmethod
    def _scores_of(scorer: Scorer, conversations: Sequence[Conversation]) -> Scores:
        rewards = scored(scorer, conversations).tolist()
        parts = {name: values.tolist() for name, values in scorer.parts.items()}
        return [
            (reward, {name: values[index] for name, values in parts.items() if not isnan(values[index])} or None)
            for index, reward in enumerate(rewards)
        ]

    def _of_main(self, conversations: Sequence[Conversation], alive: Callable[[], None]) -> Scores:
        """Return this rank's scores; rank 0 scores the conversations of all ranks.

        Raises:
            UserError: on every rank, if rank 0 raises it.
        """
        of_ranks = self.world.gather(conversations)
        every = [conversation for of_rank in of_ranks for conversation in of_rank]

        def work() -> Scores | UserError:
            if self._ahead is not None:
                self._ahead.join()
            try:
                return self._scores(every)
            except UserError as error:
                return error

        scores = self.world.from_main(work, alive)
        if isinstance(scores, UserError):
            raise scores
        first = sum(map(len, of_ranks[: self.world.rank]))
        return list(scores[first : first + len(conversations)])

    def left_out(self, groups: Sequence[Group], what: str, needed: bool = True) -> str:
        """Return a line about the replies in `groups` without a reward, "" if there are none; `what` says which they are.

        Raises:
            UserError: if no reply has a reward, unless a judge gives them and they are not `needed`.
        """
        troubles = self.scorer.take_troubles() if isinstance(self.scorer, JudgeScorer) else []
        replies = [(group, completion) for group in groups for completion in group.completions]
        without = [group.id in self.withheld for group, completion in replies if isnan(completion.reward or 0.0)]
        if not without:
            return ""
        reasons = [f"{sum(without):,} withheld, because they may be about a crisis"] * any(without) + troubles
        if not reasons and not self.asks:
            reasons = [self._unscorable]
        said = f" ({'; '.join(reasons)})" if reasons else ""
        line = f"{len(without):,} of {len(replies):,} {what} got no reward{said}"
        if len(without) < len(replies) or (self.asks and not needed):
            return line
        advice = (
            "leave such speeches out of the data, or add reward.crisis_to_third_parties=true"
            if all(without)
            else "give a smaller max_length, or a reward model that reads longer conversations"
            if not self.asks and self._unscorable == _TOO_LONG
            else "give a template that writes the whole conversation with reward.chat_template=FILE.jinja"
            if not self.asks
            else "RUN/reward_answers holds the judge's answers; use a larger judge, or one run by vLLM (reward.judge=local_vllm "
            "or vllm), which holds its answers to the requested form"
        )
        raise UserError(f"{line}, so there is nothing to learn from: {advice}")


def earned_by_turns(rewards: Array, turns: int, over_turns: str) -> tuple[Array, Array]:
    """Return what each of a session's `turns` turns of the policy earns of its reward, and its share, float64[turns] each.

    The reward is the sum. "mean": each turn earns its own reward / turns. "min": the turn with the smallest reward (the first
    of several) earns it. "last": the last turn earns its reward, and `rewards` holds no other. If a constant c is added to all
    `rewards`, each turn earns its share times c more.

    Args:
        rewards: float[turns], the rewards of the turns; float[1] with "last".
        turns: number of turns.
        over_turns: "mean", "min" or "last".
    """
    if over_turns == "mean":
        return rewards / turns, np.full(turns, 1 / turns)
    earned, shares = np.zeros(turns), np.zeros(turns)
    place = turns - 1 if over_turns == "last" else int(rewards.argmin())
    earned[place], shares[place] = rewards[-1 if over_turns == "last" else place], 1.0
    return earned, shares


def rewarded(groups: Sequence[Group], fewest: int = 1) -> list[Group]:
    """Return the groups without the replies that have no reward, and without groups of fewer than `fewest` others."""
    kept = [
        replace(group, completions=[reply for reply in group.completions if not isnan(reply.reward or 0.0)])
        for group in groups
    ]
    return [group for group in kept if len(group.completions) >= fewest]


def open_scoring(run: Run, world: World, system_prompt: str | None, prompts: Iterable[Group]) -> Scoring:
    """Return the scoring of replies to `prompts` with this system message; it has a scorer if the run has a reward.

    Raises:
        UserError: if the reward model cannot be loaded, or the judge cannot see or rate replies to the prompts.
    """
    config: Any = run.config
    if config.get("reward") is None:
        return Scoring(None, world, config.rollout.offload_idle, system_prompt)
    scorer = open_scorer(configs.build(config, "reward"), world.device)
    if unrated := getattr(scorer, "unrated", ()):
        run.say(f"reward: no row rated {', '.join(unrated)} in its training; they have weight 0")
    withheld = frozenset[str]()
    if isinstance(scorer, JudgeScorer):
        groups = [*prompts]
        withheld = _crises(config) if scorer.withholds_crises else withheld
        shown = [group for group in groups if group.id not in withheld]
        if not shown:
            raise UserError(
                "reward.judge: is a third party, and every speech may be about a crisis, so it may see none: label speeches "
                "in the column risk, use a server of your own, or add reward.crisis_to_third_parties=true"
            )
        if run.is_main:
            messages = [without_system_prompt(group.messages or [], system_prompt) for group in shown]
            scorer.begin(run.files.reward_answers, config.budget, messages)
    rollout = config.rollout
    return Scoring(scorer, world, rollout.offload_idle, system_prompt, withheld, rollout.session_reward)


def _crises(config: Any) -> frozenset[str]:
    """Return the ids of the rows to whose prompts any row has a crisis, by the column `risk` or by the client's words."""
    rules = read_risk_rules()
    rows = [row for part in prompted_rows(config.data) for row in part]
    prompts = [hash_of(row.prompt) for row in rows]  # rows with one prompt make one group, with the id of the first
    crises = {
        prompt for row, prompt in zip(rows, prompts, strict=True) if rules.of(client_text(row.prompt), row.risk).crisis
    }
    return frozenset(row.id for row, prompt in zip(rows, prompts, strict=True) if prompt in crises)
