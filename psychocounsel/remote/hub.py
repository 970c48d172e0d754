"""The Hugging Face hub: what a repository holds, and how it comes into the cache.

huggingface_hub reads the environment when it is imported, so it is imported inside functions, after
`set_cache_directories`.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from psychocounsel.errors import UserError
from psychocounsel.settings.hub_sources import COMMIT, HubSource, folder_name, named
from psychocounsel.storage.files import write_atomically

_NEVER_LOADED = ("*.gguf", "*.onnx", "*.onnx_data", "*.h5", "*.msgpack")
_BESIDE_SAFETENSORS = ("original/*", "*.bin", "*.pth", "*.pt", "consolidated*.safetensors")  # the same weights again
_SECONDS = 30  # for an answer of the hub
_QUICK_SECONDS = 8  # to learn whether it answers at all


@dataclass(frozen=True)
class Repository:
    """A source's commit, bytes of the files that a run needs, and of those not yet in the cache; patterns of others."""

    source: HubSource
    commit: str
    size: int
    missing: int
    ignored: Sequence[str]


def set_cache_directories(cache: str) -> None:
    """Keep downloads and compiled kernels under `paths.cache`, unless the user's environment says otherwise.

    To be called before transformers or datasets is imported.
    """
    os.environ.update(cache_directories(cache))


def cache_directories(cache: str) -> dict[str, str]:
    """The variables that `set_cache_directories` sets."""
    folders = {"TRITON_CACHE_DIR": "triton", "TORCHINDUCTOR_CACHE_DIR": "inductor"}
    folders |= {"VLLM_CACHE_ROOT": "vllm", "FLASHINFER_WORKSPACE_BASE": "flashinfer"}
    # torch makes its folder when it is imported, and cannot in a cache that a site keeps read-only
    folders = {name: folder for name, folder in folders.items() if _is_writable(Path(cache, folder))}
    if "HF_HOME" not in os.environ:  # the login token stays where it is
        folders |= {"HF_HUB_CACHE": "hub", "HF_DATASETS_CACHE": "datasets"}
    return {name: f"{cache}/{folder}" for name, folder in folders.items() if name not in os.environ}


def _is_writable(path: Path) -> bool:
    """Whether `path` can be written to, or made."""
    return os.access(next(place for place in (path, *path.parents) if place.exists()), os.W_OK)


def folders(config: DictConfig) -> Iterator[tuple[HubSource, Path | None]]:
    """Each source of a checked configuration with its folder in the cache, or None where the cache has nothing of it."""
    for source, _ in named(config):
        set_cache_directories(config.paths.cache)
        folder, revision = cache_folder() / folder_name(source), source.revision or "main"
        reference = folder / "refs" / revision
        commit = reference.read_text().strip() if reference.is_file() else revision
        found = folder / "snapshots" / commit
        yield source, found if found.is_dir() else None


# -- asking and fetching


def look_up(source: HubSource) -> Repository:
    """Ask the hub for a repository's commit and files, and fetch none.

    Raises:
        UserError: if it cannot be had, saying what to do.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import filter_repo_objects

    api = HfApi()
    with _explained(source):
        info: Any = api.repo_info(
            source.id, repo_type=source.kind, revision=source.revision, files_metadata=True, timeout=_SECONDS
        )
        if info.gated:  # its list of files is open to all
            api.auth_check(source.id, repo_type=source.kind)
    found = info.siblings or []
    ignored = _ignored([file.rfilename for file in found], source.weights) if source.kind == "model" else ()
    files = filter_repo_objects(found, ignore_patterns=[*ignored], key=lambda file: file.rfilename)
    sizes = [(file.size or 0, _is_cached(source, info.sha, file)) for file in files]
    missing = sum(size for size, cached in sizes if not cached)
    return Repository(source, info.sha, sum(size for size, _ in sizes), missing, ignored)


def _ignored(names: Sequence[str], weights: bool) -> tuple[str, ...]:
    if not weights:
        return (*_NEVER_LOADED, *_BESIDE_SAFETENSORS, "*.safetensors")
    own = [name for name in names if "/" not in name and not fnmatch(name, "consolidated*")]
    return _NEVER_LOADED + (_BESIDE_SAFETENSORS if any(name.endswith(".safetensors") for name in own) else ())


def _is_cached(source: HubSource, commit: str, file: Any) -> bool:
    """Whether the cache has a file: of this commit, or the same content of another."""
    folder = cache_folder() / folder_name(source)
    content = file.lfs.sha256 if file.lfs else file.blob_id
    return (folder / "snapshots" / commit / file.rfilename).exists() or (folder / "blobs" / str(content)).exists()


def cache_folder() -> Path:
    """Where huggingface_hub keeps what it fetches."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser().resolve()


def free_space() -> int:
    """Bytes that are free where `cache_folder` is, or will be."""
    return shutil.disk_usage(next(path for path in (cache_folder(), *cache_folder().parents) if path.exists())).free


