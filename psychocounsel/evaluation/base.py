"""Base class of all evaluations (config group `evaluation`), which `psychocounsel evaluate` runs. Imports no torch.

A YAML file in `conf/evaluation` names a dataclass that derives from Evaluation; its fields are the keys of `evaluation.*`.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from omegaconf import MISSING, DictConfig

from psychocounsel.evaluation.settings import PrintedConfig
from psychocounsel.settings.targets import GroupSettings
from psychocounsel.steps.course import Bar

if TYPE_CHECKING:
    from psychocounsel.rundir.run import Run


@dataclass(kw_only=True)
class Evaluation(GroupSettings):
    """Settings of one evaluation, and the methods that check, forecast and run it.

    Attributes:
        schema: the dataclass of the command's keys that belong to no config group.
        sections: optional sections of conf/evaluate.yaml that this evaluation reads.
        metric: the metric in summary.json by which a sweep ranks its runs.
        instead_of_data: name of the input that replaces `data`; keys of `data` are then rejected. "" if `data` is read.
    """

    config_group: ClassVar[str] = "evaluation"
    schema: ClassVar[type] = PrintedConfig
    sections: ClassVar[tuple[str, ...]] = ()
    metric: ClassVar[str] = ""
    instead_of_data: ClassVar[str] = ""

    name: str = MISSING

    @abstractmethod
    def work(self, run: Run, bar: Bar) -> int:
        """Run the evaluation in the worker process and return its exit code. `bar` shows the progress of a loop.

        Raises:
            UserError: if the evaluation is impossible.
        """

    def process_count(self, config: DictConfig) -> int | None:
        """Return the number of processes that the evaluation needs; None: the cluster's setting applies."""
        return None

    def prepare(self, config: DictConfig, run_dir: Path) -> None:
        """Check on submission that a valid configuration fits its run directory. Default: accept everything.

        Raises:
            UserError: if the run cannot work; the message says what to type instead.
        """

    def nothing_due(self, config: DictConfig) -> bool:
        """Return True if a finished run directory already holds every result of `config`. Default: True."""
        return True

    def forecast(self, config: DictConfig) -> list[str]:
        """Return the lines that a dry run prints about requests to language models. Default: no lines."""
        return []

    def figure_names(self, config: DictConfig) -> tuple[str, ...] | None:
        """Return the names of the run's metrics in summary.json; `*` stands for a part that depends on the data.

        Default: None, because the names are not known before the run. A subclass that defines its own `work` or `course`
        must define its own names, too; otherwise they count as unknown.
        """
        return None

    def unused_sections(self, config: DictConfig) -> dict[str, str]:
        """Return the sections of the configuration that have no effect with these settings, each with the reason."""
        return {}

    def unused(self, config: Any = None) -> dict[str, str]:
        """Return the keys that have no effect with these settings, each with the reason."""
        return {}
