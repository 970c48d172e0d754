"""Access to the Hugging Face hub: contents of repositories, and downloads into the cache.

huggingface_hub reads the environment on import, so it is imported inside functions, after `set_cache_directories`.
"""

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.remote.hub_sources import COMMIT, HubSource, folder_name
from psychocounsel.remote.received import shown
from psychocounsel.storage.files import absolute, expanded, write_atomically

_NEVER_LOADED = ("*.gguf", "*.onnx", "*.onnx_data", "*.h5", "*.msgpack")
# The same weights in other formats.
_BESIDE_SAFETENSORS = ("original/*", "*.bin", "*.pth", "*.pt", "consolidated*.safetensors")
_SECONDS = 30  # time-out of the hub's answers
_QUICK_SECONDS = 8  # time-out of the first test whether the hub answers
_PREPARE = "run `psychocounsel prepare` with the same overrides where there is a network"


@dataclass(frozen=True)
class Repository:
    """Repository of a source on the hub.

    `commit`: its present commit. `size`: bytes of the files that a run needs. `missing`: bytes of those not yet in the
    cache. `ignored`: patterns of the files that a run does not need.
    """

    source: HubSource
    commit: str
    size: int
    missing: int
    ignored: Sequence[str]


def set_cache_directories(cache: str) -> None:
    """Set the variables that keep downloads and compiled kernels under `paths.cache`, unless the user has set them.

    Call it before transformers or datasets is imported.
    """
    os.environ.update(cache_directories(cache))


def cache_directories(cache: str) -> dict[str, str]:
    """Return the variables that `set_cache_directories` sets."""
    root = Path(absolute(cache))  # a configuration that is not checked yet still has "~"
    folders = {"TRITON_CACHE_DIR": "triton", "TORCHINDUCTOR_CACHE_DIR": "inductor"}
    folders |= {"VLLM_CACHE_ROOT": "vllm", "FLASHINFER_WORKSPACE_BASE": "flashinfer"}
    # torch creates its folder on import, which fails in a read-only cache of a site
    folders = {name: folder for name, folder in folders.items() if _is_writable(root / folder)}
    if "HF_HOME" not in os.environ:  # HF_HOME is not changed, because it holds the login token
        folders |= {"HF_HUB_CACHE": "hub", "HF_DATASETS_CACHE": "datasets"}
    return {name: f"{root}/{folder}" for name, folder in folders.items() if name not in os.environ}


def _is_writable(path: Path) -> bool:
    """Return True if `path` can be written to, or created."""
    return os.access(next(place for place in (path, *path.parents) if place.exists()), os.W_OK)


def cached(source: HubSource, cache: str | None = None) -> Path | None:
    """Return the source's folder in the cache, or None if it is not cached.

    `cache`: `paths.cache`; None if `set_cache_directories` was called before.
    """
    if cache is not None:
        set_cache_directories(cache)
    folder, revision = cache_folder() / folder_name(source), source.revision or "main"
    reference = folder / "refs" / revision
    commit = reference.read_text().strip() if reference.is_file() else revision
    snapshot = folder / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None


# -- queries and downloads


def look_up(source: HubSource) -> Repository:
    """Return a repository's commit and files as listed by the hub; download nothing.

    Raises:
        UserError: if the repository is not available; the message says what to do.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import filter_repo_objects

    api = HfApi()
    with _explained(source):
        info: Any = api.repo_info(
            source.id, repo_type=source.kind, revision=source.revision, files_metadata=True, timeout=_SECONDS
        )
        if info.gated:  # the list of files is public, but downloads need permission
            api.auth_check(source.id, repo_type=source.kind)
    listed = info.siblings or []
    ignored = _ignored([file.rfilename for file in listed], source.weights) if source.kind == "model" else ()
    files = filter_repo_objects(listed, ignore_patterns=[*ignored], key=lambda file: file.rfilename)
    sizes = [(file.size or 0, _is_cached(source, info.sha, file)) for file in files]
    missing = sum(size for size, cached in sizes if not cached)
    return Repository(source, info.sha, sum(size for size, _ in sizes), missing, ignored)


def _ignored(names: Sequence[str], weights: bool) -> tuple[str, ...]:
    if not weights:
        return (*_NEVER_LOADED, *_BESIDE_SAFETENSORS, "*.safetensors")
    own = [name for name in names if "/" not in name and not fnmatch(name, "consolidated*")]
    return _NEVER_LOADED + (_BESIDE_SAFETENSORS if any(name.endswith(".safetensors") for name in own) else ())


def _is_cached(source: HubSource, commit: str, file: Any) -> bool:
    """Return True if the cache holds the file, from this commit or with the same content from another."""
    folder = cache_folder() / folder_name(source)
    content = file.lfs.sha256 if file.lfs else file.blob_id
    return (folder / "snapshots" / commit / file.rfilename).exists() or (folder / "blobs" / str(content)).exists()


def cache_folder() -> Path:
    """Return the folder of huggingface_hub's downloads."""
    from huggingface_hub import constants

    return expanded(constants.HF_HUB_CACHE).resolve()


def free_space() -> int:
    """Return the free bytes on the disk of `cache_folder`."""
    return shutil.disk_usage(next(path for path in (cache_folder(), *cache_folder().parents) if path.exists())).free


