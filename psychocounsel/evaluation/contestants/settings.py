"""Settings group `contestants`: the models whose replies are compared. The first one is the model under evaluation."""

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

# Key of the only contestant, or of one of several members.
_KEYS = re.compile(r"\bcontestants(?:\.members\[(\d+)\](?:\.model)?|\.model(?==)|(?=[.:]))")


@dataclass(frozen=True)
class Contestant:
    """Model that replies to the speeches.

    Attributes:
        setting: its name in tables. Models that differ only in their training seed share one setting.
        seed: its number among the models of its setting, from 0.
        model: the language model that is asked.
    """

    setting: str
    seed: int
    model: LanguageModel


@dataclass(kw_only=True)
class Contestants(SeveralModels):
    """All contestants of an evaluation.

    `settings` holds the name of each member's setting; submission fills it in (settings/sections/contestant_groups.py).
    """

    config_group: ClassVar[str] = "contestants"
    example: ClassVar[str] = "[tiny,openai]"

    name: str = "contestants"
    settings: list[str] = option([])

    def all(self) -> list[Contestant]:
        """Return the contestants, the evaluated setting's first."""
        found = list[Contestant]()
        for setting, model in zip(self.settings, self.models(), strict=True):
            found.append(Contestant(setting, sum(each.setting == setting for each in found), model))
        return found


@contextmanager
def in_the_users_words(settings: Sequence[str]) -> Iterator[None]:
    """Let errors name the keys that the user typed, `model` and `against`, instead of `contestants`.

    `settings`: the name of each contestant's setting. The first name stands for `model`, all others for `against`.
    """
    try:
        yield
    except UserError as error:

        def typed(match: re.Match[str]) -> str:
            return "model" if match[1] is None or int(match[1]) < settings.count(settings[0]) else "against"

        error.args = (_KEYS.sub(typed, str(error)),)
        raise
