"""Prices of calls, the budget that can end a run, and the estimate that `dry_run=true` prints."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from psychocounsel.asking.answers import Answers
from psychocounsel.asking.language_model import Answer, Ask, LanguageModel
from psychocounsel.errors import UserError
from psychocounsel.storage.files import with_noun

_CHARACTERS = 4.0  # per token, in alphabetic scripts
_MESSAGE_TOKENS = 4  # added to each message by a chat template
IMAGINED_WORDS = 150  # assumed length of a reply or a client's turn that is not written yet, to estimate tokens


class BudgetSpent(UserError):
    """The budget has no room for another call; all bought answers are kept. Exit code 3."""


def estimated_tokens(ask: Ask) -> int:
    """Return an estimate of the messages' tokens: one per 4 characters, or per Chinese, Japanese or Korean character."""
    count = 0.0
    for message in ask.messages:
        text = message["content"]
        wide = 0 if text.isascii() else sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
        count += _MESSAGE_TOKENS + wide + (len(text) - wide) / _CHARACTERS
    return round(count)


def price(model: LanguageModel, prompt_tokens: float, completion_tokens: float) -> float:
    """Return the price of the tokens of a prompt and its answer. An unknown price counts as 0."""
    return ((model.input_price or 0.0) * prompt_tokens + (model.output_price or 0.0) * completion_tokens) / 1e6


def likely_maximum(model: LanguageModel, ask: Ask) -> float:
    """Return the likely maximum cost of a call: with an answer of `max_tokens`."""
    return price(model, estimated_tokens(ask), model.max_tokens)


def cost_of(model: LanguageModel, ask: Ask, answer: Answer) -> float:
    """Return the cost of an answer, from the server's token counts or, without these, from estimates."""
    prompt = estimated_tokens(ask) if answer.prompt_tokens is None else answer.prompt_tokens
    written = len(answer.text) / _CHARACTERS if answer.completion_tokens is None else answer.completion_tokens
    return price(model, prompt, written)


def is_priced(model: LanguageModel) -> bool:
    """Return True if the price is known: both prices are set, or the model is the user's own, whose calls are free."""
    return not model.is_third_party() or None not in (model.input_price, model.output_price)


class Budget:
    """Limits the calls of a process to `cost` (in the currency of the prices) and to `calls` answered calls; None: no limit.

    `spent` and `made` are the cost and number of the answers bought so far, including those in the journal. Failed attempts are
    not counted, although a provider may charge for some of them. `whose` is appended to the message that ends a run.

    Raises:
        UserError: by the constructor, if `cost` is limited and the price of one of `models` is unknown.
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
        """Return the budget of one process: its share of the limits, minus the answers it has bought before.

        `answers` says which share this process has. The result does not depend on when it is computed, even if the other
        processes have bought more in the meantime.
        """
        shares, total, (index, count) = answers.of_shares(), answers.journal.total, answers.share
        own = shares[index]
        if count == 1:
            return cls(cost, calls, own.cost, own.calls, models)
        others = total.cost - sum(share.cost for share in shares), total.calls - sum(share.calls for share in shares)
        of_cost = None if cost is None else level(cost - others[0], [share.cost for share in shares])
        of_calls = None if calls is None else int(level(calls - others[1], [share.calls for share in shares]))
        return cls(of_cost, of_calls, own.cost, own.calls, models, f" of share {index} of {count}")

    def hold(self, cost: float) -> bool:
        """Reserve the cost of a call; returns False if the budget has no room for it now."""
        if self.calls is not None and self.made + self._under_way >= self.calls:
            return False
        if self.cost is not None and self.spent + self._held + cost > self.cost:
            return False
        self._held, self._under_way = self._held + cost, self._under_way + 1
        return True

    def release(self, held: float, cost: float | None) -> None:
        """End a reservation made by `hold` and book the call's `cost`; None means that the call got no answer."""
        self._held, self._under_way = self._held - held, self._under_way - 1
        if cost is not None:
            self.spent, self.made = self.spent + cost, self.made + 1

    def spent_out(self) -> BudgetSpent:
        """Return the error that ends the run."""
        limits = [f"budget.cost={self.cost:g} ({self.spent:.4g} spent)"] if self.cost is not None else []
        limits += [f"budget.calls={self.calls} ({self.made} made)"] if self.calls is not None else []
        reached = f"{' and '.join(limits)}{self.whose}"
        return BudgetSpent(f"{reached}: the next call would exceed this limit; bought answers are kept")


def level(limit: float, bought: Sequence[float]) -> float:
    """Return how much each of several processes may buy in total, so that together they stay within `limit`.

    A process that has already bought more than this level buys nothing else, and the others get less. Purchases up to the
    level do not change it, so processes that compute it at different times agree.
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
    """Estimate of the remaining calls by model name: tokens from character counts, answers of `max_tokens` each."""

    calls: Counter[str] = field(default_factory=Counter)
    prompt_tokens: Counter[str] = field(default_factory=Counter)
    completion_tokens: Counter[str] = field(default_factory=Counter)
    costs: dict[str, float] = field(default_factory=dict)
    unpriced: set[str] = field(default_factory=set)
    bought: int = 0

    @classmethod
    def of(cls, asks: Iterable[tuple[LanguageModel, Ask]], answers: Answers) -> Estimate:
        """Return the estimate for those `asks` whose first attempt is not in the journal."""
        estimate = cls()
        for model, ask in asks:
            if answers.find(model, ask, 0) is not None:
                estimate.bought += 1
                continue
            estimate.add(model, estimated_tokens(ask))
        return estimate

    def add(self, model: LanguageModel, prompt_tokens: int) -> None:
        """Add one call to the estimate."""
        name = model.name
        self.calls[name] += 1
        self.prompt_tokens[name] += prompt_tokens
        self.completion_tokens[name] += model.max_tokens
        self.costs[name] = self.costs.get(name, 0.0) + price(model, prompt_tokens, model.max_tokens)
        self.unpriced |= set() if is_priced(model) else {name}

    def lines(self, what: str) -> list[str]:
        """Return the lines to print: one for each model, and one for the total."""
        lines = [
            f"{name}: {with_noun(self.calls[name], 'call')}, about {self.prompt_tokens[name]:,} tokens of prompts and at most "
            f"{self.completion_tokens[name]:,} of answers, "
            + ("price unknown" if name in self.unpriced else _at_most(self.costs[name]))
            for name in sorted(self.calls)
        ]
        total = f"{what}: {with_noun(sum(self.calls.values()), 'call')}, {self.bought:,} bought before"
        if not self.calls:
            return [f"{total}: nothing left to buy"]
        priced = [cost for name, cost in self.costs.items() if name not in self.unpriced]
        costs = [_at_most(sum(priced))] if priced else []
        costs += [f"{with_noun(len(self.unpriced), 'model')} of unknown price"] if self.unpriced else []
        basis = "an estimate: tokens are counted from characters, and no call is repeated"
        return [*lines, f"{total}; {' and '.join(costs)} ({basis})"]


def _at_most(cost: float) -> str:
    return f"at most about {cost:.4g}" if cost else "at no cost"
