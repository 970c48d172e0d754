"""What a step of `annotate` gets from the command that runs it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from psychocounsel.rundir.paths import AnnotationDir

Say = Callable[[str], None]
Bar = Callable[..., Any]  # as engine/telemetry/progress.py Progress(...).bar(iterable_or_range, what)


@dataclass(frozen=True)
class Context:
    """What a step gets: the checked configuration, the directory, and ways to tell the user."""

    config: DictConfig
    files: AnnotationDir
    say: Say
    bar: Bar
    shard: tuple[int, int] = (0, 1)  # this process's share: speech numbers n with n % count == index
