"""`annotator=panel`: several annotators, each of which rates every reply."""

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
class Panel(GroupSettings):
    """Several annotators. `members` are the settings of each with its `_target_`, once names of files have been resolved."""

    config_group: ClassVar[str] = "annotator"
    several: ClassVar[bool] = True

    name: str = "panel"
    members: list[Any] = option([])

    def models(self) -> list[LanguageModel]:
        """The members.

        Raises:
            UserError: if one is no single annotator.
        """
        built = [build_section(OmegaConf.create(member), "annotator") for member in self.members]
        for number, each in enumerate(built):
            if not isinstance(each, LanguageModel):
                raise UserError(f"annotator.members[{number}]: must be a single model, and is {type(each).__name__}")
        return built

    def check(self, key: str) -> None:
        """Refuse fewer than two members, two of one name, and members that cannot work."""
        models = self.models()
        if len(models) < 2:
            raise UserError(f"{key}.members: give two or more names of files in conf/annotator, as [local_vllm,openai]")
        check_names(models, key)
        for number, model in enumerate(models):
            model.check(f"{key}.members[{number}]")

    def unused(self) -> dict[str, str]:
        """Nothing."""
        return {}

    def receivers(self, key: str) -> list[tuple[str, str]]:
        """Those of the members."""
        numbered = enumerate(self.models())
        return [each for number, model in numbered for each in model.receivers(f"{key}.members[{number}]")]
