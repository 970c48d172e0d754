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
from psychocounsel.errors import UserError
from psychocounsel.model.load import load_chat_format, model_dtype
from psychocounsel.model.probe import check_packing
from psychocounsel.model.reward_head import is_openrlhf, load_trained_reward_lm
from psychocounsel.model.reward_model import RewardModel
from psychocounsel.reward.base import Conversation
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
        _, self.chat = load_chat_format(reward, "reward", scores=not is_openrlhf(lm))
        self.model = RewardModel(lm, reward.path, device=device.type).eval()
        self.mean, self.std = self._statistics() if reward.normalise else (0.0, 1.0)
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
        rewards = np.concatenate([np.zeros(0, np.float32), *parts])
        return ((rewards - self.mean) / self.std).astype(np.float32)

    def unnormalised(self, rewards: np.ndarray) -> np.ndarray:
        """The rewards as the model gives them, of those that `score` has returned."""
        return rewards * self.std + self.mean

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
        for number, conversation in enumerate(conversations, first):
            if not conversation or conversation[-1]["role"] != "assistant":
                raise UserError(f"conversation {number}: does not end with a reply (a message of role assistant)")
        prompts = [self.chat.render(conversation[:-1]) for conversation in conversations]
        whole = [self.chat.render(conversation[:-1], conversation[-1]["content"]) for conversation in conversations]
        texts = list(dict.fromkeys(prompts))
        encoded = dict(zip(texts, self.chat.encode_prompts(texts), strict=True))
        replies = self.chat.encode_replies(whole, [encoded[prompt] for prompt in prompts])
        for number, (prompt, reply) in enumerate(zip(prompts, replies, strict=True), first):
            self._check_length(number, len(encoded[prompt]) + len(reply))
        return [
            Group(prompt, encoded[prompt], [Completion(replies[index]) for index in members])
            for prompt, members in groupby(range(len(prompts)), key=lambda index: prompts[index])
        ]

    def _check_length(self, number: int, tokens: int) -> None:
        if self.max_length and tokens > self.max_length:
            raise UserError(
                f"conversation {number}: has {tokens} tokens, and reward.max_length={self.max_length} is what the reward "
                "model reads: shorten it"
            )

    def _statistics(self) -> tuple[float, float]:
        mean, std = (getattr(self.model.lm.config, name, None) for name in ("mean", "std"))
        if mean is None or not std:
            raise UserError(
                f"reward.normalise=true: {self.reward.path} has no mean and std of rewards in its config.json"
            )
        return float(mean), float(std)
