"""Rollout and reward for a psychocounsel run that trains on replies of another trainer; used by `benchmarks.ppo`."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from psychocounsel.data.group import Group
from psychocounsel.reward.base import Conversation, Scorer
from psychocounsel.reward.local_model import LocalReward
from psychocounsel.rollout.base import Rollout, Sampling, completion
from psychocounsel.rollout.hf import HF

_SCORES: dict[str, float] = {}  # score of each reply, by its text


@dataclass
class Replay(HF):
    """Settings of the rollout. The file `replies` holds a JSON list of rounds.

    Each of a round's `replies` has `prompt` and `ids` (token ids) and `score`.
    """

    replies: str = ""

    def open(self, config: Any, engine: Any, tokenizer: Any, stop: Sequence[int], world: Any) -> Any:
        rounds = json.loads(Path(self.replies).read_text())
        return ReplayRollout(rounds, config.algo.passes, tokenizer, stop)


class ReplayRollout(Rollout):
    """Rollout that returns the recorded reply to each prompt. A round is one global batch, trained on `passes` times."""

    def __init__(self, rounds: list[dict[str, Any]], passes: int, tokenizer: Any, stop: Sequence[int]) -> None:
        self.rounds, self.passes, self.tokenizer, self.stop = rounds, passes, tokenizer, stop
        self.version = 0

    def sync(self, version: int) -> None:
        self.version = version

    def generate(self, groups: Sequence[Group], sampling: Sampling) -> list[Group]:
        replies = {tuple(reply["prompt"]): reply for reply in self.rounds[self.version // self.passes]["replies"]}
        return [self._with(group, replies[tuple(group.prompt_ids.tolist())]) for group in groups]

    def _with(self, group: Group, reply: dict[str, Any]) -> Group:
        ids = reply["ids"]
        made = completion(ids, [0.0] * len(ids), self.tokenizer, self.stop, self.version)
        _SCORES[made.text] = reply["score"]
        return replace(group, completions=[made])


class ReplayReward(LocalReward):
    """Local reward model whose scores are replaced by the recorded ones. Its weights can still initialise a critic."""

    def open(self, device: Any) -> Any:
        return ReplayScorer()


class ReplayScorer(Scorer):
    def score(self, conversations: Sequence[Conversation], progress: Callable[[range], Iterable[int]] = iter) -> Any:
        import numpy as np

        return np.array([_SCORES[conversation[-1]["content"]] for conversation in conversations], np.float32)
