"""The pairs on which `evaluation=reward` measures reward models."""

from collections.abc import Callable

from omegaconf import DictConfig

from psychocounsel.data.rows import Example
from psychocounsel.data.selection.no_pairs import no_pairs
from psychocounsel.data.selection.select import load_split


def evaluated_pairs(config: DictConfig, say: Callable[[str], None]) -> list[Example]:
    """Return the pairs that the keys `part` and `limit` select.

    Raises:
        UserError: if the selection is empty or contains rows without two replies.
    """
    train, held_out = load_split(config.data, say)
    examples = [*train, *held_out] if config.part == "all" else held_out
    examples = examples[: config.limit]
    if not examples or any(len(example.replies) < 2 for example in examples):
        raise no_pairs("evaluate")
    return examples
