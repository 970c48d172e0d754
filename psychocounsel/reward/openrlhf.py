"""`reward=openrlhf_server`: a reward model served by OpenRLHF's serve_rm, or by a server with the same protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psychocounsel.errors import UserError
from psychocounsel.reward.base import Scorer
from psychocounsel.reward.http_scorer import ServerReward, ServerScorer

if TYPE_CHECKING:
    import torch

    from psychocounsel.reward.encoding import Encoded


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
        return {"query": [each.text.removeprefix(bos) for each in batch]}

    def values(self, answer: Any, payload: dict[str, Any]) -> tuple[list[Any], int]:
        rewards = answer.get("rewards") if isinstance(answer, dict) else None
        if not isinstance(rewards, list):
            raise ValueError("the answer has no list of rewards")
        return rewards, len(payload["query"])
