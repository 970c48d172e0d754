"""Prepares command lines of `annotate` and `evaluate` for Hydra.

`speeches=FILE` becomes overrides that Hydra knows, and the overrides stored in the command's directory are added.
"""

import contextlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override, QuotedString

from psychocounsel.errors import UserError
from psychocounsel.rundir.paths import RunDir, StepsDir
from psychocounsel.rundir.run_config import is_run, read_overrides, refuse_other_command
from psychocounsel.rundir.sweep import key_of
from psychocounsel.rundir.trust import refuse_untrusted_run
from psychocounsel.settings.overrides import parsed, quoted
from psychocounsel.settings.own_code import COMPOSES, require_agreement
from psychocounsel.settings.schema import refuse_empty, suggestion
from psychocounsel.storage.files import absolute, expanded, read_mapping

MODULE = "psychocounsel.annotate"
# Keys that hold for one command, not for the dataset.
_OF_THIS_COMMAND = ("steps", "remove", "dry_run", "after", "out", "run_dir")
# Last parts of keys whose values may be paths.
_PATHS = (
    "path",
    "rubric",
    "remove",
    "model",
    "system_prompt",
    "prompt",
    "topics",
    "risk_cues",
    "presidio_model",
    "chat_template",
    "sources",
    "members",
    "against",
    "compare",
    "criteria",
    "trained_on",
    "eval_path",
    "experts",
    "folder",
    "file",
    "transcripts",
    "flow",
    "set_review",
    "sets",
    "lm_eval_folder",
    "from",
    "adjudicated",
)
_GROUPS = ("speeches", "writers", "annotator", "pairs", "cluster", "evaluation", "judge", "personas", "client", "data")
# Keys that give the place of speeches: those of a single source, and the list that replaces them all.
OF_ONE_SOURCE = ("path", "split", "revision", "column", "license", "language", "topic_column", "risk_column")
_REPLACED = {"speeches.sources": [f"speeches.{name}" for name in OF_ONE_SOURCE], "speeches.path": ["speeches.sources"]}
_FILE_ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".gz", ".txt")


def annotate_arguments(options: Sequence[str], overrides: Sequence[str], choices: Sequence[str]) -> list[str]:
    """Return the overrides to compose: those stored in the directory `out`, then the typed ones.

    A typed key replaces the same stored key, and a typed choice replaces all stored keys of its group. `choices` are
    the choices of the group `speeches`; any other value names files.

    Raises:
        UserError: for options that annotate does not support, a missing file, and an `out` of another command.
    """
    if {"-m", "--multirun"} & set(options) or any(text.startswith("sweep=") for text in overrides):
        raise UserError(
            "-m: annotate makes one dataset per command; leave it out, and give each dataset its own out=DIR"
        )
    typed = [override for text in overrides for override in _with_files(text, choices)]
    out = next((_text(parsed(text)) for text in reversed(typed) if key_of(text) == "out"), None)
    stored = stored_overrides(expanded(out)) if out and out != "null" else []
    replaced = {key for text in typed for key in _REPLACED.get(key_of(text), ())}
    merged = merged_overrides([text for text in stored if key_of(text) not in replaced], typed)
    own = any(key_of(text) in _REPLACED for text in typed) and not any(key_of(text) == "speeches" for text in merged)
    return (
        ["speeches=local", *merged] if own else merged
    )  # the default choice is the sample, with its licence and limit


def stored_overrides(out: Path) -> list[str]:
    """Return the overrides stored in the directory ([] for a new one).

    Raises:
        UserError: if it belongs to another command, or another user could have written it.
    """
    if not is_run(out):
        return []
    refuse_other_command(out, MODULE, "out")
    refuse_untrusted_run(out, whole=False)
    require_agreement(out, COMPOSES)
    return read_overrides(RunDir(out).overrides)


