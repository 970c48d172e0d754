"""The system prompt of replies, and the refusal of chat templates that reject system prompts, before a model is loaded."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from textwrap import shorten
from typing import Any

from omegaconf import DictConfig, OmegaConf

from psychocounsel.asking.language_model import LanguageModel, keys_of
from psychocounsel.asking.model_groups import model_sections
from psychocounsel.counsel.system_prompt import AUTO, policy_prompt, reward_prompt, trained_prompt
from psychocounsel.errors import UserError, words
from psychocounsel.remote import hub
from psychocounsel.remote.confidential import on_the_way
from psychocounsel.remote.hub_sources import HubSource
from psychocounsel.reward.sections import judge_models, path_is, reward_sections
from psychocounsel.rundir.trained_runs import confidential_sources
from psychocounsel.settings.targets import build, build_section
from psychocounsel.storage.files import folder_of, read_mapping

# The system prompt that all contestants get.


def replies_prompt(config: DictConfig, length_limit: int | None = None) -> str | None:
    """Return the system message of all contestants, None for none; auto: that of the first one's training.

    Raises:
        UserError: if `replies.system_prompt` is an unknown builtin prompt or an unreadable file.
    """
    return policy_prompt(
        config.replies.system_prompt, _first(config).get("model"), "replies.system_prompt", length_limit
    )


def _refuse_confidential_prompt(config: DictConfig) -> None:
    """Refuse to send the system prompt of a training on confidential data to hosts that must not see it.

    Only `replies.system_prompt=auto` is checked, because a text that is typed is meant for the contestants.

    Raises:
        UserError: names the contestant, the host, and what to type instead.
    """
    if config.get("contestants") is None or config.replies.system_prompt != AUTO or not replies_prompt(config):
        return
    first = _first(config)
    sources = [hosts for _, hosts in confidential_sources(first.get("model"))]
    if not sources:
        return
    allowed = set.intersection(*sources)
    models: list[LanguageModel] = build(config, "contestants").models()
    for key, model in zip(keys_of(models, "contestants"), models, strict=True):
        for _, address in model.receivers(key):
            for host, what in on_the_way(address):
                if host not in allowed:
                    raise UserError(
                        f"replies.system_prompt=auto: {model.name} would send the system prompt of {first.name} to {what}{host}, "
                        "but its training had data.confidential=true; give another text, for instance "
                        "replies.system_prompt=builtin:short"
                    )


def prompt_lines(config: DictConfig) -> Iterator[str]:
    """Yield a line about the system prompt that `auto` stands for, and one for each model trained with another one."""
    prompt, first = replies_prompt(config), _first(config)
    if config.replies.system_prompt == AUTO and trained_prompt(first.get("model")) is not None:
        yield f"system prompt: {_quoted(prompt)}, as in the training of {first.name}"
    for member in config.contestants.members:
        trained = trained_prompt(member.get("model"))
        if trained is not None and trained != (prompt or ""):
            yield f"warning: {member.name} was trained with the system prompt {_quoted(trained)}, and gets {_quoted(prompt)}"


def _first(config: DictConfig) -> DictConfig:
    first: DictConfig = config.contestants.members[0]
    return first


def _quoted(prompt: str | None) -> str:
    """Return the beginning of a system prompt for a line on the terminal; it may come from a stranger's model."""
    shown = "".join(character if character.isprintable() else " " for character in prompt or "")
    return f'"{words(shorten(shown, 60))}"' if prompt else "none"


# Chat templates, read before a model is loaded, without torch and transformers

_USER = {"role": "user", "content": "Hello."}
_SYSTEM = {"role": "system", "content": "Answer."}
_GENERATION = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")  # marks of transformers, which change no text


@dataclass(frozen=True)
class _Reader:
    """Model whose chat template renders system messages.

    `key`: key of its path. `remedies`: what to type instead, {file} standing for a template's file.
    """

    key: str
    path: str
    section: DictConfig
    remedies: str


