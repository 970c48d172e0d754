"""The contract of language models that write replies and annotate them: settings open an Answerer, which answers Asks.

A YAML file of the groups `writers` and `annotator` names a dataclass that derives from LanguageModel. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from omegaconf import MISSING

from psychocounsel.data.rows import Message
from psychocounsel.errors import UserError
from psychocounsel.settings.contract import Contract, GroupSettings, refuse_another_kind
from psychocounsel.settings.schema import option

TEXT, REFUSED, FILTERED, CUT, FAILED = "text", "refused", "filtered", "cut", "failed"
UNPARSABLE = "unparsable"  # an Outcome's, after all attempts; an Answer never has it
TOO_LONG = "too_long"  # what is asked does not fit the model: no other attempt would change that
EMPTY, WITHHELD = "empty", "withheld"  # of rows: a reply without a word; a speech that a model is not to see
OTHER_LANGUAGE = "other_language"  # likewise: a speech in a language that a model does not speak

Show = Callable[[str], bool]  # gets an answer's text as far as it is written; returns whether to go on


@dataclass(frozen=True)
class Ask:
    """One call: what a model is asked, and whose speech it is about.

    Attributes:
        speech: the speech's id, by which the removal of a speech finds its answers in the journal.
        messages: the conversation; together they hold the whole prompt.
        seed: of the random numbers, for models that take one. It is no part of the answer's key.
        part: tells calls with equal messages apart: "reply 1", "vote 0", "repeat 1 vote 0".
        schema: JSON schema that the answer is to follow, sent where the server can hold a model to one.
    """

    speech: str
    messages: tuple[Message, ...]
    seed: int
    part: str
    schema: Mapping[str, Any] | None = None

    def check_value(self, value: Any) -> None:
        """Raises ValueError if what was read of an answer does not fit this call. Default: everything fits."""


@dataclass(frozen=True)
class Answer:
    """What a model said to an Ask.

    Attributes:
        outcome: `text`; `refused` (by the API's field for it); `filtered` (by the provider's content filter); `cut` (at
            `max_tokens`); `too_long` (the model cannot read what it is asked); `failed` (no answer after all retries, the one
            outcome that is asked again by a later run).
        model: the name that the server returned.
        prompt_tokens, completion_tokens: as the server counted them; None where it did not say.
    """

    outcome: str
    text: str = ""
    model: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Answerer(Contract):
    """An opened model. `slots` is how many Asks it takes at once; more than so many are never submitted."""

    slots: int = 1

    @abstractmethod
    def submit(self, ask: Ask, seed: int) -> Future[Answer]:
        """Begin to answer `ask` with the random numbers of `seed`; from any thread, and returns at once.

        The future raises UserError for what no other Ask would change: a wrong key, or no server left.
        """

    def stream(self, ask: Ask, seed: int, show: Show) -> Answer:
        """The answer to `ask`, of which `show` gets the text while it is written. Waits for it; from any thread.

        An answer that `show` ends is `cut`, and holds what was written. What does not fit the model is `too_long`. Default:
        `show` gets the whole answer once.

        Raises:
            UserError: if there is no answer, saying why.
        """
        answer = self.submit(ask, seed).result()
        if answer.text:
            show(answer.text)
        return answer

    def has_room(self, ask: Ask) -> bool:
        """Whether the model reads all of `ask`, with room for an answer. Default: yes, for nothing else is known here."""
        return True

    def check(self) -> None:
        """Learn, before anything is paid for, whether the model answers. Default: nothing to learn.

        Raises:
            UserError: if the key, the model's name or the address is wrong; it says what to type instead.
        """

    def close(self) -> None:
        """End what is open. Default: nothing is."""


@dataclass(kw_only=True)
class LanguageModel(GroupSettings):
    """A model that is asked; each field is a key of its YAML file. A subclass must define `open`.

    Attributes:
        name: what tables and messages call it. It is a part of the answers' keys.
        model: what the server calls it, or a path.
        prompt: the system message of a writer: a text, a .txt file, or builtin:counsellor; null: `replies.system_prompt`.
        temperature, top_p, max_tokens: how its answers are drawn; `max_tokens` is the longest answer.
        input_price, output_price: per million tokens, in the currency of `budget.cost`; null: unknown.
        language: the one language that it speaks (ISO 639-1); null: any.
        terms: of its output: a licence's name, or a word such as `no-competing-models`.
        third_party: whether others than the user see what it is asked; null: told from the addresses.
        reads_prompts: False of plain rules, which look at speech and reply alone.
    """

    config_group: ClassVar[str] = "writers"
    reads_prompts: ClassVar[bool] = True

    name: str = MISSING
    model: str | None = None
    prompt: str | None = None
    temperature: float = option(1.0, at_least=0)
    top_p: float = option(1.0, above=0, at_most=1)
    max_tokens: int = option(512, at_least=1)
    input_price: float | None = option(None, at_least=0)
    output_price: float | None = option(None, at_least=0)
    language: str | None = None
    terms: str | None = None
    third_party: bool | None = None

    @abstractmethod
    def open(self, key: str) -> Answerer:
        """Begin to answer; `key` is where the settings stand, as `writers` or `writers.members[0]`.

        Raises:
            UserError: if the model cannot be loaded, or its settings cannot work.
        """

    def identity(self) -> dict[str, Any]:
        """What makes its answers different from those of other settings; a part of the answers' keys."""
        return {
            "kind": type(self).__name__,
            "name": self.name,
            "model": self.model,
            "temperature": float(self.temperature),
            "top_p": float(self.top_p),
            "max_tokens": self.max_tokens,
        }

    def content(self) -> str | None:
        """Hash of the model's files, where they lie in a folder here; None for a model of a server or of the hub."""
        return None

    @cached_property
    def digest(self) -> str:
        """sha256 of `identity`, hexadecimal."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()

    def is_third_party(self) -> bool:
        """Whether texts leave what is the user's own. Default: only if `third_party` says so."""
        return bool(self.third_party)

    def models(self) -> list[LanguageModel]:
        """The single models that this stands for: itself."""
        return [self]

    def check(self, key: str) -> None:
        """Raises UserError for settings that cannot work; `key` is where they stand."""

    def unused(self) -> dict[str, str]:
        """Fields that nothing reads with these settings, each with the reason: typing one of them is refused."""
        return {}


def open_model(settings: LanguageModel, key: str) -> Answerer:
    """What `settings.open` gives.

    Raises:
        UserError: as `open` does, or if it gives no Answerer.
    """
    opened = settings.open(key)
    refuse_another_kind(opened, Answerer, f"{key}: {type(settings).__name__}.open")
    return opened


def keys_of(models: Sequence[LanguageModel], key: str) -> list[str]:
    """Where each of `models` stands in the configuration: at `key` a single one, else among its members."""
    return [key] if len(models) == 1 else [f"{key}.members[{number}]" for number in range(len(models))]


def check_names(models: Sequence[LanguageModel], key: str) -> None:
    """Refuse two models of one name: tables and the journal tell models apart by it.

    Raises:
        UserError: naming it.
    """
    names = [model.name for model in models]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{key}: two models have the name {name}; give one of them another name=")
