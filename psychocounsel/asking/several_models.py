"""`SeveralModels` is the base of `writers=pool` and `annotator=panel`: a list of language models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from omegaconf import OmegaConf

from psychocounsel.asking.language_model import LanguageModel, check_names
from psychocounsel.errors import UserError
from psychocounsel.settings.schema import option
from psychocounsel.settings.targets import GroupSettings, build_section


@dataclass(kw_only=True)
class SeveralModels(GroupSettings):
    """A group of several models. `members` holds each model's settings, with `_target_`, as read from its YAML file.

    A subclass sets `config_group`, the minimum number of members (`fewest`), and an `example` for messages.
    """

    several: ClassVar[bool] = True
    fewest: ClassVar[int] = 1
    example: ClassVar[str]

    members: list[Any] = option([])

    def models(self) -> list[LanguageModel]:
        """Return the members.

        Raises:
            UserError: if a member is not a LanguageModel.
        """
        group = self.config_group
        built = [build_section(OmegaConf.create(member), group) for member in self.members]
        for number, each in enumerate(built):
            if not isinstance(each, LanguageModel):
                raise UserError(f"{group}.members[{number}]: must be a single model, not {type(each).__name__}")
        return built

    def check(self, key: str) -> None:
        """Refuse too few members, duplicate names, and members that cannot work."""
        models = self.models()
        if len(models) < self.fewest:
            count = "one file" if self.fewest == 1 else f"{self.fewest} files"
            raise UserError(
                f"{key}.members: name at least {count} of conf/{self.config_group}, for example {self.example}"
            )
        check_names(models, key)
        for number, model in enumerate(models):
            model.check(f"{key}.members[{number}]")

    def unused(self) -> dict[str, str]:
        """Return no fields: all of them have an effect."""
        return {}

    def receivers(self, key: str) -> list[tuple[str, str]]:
        """Return the receivers of all members."""
        numbered = enumerate(self.models())
        return [each for number, model in numbered for each in model.receivers(f"{key}.members[{number}]")]