def refuse_system_prompts(config: DictConfig) -> None:
    """Refuse system prompts that a host must not see, and those that a model's chat template rejects.

    Templates are read from local folders and the hub's cache. Other templates are checked when the tokenizer is loaded.

    Raises:
        UserError: names the model, and what to type instead.
    """
    _refuse_confidential_prompt(config)
    for reader in _readers(config):
        file = reader.section.get("chat_template")
        template = _text(Path(file)) if file else _template_in(_folder(config, reader))
        args: Any = OmegaConf.to_container(OmegaConf.create(reader.section.get("template_args") or {}))
        if template and (reason := _refusal(template, json.dumps(args, default=str))) is not None:
            where = f"{file or reader.path}: " + ("this" if file else "its") + " chat template"
            raise UserError(f"{reader.key}={where} refuses system messages ({words(reason)}); type {reader.remedies}")


def _readers(config: DictConfig) -> Iterator[_Reader]:
    for key, section, prompt in _with_own_prompt(config):
        if prompt:
            remedies = f"{key}.system_prompt=null, or {_template_key(key)} with a template that accepts them"
            yield _Reader(f"{key}.path", str(section.path), section, remedies)
    models = [*model_sections(config), *((key, "judge", section) for key, section in judge_models(config))]
    for key, group, section in models:
        if "chat_template" not in section or not section.get("model"):
            continue  # a server renders the messages itself, and plain rules read none
        if group != "contestants":
            if build_section(section, group).reads_prompts:
                remedies = f"{_template_key(key)} with a template that accepts them, or another {key}.model"
                yield _Reader(f"{key}.model", str(section.model), section, remedies)
        elif replies_prompt(config):
            yield _contestant(config, key, section)


def _with_own_prompt(config: DictConfig) -> Iterator[tuple[str, DictConfig, str | None]]:
    """Yield the trained policy and the reward models, each with its key and its system message."""
    if config.get("contestants") is None and config.get("model") is not None:
        yield "model", config.model, policy_prompt(config.model.system_prompt, config.model.path, "model.system_prompt")
    for key, section in reward_sections(config):
        if path_is(section) != "nothing":
            yield key, section, reward_prompt(section.get("system_prompt"), section.path, f"{key}.system_prompt")


def _template_key(key: str) -> str:
    return f"chat_template: FILE in {key}" if "[" in key else f"{key}.chat_template=FILE"


def _contestant(config: DictConfig, key: str, section: DictConfig) -> _Reader:
    names = config.contestants.settings
    is_first = names[int(key.rpartition("[")[2].rstrip("]"))] == names[0]
    file = "+model.chat_template=FILE" if is_first else "'against=[{path: PATH, chat_template: FILE}]'"
    remedies = f"replies.system_prompt=null, or {file} with a template that accepts them"
    return _Reader("model.path" if is_first else "against", str(section.model), section, remedies)


def _folder(config: DictConfig, reader: _Reader) -> Path | None:
    """Return the folder of the reader's tokenizer; None if it is not on this machine."""
    if (folder := folder_of(reader.path)).is_dir():
        return folder
    source = HubSource("model", reader.path, reader.section.get("revision"), reader.key)
    return hub.cached(source, config.paths.cache)


def _template_in(folder: Path | None) -> str | None:
    """Return the chat template of a tokenizer's folder; None if there is none."""
    if folder is None:
        return None
    if (text := _text(folder / "chat_template.jinja")) is not None:
        return text
    given = read_mapping(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(given, list):  # several named templates
        given = next((named["template"] for named in given if named.get("name") == "default"), None)
    return given if isinstance(given, str) else None


def _text(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


class _Refused(Exception):
    """Error that a chat template raises itself."""


@cache
def _refusal(template: str, args: str) -> str | None:
    """Return the template's own error for a system message; None if it accepts one, or if it cannot be rendered here.

    `args`: its variables, as JSON.
    """
    if "raise_exception" not in template:
        return None
    from jinja2.exceptions import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(reason: str) -> None:
        raise _Refused(reason)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals |= {"raise_exception": refuse, "strftime_now": lambda form: "26 Jul 2024"}
    variables = {"bos_token": "", "eos_token": "", "add_generation_prompt": True, **json.loads(args)}
    try:
        ready = environment.from_string(_GENERATION.sub("", template))
        ready.render(messages=[_USER], **variables)
    except (_Refused, TemplateError, TypeError, ValueError, KeyError, AttributeError):
        return None
    try:
        ready.render(messages=[_SYSTEM, _USER], **variables)
    except _Refused as error:
        return str(error).split("\n")[0]
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError):
        return None
    return None
