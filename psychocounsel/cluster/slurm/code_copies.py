"""Copy of the code made at submission, so that later edits do not change waiting jobs; copies are shared by sweeps."""

import contextlib
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from psychocounsel.errors import UserError
from psychocounsel.rundir import submissions
from psychocounsel.rundir.identity import slug
from psychocounsel.rundir.paths import StudyDir, SubmissionHome, SweepDir
from psychocounsel.rundir.run_config import is_run
from psychocounsel.rundir.trust import refuse_untrusted_code
from psychocounsel.settings.own_code import PYTHON, agree_to_copies, files_below, modules_of, walk
from psychocounsel.storage.files import (
    PACKAGE,
    SHIPPED_MODELS,
    fsync_directory,
    read_mapping,
    readable_size,
    temporary_name,
    write_atomically,
)
from psychocounsel.storage.locks import held

# Data next to the code are not copied. From a git checkout, tracked files are copied; otherwise Python and configuration files.

_CODE = (*PYTHON, ".yaml", ".yml", ".jinja", ".j2", ".toml", ".js", ".css")
_SHIPPED = (SHIPPED_MODELS.relative_to(PACKAGE), Path("data", "everyday"))
_Place = tuple[Path, set[Path]]  # a folder, and files relative to it


def take(store: Path, code_path: Sequence[str], targets: Iterable[str], limit_mb: int) -> list[Path]:
    """Copy the package, and the user's own code in folders of `code_path`, into `store`.

    The user's code is the modules imported during composition, the modules of `targets` (dotted names), and their imports;
    tracked files of the same git checkout are included. Equal content is copied once. Returns folders for PYTHONPATH, the
    package's first.

    Raises:
        UserError: if a copy would exceed `limit_mb` megabytes, naming its largest files; or if another user could
            have written an existing copy.
    """
    package = PACKAGE.resolve()
    root, files = _package_checkout(package) or (package.parent, _relative(_alone(package), package.parent))
    roots = {root: files | _relative(files_below(package, PYTHON), root)}
    importable = [(root, package.parent.relative_to(root))]  # folders for PYTHONPATH, with their root
    names = {target.partition(".")[0] for target in targets} - {PACKAGE.name}
    for folder in (Path(path).resolve() for path in code_path):
        if not (modules := own_modules(folder, names)):
            continue
        root = next((root for root in roots if folder.is_relative_to(root)), folder)
        if root not in roots:
            root, files = _checkout(folder) or (folder, _relative(own_modules(folder, names, _CODE), folder))
            roots[root] = files
        roots[root] |= _relative(modules, root)
        if (root, folder.relative_to(root)) not in importable:
            importable.append((root, folder.relative_to(root)))
    copies = {root: _copy(store, root, files, limit_mb) for root, files in roots.items()}
    return [copies[root] / inside for root, inside in importable]


def own_modules(folder: Path, names: Iterable[str], suffixes: Sequence[str] = PYTHON) -> list[Path]:
    """Return the files in `folder` of the modules `names`, of those already imported, and of all that these import."""
    return modules_of(folder, {*names, *_imported_from(folder)}, suffixes)


