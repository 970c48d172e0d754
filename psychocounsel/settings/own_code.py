"""What a run's folder would have this user do: import code that is not the package's, and run commands. Both need agreement.

A folder may have been received from somebody else. Its `_target_`s, its command and its `code_path` would then run their
code, and a submission their shell commands, programs and scheduler options. What a user's own commands start counts as
agreed, its code also once the user has edited it. Agreements are hashes in a file of the user. Options are agreed to by
content: those of a run of an earlier version are asked about once, for all runs that have the same.
"""

import ast
import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from psychocounsel.errors import UserError
from psychocounsel.rundir import submissions
from psychocounsel.rundir.paths import RunDir
from psychocounsel.rundir.run_config import module_of, read_plain
from psychocounsel.settings.targets import class_of, names_in
from psychocounsel.storage.files import PACKAGE
from psychocounsel.storage.trust import TRUST_VARIABLE, is_trusted

# Agreements

# What a command does with a folder. Each imports the folder's code; two also take orders from it.
IMPORTS = "import"
SUBMITS = "submit"  # as `config.yaml` says, with the code of the last submission
COMPOSES = "compose"  # a new configuration from `overrides.txt`
_USES = (IMPORTS, SUBMITS, COMPOSES)

_TARGET = re.compile(r"""_target_["'\]]*\s*[:=]\s*["']?([\w.]+)""")
_SHOWN = 5  # files


class OwnCode:
    """What a run's folder would import from outside of the package, and what it orders, without importing.

    `names`: modules and classes. `files`: those that hold them.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir, self._config = run_dir, read_plain(run_dir) or {}
        named = {*names_in(self._config), *_stored_names(run_dir), module_of(run_dir)}
        self.names = sorted(name for name in named if name and name.partition(".")[0] != PACKAGE.name)
        roots = {name.partition(".")[0] for name in self.names}
        self.files: dict[bytes, Path] = {}
        for folder in (Path(path).resolve() for path in [*_code_path(self._config), os.getcwd()] if roots):
            for file in modules_of(folder, roots):
                self.files[f"{file.relative_to(folder)}\0".encode() + _content(file)] = file

    def orders(self, use: str) -> list[str]:
        """Return lines KEY=VALUE of what goes to a scheduler, a shell or a server."""
        return {IMPORTS: list[str], SUBMITS: self._submitted, COMPOSES: self._composed}[use]()

    def digest(self, use: str = IMPORTS) -> str:
        """Return the hash of the names, of the files' content and of the orders; "" if the run needs the package alone."""
        orders = self.orders(use)
        parts = [*(name.encode() for name in self.names), *sorted(self.files), *map(str.encode, orders)]
        if any("${" in text for text in (*self.names, *orders)):  # any other line may give the value
            files = RunDir(self._run_dir)
            parts += [_content(files.config), _content(files.overrides)]
        whole = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
        return whole * bool(self.names or orders)

    def place(self, use: str = IMPORTS) -> str:
        """Return the hash of the names, of the orders and of the run's place."""
        return _hash(str(self._run_dir.resolve()), *self.names, *self.orders(use))

    def copies(self, use: str) -> list[Path]:
        """Return folders with the code that would be submitted and that no command of this user has made."""
        return [copy for copy in _copies(self._run_dir) if not _is_own(copy)] if use == SUBMITS else []

    def is_agreed(self, use: str = IMPORTS) -> bool:
        known = not self.digest(use) or not {self.digest(use), self.place(use)}.isdisjoint(_agreed())
        return known and not self.copies(use)

    def described(self, use: str) -> list[str]:
        """Return the names with the files that hold them, and the orders, as lines for the person who is asked."""
        files = [str(file) for file in self.files.values()]
        listed = ", ".join(files[:_SHOWN]) + (f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else "")
        code = [f"code of its own ({', '.join(self.names)}; {listed or 'no file of it is here'})"] if self.names else []
        return [*code, *self.orders(use), *(f"code={json.dumps(str(copy))}" for copy in self.copies(use))]

    def _submitted(self) -> list[str]:
        """Return the orders of `config.yaml`: `cluster.*` but for its defaults, servers, and folders to import from."""
        section = self._config.get("cluster")
        if isinstance(section, dict) and section.get("_target_") == _NO_QUEUE:  # the cluster itself refuses
            return []
        usual = {*_flat(_defaults(section), "cluster")}
        cluster = sorted({*_flat(section, "cluster")} - usual)
        servers = [line for line in _flat({**self._config, "cluster": None}) if _OF_SERVER.search(line)]
        here = [f"code_path={json.dumps(folder)}" for folder in _code_path(self._config) if os.path.isdir(folder)]
        return [*cluster, *servers, *here]

    def _composed(self) -> list[str]:
        """Return the orders among the overrides that the folder adds to the command line."""
        lines = _overrides(self._run_dir)
        return [line for line in lines if line.lstrip("+~").startswith(("cluster", "hydra")) or _OF_SERVER.search(line)]


def agree(run_dir: Path, use: str = IMPORTS) -> None:
    """Note that commands may use a run's code and orders as they are now; others are asked about again."""
    code = OwnCode(run_dir)
    _note({code.digest(), code.digest(use), *map(_of_copy, code.copies(use))} - {""})


