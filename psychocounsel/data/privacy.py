"""Privacy of processes that read data: permissions of the files that they write, and messages that do not quote texts."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig

from psychocounsel.data.sources import StandardSource, source_of
from psychocounsel.errors import hide_words
from psychocounsel.remote.confidential import check_confidential
from psychocounsel.rundir.paths import EvaluationDir, ModelDir
from psychocounsel.settings.command import Command
from psychocounsel.storage.modes import make_shared, mask_of, own_umask, restrict

# Cache folders that libraries share between users; a private run's files in them get private permissions.
_SHARED = ("HF_HUB_CACHE", "HF_DATASETS_CACHE", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")


def paths_of(data: DictConfig) -> list[str | None]:
    """Return the path of each part of the data."""
    own = [entry.path for entry in data.mix] if data.mix else [data.path]
    return [*own, data.eval_path] if data.eval_path else own


def protect(command: Command, config: DictConfig, place: Path) -> None:
    """Restrict this process, so that no file it makes is more readable than its sources; `place` is the run directory.

    With `data.confidential` it also hides messages of libraries and servers, because they might quote a text.

    Raises:
        UserError: if texts would be sent to a host that is not allowed, according to this process's environment.
    """
    if not command.texts:  # a study's own jobs read only figures
        return
    check_confidential(command, config)
    hide_words(is_confidential(command, config))
    mask = mask_of(command.sources(config), place)
    restrict(mask)
    shared = [os.environ.get(name) for name in _SHARED] if mask & ~own_umask() else []
    for folder in shared:
        if folder and Path(folder).is_relative_to(config.paths.cache):
            with contextlib.suppress(OSError):  # the cache may be read-only
                make_shared(Path(folder))


def is_confidential(command: Command, config: DictConfig) -> bool:
    """Return True if the texts that a command reads are confidential."""
    return bool(config[command.texts].confidential)


def own_reply_files(data: DictConfig) -> list[Path]:
    """Return the files of `data.own_replies`: the file itself, or the tables of an evaluation; [] if it is not set."""
    if not data.get("own_replies"):
        return []
    place = Path(data.own_replies)
    return [EvaluationDir(place).speeches, EvaluationDir(place).replies] if place.is_dir() else [place]


def data_files(config: DictConfig) -> Iterator[Path]:
    """Yield the files of `data`, as far as they are known, and a file of the trained model if psychocounsel made the model."""
    source = source_of(config.data)
    for path in paths_of(config.data):
        with contextlib.suppress(OSError):  # loading reports it more clearly
            files = source.files(path)
            yield from StandardSource().files(path) if files is None and path else files or ()
    yield from own_reply_files(config.data)
    if config.get("model") is not None:
        yield ModelDir(Path(config.model.path)).about
