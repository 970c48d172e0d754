"""Hydra's and OmegaConf's errors, said in one line that tells what to type."""

import re
from collections.abc import Sequence

from hydra.errors import MissingConfigException, OverrideParseException

from psychocounsel.errors import UserError
from psychocounsel.settings import config as configs
from psychocounsel.settings.keys import renamed, unknown_key
from psychocounsel.settings.schema import flat_keys, suggestion
from psychocounsel.storage.files import shipped


def one_line(error: Exception, arguments: Sequence[str], config_name: str = "train") -> str:
    """The one line that a user needs of `error`, which the command-line `arguments` caused."""
    text = str(error)
    if isinstance(error, UserError):
        return text
    if isinstance(error, OverrideParseException):
        key, equals, _ = error.override.partition("=")
        if not equals:
            return f"{key}: is not of the form KEY=VALUE"
        return f"{error.override}: cannot be read; put quotes around the value as well: \"{key}='VALUE'\""
    if isinstance(error, MissingConfigException) and (match := re.search(r"(?:find|load) '([^']+)'", text)):
        return _unknown_choice(match.group(1), re.findall(r"^\t(\S+)$", text.partition("Config search path")[0], re.M))
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else text
    if match := re.search(r"Could not override '([^']+)'", text):
        inner = re.search(r"full_key: (\S+)", text)
        return _unknown_override(inner.group(1) if inner else match.group(1), arguments, config_name)
    if match := re.search(r"Ambiguous value for argument '([^']+)'", text):
        return f"{match.group(1)}: several values are a sweep, add -m; one list is written [value1,value2]"
    lines = [line.strip() for line in (text or str(error.__cause__)).splitlines() if line.strip()]
    return "; ".join(lines[:2])


def _unknown_override(key: str, arguments: Sequence[str], config_name: str) -> str:
    given = dict(argument.partition("=")[::2] for argument in arguments)
    if message := renamed(key, given.get(key)):
        return message
    groups = {path.name for path in shipped("conf").iterdir() if path.is_dir()}
    choices = [argument for argument in arguments if argument.partition("=")[0] in groups]
    try:
        valid = flat_keys(configs.compose(choices, name=config_name))
    except Exception:  # the choices themselves are a sweep, or a user's own
        valid = flat_keys(configs.compose([], name=config_name))
    inner = [name for name in valid if name.startswith(f"{key}.")]
    if inner:
        return f"{key}: has no such entry; it has {', '.join(name.rpartition('.')[2] for name in inner)}"
    if key in ("callbacks", "model.template_args"):
        return f"{key}: is a dictionary; add an entry with +{key}.NAME=VALUE"
    return unknown_key(key, valid) + f" (a key that the YAML leaves out is added with +{key}=VALUE)"


def _unknown_choice(path: str, options: Sequence[str]) -> str:
    group, _, name = path.rpartition("/")
    if not options:
        return f"no such config: {path}"
    return f"{group}={name}: no such choice; {suggestion(name, list(options))} ({group} is one of {', '.join(options)})"
