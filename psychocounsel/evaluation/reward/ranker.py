"""`{use: llm, judge: ...}` in `compare`: settings of a ranker, a language model that names the better reply of a pair."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from psychocounsel.asking.language_model import LanguageModel
from psychocounsel.errors import UserError
from psychocounsel.reward.base import RewardSettings, Scorer
from psychocounsel.reward.sections import scorer_sections
from psychocounsel.settings.schema import option
from psychocounsel.settings.targets import build_section

if TYPE_CHECKING:
    import torch


@dataclass
class Ranker(RewardSettings):
    """Settings of a ranker; `judge` holds the settings of a language model, with the keys of a file in conf/judge."""

    judge: dict[str, Any] = option({})
    rubric: str = "builtin:en"
    examples: bool = False
    retries: int = option(2, at_least=0)
    crisis_to_third_parties: bool = False

    def open(self, device: torch.device) -> Scorer:
        """Always raise UserError, because a ranker gives no scores."""
        raise UserError(f"reward={self.name}: a language model only ranks pairs; use it in compare=[...] instead")

    def check(self, key: str) -> None:
        if not self.model().reads_prompts:
            raise UserError(f"{key}.judge names no language model; put a reward model into compare=[...] directly")
        self.model().check(f"{key}.judge")

    def receivers(self, key: str) -> list[tuple[str, str]]:
        return self.model().receivers(f"{key}.judge")

    def model(self) -> LanguageModel:
        """Return the language model that ranks."""
        found: LanguageModel = build_section(OmegaConf.create(self.judge), "judge")
        return found


def rankers_of(config: DictConfig) -> Iterator[tuple[str, Ranker]]:
    """Yield each ranker of a checked configuration with its key, such as `compare[0]`."""
    for key, section in scorer_sections(config):
        settings = build_section(section, "reward")
        if isinstance(settings, Ranker):
            yield key, settings
