"""`data.soft_labels`: how probably the chosen reply of each pair is preferred, from the column `chosen_probability`."""

from collections.abc import Sequence
from dataclasses import replace

from psychocounsel.data.rows import Example
from psychocounsel.errors import UserError


def with_soft_labels(rows: Sequence[Example], asked: bool) -> list[Example]:
    """The rows with their soft labels if they are asked for, else without.

    Raises:
        UserError: naming the first row that lacks one.
    """
    if not asked:
        return [row if row.probability is None else replace(row, probability=None) for row in rows]
    for row in rows:
        if row.probability is None:
            raise UserError(
                f"{row.where}: data.soft_labels=true reads the column chosen_probability, which it lacks: add it, or leave "
                "data.soft_labels out"
            )
    return list(rows)