def agree_to_own(run_dir: Path) -> None:
    """Note that this user's own command starts the run, so that later commands may use its code, also edited, and orders."""
    code = OwnCode(run_dir)
    places = {code.place(use) for use in _USES if code.names}  # other files of code, but not other orders
    _note(places | {code.digest(use) for use in _USES} - {""})


def agree_to_copies(copies: Iterable[Path]) -> None:
    """Note that this user's own command has made these copies of code, so that `jobs resubmit` may submit them."""
    _note({*map(_of_copy, copies)})


def agree_to_file(file: Path) -> None:
    """Note that this user's own command has written a file, so that later commands may follow it while it stays as it is."""
    _note({_of_file(file)})


def is_own_file(file: Path) -> bool:
    """Return True if a command of this user has written the file as it is, or the user trusts its folder."""
    return is_trusted(file.parent) or _of_file(file) in _agreed()


def _of_file(file: Path) -> str:
    return _hash("file", str(file.resolve()), hashlib.sha256(_content(file)).hexdigest())


def _is_own(copy: Path) -> bool:
    """Return True if a command of this user has made this copy of code, or the user has agreed to it."""
    return _of_copy(copy) in _agreed()


def _of_copy(copy: Path) -> str:
    return _hash("copy", str(copy.resolve()))


def _hash(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def _note(hashes: set[str]) -> None:
    if new := sorted(hashes - _agreed()):
        with contextlib.suppress(OSError):  # a read-only home: the next command asks
            _file().parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(_file(), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "a") as file:
                file.writelines(f"{text}\n" for text in new)


def is_agreed(run_dir: Path, use: str = IMPORTS) -> bool:
    """Return True if a command may do this with the run."""
    return is_trusted(run_dir) or OwnCode(run_dir).is_agreed(use)


def require_agreement(run_dir: Path, use: str = IMPORTS) -> None:
    """Ask at a terminal, once, whether the code of a run may run here, and its orders be followed; all are printed.

    Raises:
        UserError: if the user does not agree, or there is no terminal to ask at.
    """
    if is_agreed(run_dir, use):
        return
    about = OwnCode(run_dir).described(use)
    if sys.stdin.isatty() and sys.stderr.isatty():
        listed = "".join(f"\n  {line}" for line in about)
        print(
            f"{run_dir}: no command of yours has started this run as it is now. It names{listed}\n"
            "It can do whatever you can. Have you read it, and may it run? [yes/no] ",
            end="",
            file=sys.stderr,
        )
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() in ("y", "yes"):
            agree(run_dir, use)
            return
        raise UserError(f"{run_dir}: you did not agree to what it names, so nothing was done")
    more = f" and {len(about) - _SHOWN} more" if len(about) > _SHOWN else ""
    raise UserError(
        f"{run_dir}: names {'; '.join(about[:_SHOWN])}{more}, and no command of yours has started it so: read it, then repeat "
        f"this command in a terminal, which asks once, or put {TRUST_VARIABLE}={run_dir} before it"
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
    return {name for line in _overrides(run_dir) for name in _TARGET.findall(line)}


def _overrides(run_dir: Path) -> list[str]:
    try:
        return RunDir(run_dir).overrides.read_text(errors="replace").splitlines()
    except OSError:
        return []


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        return f"cannot be read: {error.errno}".encode()


# Orders: what a folder hands to a scheduler, a shell or a server

_NO_QUEUE = f"{PACKAGE.name}.cluster.local.Local"
# A line that names a server, the variable with its key, or a program.
_OF_SERVER = re.compile(
    r"""://|\b(?:address|addresses|allowed_hosts|key_variable|command|arguments)(?:\[\d+\])?["']?\s*[:=]"""
)


def _code_path(config: dict[str, Any]) -> list[str]:
    listed = config.get("code_path")
    return [folder for folder in listed if isinstance(folder, str)] if isinstance(listed, list) else []


def _defaults(section: Any) -> Any:
    """Return the defaults of a kind of cluster that ships; {} for others, which are not imported."""
    target = section.get("_target_") if isinstance(section, dict) else None
    if not isinstance(target, str) or not target.startswith(f"{PACKAGE.name}.cluster."):
        return {}
    try:
        return asdict(class_of(OmegaConf.create({"_target_": target}), "cluster")())
    except (UserError, TypeError):
        return {}


def _flat(value: Any, key: str = "") -> Iterator[str]:
    """Yield KEY=VALUE, the value as JSON, for everything that is set."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for index, item in enumerate(value):
            yield from _flat(item, f"{key}[{index}]")
    elif value not in (None, [], "") and not key.endswith("._target_"):  # `names` has these
        yield f"{key}={json.dumps(value, default=str)}"


def _copies(run_dir: Path) -> list[Path]:
    """Return the folders of code that `jobs resubmit` would submit the run with; none if they are not here."""
    home = submissions.home_of(run_dir)
    records = [record for record in submissions.read(home) if any(run_dir in task for task in record.tasks)]
    return [copy for path in (records[-1].code if records else ()) if (copy := home / path).is_dir()]


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
