"""The interface of language models that write and rate replies: settings open an Answerer, which answers Asks.

A YAML file in the groups `writers` and `annotator` names a dataclass that derives from LanguageModel. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, TypeVar

from omegaconf import MISSING, OmegaConf

from psychocounsel.asking.answer_text import ends_thoughts, refuse_repeated, without_thoughts
from psychocounsel.data.messages import Message
from psychocounsel.errors import UserError, printable
from psychocounsel.settings.schema import option
from psychocounsel.settings.targets import Contract, GroupSettings, build_section, require_kind

TEXT, REFUSED, FILTERED, CUT, FAILED = "text", "refused", "filtered", "cut", "failed"
LONG_AT_FIRST = (
    8  # if so many prompts at the start are all too long, the run ends: they share a rubric that does not fit
)
UNPARSABLE = "unparsable"  # outcome of an Outcome after all attempts; an Answer never has it
TOO_LONG = "too_long"  # the prompt does not fit the model, so another attempt would not help
EMPTY, WITHHELD = "empty", "withheld"  # outcomes of table rows: an empty reply; a speech that a model must not see
OTHER_LANGUAGE = "other_language"  # outcome of table rows: a speech in a language that the model does not speak

T = TypeVar("T")
Show = Callable[[str], bool]  # gets the text written so far; returns False to stop the answer


@dataclass(frozen=True)
class Ask:
    """One call to a model: the messages, and the speech that they are about.

    Attributes:
        speech: the speech's id; when a speech is removed, its answers in the journal are found by it.
        messages: the whole prompt, as chat messages.
        seed: random seed, for models that accept one. It is not part of the answer's key.
        part: distinguishes calls with equal messages: "reply 1", "vote 0", "repeat 1 vote 0".
        schema: JSON schema of the answer; sent to servers that can enforce one.
    """

    speech: str
    messages: tuple[Message, ...]
    seed: int
    part: str
    schema: Mapping[str, Any] | None = None

    def check_value(self, value: Any) -> None:
        """Raise ValueError if a parsed answer does not fit this call. Default: every value fits."""

    def value_in(self, text: str, read: Callable[[str], T]) -> T:
        """Return the value that `read` parses from an answer's text.

        Raises:
            ValueError: gives the reason if the text is unusable, or repeats an object of JSON from this call's own texts.
        """
        value = read(text)
        if self.schema is not None:
            refuse_repeated(text, (message["content"] for message in self.messages if message["role"] != "system"))
        self.check_value(value)
        return value

    def without_thoughts(self, text: str, prompt: str = "") -> str:
        """Return an answer without the thoughts before it; `prompt`: the rendered prompt, if known.

        A judge may quote a closing tag from a text that it is shown: then only thoughts with their opening tag are thoughts.
        """
        may_quote = self.schema is not None and any(ends_thoughts(message["content"]) for message in self.messages)
        return without_thoughts(text, prompt, must_open=may_quote)


@dataclass(frozen=True)
class Answer:
    """A model's answer to an Ask.

    Attributes:
        outcome: `text`; `refused` (marked as a refusal by the API); `filtered` (by the provider's content filter);
            `cut` (at `max_tokens`); `too_long` (the prompt does not fit a reward judge or a streaming model; for other
            calls this is `failed`); `failed` (no answer after all retries, or a rejected request). A later run asks
            again only after `failed`.
        model: the name that the server returned.
        prompt_tokens, completion_tokens: the server's token counts; None if it gave none, or none that can be true.
    """

    outcome: str
    text: str = ""
    model: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None

    def __post_init__(self) -> None:
        """Drop what no table could hold, here, so that answers of the journal are treated like new ones."""
        for name in ("prompt_tokens", "completion_tokens"):
            object.__setattr__(self, name, _count(getattr(self, name)))
        object.__setattr__(self, "model", printable(self.model) if isinstance(self.model, str) else None)


_MOST_TOKENS = 10**8  # more than any context; a larger count is no count


def _count(given: Any) -> int | None:
    is_sane = isinstance(given, int | float) and not isinstance(given, bool) and 0 <= given <= _MOST_TOKENS
    return int(given) if is_sane and given == int(given) else None


class Answerer(Contract):
    """An opened model. It takes at most `slots` Asks at once.

    `fitted` is true if a prompt has fitted the model. `misfit` is the error that ends the run if none does.
    """

    slots: int = 1
    fitted: bool = False
    misfit: UserError | None = None

    @abstractmethod
    def submit(self, ask: Ask, seed: int) -> Future[Answer]:
        """Start answering `ask` with the random seed `seed`, and return at once. May be called from any thread.

        The future raises UserError if every other Ask would fail, too: for a wrong API key, or if no server is left.
        """

    def stream(self, ask: Ask, seed: int, show: Show) -> Answer:
        """Return the answer to `ask`, and call `show` with the text so far while it is written. May be called from any thread.

        If `show` returns False, the answer ends there as `cut`. If the prompt does not fit the model, the answer is `too_long`.
        Default: `show` is called once, with the whole answer.

        Raises:
            UserError: if there is no answer; gives the reason.
        """
        answer = answer_of(self, submitted(self, ask, seed))
        if answer.text:
            show(answer.text)
        return answer

    def has_room(self, ask: Ask) -> bool:
        """Return True if the prompt leaves the model room for an answer. Default: True, because no limit is known."""
        return True

    def check(self) -> None:
        """Check before any paid call that the model answers. Default: no check.

        Raises:
            UserError: if the API key, model name or address is wrong; says what to type instead.
        """

    def close(self) -> None:
        """Close connections and free resources. Default: nothing to close."""


@dataclass(kw_only=True)
class LanguageModel(GroupSettings):
    """Settings of a language model; each field is a key of its YAML file. A subclass must define `open`.

    Attributes:
        name: the model's name in tables and messages. It is part of the answers' keys.
        model: the server's name for the model, or a path.
        prompt: the system message of a writer: a text, a .txt file, or builtin:counsellor; null: use `replies.system_prompt`.
        temperature, top_p, max_tokens: sampling of answers; `max_tokens` is the maximum length.
        input_price, output_price: per million tokens, in the currency of `budget.cost`; null: unknown.
        language: the only language that it speaks (ISO 639-1); null: any.
        terms: terms of its output: a licence, or a word such as `no-competing-models`.
        third_party: true if others than the user can see the prompts; null: decided from the addresses.
        reads_prompts: False for plain rules, which use only the texts of speech and reply.
    """

    config_group: ClassVar[str] = "writers"
    also_in: ClassVar[tuple[str, ...]] = (
        "annotator",
        "contestants",
        "judge",
        "client",
    )  # any of them may generate text
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
        """Open the model. `key` is the place of the settings in the configuration, such as `writers` or `writers.members[0]`.

        Raises:
            UserError: if the model cannot be loaded, or its settings cannot work.
        """

    def identity(self) -> dict[str, Any]:
        """Return the settings that the model's answers depend on; they are part of the answers' keys."""
        return {
            "kind": type(self).__name__,
            "name": self.name,
            "model": self.model,
            "temperature": float(self.temperature),
            "top_p": float(self.top_p),
            "max_tokens": self.max_tokens,
        }

    def sent(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Return the messages as the model gets them; they are part of the answers' keys. Default: unchanged."""
        return messages

    def content(self) -> str | None:
        """Return a hash of the model's files in a local folder, or None for a model on a server or the hub."""
        return None

    @cached_property
    def digest(self) -> str:
        """The sha256 of `identity`, in hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()

    def is_third_party(self) -> bool:
        """Return True if texts leave the user's own machines. Default: only if `third_party` is true."""
        return bool(self.third_party)

    def models(self) -> list[LanguageModel]:
        """Return the single models of this group; a single model returns itself."""
        return [self]

    def check(self, key: str) -> None:
        """Raise UserError for settings that cannot work; `key` is their place in the configuration."""

    def unused(self) -> dict[str, str]:
        """Return the fields without effect under these settings, each with the reason. Setting one of them is refused."""
        return {}


def open_model(settings: LanguageModel, key: str) -> Answerer:
    """Open a model by `settings.open` and check that the result is an Answerer.

    Raises:
        UserError: if `open` fails or returns anything other than an Answerer.
    """
    return require_kind(settings, "open", settings.open(key), Answerer)


def submitted(opened: Answerer, ask: Ask, seed: int) -> Future[Answer]:
    """Return the result of `opened.submit`.

    Raises:
        UserError: if it is no Future.
    """
    return require_kind(opened, "submit", opened.submit(ask, seed), Future)


def answer_of(opened: Answerer, future: Future[Answer], seconds: float | None = None) -> Answer:
    """Return the answer that `future`, which `opened.submit` returned, has after at most `seconds` (None: no limit).

    Raises:
        UserError: if it is no Answer, or as `submit` says.
        TimeoutError: if there is no answer yet.
    """
    return require_kind(opened, "submit().result", future.result(seconds), Answer)


def keys_of(models: Sequence[LanguageModel], key: str) -> list[str]:
    """Return the configuration key of each model: `key` itself for a single model, otherwise `key.members[N]`."""
    return [key] if len(models) == 1 else [f"{key}.members[{number}]" for number in range(len(models))]


def check_names(models: Sequence[LanguageModel], key: str) -> None:
    """Refuse two models with the same name, because tables and the journal tell models apart by name.

    Raises:
        UserError: names the duplicate.
    """
    names = [model.name for model in models]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{key}: two models have the name {name}; give one of them another name=")


# Lists of language models


@dataclass(kw_only=True)
class WithoutModel(LanguageModel):
    """Code that answers in place of a language model, in this process. A subclass sets `choice` and `version`."""

    reads_prompts: ClassVar[bool] = False
    choice: ClassVar[str]  # as on the command line, for messages: annotator=rules
    version: ClassVar[int]  # raised whenever answers change, because answers are stored by it

    @abstractmethod
    def answer(self, ask: Ask) -> Answer:
        """Return the answer to `ask`.

        Raises:
            UserError: if the code cannot answer it.
        """

    def open(self, key: str) -> Answerer:
        return _CodeAnswerer(self.answer)

    def unused(self) -> dict[str, str]:
        """Return all settings of models and sampling, because no model is asked."""
        names = ("model", "temperature", "top_p", "max_tokens", "input_price", "output_price")
        return dict.fromkeys((*names, "third_party", "language"), f"{self.choice} asks no model")

    def identity(self) -> dict[str, Any]:
        """Return the name and the version of the code."""
        return {"kind": type(self).__name__, "name": self.name, "version": self.version}


class _CodeAnswerer(Answerer):
    slots = 64

    def __init__(self, answer: Callable[[Ask], Answer]) -> None:
        self.answer = answer

    def submit(self, ask: Ask, seed: int) -> Future[Answer]:
        future: Future[Answer] = Future()
        try:
            future.set_result(self.answer(ask))
        except UserError as error:
            future.set_exception(error)
        return future


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
        for number, model in enumerate(built):
            if not isinstance(model, LanguageModel):
                raise UserError(f"{group}.members[{number}]: must be a single model, not {type(model).__name__}")
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
        return [receiver for number, model in numbered for receiver in model.receivers(f"{key}.members[{number}]")]


@dataclass(kw_only=True)
class Pool(SeveralModels):
    """Settings of a pool of writers."""

    config_group: ClassVar[str] = "writers"
    example: ClassVar[str] = "[tiny,openai]"

    name: str = "pool"


@dataclass(kw_only=True)
class Panel(SeveralModels):
    """Settings of a panel of annotators."""

    config_group: ClassVar[str] = "annotator"
    fewest: ClassVar[int] = 2
    example: ClassVar[str] = "[local_vllm,openai]"

    name: str = "panel"
