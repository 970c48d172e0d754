"""A reward model in this process, with its own tokenizer and chat template."""

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from psychocounsel.data.batch import build_batch
from psychocounsel.data.group import Completion, Group
from psychocounsel.data.packing import plan_step
from psychocounsel.model.load import load_chat_format, model_dtype
from psychocounsel.model.packing_check import check_packing
from psychocounsel.model.reward_head import is_openrlhf, load_trained_reward_lm
from psychocounsel.model.reward_model import RewardModel
from psychocounsel.reward.base import Conversation
from psychocounsel.reward.encoding import encode_conversations
from psychocounsel.reward.scale import Scale
from psychocounsel.reward.settings import LocalReward

_BLOCK = 1024  # conversations tokenised at a time


class LocalScorer:
    """Scores in micro-batches of `reward.micro_batch_tokens`; neighbours with one prompt share its computation.

    Rewards are as the model gives them, or with `reward.normalise` less the mean and divided by the standard deviation
    in its config (those of its held-out data).

    Raises:
        UserError: if the model is no reward model, or `normalise` finds no mean and standard deviation.
    """

    def __init__(self, reward: DictConfig, device: torch.device) -> None:
        self.reward, self.device = reward, device
        self.dtype = model_dtype(reward, device)
        lm = load_trained_reward_lm(reward, self.dtype).to(device)
        _, self.chat = load_chat_format(reward, "reward", scores=not is_openrlhf(lm.config))
        self.model = RewardModel(lm, reward.path, device=device.type).eval()
        self.models = [self.model]
        self.scale = Scale(lm.config, reward.path, reward.normalise)
        self.max_length = reward.max_length or getattr(self.model.text_config, "max_position_embeddings", None)
        check_packing(self.model, self.model, self.dtype, device, reward.path)

    @classmethod
    def load(cls, path: str, **settings: Any) -> "LocalScorer":
        """A scorer with the model at `path` and settings of the `reward` config group, on a GPU if there is one."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return cls(OmegaConf.structured(LocalReward(name="local", path=path, **settings)), device)

    def score(
        self, conversations: Sequence[Conversation], progress: Callable[[range], Iterable[int]] = iter
    ) -> np.ndarray:
        """As Scorer says."""
        starts = range(0, len(conversations), _BLOCK)
        parts = [self._score_block(conversations[start : start + _BLOCK], start) for start in progress(starts)]
        return self.scale.apply(np.concatenate([np.zeros(0, np.float32), *parts]))

    def unnormalised(self, rewards: np.ndarray) -> np.ndarray:
        """The rewards as the model gives them, of those that `score` has returned."""
        return self.scale.undo(rewards)

    @torch.no_grad()
    def _score_block(self, conversations: Sequence[Conversation], first: int) -> np.ndarray:
        groups = self._groups(conversations, first)
        attention = self.model.attention
        lengths = [group.tokens for group in groups]
        (plan,) = plan_step(lengths, 1, self.reward.micro_batch_tokens, attention.one_row)
        rewards: dict[int, np.ndarray] = {}
        for micro in plan:
            rows = [[groups[index] for index in row] for row in micro]
            batch = build_batch(rows, multiple=attention.multiple).to(self.device)
            pieces = self.model.pieces(self.model(batch), batch)
            rewards |= zip((index for row in micro for index in row), map(np.concatenate, pieces), strict=True)
        return np.concatenate([rewards[index] for index in range(len(groups))])

    def _groups(self, conversations: Sequence[Conversation], first: int) -> list[Group]:
        """One group for each run of neighbours with the same prompt."""
        encoded = encode_conversations(self.chat, conversations, self.max_length, first)
        runs = [list(run) for _, run in groupby(encoded, key=lambda each: each.prompt_text)]
        return [Group(run[0].prompt_text, run[0].prompt, [Completion(each.reply) for each in run]) for run in runs]
