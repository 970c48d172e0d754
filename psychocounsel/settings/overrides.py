"""Command lines before Hydra reads them: the order of options, and overrides that Hydra would misread."""

import argparse
import re
import shlex
from collections.abc import Sequence
from functools import lru_cache

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException, OverrideParseException

from psychocounsel.errors import UserError
from psychocounsel.settings.names_elsewhere import our_names
from psychocounsel.storage.files import absolute

# Hydra's options: those with a value, and the others.
_WITH_VALUE = {"--config-dir", "-cd", "--config-name", "-cn", "--cfg", "-c", "--package", "-p", "--info", "-i"}
_FLAGS = {"--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m"}
_FLAGS |= {"--shell-completion", "-sc"}
_CHOICES: dict[str, tuple[str, ...]] = dict.fromkeys(("--cfg", "-c"), ("job", "hydra", "all"))
_CHOICES |= dict.fromkeys(("--info", "-i"), ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"))
_MAY_BE_NULL = ("experiment", "debug")
_OURS = {
    "hydra.run.dir": "use run_dir",
    "hydra.sweep.dir": "use sweep_dir",
    "hydra.sweep.subdir": "runs are named by the swept keys",
    "hydra.job.chdir": "runs start in the current folder",
    "hydra.output_subdir": "use run_dir",
    "settled": "studies and searches set it",
    "code_path": "it is filled from --config-dir and the current folder",
}
# Sections with the user's own entries, which may be removed again.
_ENTRIES = re.compile(r"callbacks\..+|hydra[./].+|experiment|debug|.+\..+\..+")


def parted(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return Hydra's options with their values, and the overrides, because argparse needs them in this order.

    Raises:
        UserError: for an unknown option, or an option without its value.
    """
    options, overrides, rest = list[str](), list[str](), list(arguments)
    while rest:
        text = rest.pop(0)
        name, equals, _ = text.partition("=")
        if not text.startswith("-"):
            overrides.append(text)
        elif name in _WITH_VALUE:
            value = text.partition("=")[2] if equals else rest.pop(0) if rest else ""
            options += [name, _checked(name, value)]
        elif text in _FLAGS:
            options.append(text)
        else:
            key = next(iter(our_names(name)), "KEY")
            raise UserError(f"{text}: no such option; settings are written {key}=VALUE, and --help lists the options")
    return options, overrides


def _checked(option: str, value: str) -> str:
    choices = _CHOICES.get(option, ())
    if not value or value.startswith("-") or (choices and value not in choices):
        raise UserError(f"{option}: needs a value" + (f", one of {', '.join(choices)}" if choices else ""))
    return value


def check_overrides(overrides: Sequence[str], groups: Sequence[str], may_be_null: Sequence[str] = ()) -> None:
    """Refuse overrides that Hydra would misread. `groups` are the config groups; those in `may_be_null` may be left out.

    Raises:
        UserError: with what to type instead.
        OverrideParseException: for a text that is not an override.
    """
    parser = OverridesParser.create()
    for text in overrides:
        try:
            _check(text, parser.parse_overrides([text])[0], groups, (*_MAY_BE_NULL, *may_be_null))
        except RecursionError as error:
            raise UserError(f"{text[:40]}...: is nested too deep") from error


def _check(text: str, override: Override, groups: Sequence[str], may_be_null: Sequence[str]) -> None:
    key, value = override.key_or_group, override.value()
    if not key:
        raise UserError(f"{text}: has no key; it is written KEY=VALUE")
    if (ours := "settled" if key.startswith("settled.") else key) in _OURS:
        raise UserError(f"{text}: {_OURS[ours]}")
    if override.is_delete() and not _ENTRIES.fullmatch(key):
        raise UserError(f"{text}: a setting cannot be removed, because it has a default: give {key}=VALUE")
    if key not in groups or override.is_delete() or (isinstance(value, dict) and value):
        return
    if override.is_add() and not override.is_force_add():
        raise UserError(f"{text}: the group exists already; write {text.lstrip('+')}")
    if isinstance(value, list):
        sweep = ",".join(map(str, value))
        raise UserError(f"{text}: a group takes one choice; for a sweep write -m {key}={sweep}")
    if value is None and key not in may_be_null:
        raise UserError(f"{text}: one choice is required; `--help` lists the choices of {key}")
    if isinstance(value, int | float) and key != "zero":
        raise UserError(f"{text}: no such choice; `--help` lists those of {key}")
    if value == {} or (isinstance(value, str | QuotedString) and not getattr(value, "text", value)):
        raise UserError(f"{text}: names no choice; `--help` lists those of {key}")


def quote_choice(override: str) -> str:
    """Return an override quoted so that Hydra reads it as intended.

    Hydra reads `zero=3` as the number 3, which is not the name of a choice, and refuses new dictionary entries without `++`.
    """
    key, _, value = override.partition("=")
    if key.lstrip("+") == "zero":
        return f"{key}=" + ",".join(f"'{choice}'" if choice.isdigit() else choice for choice in value.split(","))
    if value.startswith("{") and key[:1] not in "+~" and key != "data.principle_weights":
        return f"++{override}"
    return override


def quoted(text: str) -> str:
    """Return a text in the quotes of Hydra's grammar, which reads a backslash as itself except before a quote."""
    return "'" + re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + "\\'" * bool(match[2]), text) + "'"


def shell_word(override: str) -> str:
    """Return what to type in a shell so that Hydra reads the value of KEY=VALUE as this very text.

    Double quotes surround it where they can, because apostrophes are more legible in them.
    """
    key, _, value = override.partition("=")
    word = f"{key}={quoted(value)}"
    return shlex.quote(word) if set('$`"!') & set(value) or "\\\\" in word else f'"{word}"'


def joined_again(override: str, arguments: Sequence[str]) -> str | None:
    """Return a list or mapping that a shell split at its spaces into several arguments, or None if `override` begins none."""
    bracket = override.partition("=")[2][:1]
    if bracket not in ("{", "[") or override not in arguments:
        return None
    rest = arguments[arguments.index(override) :]
    for count in range(2, len(rest) + 1):
        whole = " ".join(rest[:count])
        if whole.count(bracket) == whole.count({"{": "}", "[": "]"}[bracket]):
            return whole
    return None


_PLAIN = re.compile(r"[A-Za-z0-9_.+/ -]+")  # texts that Hydra reads without quotes


def with_quoted_texts(override: str) -> str | None:
    """Return the override for a shell, with quotes around the texts of its list or mapping that need them: {prompt: "Größe"}.

    None: the value is no list or mapping, is very long, or cannot be read even with quotes.
    """
    key, _, value = override.partition("=")
    before = {"{": ":", "[": r"\[,"}.get(value[:1])
    if before is None or len(value) > 1000:
        return None
    text = re.compile(rf"(?<=[{before}])(\s*)([^\s\"'\[\]{{}},][^\"'\[\]{{}},]*?)(?=\s*[,\]}}])")
    word = f"{key}=" + text.sub(
        lambda match: match[1] + (match[2] if _PLAIN.fullmatch(match[2]) else f'"{match[2]}"'), value
    )
    try:
        OverridesParser.create().parse_overrides([word])
    except OverrideParseException:
        return None
    return shlex.quote(word)


@lru_cache(maxsize=4096)
def parsed(text: str) -> Override:
    """Return a parsed override; cached because the runs of a sweep share most of theirs.

    Raises:
        HydraException: if the text is not an override.
    """
    (override,) = OverridesParser.create().parse_overrides([text])
    return override


def typed_override(text: str) -> Override:
    """Return a parsed override that the user typed.

    Raises:
        UserError: if the text is not an override.
    """
    try:
        return parsed(text)
    except HydraException as error:
        raise UserError(
            f"{text}: cannot be read as KEY=VALUE; put a value with spaces or signs in quotes, as \"KEY='A B'\""
        ) from error


def config_dirs(arguments: Sequence[str]) -> list[str]:
    """Return the absolute folders of all --config-dir on a command line."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd", action="append", default=[])
    known, _ = parser.parse_known_args(list(arguments))
    return [absolute(folder) for folder in known.config_dir]
