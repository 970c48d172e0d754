"""`buy` asks language models for answers that the journal lacks, within the budget, and shows progress."""

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

from psychocounsel.asking.answers import Answers, Outcome, Read
from psychocounsel.asking.asker import Asks, ask_all
from psychocounsel.asking.budget import Budget
from psychocounsel.asking.language_model import Ask, LanguageModel
from psychocounsel.steps.course import Bar, KnownLength


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
    """Buy the answers to `asks`; returns the budget, with the cost and the number of calls so far.

    Args:
        asks, answers, models, key, read, retries: see `ask_all`.
        limits: the section `budget` of a configuration, with `cost` and `calls`.
        count: about how many `asks` there are, for the progress bar.
        bar, what: the progress bar and its label.
        take: called with each Ask and its outcome, before the next of `asks` is drawn.

    Raises:
        BudgetSpent: if the budget is spent first; the journal keeps the bought answers.
        UserError: for a wrong key or address, for an unknown price if `limits.cost` is set, or if no server is left.
    """
    budget = Budget.of(limits.cost, limits.calls, answers, models)
    outcomes = ask_all(asks, answers, budget, read=read, models=models, key=key, retries=retries)
    with closing(outcomes):
        for model, ask, outcome in bar(KnownLength(outcomes, count), what):
            take(model, ask, outcome)
    return budget
