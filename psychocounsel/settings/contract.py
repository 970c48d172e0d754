"""What a class from a user's own folder must have before a run uses it: methods by name, checked without torch."""

from __future__ import annotations

import dataclasses
from abc import ABC
from typing import Any, ClassVar, Self

from psychocounsel.errors import UserError


class Contract(ABC):  # noqa: B024
    """A base class with abstract methods. Creating an object of a subclass that lacks one raises a UserError of one line."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        if lacking := missing_methods(cls):
            raise UserError(f"{cls.__module__}.{cls.__qualname__}: lacks {lacking}")
        return super().__new__(cls)


class GroupSettings(Contract):
    """Base of the dataclasses that `<group>._target_` may name; a room's base.py derives one with `config_group` set."""

    config_group: ClassVar[str] = ""

    def receivers(self, key: str) -> list[tuple[str, str]]:
        """Where texts of the data go from here: a key, and the address of a server; `key` is where the settings stand.

        Asked where `data.confidential` limits these. Default: texts stay in the processes of the run.
        """
        return []


def missing_methods(cls: type) -> str:
    """`open, score (as psychocounsel.reward.base.Scorer says)`, or nothing where all are there."""
    names = sorted(getattr(cls, "__abstractmethods__", ()))
    owners = {f"{each.__module__}.{each.__qualname__}" for each in cls.__mro__ if set(names) & set(vars(each))}
    return f"{', '.join(names)} (see {' and '.join(sorted(owners))})" if names else ""


def check_target(group: str, name: str, target: Any, base: str, also: str) -> None:
    """Hold the class `name`, which `<group>._target_` names, against the contract of its group, whose base class is `base`.

    A class of the group `also` will do as well.

    Raises:
        UserError: if it is of another kind, lacks a method, or has a field in place of one.
    """
    said = f"{group}._target_={name}"
    if not (isinstance(target, type) and issubclass(target, GroupSettings) and target.config_group in (group, also)):
        raise UserError(f"{said}: must be a dataclass that derives from {base}")
    if lacking := missing_methods(target):
        raise UserError(f"{said}: lacks {lacking}")
    for item in dataclasses.fields(target):  # type: ignore[arg-type]
        if any(callable(vars(each).get(item.name)) for each in target.__mro__[1:]):
            raise UserError(f"{said}: its field {item.name} has the name of a method of {base}; rename the field")


def refuse_another_kind(found: Any, base: type, said: str) -> None:
    """Hold what a method of a user's class gave against the class that it must be of; `said` names the method.

    Raises:
        UserError: if it does not derive from `base`.
    """
    if not isinstance(found, base):
        raise UserError(
            f"{said} returned {type(found).__name__}, which must derive from {base.__module__}.{base.__qualname__}"
        )