def fetch(repository: Repository) -> None:
    """Download the missing files; completed files stay if it breaks off.

    Raises:
        UserError: if the download breaks off.
    """
    from huggingface_hub import snapshot_download

    source, commit = repository.source, repository.commit
    with _explained(source):
        snapshot_download(source.id, repo_type=source.kind, revision=commit, ignore_patterns=[*repository.ignored])
    name = source.revision or "main"
    if name != commit:  # so that an offline run finds the revision by its name, too
        reference = cache_folder() / folder_name(source) / "refs" / name
        reference.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(reference, commit)


@cache
def require_known(name: str, revision: str | None, key: str) -> None:
    """Check that a hub model exists, before libraries spend a minute trying.

    If the hub is out of reach but the cache holds the model, this process goes offline.

    Raises:
        UserError: if neither the cache nor the hub has the model; `name` may also be a mistyped folder.
    """
    from huggingface_hub import HfApi, constants, errors, is_offline_mode

    snapshots = cache_folder() / folder_name(HubSource("model", name, revision, key)) / "snapshots"
    is_cached = snapshots.is_dir() and any(snapshots.iterdir())
    if is_cached and (is_offline_mode() or (revision and (snapshots / revision).is_dir())):
        return
    absent = f"{key}={name}: this folder does not exist"
    if is_offline_mode() or not answers(constants.ENDPOINT):
        if is_cached:
            return go_offline()
        why = "HF_HUB_OFFLINE is set" if is_offline_mode() else f"{constants.ENDPOINT} cannot be reached from here"
        raise UserError(f"{absent}; if it is a hub id, the cache does not hold it, and {why}: {_PREPARE}")
    try:
        HfApi().model_info(name, revision=revision, timeout=_QUICK_SECONDS)
    except errors.HfHubHTTPError as error:
        if is_cached:
            return  # a private model without permission here: loading uses the cached files
        if isinstance(error, errors.RepositoryNotFoundError) or error.response.status_code == 401:
            unknown = f"{absent}, and the hub has no such model; if it is private, log in with `hf auth login`"
            raise UserError(unknown) from error
        # The hub answers, so loading the model reports the error.
    except errors.HFValidationError as error:
        raise UserError(f"{absent}, and the hub allows no such model name") from error
    except (errors.HTTPError, OSError, RuntimeError) as error:
        if not is_cached:
            raise UserError(f"{key}={name}: {constants.ENDPOINT} no longer answers: {_PREPARE}") from error
        go_offline()


@cache
def answers(endpoint: str) -> bool:
    """Return True if a server answers at `endpoint`; asked once a process, because libraries try for half a minute each time."""
    from huggingface_hub import errors, get_session

    try:
        get_session().head(endpoint, timeout=_QUICK_SECONDS)
    except (errors.HTTPError, OSError, RuntimeError):
        return False
    return True


def go_offline() -> None:
    """Let huggingface_hub and datasets use only the cache in this process."""
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = True
    if "datasets" in sys.modules:  # it has copied the constant on import
        sys.modules["datasets"].config.HF_HUB_OFFLINE = True


def dataset_location(name: str, revision: str | None) -> str:
    """Return the argument for `datasets`: the dataset's folder in the cache if it holds this commit, otherwise `name`.

    By name and offline, `datasets` would load whichever commit it loaded last.

    Raises:
        UserError: if a requested revision is not in the cache and there is no network.
    """
    from huggingface_hub import constants, get_cached_repo_tree, is_offline_mode, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError

    if not is_offline_mode() and not answers(constants.ENDPOINT):
        if cached(HubSource("dataset", name, revision, "")) is None:
            raise UserError(f"{name}: is not in the cache, and {constants.ENDPOINT} cannot be reached: {_PREPARE}")
        go_offline()
    if is_offline_mode() or (revision and COMMIT.fullmatch(revision)):
        try:
            # Raises if the cache lacks the list of files; without the list the cached copy may be incomplete.
            get_cached_repo_tree(name, repo_type="dataset", revision=revision)
            return snapshot_download(name, repo_type="dataset", revision=revision, local_files_only=True)
        except (CachedRepoTreeNotFoundError, LocalEntryNotFoundError) as error:
            if is_offline_mode() and revision:
                missing = f"{name}: revision {revision} is not in the cache, and HF_HUB_OFFLINE is set"
                raise UserError(f"{missing}: {_PREPARE}") from error
    return name


@contextmanager
def _explained(source: HubSource) -> Iterator[None]:
    """Turn the many errors of an unreachable hub into one line."""
    from huggingface_hub import errors

    try:
        yield
    except (errors.HTTPError, errors.XetDownloadError, OSError, RuntimeError) as error:
        cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ else error
        if isinstance(cause, OSError) and cause.errno is not None:
            raise  # an error of the disk
        raise UserError(f"{source.key}={source.id}: {_explanation(source, cause)}") from error


def _explanation(source: HubSource, error: BaseException) -> str:
    from huggingface_hub import constants, errors

    if isinstance(error, errors.GatedRepoError):
        page = f"https://huggingface.co/{'datasets/' if source.kind == 'dataset' else ''}{source.id}"
        return f"is gated: accept its licence at {page}, then log in here with `hf auth login`"
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    if isinstance(error, errors.RepositoryNotFoundError) or status == 401:
        return f"the hub has no such {source.kind}; if it is private, log in here with `hf auth login`"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"has no revision {source.revision}"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, but prepare needs the hub: unset it, and run prepare where there is a network"
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    reason = shown(reason) or type(error).__name__
    kept = "finished downloads are kept, and the same command continues"
    if status is not None:
        return f"the hub refused ({reason}); {kept}"
    return f"no connection to {constants.ENDPOINT} ({reason}): prepare must run where there is a network; {kept}"
