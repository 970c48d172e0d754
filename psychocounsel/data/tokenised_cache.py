"""Disk cache of tokenised data: one process tokenises, and all processes and jobs with the same data load the result."""

import contextlib
import hashlib
import inspect
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from psychocounsel import counsel, data
from psychocounsel.data.base import Source
from psychocounsel.data.group import Array, Completion, Group
from psychocounsel.data.privacy import data_files, own_reply_files, paths_of
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
        loaded = _load(entry, lock, report)
    except (OSError, Foreign) as error:
        reason = getattr(error, "strerror", None) or "it is not a file of this cache"
        report(f"{entry}: cannot be used ({reason}); tokenising without it")
        return make(config, report)
    if loaded is None:
        try:
            return _make_and_keep(config, chat, kind, report, make, entry)
        finally:
            lock.release()
    about, parts = loaded
    for line in about["lines"]:
        report(line)
    chat.end_tokens |= set(about["end_tokens"])
    return parts


def _load(entry: Path, lock: Lock, report: Report) -> tuple[dict[str, Any], Parts] | None:
    """Return the entry once it is complete; None, with the lock held, if this process must make it."""
    started, is_announced = time.monotonic(), False
    while True:
        with contextlib.suppress(FileNotFoundError, Damaged):
            return _read(entry)
        if lock.take():
            break
        if not is_announced and time.monotonic() - started > _PATIENCE_SECONDS and (owner := holder(lock.path)):
            report(f"waiting for process {owner['pid']} on {owner['host']}, which tokenises the same data")
            is_announced = True
        time.sleep(_POLL_SECONDS)
    try:
        stored = _read(entry)  # another process may have made it before we took the lock
    except FileNotFoundError:
        return None
    except Damaged:
        report(f"{entry}: is damaged; tokenising again")
        return None
    except BaseException:
        lock.release()
        raise
    lock.release()
    return stored


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
        files_of_sources = _files(config.data)
        if files_of_sources is None:
            return None
        contents = [content_id(_common(files), files, config.paths.cache) for files in files_of_sources]
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
        "system_prompt": chat.system_prompt,
        "template_args": chat.template_args,
        "kind": kind,
        "lengths": [config.max_length, config.max_prompt_length],
    }
    if config.data.controls:
        files = own_reply_files(config.data)
        own = content_id(_common(files), files, config.paths.cache) if files else None
        identity["controls"] = [config.seed, config.epochs, config.max_steps, config.global_batch_size, own]
    return hashlib.sha256(json.dumps(identity, sort_keys=True, default=repr).encode()).hexdigest()[:32]


def _files(data: DictConfig) -> list[Sequence[Path]] | None:
    """Return the files that are read for each path; None if the source does not name them."""
    source = source_of(data)
    listings = [source.files(path) for path in paths_of(data)]
    known = [[*files] for files in listings if files is not None]
    return [files for files in known if files] if len(known) == len(listings) else None


def _common(files: Sequence[Path]) -> Path:
    return Path(os.path.commonpath([file.parent for file in files]))


def _code(settings: DictConfig) -> set[Path]:
    """Return the code files that read and tokenise rows, including the classes of a user's own source."""
    ours = {file for room in (data, counsel) for file in Path(room.__path__[0]).rglob("*.py")}
    classes: list[type] = [kind for kind in type(source_of(settings)).__mro__ if issubclass(kind, Source)]
    return ours | {Path(inspect.getfile(kind)) for kind in classes}


def _unpinned(config: DictConfig) -> Iterator[tuple[HubSource, str]]:
    for source, key in data_repositories(config):
        if not COMMIT.fullmatch(source.revision or ""):
            yield source, key


def _pinned(config: DictConfig) -> DictConfig:
    """Return the configuration with the present commits of its hub datasets, as far as they can be determined."""
    commits = {key: _commit(source) for source, key in _unpinned(config)}
    config = deepcopy(config) if commits else config
    for key, commit in commits.items():
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


# -- groups as a few flat arrays, which load as fast as the disk reads


_LABELS = (None, False, True)