def evaluate_arguments(options: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """Return the overrides to compose: those stored in `run_dir` if it is an evaluation in steps, then the typed ones.

    Raises:
        UserError: if another user could have written the directory.
    """
    typed = list(overrides)
    out = next((_text(parsed(text)) for text in reversed(typed) if key_of(text) == "run_dir"), None)
    if {"-m", "--multirun"} & set(options) or not out or out == "null":
        return typed
    folder = expanded(out)
    made_by = read_mapping(RunDir(folder).job).get("module") if is_run(folder) else None
    if made_by != "psychocounsel.evaluate" or not StepsDir(folder).steps.is_dir():
        return typed
    refuse_untrusted_run(folder, whole=False)
    require_agreement(folder, COMPOSES)
    return merged_overrides(read_overrides(RunDir(folder).overrides), typed)


def merged_overrides(stored: Iterable[str], typed: Sequence[str]) -> list[str]:
    """Return `stored` without the overrides that `typed` replaces or that held for one command, followed by `typed`."""
    keys = {key_of(text) for text in typed}
    groups = {key_of(text) for text in typed if key_of(text) in _GROUPS}
    same = {text for text in typed if text in set(stored)}  # repeating a choice keeps its stored keys
    replaced = {group for group in groups if not any(key_of(text) == group for text in same)}
    kept = [
        text
        for text in stored
        if (key := key_of(text)) not in (*keys, *_OF_THIS_COMMAND) and key.partition(".")[0] not in replaced
    ]
    return [*kept, *typed]


def lasting(overrides: Sequence[str]) -> list[str]:
    """Return the overrides to store in a directory, with absolute paths, without those that hold for one command."""
    return [_absolute(text) for text in overrides if key_of(text) not in _OF_THIS_COMMAND]


def _with_files(text: str, choices: Sequence[str]) -> list[str]:
    """Return an override with absolute file paths; `speeches=FILE` becomes a choice and its path."""
    key, _, raw = text.partition("=")
    if key in ("run_dir", "sweep_dir"):
        raise UserError(f"{text}: name the directory of annotate by out={raw or 'DIR'}")
    if key != "speeches":
        return [_absolute(text)]
    refuse_empty(raw, key)
    value = parsed(text).value()
    names = [_plain(item) for item in value] if isinstance(value, list) else [_plain(value)]
    if not isinstance(value, list) and not _names_a_file(names[0], choices):
        return [text]
    for name in names:
        if not expanded(name).exists():
            near = f" ({suggestion(name, list(choices))})" if "/" not in name else ""
            raise UserError(f"speeches={name}: no such file{near}")
    paths = [quoted(str(expanded(name).resolve())) for name in names]
    if len(paths) == 1:
        return ["speeches=local", f"speeches.path={paths[0]}"]
    return ["speeches=local", f"speeches.sources=[{','.join(f'{{path:{path}}}' for path in paths)}]"]


def _names_a_file(name: str, choices: Sequence[str]) -> bool:
    looks_so = "/" in name or name.startswith("~") or name.endswith(_FILE_ENDINGS)
    return name not in choices and (looks_so or Path(name).exists())


def _absolute(text: str) -> str:
    """Return the override with the paths of existing files in its value, also within lists and mappings, as absolute ones."""
    key, _, raw = text.partition("=")
    name = key.rpartition(".")[2]
    if name not in _PATHS or not raw:
        return text
    value = parsed(text).value()
    made = _made_absolute(value, name)
    return text if made == value else f"{key}={_written(made)}"


def _made_absolute(value: Any, key: str) -> Any:
    if isinstance(value, list):
        return [_made_absolute(each, key) for each in value]
    if isinstance(value, dict):
        return {name: _made_absolute(each, str(name)) for name, each in value.items()}
    if key in _PATHS and isinstance(value, str | QuotedString):
        name = _plain(value)
        is_choice = key == "members" and "/" not in name  # a file of conf/
        with contextlib.suppress(OSError):  # the text is too long for a path
            if name and not is_choice and not expanded(name).is_absolute() and expanded(name).exists():
                return absolute(name)
    return value


def _written(value: Any) -> str:
    """Return a value in Hydra's grammar."""
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{name}:{_written(each)}' for name, each in value.items())}}}"
    if isinstance(value, str | QuotedString):
        return quoted(_plain(value))
    return json.dumps(value)


def _text(override: Override) -> str:
    return _plain(override.value())


def _plain(value: object) -> str:
    return value.text if isinstance(value, QuotedString) else str(value)
