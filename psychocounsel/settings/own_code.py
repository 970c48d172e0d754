"""Code that a run's folder names and that is not the package's: it is imported only if this user agreed to its content.

A folder may have been received from somebody else. Its `_target_`s, its command and its `code_path` would then run their
code. What a user's own commands start counts as agreed, also once the user has edited it. Agreements are hashes in a file of
the user.
"""

import ast
import contextlib
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.rundir.paths import RunDir
from psychocounsel.rundir.run_config import module_of, read_plain
from psychocounsel.settings.targets import names_in
from psychocounsel.storage.files import PACKAGE
from psychocounsel.storage.trust import TRUST_VARIABLE, is_trusted

# Agreements

_TARGET = re.compile(r"""_target_["'\]]*\s*[:=]\s*["']?([\w.]+)""")
_SHOWN = 5  # files


class OwnCode:
    """The names that a run would import from outside of the package, and the files that hold them, without importing.

    `digest`: hash of the names and of the files' content; "" if the run needs the package alone. `place`: hash of the names
    and of the run's place.
    """

    def __init__(self, run_dir: Path) -> None:
        config = read_plain(run_dir) or {}
        named = {*names_in(config), *_stored_names(run_dir), module_of(run_dir)}
        self.names = sorted(name for name in named if name and name.partition(".")[0] != PACKAGE.name)
        listed: Any = config.get("code_path")
        folders = [folder for folder in listed if isinstance(folder, str)] if isinstance(listed, list) else []
        roots = {name.partition(".")[0] for name in self.names}
        self.files: dict[bytes, Path] = {}
        for folder in (Path(path).resolve() for path in [*folders, os.getcwd()] if roots):
            for file in modules_of(folder, roots):
                self.files[f"{file.relative_to(folder)}\0".encode() + _content(file)] = file
        parts = [*(name.encode() for name in self.names), *sorted(self.files)]
        self.digest = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
        self.digest *= bool(self.names)
        self.place = hashlib.sha256("\0".join([str(run_dir.resolve()), *self.names]).encode()).hexdigest()

    @property
    def is_agreed(self) -> bool:
        return not self.digest or not {self.digest, self.place}.isdisjoint(_agreed())


def agree(run_dir: Path) -> None:
    """Note that commands may import the code of a run as it is now; other code is asked about again."""
    if digest := OwnCode(run_dir).digest:
        _note({digest})


def agree_to_own(run_dir: Path) -> None:
    """Note that this user's own command starts the run, so that later commands may import its code, also edited."""
    code = OwnCode(run_dir)
    if code.digest:
        _note({code.digest, code.place})


def _note(hashes: set[str]) -> None:
    if new := sorted(hashes - _agreed()):
        with contextlib.suppress(OSError):  # a read-only home: the next command asks
            _file().parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(_file(), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "a") as file:
                file.writelines(f"{text}\n" for text in new)


def is_agreed(run_dir: Path) -> bool:
    """Return True if commands may import what the run names."""
    return is_trusted(run_dir) or OwnCode(run_dir).is_agreed


def require_agreement(run_dir: Path) -> None:
    """Ask at a terminal, once, whether the code of a run may run here.

    Raises:
        UserError: if the user does not agree, or there is no terminal to ask at.
    """
    if is_agreed(run_dir):
        return
    code = OwnCode(run_dir)
    files = [str(file) for file in code.files.values()]
    listed = ", ".join(files[:_SHOWN]) + (f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else "")
    about = f"{run_dir}: names code of its own ({', '.join(code.names)}; {listed or 'no file of it is here'})"
    if sys.stdin.isatty() and sys.stderr.isatty():
        print(
            f"{about}.\nIt can do whatever you can. Have you read it, and may it run? [yes/no] ",
            end="",
            file=sys.stderr,
        )
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() in ("y", "yes"):
            agree(run_dir)
            return
        raise UserError(f"{run_dir}: its own code was not imported, so nothing was done")
    raise UserError(
        f"{about}: read it, then repeat this command in a terminal, which asks once, or put {TRUST_VARIABLE}={run_dir} before it"
    )


def _file() -> Path:
    home = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return Path(home, PACKAGE.name, "agreed-code")


def _agreed() -> set[str]:
    try:
        return set(_file().read_text().split())
    except (OSError, ValueError):
        return set()


def _stored_names(run_dir: Path) -> set[str]:
    """Return the names in the overrides that a folder of `annotate` or `evaluate` adds to the command line."""
    try:
        return set(_TARGET.findall(RunDir(run_dir).overrides.read_text(errors="replace")))
    except OSError:
        return set()


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        return f"cannot be read: {error.errno}".encode()


# Files of modules, found without importing them

PYTHON = (".py",)
_SKIPPED = shutil.ignore_patterns("__pycache__", ".*")


def modules_of(folder: Path, names: Iterable[str], suffixes: Sequence[str] = PYTHON) -> list[Path]:
    """Return files in `folder` of the modules `names` (top-level names), and of the modules that these import.

    Imports inside functions count too. A package is taken with all its files that have one of the `suffixes`.
    """
    ahead, modules = {*names}, dict[str, list[Path]]()
    while ahead:
        name = ahead.pop()
        module = folder / f"{name}.py"
        modules[name] = [module] if module.is_file() else files_below(folder / name, suffixes)
        imported = {other for file in modules[name] if file.suffix in PYTHON for other in _imports(file)}
        ahead |= {other for other in imported - modules.keys() if not _is_installed(other)}
    return [file for files in modules.values() if any(file.suffix in PYTHON for file in files) for file in files]


def _imports(file: Path) -> set[str]:
    """Return the top-level names that a file imports."""
    try:
        nodes = [*ast.walk(ast.parse(file.read_bytes()))]
    except (SyntaxError, ValueError, OSError, RecursionError):  # importing the file will report it
        return set()
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.partition(".")[0] for name in names}


def _is_installed(name: str) -> bool:
    places = [place for place in sys.path if place.endswith("-packages")]
    return name in sys.stdlib_module_names or name == PACKAGE.name or PathFinder.find_spec(name, places) is not None


def files_below(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Return the files in a folder of code that have one of the `suffixes`."""
    return [file for file in walk(folder) if file.suffix in suffixes]


def walk(path: Path) -> Iterator[Path]:
    """Yield the files in a folder of code, without caches and hidden ones."""
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(set(folders) - _SKIPPED(folder, folders))
        yield from (Path(folder) / name for name in sorted(set(files) - _SKIPPED(folder, files)))
