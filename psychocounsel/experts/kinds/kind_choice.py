"""Choice of the kind of items: by the review's plan if it exists, otherwise by the data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.experts.items.crisis_set_cases import SHIPPED_SET
from psychocounsel.experts.kinds.crisis_set_kind import CrisisSetKind
from psychocounsel.experts.kinds.gate_kind import GateKind
from psychocounsel.experts.kinds.item_kind import ItemKind
from psychocounsel.experts.kinds.pair_kind import PairKind
from psychocounsel.experts.settings import MOST_ITEMS, ReviewOptions
from psychocounsel.rundir.paths import ReviewDir
from psychocounsel.storage.files import read_mapping

_KINDS: tuple[ItemKind, ...] = (CrisisSetKind(), GateKind(), PairKind())  # pairs last, because they take all other data


def kind_of(data: str, files: ReviewDir) -> ItemKind:
    """Return the kind of the review in `files`, or of `data` if no review exists.

    Raises:
        UserError: if the plan names an unknown kind.
    """
    if plan := read_mapping(files.plan):
        name = plan.get("kind", PairKind.name)
        if (found := next((kind for kind in _KINDS if kind.name == name), None)) is None:
            raise UserError(
                f"{files.plan}: the kind of its items is unknown to this version; restore the file from a copy"
            )
        return found
    return next(kind for kind in _KINDS if kind.holds(data))


def place_of(data: str) -> str:
    """Return the absolute path of `data`, or the name of the shipped crisis set."""
    return data if data == SHIPPED_SET else str(Path(data).expanduser().absolute())


def settle(config: Any, line: Sequence[str], kind: ItemKind) -> None:
    """Fill in options that depend on the kind.

    Raises:
        UserError: if `line` sets an option without effect on items of this kind.
    """
    typed, defaults = {text.partition("=")[0] for text in line}, ReviewOptions()
    for name in kind.without_effect:
        if f"review.{name}" in typed or config.review[name] != getattr(defaults, name):
            raise UserError(f"review.{name}: no effect on {kind.what}; leave it out")
    if kind.draws_all and "review.items" not in typed:
        config.review["items"] = MOST_ITEMS
    if "practice" in kind.without_effect:
        config.review.practice = 0
    if config.review.title is None:
        config.review.title = kind.texts.title
