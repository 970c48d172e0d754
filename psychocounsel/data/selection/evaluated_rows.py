"""Rows that an evaluation uses: the part of `data` that the key `part` selects."""

from collections.abc import Callable
from dataclasses import dataclass

from omegaconf import DictConfig

from psychocounsel.data.rows import Example
from psychocounsel.data.selection.select import load_split
from psychocounsel.settings.sections.evaluated_part import EvaluatedPart, evaluated_part


@dataclass(frozen=True)
class EvaluatedRows:
    """Rows of the part that is evaluated (`used`), and all rows of the data (`whole`), the training rows first."""

    part: EvaluatedPart
    used: list[Example]
    whole: list[Example]


def load_evaluated(config: DictConfig, report: Callable[[str], None]) -> EvaluatedRows:
    """Load `data` and select the part that the checked configuration of an evaluation names.

    Raises:
        UserError: as `load_split` does.
    """
    train, held_out = load_split(config.data, report)
    part, whole = evaluated_part(config), [*train, *held_out]
    return EvaluatedRows(part, whole if part.name == "all" else held_out, whole)
