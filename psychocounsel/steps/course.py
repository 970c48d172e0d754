"""`Course` lists the steps of a command in order, and the configuration keys and files that each step depends on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Generic, TypeVar

from omegaconf import DictConfig

from psychocounsel.asking.language_model import LanguageModel
from psychocounsel.rundir.paths import StepsDir
from psychocounsel.steps.context import StepContext

F = TypeVar("F", bound=StepsDir)


def _no_sources(config: DictConfig) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Course(Generic[F]):
    """The steps of a command.

    Attributes:
        steps: their names, in the order in which they need each other.
        modules: the module of each step; it has a function `run(StepContext) -> figures`.
        reads: the keys of the configuration that decide a step's result, besides those of earlier steps.
        omits: keys below those of `reads` that do not.
        output: the file that a step leaves. Without it the step is not done, whatever its record says.
        models: the language models that a step asks, by the key where they stand in the configuration.
        sources: size and time of change of each file that the first step reads; {} if one is not there any more.
        redone: steps that ask nobody, and are done again where they are asked for by name.
        answering: groups whose models' addresses and prices change no answer.
        code: of steps that ask nobody, the files below the package (as patterns) that compute what they leave: with other code
            such a step is due again.
    """

    steps: tuple[str, ...]
    modules: Mapping[str, str]
    reads: Mapping[str, tuple[str, ...]]
    output: Callable[[F, str], Path]
    models: Callable[[DictConfig, str], dict[str, list[LanguageModel]]]
    sources: Callable[[DictConfig], dict[str, Any]] = _no_sources
    omits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    answering: tuple[str, ...] = ()
    redone: tuple[str, ...] = ()
    code: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def run(self, step: str, context: StepContext[F]) -> dict[str, Any]:
        """Do a step; returns its figures."""
        figures: dict[str, Any] = import_module(self.modules[step]).run(context)
        return figures
