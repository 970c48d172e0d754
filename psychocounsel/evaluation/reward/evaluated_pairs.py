"""The pairs on which `evaluation=reward` measures reward models."""

from collections.abc import Callable

from omegaconf import DictConfig

from psychocounsel.data.rows import Example
from psychocounsel.data.selection.no_pairs import no_pairs
from psychocounsel.evaluation.part import load_evaluated


def evaluated_pairs(config: DictConfig, say: Callable[[str], None]) -> list[Example]:
    """Return the pairs that the keys `part` and `limit` select.

    Raises:
        UserError: if the selection is empty or contains rows without two replies.
    """
    rows = load_evaluated(config, say)
    say(rows.part.line(config, len(rows.used), len(rows.whole), "pairs"))
    examples = rows.used[: config.limit]
    if not examples or any(len(example.replies) < 2 for example in examples):
        raise no_pairs("evaluate")
    return examples
