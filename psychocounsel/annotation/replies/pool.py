"""`writers=pool`: several language models, some of which are drawn for each speech."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from omegaconf import OmegaConf

from psychocounsel.annotation.asking.language_model import LanguageModel, check_names
from psychocounsel.errors import UserError
from psychocounsel.settings.contract import GroupSettings
from psychocounsel.settings.schema import option
from psychocounsel.settings.targets import build_section


@dataclass(kw_only=True)
class Pool(GroupSettings):
    """Several writers. `members` are the settings of each with its `_target_`, once names of files have been resolved."""

    config_group: ClassVar[str] = "writers"
    several: ClassVar[bool] = True

    name: str = "pool"
    members: list[Any] = option([])

    def models(self) -> list[LanguageModel]:
        """The members.

        Raises:
            UserError: if one is no LanguageModel.
        """
        built = [build_section(OmegaConf.create(member), "writers") for member in self.members]
        for number, each in enumerate(built):
            if not isinstance(each, LanguageModel):
                raise UserError(f"writers.members[{number}]: must be a single model, and is {type(each).__name__}")
        return built

    def check(self, key: str) -> None:
        """Refuse an empty pool, two members of one name, and members that cannot work."""
        models = self.models()
        if not models:
            raise UserError(f"{key}.members is empty: give names of files in conf/writers, as [tiny,openai]")
        check_names(models, key)
        for number, model in enumerate(models):
            model.check(f"{key}.members[{number}]")

    def unused(self) -> dict[str, str]:
        """Nothing."""
        return {}

    def receivers(self, key: str) -> list[tuple[str, str]]:
        """Those of the members."""
        return [
            each for number, model in enumerate(self.models()) for each in model.receivers(f"{key}.members[{number}]")
        ]
