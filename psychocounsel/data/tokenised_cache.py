"""Disk cache of tokenised data: one process tokenises, and all processes and jobs with the same data load the result."""

import contextlib
import hashlib
import inspect
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from psychocounsel import counsel, data
from psychocounsel.data.base import Source
from psychocounsel.data.flat import flatten, unflatten
from psychocounsel.data.group import Group
from psychocounsel.data.privacy import data_files, paths_of
from psychocounsel.data.settings import data_repositories
from psychocounsel.data.sources import source_of
from psychocounsel.data.tokenise import ChatFormat
from psychocounsel.errors import UserError
from psychocounsel.remote import hub
from psychocounsel.remote.hub_sources import COMMIT, HubSource
from psychocounsel.storage.blob import Damaged, Foreign, read_blob, write_blob
from psychocounsel.storage.cache_entries import Entry, about_of
from psychocounsel.storage.hashes import code_id, content_id
from psychocounsel.storage.locks import Lock, holder
from psychocounsel.storage.modes import file_mode, make_shared, mask_of

Report = Callable[[str], None]
Parts = tuple[list[Group], list[Group]]  # training and held-out groups

ENTRY = re.compile(r"[0-9a-f]{32}\.groups")
# Keys of `data` that do not affect tokens.
_IRRELEVANT = ("name", "license", "confidential", "allowed_hosts", "balance")
_POLL_SECONDS = 0.3
_PATIENCE_SECONDS = 5.0  # shorter waits are not reported


def _home(cache: str | Path) -> Path:
    return Path(cache) / "tokenised"


def _lock_of(entry: Path) -> Path:
    return entry.with_suffix(".lock")


def through_cache(
    config: DictConfig, chat: ChatFormat, kind: str, report: Report, make: Callable[[DictConfig, Report], Parts]
) -> Parts:
    """Return the groups of `make(config, report)` from the cache, and repeat the lines that `make` reported.

    If the cache has no entry, `make` is called and its result is stored. Data that cannot be identified, such as those
    of a source that does not name its files, are not cached.

    Raises:
        UserError: as `make` does.
    """
    config = _pinned(config)
    key = _key(config, chat, kind)
    if key is None:
        return make(config, report)
    entry = _home(config.paths.cache) / f"{key}.groups"
    lock = Lock(_lock_of(entry))
    try:
        make_shared(entry.parent)
        found = _load(entry, lock, report)
    except (OSError, Foreign) as error:
        reason = getattr(error, "strerror", None) or "it is not a file of this cache"
        report(f"{entry}: cannot be used ({reason}); tokenising without it")
        return make(config, report)
    if found is None:
        try:
            return _make_and_keep(config, chat, kind, report, make, entry)
        finally:
            lock.release()
    about, parts = found
    for line in about["lines"]:
        report(line)
    chat.end_tokens |= set(about["end_tokens"])
    return parts


def _load(entry: Path, lock: Lock, report: Report) -> tuple[dict[str, Any], Parts] | None:
    """Return the entry once it is complete; None, with the lock held, if this process must make it."""
    started, told = time.monotonic(), False
    while True:
        with contextlib.suppress(FileNotFoundError, Damaged):
            return _read(entry)
        if lock.take():
            break
        if not told and time.monotonic() - started > _PATIENCE_SECONDS and (owner := holder(lock.path)):
            report(f"waiting for process {owner['pid']} on {owner['host']}, which tokenises the same data")
            told = True
        time.sleep(_POLL_SECONDS)
    try:
        found = _read(entry)  # another process may have made it before we took the lock
    except FileNotFoundError:
        return None
    except Damaged:
        report(f"{entry}: is damaged; tokenising again")
        return None
    except BaseException:
        lock.release()
        raise
    lock.release()
    return found


def _read(entry: Path) -> tuple[dict[str, Any], Parts]:
    about, arrays = read_blob(entry)
    if about.get("key") != entry.stem:
        raise Foreign
    with contextlib.suppress(OSError):
        os.utime(entry)  # the time of last use
    train, held_out = (
        unflatten({name.removeprefix(part): array for name, array in arrays.items() if name.startswith(part)})
        for part in ("train.", "held_out.")
    )
    return about, (train, held_out)


