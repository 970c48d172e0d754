"""What `conf/reward/` can name: a dataclass of settings that opens a Scorer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING, OmegaConf

from psychocounsel.schema import option

if TYPE_CHECKING:
    import torch

    from psychocounsel.reward.base import Scorer


@dataclass
class LocalReward:
    """A reward model in each training process."""

    name: str = MISSING
    path: str = MISSING  # hub id, local folder, or builtin:tiny_reward
    revision: str | None = None
    dtype: str = option("auto", choices=("auto", "fp32", "bf16"))
    chat_template: str | None = None
    template_args: dict[str, Any] = option({})
    max_length: int | None = option(None, at_least=8)
    micro_batch_tokens: int = option(4096, at_least=1)
    normalise: bool = False

    def open(self, device: torch.device) -> Scorer:
        """Load the model to `device`.

        Raises:
            UserError: as LocalScorer says.
        """
        from psychocounsel.reward.local import LocalScorer

        return LocalScorer(OmegaConf.create(asdict(self)), device)
