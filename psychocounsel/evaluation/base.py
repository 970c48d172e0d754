"""The contract of the group `evaluation`: what `psychocounsel.evaluate` measures. Imports no torch.

A YAML file of `conf/evaluation` names a dataclass that derives from Evaluation; its fields are the keys of `evaluation.*`.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from omegaconf import MISSING, DictConfig

from psychocounsel.settings.contract import GroupSettings
from psychocounsel.settings.schema import PairsConfig
from psychocounsel.steps.context import Bar

if TYPE_CHECKING:
    from psychocounsel.rundir.run import Run


@dataclass(kw_only=True)
class Evaluation(GroupSettings):
    """What is measured.

    Attributes:
        schema: the dataclass of the command's keys besides its groups.
        sections: those of conf/evaluate.yaml that only some evaluations read, and this one does.
        metric: the figure of summary.json that a sweep is ranked by.
    """

    config_group: ClassVar[str] = "evaluation"
    schema: ClassVar[type] = PairsConfig
    sections: ClassVar[tuple[str, ...]] = ()
    metric: ClassVar[str] = ""

    name: str = MISSING

    @abstractmethod
    def work(self, run: Run, bar: Bar) -> int:
        """Measure in the worker process; returns its exit code. `bar` shows how far a loop is.

        Raises:
            UserError: for what cannot be measured.
        """

    def process_count(self, config: DictConfig) -> int | None:
        """How many processes work together; None: as many as the cluster says."""
        return None

    def prepare(self, config: DictConfig, run_dir: Path) -> None:
        """Hold a checked configuration against its directory, on submission. Default: everything fits.

        Raises:
            UserError: for what cannot work, with what to type instead.
        """

    def nothing_due(self, config: DictConfig) -> bool:
        """Whether a finished directory holds all that `config` asks for. Default: it does."""
        return True

    def forecast(self, config: DictConfig) -> list[str]:
        """Lines of a dry run: what would be asked of language models. Default: nothing."""
        return []

    def figure_names(self, config: DictConfig) -> tuple[str, ...] | None:
        """The names of the run's metrics in summary.json, * for what the data name. Default, None: not known beforehand.

        A subclass with a `work` or a `course` of its own says its own names, or none are known.
        """
        return None

    def unused_sections(self, config: DictConfig) -> dict[str, str]:
        """Sections of the command's configuration that nothing reads with these settings, each with the reason."""
        return {}

    def unused(self, config: Any = None) -> dict[str, str]:
        """Keys that nothing reads with these settings, each with the reason."""
        return {}
