"""Prices of calls, the budget that ends a run, and the estimate that `dry_run=true` prints."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from psychocounsel.asking.answers import Answers
from psychocounsel.asking.language_model import Answer, Ask, LanguageModel
from psychocounsel.errors import UserError

_CHARACTERS = 4.0  # to a token of text in letters
_MESSAGE_TOKENS = 4  # that a chat template adds to each message


class BudgetSpent(UserError):
    """The budget has no room for another call; all that was bought is kept. Exit code 3."""


def estimated_tokens(ask: Ask) -> int:
    """About how many tokens the messages are: a token for 4 characters, or for each Chinese, Japanese or Korean one."""
    count = 0.0
    for message in ask.messages:
        text = message["content"]
        wide = 0 if text.isascii() else sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
        count += _MESSAGE_TOKENS + wide + (len(text) - wide) / _CHARACTERS
    return round(count)


def price(model: LanguageModel, prompt_tokens: float, completion_tokens: float) -> float:
    """What so many tokens cost; an unknown price counts as 0."""
    return ((model.input_price or 0.0) * prompt_tokens + (model.output_price or 0.0) * completion_tokens) / 1e6


def most(model: LanguageModel, ask: Ask) -> float:
    """The most that a call is likely to cost: with an answer of `max_tokens`."""
    return price(model, estimated_tokens(ask), model.max_tokens)


def paid(model: LanguageModel, ask: Ask, answer: Answer) -> float:
    """What an answer has cost, by the server's counts or, where it gives none, by estimates."""
    prompt = estimated_tokens(ask) if answer.prompt_tokens is None else answer.prompt_tokens
    written = len(answer.text) / _CHARACTERS if answer.completion_tokens is None else answer.completion_tokens
    return price(model, prompt, written)


def is_priced(model: LanguageModel) -> bool:
    """Whether the price is known: both are given, or the model is the user's own, whose calls cost nothing here."""
    return not model.is_third_party() or None not in (model.input_price, model.output_price)


class Budget:
    """At most `cost`, in the currency of prices, and `calls` answered calls, beside what is under way; None: any number.

    `spent` and `made` are what is bought already: in the journal, too. Attempts that fail are not counted, though a
    provider may ask money for some of them. `whose` follows both in the message that ends a run.

    Raises:
        UserError: at construction with a limit of `cost`, if the price of one of `models` is unknown.
    """

    def __init__(
        self,
        cost: float | None = None,
        calls: int | None = None,
        spent: float = 0.0,
        made: int = 0,
        models: Sequence[LanguageModel] = (),
        whose: str = "",
    ) -> None:
        self.cost, self.calls, self.spent, self.made, self.whose = cost, calls, spent, made, whose
        self._held, self._under_way = 0.0, 0
        unknown = [model.name for model in models if not is_priced(model)]
        if cost is not None and unknown:
            raise UserError(
                f"budget.cost={cost:g}: the price of {unknown[0]} is unknown; give its input_price and output_price "
                "(per million tokens), or limit budget.calls"
            )

    @classmethod
    def of(cls, cost: float | None, calls: int | None, answers: Answers, models: Sequence[LanguageModel]) -> Budget:
        """The budget of the process that `answers` is of: its share of the limits, less what it has bought before.

        The share is the same whenever it is asked for, however much the others have bought meanwhile.
        """
        shares, total, (index, count) = answers.of_shares(), answers.journal.total, answers.share
        own = shares[index]
        if count == 1:
            return cls(cost, calls, own.cost, own.calls, models)
        others = total.cost - sum(each.cost for each in shares), total.calls - sum(each.calls for each in shares)
        of_cost = None if cost is None else level(cost - others[0], [each.cost for each in shares])
        of_calls = None if calls is None else int(level(calls - others[1], [each.calls for each in shares]))
        return cls(of_cost, of_calls, own.cost, own.calls, models, f" of share {index} of {count}")

    def hold(self, cost: float) -> bool:
        """Set the cost of a call aside; False if there is no room for it now."""
        if self.calls is not None and self.made + self._under_way >= self.calls:
            return False
        if self.cost is not None and self.spent + self._held + cost > self.cost:
            return False
        self._held, self._under_way = self._held + cost, self._under_way + 1
        return True

    def release(self, held: float, cost: float | None) -> None:
        """Settle a call that `hold` has room for: by its `cost`, or None if it has no answer."""
        self._held, self._under_way = self._held - held, self._under_way - 1
        if cost is not None:
            self.spent, self.made = self.spent + cost, self.made + 1

    def spent_out(self) -> BudgetSpent:
        """What ends a run."""
        limits = [f"budget.cost={self.cost:g} ({self.spent:.4g} spent)"] if self.cost is not None else []
        limits += [f"budget.calls={self.calls} ({self.made} made)"] if self.calls is not None else []
        return BudgetSpent(f"{' and '.join(limits)}{self.whose}: the next call would exceed it; every answer is kept")


