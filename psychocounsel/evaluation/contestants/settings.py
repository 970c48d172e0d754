"""The group `contestants`: the models whose replies are compared, of which the first is the one that is evaluated."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from psychocounsel.asking.language_model import LanguageModel
from psychocounsel.asking.several_models import SeveralModels
from psychocounsel.errors import UserError
from psychocounsel.settings.schema import option

# Where a contestant stands: the only one, or one of the members.
_KEYS = re.compile(r"\bcontestants(?:\.members\[(\d+)\](?:\.model)?|\.model(?==)|(?=[.:]))")


@dataclass(frozen=True)
class Contestant:
    """A model that replies.

    Attributes:
        setting: what it is called in tables; models trained alike with other seeds have the same.
        seed: its number among these, from 0.
    """

    setting: str
    seed: int
    model: LanguageModel


@dataclass(kw_only=True)
class Contestants(SeveralModels):
    """`settings` holds the name of each member's setting; submission fills it in (settings/sections/contestant_groups.py)."""

    config_group: ClassVar[str] = "contestants"
    example: ClassVar[str] = "[tiny,openai]"

    name: str = "contestants"
    settings: list[str] = option([])

    def all(self) -> list[Contestant]:
        """The contestants, the evaluated setting first."""
        found = list[Contestant]()
        for setting, model in zip(self.settings, self.models(), strict=True):
            found.append(Contestant(setting, sum(each.setting == setting for each in found), model))
        return found


@contextmanager
def in_the_users_words(settings: Sequence[str]) -> Iterator[None]:
    """Let errors name the keys that were typed: `model` and `against`, which became `contestants` with these `settings`."""
    try:
        yield
    except UserError as error:

        def typed(match: re.Match[str]) -> str:
            return "model" if match[1] is None or int(match[1]) < settings.count(settings[0]) else "against"

        error.args = (_KEYS.sub(typed, str(error)),)
        raise
