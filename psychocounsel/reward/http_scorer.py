"""Base classes of rewards by servers. Conversations are rendered and tokenised here, as for a local reward model."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from omegaconf import MISSING, OmegaConf

from psychocounsel.remote.server_access import check_key_variable
from psychocounsel.remote.server_pool import check_addresses
from psychocounsel.reward.base import Conversation, RewardSettings, Scorer
from psychocounsel.settings.schema import option

if TYPE_CHECKING:
    import numpy as np
    from omegaconf import DictConfig

    from psychocounsel.reward.encoding import Encoded

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
    max_length: int | None = option(None, at_least=8)
    normalise: bool = False
    batch_size: int = option(16, at_least=1)
    concurrency: int = option(4, at_least=1)
    timeout_seconds: float = option(120.0, above=0)
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
        from psychocounsel.reward.scale import Scale

        self.settings = settings
        section: Any = OmegaConf.create(asdict(settings))
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