def flatten(groups: Sequence[Group]) -> dict[str, Array]:
    """Return the arrays of G groups with C completions and P distinct prompts; each prompt is stored once.

    They hold the fields that tokenising fills; weights and fields of rollouts (`logprobs`, ...) are left out.

    `tokens`: int32[all], tokens of all prompts, then of all replies. `token_ends`: int64[P + C], the end of each.
    `texts`: uint8[bytes], the groups' ids, the prompts, the replies, and the prompts' messages as JSON. `text_ends`:
    int64[G + P + C + P], the end of each.
    `prompt_of`, `counts`: int32[G], the prompt and the number of completions of each group.
    `rewards`: float64[C] (NaN: none). `labels`: int8[C]. `probabilities`: float64[G] (NaN: none).
    `ratings`: float32[C, 7], or float32[C, 0] if no reply has any.
    `trained`: bool[tokens of all replies], or bool[0] if all of them are trained.
    """
    numbers: dict[tuple[str, bytes], int] = {}
    prompt_of = [numbers.setdefault((group.prompt_text, group.prompt_ids.tobytes()), len(numbers)) for group in groups]
    prompts = {number: group.prompt_ids for number, group in zip(prompt_of, groups, strict=True)}
    replies = [completion for group in groups for completion in group.completions]
    tokens = [*prompts.values(), *(reply.ids for reply in replies)]
    texts = [*(group.id for group in groups), *(text for text, _ in numbers), *(reply.text for reply in replies)]
    messages = {number: group.messages for number, group in zip(prompt_of, groups, strict=True)}
    texts += [json.dumps(message) for message in messages.values()]
    encoded = [text.encode(errors="surrogatepass") for text in texts]
    return {
        "tokens": np.concatenate([*tokens, np.empty(0, np.int32)]),
        "token_ends": _ends(tokens),
        "texts": np.frombuffer(b"".join(encoded), np.uint8),
        "text_ends": _ends(encoded),
        "prompt_of": np.array(prompt_of, np.int32),
        "counts": np.array([len(group.completions) for group in groups], np.int32),
        "rewards": _or_nan([reply.reward for reply in replies]),
        "labels": np.array([_LABELS.index(reply.label) for reply in replies], np.int8),
        "probabilities": _or_nan([group.probability for group in groups]),
        "ratings": _rating_rows([reply.ratings for reply in replies]),
        "trained": _trained(replies),
    }


def unflatten(arrays: dict[str, Array]) -> list[Group]:
    """Return the groups of the arrays that `flatten` made; their token ids are views of `tokens`."""
    count, distinct = len(arrays["counts"]), len(arrays["token_ends"]) - len(arrays["labels"])
    tokens = _cut(arrays["tokens"], arrays["token_ends"])
    texts = [piece.decode(errors="surrogatepass") for piece in _cut(arrays["texts"].tobytes(), arrays["text_ends"])]
    rewards, probabilities = (_or_none(arrays[name]) for name in ("rewards", "probabilities"))
    labels = [_LABELS[label] for label in arrays["labels"].tolist()]
    written = texts[count + distinct : count + distinct + len(rewards)]
    ratings = [None if np.isnan(row).all() else row for row in arrays["ratings"]]
    ends = arrays["token_ends"][distinct:]
    masks = _cut(arrays["trained"], ends - arrays["token_ends"][distinct - 1]) if arrays["trained"].size else None
    replies = zip(tokens[distinct:], written, rewards, labels, ratings, masks or [None] * len(ends), strict=True)
    messages = [json.loads(text) for text in texts[count + distinct + len(rewards) :]]
    completions = (
        Completion(ids, text, reward=reward, label=label, ratings=rated, trained=trained)
        for ids, text, reward, label, rated, trained in replies
    )
    prompt_of, counts = arrays["prompt_of"].tolist(), arrays["counts"].tolist()
    return [
        Group(
            name,
            tokens[prompt],
            [next(completions) for _ in range(size)],
            texts[count + prompt],
            messages[prompt],
            probability=probability,
        )
        for name, prompt, size, probability in zip(texts, prompt_of, counts, probabilities, strict=False)
    ]


def _trained(replies: Sequence[Completion]) -> Array:
    if all(reply.trained is None for reply in replies):
        return np.empty(0, bool)
    masks = [np.ones(len(reply.ids), bool) if reply.trained is None else reply.trained for reply in replies]
    return np.concatenate(masks)


def _rating_rows(ratings: Sequence[Array | None]) -> Array:
    width = max((len(row) for row in ratings if row is not None), default=0)
    unrated = np.full(width, np.nan, np.float32)
    return np.array([unrated if row is None else row for row in ratings], np.float32).reshape(len(ratings), width)


def _or_nan(values: Sequence[float | None]) -> Array:
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _or_none(values: Array) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.tolist()]


def _ends(pieces: Iterable[Any]) -> Array:
    return np.cumsum([len(piece) for piece in pieces], dtype=np.int64)


def _cut(whole: Any, ends: Array) -> list[Any]:
    stops = ends.tolist()
    return [whole[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]


# -- for `psychocounsel cache`


def folders(cache: Path) -> list[Path]:
    return [_home(cache)]


def entries(cache: Path) -> Iterator[Entry]:
    for file in sorted(_home(cache).glob("*")):
        if ENTRY.fullmatch(file.name) and (about := about_of(file)) is not None:
            yield Entry("tokenised", about["of"], about["rows"], file.stat().st_mtime, [file], [_lock_of(file)])
