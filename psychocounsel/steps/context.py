"""`StepContext` is the argument of every step: configuration, directory, messages and progress bars."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from omegaconf import DictConfig

from psychocounsel.rundir.paths import StepsDir

T = TypeVar("T")
F = TypeVar("F", bound=StepsDir)
Say = Callable[[str], None]
Bar = Callable[..., Any]  # as engine/telemetry/progress.py Progress(...).bar(iterable_or_range, what)


@dataclass(frozen=True)
class StepContext(Generic[F]):
    """What a step gets: the checked configuration, the directory, and ways to tell the user."""

    config: DictConfig
    files: F
    say: Say
    bar: Bar
    shard: tuple[int, int] = (0, 1)  # this process's share: speech numbers n with n % count == index


@dataclass
class KnownLength(Generic[T]):
    """Items whose number is known beforehand, so that a bar can tell how long they will take."""

    items: Iterator[T]
    count: int

    def __iter__(self) -> Iterator[T]:
        return self.items

    def __len__(self) -> int:
        return self.count