def _imported_from(folder: Path) -> set[str]:
    """Return the top-level names of modules that this process has imported from `folder`, without installed ones."""
    elsewhere = [PACKAGE.resolve(), *(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib"))]
    files = [Path(file).resolve() for module in [*sys.modules.values()] if (file := getattr(module, "__file__", None))]
    own = [file for file in files if file.is_relative_to(folder) and "site-packages" not in file.parts]
    own = [file for file in own if not any(file.is_relative_to(place) for place in elsewhere)]
    return {Path(file.relative_to(folder).parts[0]).stem for file in own}


def _package_checkout(package: Path) -> _Place | None:
    """Return the checkout that contains the package's source; None for a virtual environment inside another checkout."""
    checkout = _checkout(package.parent)
    return checkout if checkout and (package / "errors.py").relative_to(checkout[0]) in checkout[1] else None


def _alone(package: Path) -> list[Path]:
    """Return the files of an installed package, with the models and data that ship with it."""
    shipped = [file for folder in _SHIPPED for file in walk(package / folder) if file.suffix != ".md"]
    return [*files_below(package, _CODE), *shipped]


def _checkout(folder: Path) -> _Place | None:
    """Return the root and the tracked files of the git checkout that contains `folder`; None without a checkout."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=60)
        return done.stdout if done.returncode == 0 else ""

    try:
        top = git("rev-parse", "--show-toplevel").strip()
        if not top:
            return None
        root = Path(top).resolve()
        names = git("-C", top, "ls-files", "-z", "--cached").split("\0")
    except (OSError, subprocess.TimeoutExpired):
        return None
    listed = {root / name for name in names if name}
    return root, {path.relative_to(root) for path in listed if path.is_file() and _leads_to(path) in listed}


def _leads_to(path: Path) -> Path:
    """Return the target of a link; a tracked link may lead to untracked data."""
    return path.resolve() if path.is_symlink() else path


def _relative(files: Iterable[Path], root: Path) -> set[Path]:
    return {file.relative_to(root) for file in files}


def _copy(code: Path, root: Path, files: Iterable[Path], limit_mb: int) -> Path:
    """Copy `files` of `root` to a folder named by a hash of their content."""
    files = sorted(files)
    sizes = {file: (root / file).stat().st_size for file in files}
    if sum(sizes.values()) > limit_mb * 10**6:
        largest = sorted(sizes, key=lambda file: -sizes[file])[:3]
        raise UserError(
            f"the code in {root} has {readable_size(sum(sizes.values()))}, more than cluster.snapshot_limit_mb={limit_mb}: "
            f"remove files that are not code from git ({', '.join(map(str, largest))}), or raise the limit"
        )
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file}\0{sizes[file]}\0".encode() + (root / file).read_bytes())
    target = code / f"{slug(root.name)}-{digest.hexdigest()[:12]}"
    code.mkdir(parents=True, exist_ok=True)
    if not target.is_dir():
        _make(target, root, files)
    refuse_untrusted_code(target)  # also a new copy: another user may have made the folder around it
    return target


def _make(target: Path, root: Path, files: Iterable[Path]) -> None:
    """Copy `files` of `root` to the new folder `target`, complete or not at all."""
    code = target.parent
    draft = temporary_name(target)
    try:
        for file in files:
            (draft / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / file, draft / file)
        _take_write_from_others(draft)
        _make_durable(draft)
        with contextlib.suppress(OSError):  # another submission has just made it
            draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    fsync_directory(code)


def _make_durable(folder: Path) -> None:
    """Flush `folder` and its content to disk, because a job finds the copy by name and trusts its content."""
    with ThreadPoolExecutor(16) as threads:  # in sequence, each would wait for its own journal write
        # A file is opened and flushed like a folder.
        deque(threads.map(fsync_directory, (folder, *folder.rglob("*"))), maxlen=0)


def _take_write_from_others(folder: Path) -> None:
    """Remove other users' write permission from `folder` and its content, because copies keep the originals' permissions."""
    for path in (folder, *folder.rglob("*")):
        mode = path.lstat().st_mode
        if mode & 0o022 and not path.is_symlink():
            path.chmod(stat.S_IMODE(mode) & ~0o022)


# The store of copies is `.code-UID/` next to the runs. Each copy is named by a content hash.
#
# A folder of notes next to a copy names the folders that submit with it. A copy without a submission from these folders is
# removed when code is copied again, when a submission fails, and by `jobs forget`.

_STORE = f".code-{os.geteuid()}"
_NOTES = ".used-by"  # suffix of a copy's folder of notes
_LOCK = "changing.json"  # held by the process that changes the store


def store_of(home: Path, output: Path) -> Path:
    """Return the folder of copies for submissions from `home`.

    It is in `output` (`paths.output`) if `home` is, and otherwise next to the outermost study, sweep or run that contains `home`.
    Each user has their own. If no folder can be made there, it is `home/code`.
    """
    place = output if home != output and home.is_relative_to(output) else _outside(home)
    existing = next(path for path in (place, *place.parents) if path.exists())
    return place / _STORE if os.access(existing, os.W_OK) else SubmissionHome(home).code


def _outside(home: Path) -> Path:
    """Return the folder around the outermost study, sweep or run that contains `home`."""
    holders = [
        path for path in home.parents if is_run(path) or StudyDir(path).study.exists() or SweepDir(path).table.exists()
    ]
    return (holders[-1] if holders else home).parent


def use_copy(store: Path, home: Path, code_path: Sequence[str], targets: Iterable[str], limit_mb: int) -> list[Path]:
    """Copy the code for submissions from `home`, unless `store` contains it. Return folders for PYTHONPATH, the package's first.

    Raises:
        UserError: like `take`.
    """
    store.mkdir(parents=True, exist_ok=True)
    with held(store / _LOCK):
        paths = take(store, code_path, targets, limit_mb)
        for copy in {store / path.relative_to(store).parts[0] for path in paths}:
            name = hashlib.sha256(str(home).encode()).hexdigest()[:16]
            notes = copy.with_name(f"{copy.name}{_NOTES}")
            notes.mkdir(exist_ok=True)
            write_atomically(notes / name, os.path.relpath(home, store))
        _remove_unused(store, {store / path.relative_to(store).parts[0] for path in paths})
    agree_to_copies(paths)
    return paths


def copies_used(home: Path) -> set[Path]:
    """Return the existing copies in a store that submissions from `home` name."""
    named = {(home / path).resolve() for record in submissions.read(home) for path in record.code}
    copies = {folder for path in named for folder in (path, *path.parents) if folder.parent.name == _STORE}
    return {copy for copy in copies if copy.is_dir()}


def remove_unused(store: Path) -> None:
    """Remove copies without submissions, and the store if it is then empty."""
    if not store.is_dir() or not os.access(store, os.W_OK):
        return
    with held(store / _LOCK):
        _remove_unused(store)
    with contextlib.suppress(OSError):
        store.rmdir()  # succeeds only if the folder is empty


def _remove_unused(store: Path, kept: Iterable[Path] = ()) -> None:
    for notes in store.glob(f"*{_NOTES}"):
        copy = notes.with_name(notes.name.removesuffix(_NOTES))
        homes = [(store / note.read_text()).resolve() for note in notes.iterdir() if not note.name.startswith(".")]
        if copy not in kept and not any(_uses(home, copy) for home in homes):
            shutil.rmtree(copy, ignore_errors=True)
            shutil.rmtree(notes, ignore_errors=True)


def _uses(home: Path, copy: Path) -> bool:
    """Return True if a submission from `home`, or from a stage of the study at `home`, uses the copy or is being made."""
    if submissions.is_being_submitted(home):
        return True
    holders = [home, *(path for path in home.glob("*") if path.is_dir())]
    records = [submission.record for holder in holders for submission in SubmissionHome(holder).submission_dirs()]
    return any(copy.name in Path(path).parts for record in records for path in read_mapping(record).get("code", ()))
