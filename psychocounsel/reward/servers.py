"""Rewards from servers over HTTP: OpenRLHF's reward server, and vLLM's classifiers."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from omegaconf import MISSING, OmegaConf

from psychocounsel.counsel.system_prompt import reward_prompt
from psychocounsel.errors import UserError
from psychocounsel.remote.server_access import check_addresses, check_key_variable
from psychocounsel.reward.base import Conversation, RewardSettings, Scorer
from psychocounsel.settings.schema import option

if TYPE_CHECKING:
    import numpy as np
    import torch
    from omegaconf import DictConfig

    from psychocounsel.reward.encoding import Encoded


# Rewards by servers: conversations are rendered and tokenised here, as for a local reward model.

_HELLO: Conversation = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hello."}]


@dataclass
class ServerReward(RewardSettings):
    """Settings of a reward model that runs elsewhere, at one or several `addresses` that give the same rewards."""

    path_is: ClassVar[str] = "served"

    addresses: list[str] = option([])
    # Source of tokenizer, chat template and config.json: hub id, local folder, or builtin:tiny_reward.
    path: str = MISSING
    revision: str | None = None
    chat_template: str | None = None
    template_args: dict[str, Any] = option({})
    system_prompt: str | None = "auto"
    max_length: int | None = option(None, at_least=8)
    normalise: bool = False
    batch_size: int = option(16, at_least=1)
    concurrency: int = option(4, at_least=1)
    timeout_seconds: float = option(120.0, above=0, at_most=1_000_000)
    retries: int = option(8, at_least=0)
    key_variable: str | None = None

    def check(self, key: str) -> None:
        """Reject invalid addresses, and a key typed where the name of its environment variable belongs."""
        check_addresses(self.addresses, f"{key}.addresses")
        check_key_variable(self.key_variable, f"{key}.key_variable")

    def receivers(self, key: str) -> list[tuple[str, str]]:
        """Return every address."""
        return [(f"{key}.addresses", address) for address in self.addresses]

    def memory(self, config: DictConfig, key: str) -> dict[str, float | None]:
        """Return no memory, because servers have GPUs of their own."""
        return {}


class ServerScorer(Scorer):
    """Requests rewards from servers, for `settings.batch_size` conversations at a time.

    Every address gets one request at construction. A subclass defines `route`, the path of the requests, `payload` and
    `values`.

    Raises:
        UserError: if the tokenizer cannot be loaded, no server answers, or an answer holds no valid rewards.
    """

    route: str

    def __init__(self, settings: ServerReward) -> None:
        from transformers import AutoConfig

        from psychocounsel.model.load import loading
        from psychocounsel.model.reward_head import is_openrlhf
        from psychocounsel.model.tokenizer import load_chat_format, require_model, resolve_path
        from psychocounsel.remote.client import Client
        from psychocounsel.reward.encoding import Scale

        self.settings = settings
        prompt = reward_prompt(settings.system_prompt, settings.path, "reward.system_prompt")
        section: Any = OmegaConf.create(asdict(settings) | {"system_prompt": prompt})
        require_model(settings.path, settings.revision, "reward")
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
        """Implements `Scorer.score`.

        Raises:
            UserError: if no server is left, or an answer holds no valid rewards.
        """
        import numpy as np

        encoded, size = self._encode(conversations), self.settings.batch_size
        payloads = [self.payload(encoded[start : start + size]) for start in range(0, len(encoded), size)]
        answers = self.client.answers(self.route, payloads, self._rewards)
        rewards = [reward for _ in progress(range(len(payloads))) for reward in next(answers)]
        return self.scale.apply(np.array(rewards, np.float64))

    def unnormalised(self, rewards: np.ndarray) -> np.ndarray:
        """Return rewards of `score` on the servers' own scale."""
        return self.scale.undo(rewards)

    @abstractmethod
    def payload(self, batch: Sequence[Encoded]) -> dict[str, Any]:
        """Return the request that lets the server score `batch`."""

    @abstractmethod
    def values(self, answer: Any, payload: dict[str, Any]) -> tuple[list[Any], int]:
        """Return the unchecked rewards of an answer, in order, and their expected number.

        Raises:
            ValueError: if the answer holds no rewards.
        """

    def _encode(self, conversations: Sequence[Conversation]) -> list[Encoded]:
        from psychocounsel.reward.encoding import encode_conversations

        return encode_conversations(self.chat, conversations, self.max_length)

    def _rewards(self, answer: Any, payload: Any) -> list[float]:
        values, count = self.values(answer, payload)
        if len(values) != count:
            raise ValueError(f"{len(values)} rewards for {count} conversations")
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"a reward is not a number but {type(value).__name__}")
            if not math.isfinite(value):
                raise ValueError(f"a reward is {value}")
        return values


# `reward=openrlhf_server`: a reward model served by OpenRLHF's serve_rm, or by a server with the same protocol.


@dataclass
class OpenRLHFReward(ServerReward):
    route: str = "/get_reward"
    send_bos: bool = True

    def check(self, key: str) -> None:
        super().check(key)
        if not self.route.startswith("/"):
            raise UserError(f"{key}.route={self.route}: must begin with /, for instance /get_reward")

    def open(self, device: torch.device) -> Scorer:
        """Return the scorer, after one request to every address."""
        return OpenRLHFScorer(self)


class OpenRLHFScorer(ServerScorer):
    """Client of OpenRLHF's serve_rm: the request {"query": [text, ...]} is answered by {"rewards": [...]}.

    A text is a whole conversation rendered by the chat template. It ends at the end-of-turn token if the model's score
    is read there. It begins with BOS if the template writes one, because the server adds none; use `send_bos=False` for
    servers that do.
    """

    settings: OpenRLHFReward

    def __init__(self, settings: OpenRLHFReward) -> None:
        self.route = settings.route
        super().__init__(settings)

    def payload(self, batch: Sequence[Encoded]) -> dict[str, Any]:
        bos = "" if self.settings.send_bos else self.tokenizer.bos_token or ""
        return {"query": [conversation.text.removeprefix(bos) for conversation in batch]}

    def values(self, answer: Any, payload: dict[str, Any]) -> tuple[list[Any], int]:
        rewards = answer.get("rewards") if isinstance(answer, dict) else None
        if not isinstance(rewards, list):
            raise ValueError("the answer has no list of rewards")
        return rewards, len(payload["query"])


# `reward=vllm_server`: a sequence classifier with one label, served by vLLM.


@dataclass
class VLLMReward(ServerReward):
    def open(self, device: torch.device) -> Scorer:
        """Return the scorer, after one request to every address."""
        return VLLMScorer(self)


class VLLMScorer(ServerScorer):
    """Client of a vLLM classifier with one label: sends token ids to /classify and receives the head's raw output."""

    settings: VLLMReward
    route = "/classify"

    def payload(self, batch: Sequence[Encoded]) -> dict[str, Any]:
        return {"input": [conversation.ids.tolist() for conversation in batch], "use_activation": False}

    def values(self, answer: Any, payload: dict[str, Any]) -> tuple[list[Any], int]:
        try:
            rows = sorted(answer["data"], key=lambda row: row["index"])
            labels = {len(row["probs"]) for row in rows}
            values = [row["probs"][0] for row in rows]
        except (TypeError, KeyError, IndexError) as error:
            raise ValueError("the answer holds no classifier scores") from error
        if labels - {1}:
            raise ValueError(f"the model has {max(labels)} labels; a reward model has one")
        return values, len(payload["input"])
