"""Base class of all commands that compose a configuration. Imports no torch.

`psychocounsel/NAME.py` defines a command as `COMMAND`, an instance of its class, and `conf/NAME.yaml` holds its values. The
class owns everything that differs between commands: keys, checks, the run directory, figures, and the work itself. Nothing
else asks which command runs.
"""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from omegaconf import DictConfig

from psychocounsel.errors import UserError
from psychocounsel.rundir import identity
from psychocounsel.rundir.paths import RunDir
from psychocounsel.settings.schema import suggestion
from psychocounsel.settings.targets import Contract

if TYPE_CHECKING:
    from psychocounsel.rundir.run import Run

NO_INTERNET = (
    "only annotate, evaluations with contestants, and language models in compare or reward send requests to servers outside "
    "the cluster"
)
NOTHING_HELD_OUT = "data.dev_fraction=0 leaves no held-out rows to measure it on: raise it, or give data.eval_path"


class Presets(Protocol):
    """The files of config groups, from `conf/` and the user's own folders."""

    def section(self, group: str, name: str) -> DictConfig:
        """Return the settings that `<group>=<name>` composes. Raises UserError if the group has no such name."""

    def data(self, name: str, key: str = "data.mix") -> DictConfig:
        """Return `conf/data/<name>.yaml`. Raises UserError, which names `key`, if it does not exist."""


@dataclass(frozen=True)
class SharedSteps:
    """Division of a command in steps among array jobs.

    Attributes:
        due: the steps that are due.
        first: the steps that one job runs before the array.
        first_in_shards: an array of jobs prepares the steps `first`.
        query_steps: the steps that query models, which the array runs; the last job runs all others.
        answers, results: what the array makes, and what the last job makes, in words for people.
    """

    due: set[str]
    query_steps: list[str]
    answers: str
    results: str
    first: list[str] = field(default_factory=list)
    first_in_shards: bool = False


class Command(Contract):
    """A command with a configuration.

    Attributes:
        name: the command, and its file in `conf/`.
        module: the module with the command as `COMMAND`; workers import it by this name, which the run directory keeps.
        texts: the section that names the texts which are read, with `confidential` and `allowed_hosts`; "" if none are read.
        section: a section of the configuration that no other command has.
        trains: the command trains a model: it has the groups `algo`, `model` and `zero`.
        place: the key that names the directory of its results.
        nullable: groups that may be null on the command line.
        light_preloads: modules that a worker without torch imports before it is forked.
        stopping: what the terminal prints on a stop request.
    """

    name: ClassVar[str]
    module: ClassVar[str]
    section: ClassVar[str]
    texts: ClassVar[str] = "data"
    trains: ClassVar[bool] = False
    place: ClassVar[str] = "run_dir"
    nullable: ClassVar[tuple[str, ...]] = ()
    light_preloads: ClassVar[tuple[str, ...]] = ("psychocounsel.commands.application",)
    stopping: ClassVar[str] = "stopping"

    # -- its configuration

    def arguments(
        self, options: Sequence[str], overrides: Sequence[str], presets: Mapping[str, list[str]]
    ) -> list[str]:
        """Return the overrides of a command line in the form that Hydra reads; `presets` are the names of each group's files.

        Raises:
            UserError: for an option that the command does not support, or a directory of another command.
        """
        return list(overrides)

    def resolve(self, composed: DictConfig, presets: Presets) -> None:
        """Turn names in a composed configuration into settings and paths, because the worker does not compose.

        Raises:
            UserError: for an unknown name, or an entry of another form.
        """

    def leave_out(self, plain: DictConfig) -> None:
        """Drop groups that the configuration's other choices do not use."""

    @abstractmethod
    def schema(self, plain: DictConfig) -> type:
        """Return the dataclass of the keys outside the groups with a `_target_`."""

    @abstractmethod
    def check(self, config: DictConfig, plain: DictConfig) -> None:
        """Refuse typed settings that cannot work, and make the paths of files absolute. `plain` is `config` without types.

        Raises:
            UserError: naming the key and what to type instead.
        """

    def idle(self, config: DictConfig) -> Iterator[tuple[str, str]]:
        """Yield the keys and sections that have no effect in a checked configuration, each with the reason."""
        return iter(())

    def sources(self, config: DictConfig) -> Iterator[Path]:
        """Yield the files that texts are read from, as far as they are known. Results get no wider read permissions."""
        return iter(())

    def receivers(self, config: DictConfig) -> Iterator[tuple[str, str]]:
        """Yield the servers that texts are sent to, as (key, address)."""
        return iter(())

    def repositories(self, config: DictConfig) -> Iterator[tuple[Any, str]]:
        """Yield the hub repositories that a run reads (`HubSource`), each with the key of its revision, "" if it is not kept."""
        return iter(())

    # -- its runs

    def new_directory(self, config: DictConfig) -> Path:
        """Return a new run directory below `paths.output`, named after what the command works on."""
        return identity.new_directory(config.paths.output, self.name, *self.subjects(config))

    def subjects(self, config: DictConfig) -> Sequence[str]:
        """Return the names of the models or data that the command works on."""
        return ()

    def metric(self, config: DictConfig) -> str:
        """Return the name of the main figure in summary.json, by which a sweep ranks its runs."""
        return ""

    def figure_names(self, config: DictConfig) -> list[str] | None:
        """Return the names of all figures in summary.json; * matches what depends on the data. None: unknown before the run."""
        return None

    def loads_a_model(self, config: DictConfig) -> bool:
        """Return True if the workers need torch."""
        return True

    def works_in_steps(self, config: DictConfig) -> bool:
        """Return True if steps record their own inputs, so that the run directory may get other settings."""
        return False

    def process_count(self, config: DictConfig) -> int | None:
        """Return the number of processes that the command needs; None: the cluster's setting applies.

        Raises:
            UserError: if `cluster` asks for another number.
        """
        return None

    def prepare(self, config: DictConfig, run_dir: Path) -> None:
        """Check on submission that a checked configuration fits its run directory.

        Raises:
            UserError: if the run cannot work; the message says what to type instead.
        """

    def refuse_others_at_work(self, config: DictConfig, run_dir: Path) -> None:
        """Refuse to run while a process works in another directory of the same results.

        Raises:
            UserError: naming host and process.
        """

    def nothing_due(self, config: DictConfig, before: DictConfig) -> bool:
        """Return True if a finished run of the settings `before` holds every result of `config`."""
        return True

    def shared_steps(self, config: DictConfig) -> SharedSteps:
        """Return how the work is divided among array jobs. Called only if the command works in steps.

        Raises:
            UserError: if the work cannot be divided, or not now. Default: it never can.
        """
        raise UserError(f"shards={config.shards}: {self.name} cannot divide its work among jobs; leave shards out")

    def reads_rows(self, config: DictConfig) -> bool:
        """Return True if the command reads rows of `data`, which can be checked before jobs start. Default: True."""
        return True

    def forecast(self, config: DictConfig) -> list[str]:
        """Return the lines that a dry run prints about requests to language models."""
        return []

    def product(self, config: DictConfig, files: RunDir) -> str:
        """Return the name of the file or folder that holds a run's result."""
        return files.summary.name

    @abstractmethod
    def work(self, run: Run) -> int:
        """Do the work in a worker process and return its exit code.

        Raises:
            UserError: if the work is impossible.
        """


