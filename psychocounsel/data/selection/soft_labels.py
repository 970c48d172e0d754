"""`data.soft_labels`: probabilities that chosen replies are preferred, read from the column `chosen_probability`."""

from collections.abc import Sequence
from dataclasses import replace

from psychocounsel.data.rows import Example
from psychocounsel.errors import UserError


def with_soft_labels(rows: Sequence[Example], asked: bool) -> list[Example]:
    """Return the rows with their soft labels if `asked`, otherwise without.

    Raises:
        UserError: naming the first row without a soft label, if `asked`.
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
