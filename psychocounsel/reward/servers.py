"""Reward models that servers run. Conversations are rendered and tokenised here, as the scorer in this process does it."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from psychocounsel.model.load import load_chat_format, loading, resolve_path
from psychocounsel.model.reward_head import is_openrlhf
from psychocounsel.remote.client import Client
from psychocounsel.reward.base import Conversation
from psychocounsel.reward.encoding import Encoded, encode_conversations
from psychocounsel.reward.scale import Scale
from psychocounsel.reward.settings import OpenRLHFServer, ServerReward, VLLMServer

_HELLO: Conversation = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hello."}]


class ServerScorer(ABC):
    """Asks servers for the rewards of `settings.batch_size` conversations at a time.

    Every address is asked once at construction.

    Raises:
        UserError: if the tokenizer cannot be loaded, no server answers, or one gives what are no rewards.
    """

    route: str

    def __init__(self, settings: ServerReward) -> None:
        from transformers import AutoConfig

        self.settings = settings
        section: Any = OmegaConf.create(asdict(settings))
        with loading(settings.path, "reward"):
            config = AutoConfig.from_pretrained(resolve_path(settings.path, "reward"), revision=settings.revision)
        self.tokenizer, self.chat = load_chat_format(section, "reward")
        self.chat.keep_tail = not is_openrlhf(config)
        positions = getattr(config.get_text_config(), "max_position_embeddings", None)
        self.max_length = settings.max_length or positions
        self.scale = Scale(config, settings.path, settings.normalise)
        self.client = Client(
            settings.addresses,
            "reward",
            timeout_seconds=settings.timeout_seconds,
            retries=settings.retries,
            concurrency=settings.concurrency,
            key_variable=settings.key_variable,
        )
        self.client.check(self.route, self.payload(self._encode([_HELLO])), self._rewards)

    def score(
        self, conversations: Sequence[Conversation], progress: Callable[[range], Iterable[int]] = iter
    ) -> np.ndarray:
        """As Scorer says.

        Raises:
            UserError: if no server is left, or one gives what are no rewards.
        """
        encoded, size = self._encode(conversations), self.settings.batch_size
        payloads = [self.payload(encoded[start : start + size]) for start in range(0, len(encoded), size)]
        answers = self.client.answers(self.route, payloads, self._rewards)
        rewards = [reward for _ in progress(range(len(payloads))) for reward in next(answers)]
        return self.scale.apply(np.array(rewards, np.float64))

    def unnormalised(self, rewards: np.ndarray) -> np.ndarray:
        """The rewards as the servers gave them, of those that `score` has returned."""
        return self.scale.undo(rewards)

    @abstractmethod
    def payload(self, batch: Sequence[Encoded]) -> dict[str, Any]:
        """What the server is sent to score `batch`."""

    @abstractmethod
    def values(self, answer: Any, payload: dict[str, Any]) -> tuple[list[Any], int]:
        """The rewards in an answer, in order and still unchecked, and how many there are to be.

        Raises:
            ValueError: if there are none.
        """

    def _encode(self, conversations: Sequence[Conversation]) -> list[Encoded]:
        return encode_conversations(self.chat, conversations, self.max_length)

    def _rewards(self, answer: Any, payload: Any) -> list[float]:
        values, count = self.values(answer, payload)
        if len(values) != count:
            raise ValueError(f"{len(values)} rewards for {count} conversations")
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"a reward that is no number but {type(value).__name__}")
            if not math.isfinite(value):
                raise ValueError(f"a reward of {value}")
        return values


class OpenRLHFScorer(ServerScorer):
    """OpenRLHF's serve_rm, and whatever speaks as it does: {"query": [text, ...]} is answered by {"rewards": [...]}.

    A text is a whole conversation by the chat template, up to the end-of-turn token where the model is read there. It begins
    with BOS, if the template writes one, because the server adds none; `send_bos=False` is for servers that do.
    """

    settings: OpenRLHFServer

    def __init__(self, settings: OpenRLHFServer) -> None:
        self.route = settings.route
        super().__init__(settings)

    def payload(self, batch: Sequence[Encoded]) -> dict[str, Any]:
        bos = "" if self.settings.send_bos else self.tokenizer.bos_token or ""
        return {"query": [each.text.removeprefix(bos) for each in batch]}

    def values(self, answer: Any, payload: dict[str, Any]) -> tuple[list[Any], int]:
        rewards = answer.get("rewards") if isinstance(answer, dict) else None
        if not isinstance(rewards, list):
            raise ValueError("it has no list of rewards")
        return rewards, len(payload["query"])


class VLLMScorer(ServerScorer):
    """A sequence classifier with one label that vLLM serves: token ids go to /classify, the head's own output comes back."""

    settings: VLLMServer
    route = "/classify"

    def payload(self, batch: Sequence[Encoded]) -> dict[str, Any]:
        return {"input": [each.ids.tolist() for each in batch], "use_activation": False}

    def values(self, answer: Any, payload: dict[str, Any]) -> tuple[list[Any], int]:
        try:
            rows = sorted(answer["data"], key=lambda row: row["index"])
            labels = {len(row["probs"]) for row in rows}
            values = [row["probs"][0] for row in rows]
        except (TypeError, KeyError, IndexError) as error:
            raise ValueError("it has no scores of a classifier") from error
        if labels - {1}:
            raise ValueError(f"a model with {max(labels)} labels; a reward model has one")
        return values, len(payload["input"])