def command_of(module: str) -> Command:
    """Return the command of a module; job.json holds the module's name.

    Raises:
        UserError: if the module cannot be imported, or defines no command.
    """
    try:
        command = getattr(import_module(module), "COMMAND", None)
    except ImportError as error:
        raise UserError(f"{module}: cannot be imported ({error})") from error
    if not isinstance(command, Command):
        raise UserError(f"{module}: defines no COMMAND, so it is not a command with a configuration")
    return command


def command_named(name: str) -> Command | None:
    """Return a command by its name: one of the package, or of a user's own module; None if there is none."""
    own = () if name in sys.stdlib_module_names else (name,)  # a typo must not import `test` or `site`
    for module in (f"psychocounsel.{name}", *own):
        if (
            name.isidentifier()
            and find_spec(module)
            and isinstance(getattr(import_module(module), "COMMAND", None), Command)
        ):
            return command_of(module)
    return None


def idle_keys(group: str, unused: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the keys without effect that a group's object lists, each with the reason."""
    return ((f"{group}.{name}", reason) for name, reason in unused.items())


def refuse_unknown_figure(setting: str, name: str, known: Sequence[str] | None) -> None:
    """Check that a run will have the figure `name`. `known` are its figures; `setting` is the setting that names it.

    Raises:
        UserError: if the run will not have it.
    """
    if known is None or any(fnmatchcase(name, pattern) for pattern in known):
        return
    if not known:
        raise UserError(f"{setting}: {NOTHING_HELD_OUT}")
    advice = suggestion(name, list(known), "")
    near = f"; {advice}" if advice else ""
    raise UserError(f"{setting}: no such figure{near} (there will be {', '.join(known)})")


def lists_own_figures(made: Any, makers: tuple[str, ...]) -> bool:
    """Return True if no class below that of `figure_names` overrides one of the methods `makers`.

    Otherwise `figure_names` may miss figures that the overriding method reports.
    """
    order = type(made).__mro__
    first = {name: next((place for place, cls in enumerate(order) if name in vars(cls)), len(order)) for name in makers}
    return next(place for place, cls in enumerate(order) if "figure_names" in vars(cls)) <= min(first.values())


def ordered(names: Iterable[str] | None) -> list[str] | None:
    """Return names without repetitions; None stays None."""
    return None if names is None else list(dict.fromkeys(names))
