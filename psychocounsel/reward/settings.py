"""What `conf/reward/` can name: a dataclass of settings that opens a Scorer."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING, OmegaConf

from psychocounsel.settings.schema import option

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
        from psychocounsel.reward.local_model import LocalScorer

        return LocalScorer(OmegaConf.create(asdict(self)), device)


@dataclass
class ServerReward:
    """A reward model that runs elsewhere, at one or several `addresses` that give the same rewards."""

    name: str = MISSING
    addresses: list[str] = field(default_factory=list)
    path: str = MISSING  # whose tokenizer, chat template and config.json: hub id, local folder, or builtin:tiny_reward
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


@dataclass
class OpenRLHFServer(ServerReward):
    """What OpenRLHF's serve_rm serves, and servers that speak as it does."""

    route: str = "/get_reward"
    send_bos: bool = True

    def open(self, device: torch.device) -> Scorer:
        """Ask every address once.

        Raises:
            UserError: as ServerScorer says.
        """
        from psychocounsel.reward.servers import OpenRLHFScorer

        return OpenRLHFScorer(self)


@dataclass
class VLLMServer(ServerReward):
    """A sequence classifier that vLLM serves."""

    def open(self, device: torch.device) -> Scorer:
        """Ask every address once.

        Raises:
            UserError: as ServerScorer says.
        """
        from psychocounsel.reward.servers import VLLMScorer

        return VLLMScorer(self)


@dataclass
class Ensemble:
    """Several reward models; a reply's reward is the mean of theirs, or the least.

    `members` are the settings of rewards, each with its `_target_`; `reward.members.resolve_members` makes them of what
    the user writes.
    """

    name: str = MISSING
    members: list[Any] = option([])
    combine: str = option("mean", choices=("mean", "min"))
    normalise: bool = True

    def open(self, device: torch.device) -> Scorer:
        """Open every member, one after another.

        Raises:
            UserError: as the members' scorers say.
        """
        from hydra.utils import get_class

        from psychocounsel.reward.ensemble import EnsembleScorer

        opened = {}
        for member in self.members:
            values = {key: value for key, value in member.items() if key != "_target_"}
            opened[member["name"]] = get_class(member["_target_"])(**values).open(device)
        return EnsembleScorer(opened, self.combine)
