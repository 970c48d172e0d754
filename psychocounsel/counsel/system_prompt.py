"""System prompts: the texts that ship with the package, and the prompt that a model was trained with."""

from pathlib import Path

from omegaconf import OmegaConf

from psychocounsel.errors import UserError
from psychocounsel.rundir.paths import ModelDir, RunDir
from psychocounsel.rundir.run_config import read_config
from psychocounsel.rundir.trained_runs import run_of
from psychocounsel.storage.files import expanded, read_mapping

AUTO = "auto"
COUNSELLOR = """\
You are a counsellor. A client has written to you, and you write the reply that you would give in a session. \
Show that you understand what the client feels and why it matters to them. Stay with what the client has said, and do not assume \
what they have not told you. Where it helps, ask one open question, or name one small step, and leave the decision with the \
client. Do not diagnose, judge or lecture. If the client may be in danger, take it seriously, ask about their safety directly, \
and name help that they can reach now.
Write to the client as "you", in plain words and short paragraphs, in the language that the client writes in. \
Give the reply alone: no heading, no list, no notes about it."""
SHORT = "You are a counsellor. Answer the client in a few warm, plain sentences."
_BUILTINS = {"builtin:short": SHORT, "builtin:counsellor": COUNSELLOR}
_LIMIT = " Use at most {limit} words."


def prompt_text(given: str, key: str, length_limit: int | None = None) -> str:
    """Return the system message for the setting `key`, with the length limit in words appended.

    `given` is a builtin prompt, a .txt file to read, or the text itself.

    Raises:
        UserError: for an unknown builtin prompt, and for a file that cannot be read.
    """
    if given.startswith("builtin:") and given not in _BUILTINS:
        raise UserError(f"{key}={given}: is no builtin prompt; use {', '.join(_BUILTINS)}, a text or a .txt file")
    text = _BUILTINS.get(given, given)
    if given.endswith(".txt"):
        try:
            text = Path(given).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{key}={given}: cannot be read as UTF-8 text") from error
    return _limited(text, length_limit)


def policy_prompt(given: str | None, path: str | None, key: str, length_limit: int | None = None) -> str | None:
    """Return the system message that the policy at `path` gets; None if it gets none.

    `given`: the value of the setting `key`. auto stands for the message of the policy's training, or for the short builtin
    prompt if that message is unknown.

    Raises:
        UserError: as `prompt_text`.
    """
    if given != AUTO:
        return None if given is None else prompt_text(given, key, length_limit)
    trained = trained_prompt(path)
    return _limited(SHORT if trained is None else trained, length_limit) or None


def _limited(text: str, length_limit: int | None) -> str:
    return (text + _LIMIT.format(limit=length_limit)).lstrip() if length_limit else text


def reward_prompt(given: str | None, path: str, key: str) -> str | None:
    """Return the system message that the reward model at `path` reads; None if it reads none.

    `given`: the value of the setting `key`. auto stands for the message of the reward model's training, or for none if that
    message is unknown.

    Raises:
        UserError: as `prompt_text`.
    """
    if given == AUTO:
        return trained_prompt(path) or None
    return None if given is None else prompt_text(given, key)


def trained_prompt(path: str | None) -> str | None:
    """Return the system message that a model was trained with, "" for none; None if it is unknown.

    The model's folder records it. A run that has no model yet names it in its config; shipped models had none.
    """
    seen = list[str]()
    while path is not None and path not in seen:
        seen.append(path)
        if path.startswith("builtin:"):
            return ""
        folder = expanded(path)
        if folder.is_file():  # of replies
            return None
        for place in (folder, RunDir(folder).model):
            if (recorded := _recorded(ModelDir(place).about)) is not None:
                return recorded
        if (run := run_of(path)) is None:
            return None if len(seen) == 1 else SHORT
        config = read_config(run)
        given = OmegaConf.select(config, "model.system_prompt")
        given = OmegaConf.select(config, "data.system_prompt", default=given)  # the key of an earlier version
        if given != AUTO:
            return prompt_text(str(given), "model.system_prompt") if given else ""
        path = OmegaConf.select(config, "model.path")
    return None


def _recorded(file: Path) -> str | None:
    """Return the system message in a model's record, "" for none; None without a record.

    Raises:
        UserError: if the record cannot be read or holds anything else, because another program may have written it.
    """
    try:
        about = read_mapping(file)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    if "system_prompt" not in about:
        return None
    prompt = about["system_prompt"]
    if not isinstance(prompt, str | None):
        raise UserError(f"{file}: its system_prompt is not a text; correct it, or give the system_prompt yourself")
    return prompt or ""