def _make_and_keep(
    config: DictConfig, chat: ChatFormat, kind: str, report: Report, make: Callable[..., Parts], entry: Path
) -> Parts:
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        report(line)

    parts = make(config, say)
    about = {
        "key": entry.stem,
        "of": f"{', '.join(path or config.data.name for path in paths_of(config.data))}: {kind} for {config.model.path}",
        "rows": sum(map(len, parts)),
        "lines": lines,
        "end_tokens": sorted(chat.end_tokens),
    }
    named = zip(("train.", "held_out."), map(flatten, parts), strict=True)
    arrays = {part + name: array for part, flat in named for name, array in flat.items()}
    try:
        write_blob(entry, about, arrays, file_mode(mask_of(data_files(config), entry.parent)))  # because it holds texts
    except OSError as error:
        report(f"{entry}: cannot be written ({error.strerror}), so the tokenised data are not cached")
    return parts


# -- the key of an entry


def _key(config: DictConfig, chat: ChatFormat, kind: str) -> str | None:
    """Return a hash of everything that determines the groups; None if that is unknown."""
    backend = getattr(chat.tokenizer, "backend_tokenizer", None)
    if backend is None or any(_unpinned(config)):
        return None
    try:
        found = _files(config.data)
        if found is None:
            return None
        contents = [content_id(_common(files), files, config.paths.cache) for files in found]
    except OSError:
        return None  # loading reports it more clearly
    settings: Any = OmegaConf.to_container(config.data)
    identity = {
        "code": code_id(*_code(config.data)),
        "versions": [version(name) for name in ("transformers", "tokenizers", "datasets")],
        "data": {name: value for name, value in settings.items() if name not in _IRRELEVANT},
        "contents": contents,
        "tokenizer": [type(chat.tokenizer).__name__, backend.to_str(), chat.bos, chat.adds_bos, sorted(chat.special)],
        "template": [chat.tokenizer.chat_template, chat.keep_tail],
        "template_args": {name: value for name, value in chat.template_args.items() if not callable(value)},
        "kind": kind,
        "lengths": [config.max_length, config.max_prompt_length],
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True, default=repr).encode()).hexdigest()[:32]


def _files(data: DictConfig) -> list[Sequence[Path]] | None:
    """Return the files that are read for each path; None if the source does not name them."""
    source = source_of(data)
    found = [source.files(path) for path in paths_of(data)]
    known = [[*files] for files in found if files is not None]
    return [files for files in known if files] if len(known) == len(found) else None


def _common(files: Sequence[Path]) -> Path:
    return Path(os.path.commonpath([file.parent for file in files]))


def _code(settings: DictConfig) -> set[Path]:
    """Return the code files that read and tokenise rows, including the classes of a user's own source."""
    ours = {file for room in (data, counsel) for file in Path(room.__path__[0]).rglob("*.py")}
    classes: list[type] = [each for each in type(source_of(settings)).__mro__ if issubclass(each, Source)]
    return ours | {Path(inspect.getfile(each)) for each in classes}


def _unpinned(config: DictConfig) -> Iterator[tuple[HubSource, str]]:
    for source, key in data_repositories(config):
        if not COMMIT.fullmatch(source.revision or ""):
            yield source, key


def _pinned(config: DictConfig) -> DictConfig:
    """Return the configuration with the present commits of its hub datasets, as far as they can be determined."""
    found = {key: _commit(source) for source, key in _unpinned(config)}
    config = deepcopy(config) if found else config
    for key, commit in found.items():
        if commit:
            OmegaConf.update(config, key, commit)
    return config


def _commit(source: HubSource) -> str | None:
    from huggingface_hub import is_offline_mode

    try:
        if not is_offline_mode():
            return hub.look_up(source).commit
        commit = Path(hub.dataset_location(source.id, source.revision)).name  # .../snapshots/COMMIT
    except (UserError, OSError):
        return None  # loading reports it more clearly
    return commit if COMMIT.fullmatch(commit) else None


# -- for `psychocounsel.cache`


def folders(cache: Path) -> list[Path]:
    return [_home(cache)]


def entries(cache: Path) -> Iterator[Entry]:
    for file in sorted(_home(cache).glob("*")):
        if ENTRY.fullmatch(file.name) and (about := about_of(file)) is not None:
            yield Entry("tokenised", about["of"], about["rows"], file.stat().st_mtime, [file], [_lock_of(file)])