def fetch(repository: Repository) -> None:
    """Download what is missing; files that are whole stay when it breaks.

    Raises:
        UserError: if the download breaks.
    """
    from huggingface_hub import snapshot_download

    source, commit = repository.source, repository.commit
    with _explained(source):
        snapshot_download(source.id, repo_type=source.kind, revision=commit, ignore_patterns=[*repository.ignored])
    name = source.revision or "main"
    if name != commit:  # a run that asks for the name finds it offline, too
        reference = cache_folder() / folder_name(source) / "refs" / name
        reference.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(reference, commit)


@cache
def require_known(name: str, revision: str | None, key: str) -> None:
    """Look for a model of the hub once, before libraries do, which try for a minute. Where the hub is out of reach and the
    cache holds the model, this process goes offline.

    Raises:
        UserError: if neither the cache nor the hub has it; it names the mistyped folder that `name` may be, too.
    """
    from huggingface_hub import HfApi, constants, errors, is_offline_mode

    snapshots = cache_folder() / folder_name(HubSource("model", name, revision, key)) / "snapshots"
    is_cached = snapshots.is_dir() and any(snapshots.iterdir())
    if is_cached and (is_offline_mode() or (revision and (snapshots / revision).is_dir())):
        return
    absent = f"{key}={name}: there is no such folder here"
    missing = f"{absent}; if it is a hub id, the cache has nothing of it, and"
    prepare = "run `python -m psychocounsel.prepare` with the same overrides where there is a network"
    if is_offline_mode():
        raise UserError(f"{missing} HF_HUB_OFFLINE is set: {prepare}")
    try:
        HfApi().model_info(name, revision=revision, timeout=_QUICK_SECONDS)
    except errors.HfHubHTTPError as error:
        if is_cached:
            return  # a private one that this process may not ask about: whoever loads it takes the cached files
        if isinstance(error, errors.RepositoryNotFoundError) or error.response.status_code == 401:
            unknown = f"{absent}, and no such model on the hub; if it is private, log in with `hf auth login`"
            raise UserError(unknown) from error
        # It answers: whoever loads the model says what is wrong.
    except errors.HFValidationError as error:
        raise UserError(f"{absent}, and it is no name that a model of the hub can have") from error
    except (errors.HTTPError, OSError, RuntimeError) as error:
        if not is_cached:
            raise UserError(f"{missing} {constants.ENDPOINT} cannot be reached from here: {prepare}") from error
        go_offline()


def go_offline() -> None:
    """Let this process find in the cache what it needs, or nowhere."""
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = True


def dataset_location(name: str, revision: str | None) -> str:
    """What `datasets` is to load of a hub dataset: its folder in the cache if that holds this commit, or `name`.

    By name and offline, `datasets` would take whatever commit it loaded last.

    Raises:
        UserError: if a revision is asked for, is not in the cache, and there is no network.
    """
    from huggingface_hub import get_cached_repo_tree, is_offline_mode, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError

    if is_offline_mode() or (revision and COMMIT.fullmatch(revision)):
        try:
            get_cached_repo_tree(name, repo_type="dataset", revision=revision)  # else nobody knows whether it is whole
            return snapshot_download(name, repo_type="dataset", revision=revision, local_files_only=True)
        except (CachedRepoTreeNotFoundError, LocalEntryNotFoundError) as error:
            if is_offline_mode() and revision:
                raise UserError(
                    f"{name}: revision {revision} is not in the cache, and HF_HUB_OFFLINE is set: "
                    "run `python -m psychocounsel.prepare` with the same overrides where there is a network"
                ) from error
    return name


@contextmanager
def _explained(source: HubSource) -> Iterator[None]:
    """One line for the many ways in which the hub is out of reach."""
    from huggingface_hub import errors

    try:
        yield
    except (errors.HTTPError, errors.XetDownloadError, OSError, RuntimeError) as error:
        cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ else error
        if isinstance(cause, OSError) and cause.errno is not None:
            raise  # of the disk
        raise UserError(f"{source.key}={source.id}: {_explanation(source, cause)}") from error


def _explanation(source: HubSource, error: BaseException) -> str:
    from huggingface_hub import constants, errors

    if isinstance(error, errors.GatedRepoError):
        page = f"https://huggingface.co/{'datasets/' if source.kind == 'dataset' else ''}{source.id}"
        return f"is gated: accept its licence at {page}, then log in here with `hf auth login`"
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    if isinstance(error, errors.RepositoryNotFoundError) or status == 401:
        return f"there is no such {source.kind} on the hub; if it is private, log in here with `hf auth login`"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"has no revision {source.revision}"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, and prepare asks the hub: unset it, and run prepare where there is a network"
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
    kept = "what has been fetched is kept, and the same command goes on"
    if status is not None:
        return f"the hub refused ({reason}); {kept}"
    return f"no connection to {constants.ENDPOINT} ({reason}): prepare must run where there is a network; {kept}"
