"""Contracts of a user's own classes: required methods are checked by name before a run, without torch."""

from __future__ import annotations

import dataclasses
from abc import ABC
from typing import Any, ClassVar, Self

from psychocounsel.errors import UserError


class Contract(ABC):  # noqa: B024
    """Base class with abstract methods. Instantiating a subclass that lacks one raises a one-line UserError."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        if lacking := missing_methods(cls):
            raise UserError(f"{cls.__module__}.{cls.__qualname__}: lacks {lacking}")
        return super().__new__(cls)


class GroupSettings(Contract):
    """Base of the dataclasses that `<group>._target_` may name. The base class of a group sets `config_group`."""

    config_group: ClassVar[str] = ""

    def receivers(self, key: str) -> list[tuple[str, str]]:
        """Return the servers that receive texts of the data, as (key, address) pairs; `key` is the key of these settings.

        Called if `data.confidential` limits the receivers. Default: texts stay in the processes of the run.
        """
        return []


def missing_methods(cls: type) -> str:
    """Return the names of missing methods with their contract, or "" if none is missing: "open (see ...Scorer)"."""
    names = sorted(getattr(cls, "__abstractmethods__", ()))
    owners = {f"{each.__module__}.{each.__qualname__}" for each in cls.__mro__ if set(names) & set(vars(each))}
    return f"{', '.join(names)} (see {' and '.join(sorted(owners))})" if names else ""


def check_target(group: str, name: str, target: Any, base: str, also: str) -> None:
    """Check that the class `name`, given by `<group>._target_`, meets the contract of its group with the base class `base`.

    A class of the group `also` is accepted too.

    Raises:
        UserError: if it has another base, lacks a method, or has a field with a method's name.
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
    """Check that a method of a user's class returned an object of the required class; `said` names the method.

    Raises:
        UserError: if the object's class does not derive from `base`.
    """
    if not isinstance(found, base):
        raise UserError(
            f"{said} returned {type(found).__name__}, which must derive from {base.__module__}.{base.__qualname__}"
        )
