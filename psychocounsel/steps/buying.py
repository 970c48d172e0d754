"""`buy` asks language models for what the journal does not hold yet, within the budget, and shows how far it is."""

from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import Any

from psychocounsel.asking.answers import Answers, Read
from psychocounsel.asking.asker import ask_all
from psychocounsel.asking.budget import Budget
from psychocounsel.asking.language_model import Ask, LanguageModel
from psychocounsel.steps.context import Bar, KnownLength


def buy(
    asks: Iterable[tuple[LanguageModel, Ask]],
    answers: Answers,
    limits: Any,
    *,
    models: Sequence[LanguageModel],
    key: str,
    read: Read[Any] = str,
    retries: int = 0,
    count: int,
    bar: Bar,
    what: str,
) -> Budget:
    """Buy the answers to `asks`, of which there are about `count`; returns the budget with what is spent and made so far.

    Args:
        asks, answers, models, key, read, retries: as `ask_all` says.
        limits: the section `budget` of a configuration, with `cost` and `calls`.
        bar, what: shows progress under this name.

    Raises:
        BudgetSpent: if the budget ends first; the journal keeps what was bought.
        UserError: for a wrong key or address, or if no server is left.
    """
    budget = Budget.of(limits.cost, limits.calls, answers, models)
    came = ask_all(asks, answers, budget, read=read, models=models, key=key, retries=retries)
    with closing(came):
        for _ in bar(KnownLength(came, count), what):
            pass
    return budget
