"""`buy` asks language models for what the journal does not hold yet, within the budget, and shows how far it is."""

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

from psychocounsel.asking.answers import Answers, Outcome, Read
from psychocounsel.asking.asker import Asks, ask_all
from psychocounsel.asking.budget import Budget
from psychocounsel.asking.language_model import Ask, LanguageModel
from psychocounsel.steps.context import Bar, KnownLength


def buy(
    asks: Asks,
    answers: Answers,
    limits: Any,
    *,
    models: Sequence[LanguageModel],
    key: str | Sequence[str],
    read: Read[Any] = str,
    retries: int = 0,
    count: int,
    bar: Bar,
    what: str,
    take: Callable[[LanguageModel, Ask, Outcome[Any]], None] = lambda *_: None,
) -> Budget:
    """Buy the answers to `asks`, of which there are about `count`; returns the budget with what is spent and made so far.

    Args:
        asks, answers, models, key, read, retries: as `ask_all` says.
        limits: the section `budget` of a configuration, with `cost` and `calls`.
        bar, what: shows progress under this name.
        take: is given each Ask with its outcome, before `asks` is pulled again.

    Raises:
        BudgetSpent: if the budget ends first; the journal keeps what was bought.
        UserError: for a wrong key or address, or if no server is left.
    """
    budget = Budget.of(limits.cost, limits.calls, answers, models)
    came = ask_all(asks, answers, budget, read=read, models=models, key=key, retries=retries)
    with closing(came):
        for each in bar(KnownLength(came, count), what):
            take(*each)
    return budget
