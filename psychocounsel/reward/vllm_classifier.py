"""`reward=vllm_server`: a sequence classifier with one label, served by vLLM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psychocounsel.reward.base import Scorer
from psychocounsel.reward.http_scorer import ServerReward, ServerScorer

if TYPE_CHECKING:
    import torch

    from psychocounsel.reward.encoding import Encoded


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
        return {"input": [each.ids.tolist() for each in batch], "use_activation": False}

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
