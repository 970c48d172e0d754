"""Settings group `contestants`: the models whose replies are compared. The first one is the model under evaluation."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from psychocounsel.asking.in_process import settle_dtypes
from psychocounsel.asking.language_model import LanguageModel
from psychocounsel.asking.several_models import SeveralModels
from psychocounsel.errors import UserError
from psychocounsel.evaluation.contestants.entries import start_of
from psychocounsel.rundir.trained_runs import trained_dtype
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

    `settings` holds the name of each member's setting; submission fills it in (evaluation/contestants/entries.py).
    """

    config_group: ClassVar[str] = "contestants"
    example: ClassVar[str] = "[tiny,openai]"

    name: str = "contestants"
    settings: list[str] = option([])

    def models(self) -> list[LanguageModel]:
        """Return the members; each `dtype: auto` is settled by `settle_dtypes`."""
        models = super().models()
        settle_dtypes(models)
        return models

    def opening(self) -> Iterator[str]:
        """Yield the lines that an evaluation prints first: the base, and number formats settled by runs."""
        models, names = self.models(), list(dict.fromkeys(self.settings))
        if len(names) == 1:
            yield f"no base: {names[0]} is not compared; against=BASE names a model to compare it with"
        elif len(names) == 2 and (start := start_of(models[0].model)) and _same(start["path"], models[-1].model):
            yield f"base: {names[1]}, from which {names[0]} was trained"
        yield from self.format_lines()

    def format_lines(self) -> Iterator[str]:
        """Yield a line for each number format that `dtype: auto` stands for, with the models and the reason."""
        models = self.models()
        settled = dict[str, list[LanguageModel]]()
        for member, model in zip(self.members, models, strict=True):
            if member.get("dtype") == "auto" and (dtype := getattr(model, "dtype", "auto")) != "auto":
                settled.setdefault(dtype, []).append(model)
        for dtype, of in settled.items():
            trained = [model.name for model in of if trained_dtype(model.model)]
            reason = (
                f"because the training of {trained[0]} had model.dtype={dtype}"
                if trained
                else f"as for {models[0].name}"
            )
            yield f"number format of {' and '.join(model.name for model in of)}: {dtype}, {reason}"

    def all(self) -> list[Contestant]:
        """Return the contestants, the evaluated setting's first."""
        found = list[Contestant]()
        for setting, model in zip(self.settings, self.models(), strict=True):
            found.append(Contestant(setting, sum(each.setting == setting for each in found), model))
        return found


def _same(path: str, other: str | None) -> bool:
    return path == other or os.path.realpath(path) == other


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
