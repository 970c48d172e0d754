"""`StepContext` is the argument of every step: configuration, directory, messages and progress bars."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from omegaconf import DictConfig

from psychocounsel.rundir.paths import StepsDir

T = TypeVar("T")
F = TypeVar("F", bound=StepsDir)
Say = Callable[[str], None]
Bar = Callable[..., Any]  # same signature as Progress(...).bar(iterable_or_range, what) in engine/telemetry/progress.py


@dataclass(frozen=True)
class StepContext(Generic[F]):
    """A step's argument: the checked configuration, the directory, and functions for messages and progress bars."""

    config: DictConfig
    files: F
    say: Say
    bar: Bar
    shard: tuple[int, int] = (0, 1)  # (index, count): this process works on speech numbers n with n % count == index


@dataclass
class KnownLength(Generic[T]):
    """An iterator of known length, so that a progress bar can estimate the time left."""

    items: Iterator[T]
    count: int

    def __iter__(self) -> Iterator[T]:
        return self.items

    def __len__(self) -> int:
        return self.count
