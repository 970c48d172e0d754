"""`Course` lists the steps of a command in order, and the configuration keys and files that each step depends on."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Generic, TypeVar

from omegaconf import DictConfig

from psychocounsel.asking.language_model import LanguageModel
from psychocounsel.errors import UserError
from psychocounsel.rundir.paths import StepsDir
from psychocounsel.settings.schema import marked, suggestion
from psychocounsel.settings.targets import target_class

# The argument of a step

T = TypeVar("T")
F = TypeVar("F", bound=StepsDir)
Say = Callable[[str], None]
Bar = Callable[..., Any]  # same signature as Progress(...).bar(iterable_or_range, what) in engine/telemetry/progress.py


@dataclass(frozen=True)
class StepContext(Generic[F]):
    """The argument of a step.

    Attributes:
        config: the checked configuration.
        files: the paths of the directory that the step reads and writes.
        say: prints a line for the user.
        bar: wraps an iterable in a progress bar.
        shard: (index, count): this process works on the speeches whose number n has n % count == index.
    """

    config: DictConfig
    files: F
    say: Say
    bar: Bar
    shard: tuple[int, int] = (0, 1)


@dataclass
class KnownLength(Generic[T]):
    """An iterator of known length, so that a progress bar can estimate the time left."""

    items: Iterator[T]
    count: int

    def __iter__(self) -> Iterator[T]:
        return self.items

    def __len__(self) -> int:
        return self.count


# The steps of a command


@dataclass(frozen=True)
class Course(Generic[F]):
    """The steps of a command.

    Attributes:
        steps: names of the steps, in the order in which they run.
        modules: the function of each step, `(StepContext) -> figures`, as `MODULE:FUNCTION`, or `MODULE` if its name is `run`.
        reads: for each step, the configuration keys that its result depends on, apart from those of earlier steps and of
            `group`.
        group: the config group whose settings name the steps that depend on them (`option(step=...)`).
        omits: keys below `reads` that do not affect the result.
        output: the file that a step writes. If the file is missing, the step counts as not done, whatever its record says.
        models: the language models that a step asks, by their configuration key.
        sources: size and modification time of each file that the first step reads; {} if a file no longer exists.
        redone: steps that ask no model and run again whenever the user names them in `steps`.
        answering: config groups of models. Their addresses and prices do not change answers.
        code: for steps that ask no model, the source files (glob patterns below the package) that compute their output. When
            one of these files changes, the step is due again.
    """

    steps: tuple[str, ...]
    modules: Mapping[str, str]
    reads: Mapping[str, tuple[str, ...]]
    output: Callable[[F, str], Path]
    models: Callable[[DictConfig, str], dict[str, list[LanguageModel]]]
    sources: Callable[[DictConfig], dict[str, Any]] = lambda config: {}
    group: str | None = None
    omits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    answering: tuple[str, ...] = ()
    redone: tuple[str, ...] = ()
    code: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def keys(self, config: DictConfig, step: str) -> list[str]:
        """Return the configuration keys that a step's result depends on, apart from those of earlier steps."""
        own = marked(target_class(config, self.group), "step") if self.group else {}
        named = [f"{self.group}.{name}" for name, steps in own.items() if step == steps or step in (*steps,)]
        return [*self.reads.get(step, ()), *named]

    def run(self, step: str, context: StepContext[F]) -> dict[str, Any]:
        """Run a step; returns its figures."""
        module, _, function = self.modules[step].partition(":")
        figures: dict[str, Any] = getattr(import_module(module), function or "run")(context)
        return figures


def one_process(cluster: DictConfig, whose: str, advice: str) -> int:
    """Set one process in `cluster` and return 1, because a model in this process uses all GPUs of its job.

    Raises:
        UserError: if `cluster` asks for several processes or nodes. `whose` is what runs one process, `advice` what to type.
    """
    if (cluster.get("processes") or 1) > 1 or (cluster.get("nodes") or 1) > 1:
        raise UserError(f"cluster.processes, cluster.nodes: {whose} runs one process per job; {advice}")
    cluster.processes = 1
    return 1


def check_steps(steps: Sequence[str], all_steps: Sequence[str]) -> None:
    """Refuse unknown steps, and steps in another order than in `all_steps`.

    Raises:
        UserError: with what to type instead.
    """
    for step in steps:
        if step not in all_steps:
            raise UserError(
                f"steps: there is no step {step}; {suggestion(step, list(all_steps))} (they are {', '.join(all_steps)})"
            )
    ordered = [step for step in all_steps if step in steps]
    if not steps:
        raise UserError(f"steps=[]: no step is given; give some of [{','.join(all_steps)}]")
    if list(steps) != ordered:
        raise UserError(f"steps=[{','.join(steps)}]: steps need this order: steps=[{','.join(ordered)}]")
