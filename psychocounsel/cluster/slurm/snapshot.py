"""The code that jobs run: a copy made at submission, so that what is edited afterwards changes no job that waits."""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from psychocounsel.errors import UserError
from psychocounsel.rundir.identity import slug
from psychocounsel.rundir.paths import SubmissionHome
from psychocounsel.storage.files import PACKAGE, fsync_directory, readable_size

_SKIPPED = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")


def take(home: Path, code_path: Sequence[str], targets: Iterable[str], limit_mb: int) -> list[Path]:
    """Copy the package, and the user's own code that lies in folders of `code_path`, below `home/code`.

    The user's code is what composing has imported from there, and the modules of `targets` (dotted names). Of a git
    checkout tracked files and untracked ones that are not ignored are copied, otherwise the package, or the user's modules.
    The same content is copied once. Returns what belongs on PYTHONPATH, the package's folder first.

    Raises:
        UserError: if a copy would be larger than `limit_mb` megabytes, naming its largest files.
    """
    places = [_place(PACKAGE, [PACKAGE])]
    for folder in map(Path, code_path):
        modules = _own_modules(folder, {target.partition(".")[0] for target in targets})
        if modules and not any(_is_below(folder, root) for root, _, _ in places):
            places.append(_place(folder, modules))
    return [_copy(SubmissionHome(home).code, root, files, limit_mb) / inside for root, files, inside in places]


def _place(folder: Path, alone: Sequence[Path]) -> tuple[Path, list[Path], Path]:
    """Root, relative files, and the folder for PYTHONPATH relative to the root."""
    importable = folder.parent if folder == PACKAGE else folder
    listed = _git_files(importable)
    if listed is not None and (folder != PACKAGE or Path("psychocounsel/errors.py") in _below(listed, importable)):
        root, files = listed
        return root, files, importable.resolve().relative_to(root)
    files = [file for path in alone for file in _walk(path)]
    return importable, [file.relative_to(importable) for file in files], Path()


def _below(listed: tuple[Path, list[Path]], folder: Path) -> set[Path]:
    root, files = listed
    inside = folder.resolve().relative_to(root)
    return {file.relative_to(inside) for file in files if file.is_relative_to(inside)}


def _git_files(folder: Path) -> tuple[Path, list[Path]] | None:
    """Root of the checkout and its files, or None where there is no git or no checkout."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=60)
        return done.stdout if done.returncode == 0 else ""

    try:
        top = git("rev-parse", "--show-toplevel").strip()
        if not top:
            return None
        root = Path(top).resolve()
        names = git("-C", top, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    except (OSError, subprocess.TimeoutExpired):
        return None
    return root, [Path(name) for name in names if name and (root / name).is_file()]


def _own_modules(folder: Path, names: set[str]) -> list[Path]:
    """The files and packages in `folder` that are imported, or named: a user's own algorithms, trackers, callbacks."""
    folder = folder.resolve()
    named = {folder / form for name in names - {"psychocounsel"} for form in (f"{name}.py", name)}
    found = {path for path in named if path.exists()}
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if (
            file
            and _is_below(Path(file), folder)
            and "site-packages" not in file
            and not _is_below(Path(file), PACKAGE)
        ):
            found.add(folder / Path(file).resolve().relative_to(folder).parts[0])
    return sorted(found)


def _is_below(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _walk(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    else:
        for folder, folders, files in os.walk(path):
            folders[:] = sorted(set(folders) - _SKIPPED(folder, folders))
            yield from (Path(folder) / name for name in sorted(set(files) - _SKIPPED(folder, files)))


def _copy(code: Path, root: Path, files: Iterable[Path], limit_mb: int) -> Path:
    """Copy `files` of `root` to a folder named by their content."""
    files = sorted(files)
    sizes = {file: (root / file).stat().st_size for file in files}
    if sum(sizes.values()) > limit_mb * 10**6:
        largest = sorted(sizes, key=lambda file: -sizes[file])[:3]
        raise UserError(
            f"the code in {root} has {readable_size(sum(sizes.values()))}, more than cluster.snapshot_limit_mb={limit_mb}: "
            f"let git ignore what is no code ({', '.join(map(str, largest))}), or raise the limit"
        )
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file}\0{sizes[file]}\0".encode() + (root / file).read_bytes())
    target = code / f"{slug(root.name)}-{digest.hexdigest()[:12]}"
    if target.is_dir():
        return target
    draft = code / f".{target.name}.{uuid.uuid4().hex}.tmp"
    for file in files:
        (draft / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / file, draft / file)
    with contextlib.suppress(OSError):  # another submission has just made it
        draft.rename(target)
    shutil.rmtree(draft, ignore_errors=True)
    fsync_directory(code)
    return target
