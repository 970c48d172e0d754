"""The dataclass that a group's `_target_` names: imported, checked by its base class, and instantiated; without torch.

What its methods return is checked where the engine calls them, by `require_kind` and `wrong_return`.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import traceback
from abc import ABC
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from omegaconf import DictConfig, OmegaConf

from psychocounsel.errors import UserError
from psychocounsel.settings.keys import refuse_unknown
from psychocounsel.storage.files import expanded

T = TypeVar("T")

_BASES: dict[str, type] = {}  # base class of each group's dataclasses, once it is imported


class Contract(ABC):  # noqa: B024
    """Base class with abstract methods. Instantiating a subclass that lacks one raises a one-line UserError."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        if lacking := missing_methods(cls):
            raise UserError(f"{cls.__module__}.{cls.__qualname__}: lacks {lacking}")
        return super().__new__(cls)


class GroupSettings(Contract):
    """Base of the dataclasses that `<group>._target_` may name. The base class of a group sets `config_group`.

    `also_in` lists further groups whose `_target_` may name the class.
    """

    config_group: ClassVar[str] = ""
    also_in: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        if "config_group" in vars(cls):
            for group in (cls.config_group, *vars(cls).get("also_in", ())):
                _BASES.setdefault(group, cls)

    def receivers(self, key: str) -> list[tuple[str, str]]:
        """Return the servers that receive texts of the data, as (key, address) pairs; `key` is the key of these settings.

        Called if `data.confidential` limits the receivers. Default: texts stay in the processes of the run.
        """
        return []


def missing_methods(cls: type) -> str:
    """Return the names of missing methods with their contract, or "" if none is missing: "open (see ...Scorer)"."""
    names = sorted(getattr(cls, "__abstractmethods__", ()))
    owners = {_full_name(base) for base in cls.__mro__ if set(names) & set(vars(base))}
    return f"{', '.join(names)} (see {' and '.join(sorted(owners))})" if names else ""


def _check_target(group: str, name: str, target: Any, base: type) -> None:
    """Check that the class `name`, given by `<group>._target_`, meets the contract of its group with the base class `base`.

    Raises:
        UserError: if it belongs to another group, lacks a method, or has a field with a method's name.
    """
    setting = f"{group}._target_={name}"
    if not (isinstance(target, type) and issubclass(target, GroupSettings) and group in _groups_of(target)):
        raise UserError(f"{setting}: must be a dataclass that derives from {_full_name(base)}")
    if lacking := missing_methods(target):
        raise UserError(f"{setting}: lacks {lacking}")
    for item in dataclasses.fields(target):  # type: ignore[arg-type]
        if any(callable(vars(ancestor).get(item.name)) for ancestor in target.__mro__[1:]):
            raise UserError(
                f"{setting}: its field {item.name} has the name of a method of {_full_name(base)}; rename the field"
            )


def _groups_of(target: type) -> tuple[str, ...]:
    """Return the groups of a class: those of the nearest class among it and its bases that sets `config_group`."""
    owner = next(cls for cls in target.__mro__ if "config_group" in vars(cls))
    return (vars(owner)["config_group"], *vars(owner).get("also_in", ()))


def _full_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


# What a method of a user's class returned


def wrong_return(owner: object, method: str, returned: Any, wanted: str) -> UserError:
    """Return the error for a `method` of `owner` that returned `returned` instead of `wanted`; it names file and class."""
    return UserError(f"{place_of(owner, method)} returned {kind_of(returned)}; it must return {wanted}")


def place_of(owner: object, method: str) -> str:
    """Return the place of a method for messages: my/slic.py: SLiC.loss."""
    cls = type(owner)
    return f"{_shown(cls.__module__)}: {cls.__qualname__}.{method}"


def require_kind(owner: object, method: str, returned: T, base: type) -> T:
    """Return `returned` if its class derives from `base`.

    Raises:
        UserError: as `wrong_return` words it.
    """
    if not isinstance(returned, base):
        name = base.__name__ if base.__module__ == "builtins" else _full_name(base)
        raise wrong_return(owner, method, returned, f"an object of {name}")
    return returned


def _shown(module: str) -> str:
    """Return the path of a file or of a module's file, relative to the current folder if it is below it."""
    file = getattr(sys.modules.get(module), "__file__", None) or module
    return os.path.relpath(file) if Path(file).is_relative_to(Path.cwd()) else file


