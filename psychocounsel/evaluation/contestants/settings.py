"""Settings group `contestants`: the models whose replies are compared. The first one is the model under evaluation.

A contestant may also be a file of replies.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from psychocounsel.asking.in_process import settle_dtypes
from psychocounsel.asking.language_model import FAILED, TEXT, Answer, Answerer, Ask, LanguageModel, SeveralModels
from psychocounsel.data.reply_files import replies_of
from psychocounsel.data.shared_text import normalised
from psychocounsel.errors import UserError
from psychocounsel.evaluation.contestants.entries import start_of
from psychocounsel.rundir.trained_runs import trained_dtype
from psychocounsel.settings.schema import option
from psychocounsel.storage.hashes import mark_of

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

    def check(self, key: str) -> None:
        with in_the_users_words(self.settings):
            super().check(key)

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
        for dtype, group in settled.items():
            trained = [model.name for model in group if trained_dtype(model.model)]
            reason = (
                f"because the training of {trained[0]} had model.dtype={dtype}"
                if trained
                else f"as for {models[0].name}"
            )
            yield f"number format of {' and '.join(model.name for model in group)}: {dtype}, {reason}"

    def all(self) -> list[Contestant]:
        """Return the contestants, the evaluated setting's first."""
        contestants = list[Contestant]()
        for setting, model in zip(self.settings, self.models(), strict=True):
            contestants.append(
                Contestant(setting, sum(contestant.setting == setting for contestant in contestants), model)
            )
        return contestants


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


# Contestant whose replies come from a file: another program or a person wrote them to the same speeches.

_NUMBER = re.compile(r"\d+$")


@dataclass(kw_only=True)
class ReplyFile(LanguageModel):
    """Replies from the file `model`: JSONL, JSON, CSV, TSV or parquet with the columns `prompt` and `reply`.

    Several rows with one prompt are its samples, in file order. Prompts are compared after normalisation: case,
    spacing, Unicode form and the system message do not matter.
    """

    def open(self, key: str) -> Answerer:
        return _Reading(self, key)

    def check(self, key: str) -> None:
        """Raise UserError if the file does not exist, or a row lacks its prompt or reply."""
        if not self.model or not Path(self.model).is_file():
            raise UserError(f"{key}: {self.model}: no such file of replies")
        replies_of(Path(self.model), key)

    def identity(self) -> dict[str, Any]:
        """Return the identity for the journal; it includes the file's hash, because a changed file gives other replies."""
        return {"kind": "ReplyFile", "name": self.name, "content": self.content()}

    def content(self) -> str | None:
        """Return the sha256 of the file; None if the file no longer exists."""
        file = Path(str(self.model))
        return mark_of(file)["sha256"] if file.is_file() else None


class _Reading(Answerer):
    slots = 256

    def __init__(self, settings: ReplyFile, key: str) -> None:
        self.name = settings.name
        self.replies = replies_of(Path(str(settings.model)), key)

    def submit(self, ask: Ask, seed: int) -> Future[Answer]:
        future: Future[Answer] = Future()
        replies = self.replies.get(normalised(ask.messages), [])
        digits = _NUMBER.search(ask.part)
        number = int(digits[0]) if digits else 0
        has_one = number < len(replies)
        future.set_result(Answer(TEXT, replies[number], self.name) if has_one else Answer(FAILED))
        return future
