"""What the data of a run ask of the processes that read them: permissions of what they make, and silence about texts."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from psychocounsel.data.sources import StandardSource, source_of
from psychocounsel.errors import hide_words
from psychocounsel.rundir.paths import AnnotationDir, ModelDir
from psychocounsel.settings.confidential import check_confidential
from psychocounsel.settings.targets import build
from psychocounsel.storage.modes import make_shared, mask_of, own_umask, restrict

# Folders in the cache where libraries keep things for all users; what they put there by a private run is private.
_SHARED = ("HF_HUB_CACHE", "HF_DATASETS_CACHE", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")


def paths_of(data: DictConfig) -> list[str | None]:
    """The path of each part of the data."""
    own = [entry.path for entry in data.mix] if data.mix else [data.path]
    return [*own, data.eval_path] if data.eval_path else own


def private_mask(config: DictConfig, place: Path) -> int:
    """The umask for what is made in `place` of a run's data, and of weights that were trained on other data before."""
    made = [AnnotationDir(Path(config.out)).speeches] if "speeches" in config else []  # what it is made of may be gone
    return mask_of([*_sources(config), *made], place)


def protect(config: DictConfig, place: Path) -> None:
    """Let this process, which works in the run directory `place`, make nothing that is less private than its sources.

    With `data.confidential` it shows no words of libraries and servers either, which might quote a text.

    Raises:
        UserError: if texts would go to a host that is not allowed, by the environment that this process has.
    """
    if "study" in config:  # a study's own jobs read figures alone
        return
    check_confidential(config)
    hide_words(is_confidential(config))
    mask = private_mask(config, place)
    restrict(mask)
    shared = [os.environ.get(name) for name in _SHARED] if mask & ~own_umask() else []
    for folder in shared:
        if folder and Path(folder).is_relative_to(config.paths.cache):
            with contextlib.suppress(OSError):  # a cache that cannot be written to
                make_shared(Path(folder))


def is_confidential(config: DictConfig) -> bool:
    """Whether the texts that a command reads are confidential."""
    return bool((config.speeches if "speeches" in config else config.data).confidential)


def _sources(config: DictConfig) -> Iterator[Path]:
    """The files of the data, as far as they are known, and one of a model that psychocounsel has trained."""
    if "speeches" in config:
        with contextlib.suppress(OSError):  # files that are gone were read before
            yield from build(config, "speeches").files()
        return
    if transcripts := OmegaConf.select(config, "evaluation.transcripts"):
        yield from (Path(transcripts), *Path(transcripts).rglob("*"))
    source = source_of(config.data)
    for path in paths_of(config.data):
        with contextlib.suppress(OSError):  # loading says it better
            files = source.files(path)
            yield from StandardSource().files(path) if files is None and path else files or ()
    if "model" in config:
        yield ModelDir(Path(config.model.path)).about