def kind_of(value: Any) -> str:
    """Return a value's class, for messages; of an array also its shape, of a list also its length."""
    if value is None:
        return "None"
    kind = type(value).__name__
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{kind} of {str(value.dtype).removeprefix('torch.')}{[*value.shape]}"
    return f"{kind} of {len(value)}" if isinstance(value, list | tuple | dict) else kind


# Classes


def target_class(config: DictConfig, group: str) -> Any:
    """Import the dataclass that `<group>._target_` names.

    Raises:
        UserError: if `_target_` is missing, cannot be imported, or is not a class of its group.
    """
    return class_of(OmegaConf.select(config, group), group)


def class_of(section: Any, group: str) -> Any:
    """Import the dataclass named by the `_target_` of `section`, a section of `group`. Raises like target_class."""
    name = OmegaConf.select(section, "_target_") if OmegaConf.is_dict(section) else None
    if not name:
        raise UserError(f"{group} has no _target_: its YAML must name the dataclass that implements it")
    if not isinstance(name, str):
        raise UserError(f"{group}._target_={name}: must be a text that names a dataclass, MODULE.CLASS")
    module, _, last = name.rpartition(".")
    try:
        target = getattr(import_module(module), last)
    except UserError as error:  # raised by the file itself
        raise UserError(f"{group}._target_={name}: {error}") from error
    except (Exception, SystemExit) as error:  # a module may exit when it is imported
        raise UserError(f"{group}._target_={name}: cannot be imported: {_cause(error, module, last)}") from error
    is_class = isinstance(target, type) and dataclasses.is_dataclass(target)
    fields = (
        {item for base in target.__mro__ for item in vars(base).get("__dataclass_fields__", {})} if is_class else set()
    )
    if not is_class or fields - set(target.__dataclass_fields__):
        raise UserError(f"{group}._target_={name}: is not a dataclass; write @dataclass above the class")
    if group in _BASES:
        _check_target(group, name, target, _BASES[group])
    return target


def _cause(error: BaseException, module: str, last: str) -> str:
    """Return why `last` of a module cannot be imported: the file and line of an error in it, or where to put the file."""
    if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
        return f"{error}; put its file next to the folder given by --config-dir, or into it"
    if module in sys.modules:
        return f"{_shown(module)} has no class {last}"
    if isinstance(error, SyntaxError):
        return f"{_shown(error.filename or module)} line {error.lineno}: {error.msg}"
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    said = str(error).splitlines()[-1] if str(error) else type(error).__name__
    return f"{_shown(lines[-1].filename)} line {lines[-1].lineno}: {said}"


def target_names(config: DictConfig) -> set[str]:
    """Return every dotted name that a configuration imports."""
    return names_in(OmegaConf.to_container(config))


def names_in(content: Any) -> set[str]:
    """Return every dotted name that `_target_` gives in plain mappings and lists."""
    ahead, names, seen = [content], set[str](), set[int]()
    while ahead:
        node: Any = ahead.pop()
        if id(node) in seen:  # an alias of YAML is the same object
            continue
        seen.add(id(node))
        if isinstance(node, dict) and isinstance(node.get("_target_"), str):
            names.add(node["_target_"])
        if isinstance(node, dict | list):
            ahead += node.values() if isinstance(node, dict) else node
    return names


def build(config: DictConfig, group: str) -> Any:
    """Return the object of a checked group: an instance of its dataclass."""
    return build_section(config[group], group)


def build_section(section: DictConfig, group: str) -> Any:
    """Return the object of a section, like `build`; the section is the group's, or one member of several.

    Raises:
        UserError: as `class_of` raises it, and for a key that the dataclass lacks.
    """
    content: Any = OmegaConf.to_container(section, resolve=True)
    plain = {str(key): value for key, value in content.items() if key != "_target_"}
    target = class_of(section, group)
    refuse_unknown(group, plain, target)
    return target(**plain)


def add_code_path(folders: Iterable[str]) -> None:
    """Add `folders` (`code_path` of a configuration) to the import path, after all installed packages."""
    sys.path.extend(folder for folder in folders if folder not in sys.path)


def config_folders(code_path: Sequence[str]) -> list[str]:
    """Return the folders of `--config-dir`. In `code_path` each of them is followed by its parent folder."""
    folders, rest = list[str](), list(code_path)
    while len(rest) > 1 and os.path.dirname(rest[0]) == rest[1]:
        folders, rest = [*folders, rest[0]], rest[2:]
    return folders


def is_on_hub(path: Any) -> bool:
    """Return True if a path names a repository of the Hugging Face hub: it neither ships with the package nor exists here."""
    return bool(path) and not str(path).startswith("builtin:") and not expanded(path).exists()