def level(limit: float, bought: Sequence[float]) -> float:
    """How much each of several processes may have bought in all, so that together they keep `limit`.

    One that already has more buys no more, and leaves the others less. What those below the level buy up to it does not
    move it, so processes that ask at different times agree.
    """
    count = len(bought)
    for most_of_all in sorted(bought, reverse=True):
        if most_of_all <= limit / count:
            break
        limit, count = limit - most_of_all, count - 1
        if not count:
            return 0.0
    return max(0.0, limit / count)


@dataclass
class Estimate:
    """What is still to be asked, by the names of models: an estimate by characters, with answers of `max_tokens`."""

    calls: Counter[str] = field(default_factory=Counter)
    prompt_tokens: Counter[str] = field(default_factory=Counter)
    completion_tokens: Counter[str] = field(default_factory=Counter)
    costs: dict[str, float] = field(default_factory=dict)
    unpriced: set[str] = field(default_factory=set)
    bought: int = 0

    @classmethod
    def of(cls, asks: Iterable[tuple[LanguageModel, Ask]], answers: Answers) -> Estimate:
        """Of those `asks` whose first attempt is not in the journal."""
        found = cls()
        for model, ask in asks:
            if answers.find(model, ask, 0) is not None:
                found.bought += 1
                continue
            found.add(model, estimated_tokens(ask))
        return found

    def add(self, model: LanguageModel, prompt_tokens: int) -> None:
        """Count a call."""
        name = model.name
        self.calls[name] += 1
        self.prompt_tokens[name] += prompt_tokens
        self.completion_tokens[name] += model.max_tokens
        self.costs[name] = self.costs.get(name, 0.0) + price(model, prompt_tokens, model.max_tokens)
        self.unpriced |= set() if is_priced(model) else {name}

    def lines(self, what: str) -> list[str]:
        """What a user reads: a line for each model, and one for all."""
        said = [
            f"{name}: {self.calls[name]:,} calls, about {self.prompt_tokens[name]:,} tokens of prompts and at most "
            f"{self.completion_tokens[name]:,} of answers, "
            + ("price unknown" if name in self.unpriced else _at_most(self.costs[name]))
            for name in sorted(self.calls)
        ]
        total = f"{what}: {sum(self.calls.values()):,} calls, {self.bought:,} bought before"
        if not self.calls:
            return [f"{total}: nothing is left to buy"]
        priced = [cost for name, cost in self.costs.items() if name not in self.unpriced]
        costs = [_at_most(sum(priced))] if priced else []
        costs += [f"{len(self.unpriced)} models of unknown price"] if self.unpriced else []
        return [*said, f"{total}; {' and '.join(costs)} (an estimate: tokens by characters, no attempt repeated)"]


def _at_most(cost: float) -> str:
    return f"at most about {cost:.4g}" if cost else "at no cost"
