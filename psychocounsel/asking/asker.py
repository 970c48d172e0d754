"""`ask_all` sends Asks to language models, several at a time. Answers in the journal are not asked for again.

Every new answer is on disk before the caller gets it.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import Generic, TypeVar

from psychocounsel.asking.answers import Answers, Outcome, Read, outcome_of
from psychocounsel.asking.budget import Budget, cost_of, likely_maximum
from psychocounsel.asking.language_model import (
    FAILED,
    Answer,
    Answerer,
    Ask,
    LanguageModel,
    answer_of,
    check_names,
    keys_of,
    open_model,
    submitted,
)

T = TypeVar("T")

_WINDOW = 4096  # Asks held in memory; fast models are not held up by a slow one while fewer are waiting
_LOOKED_UP = 256  # Asks looked up in the journal before arrived answers are yielded

Asks = Iterable[tuple[LanguageModel, Ask] | None]
_MORE, _UNKNOWN, _END = "more", "not known yet", "no more"  # state of the iterator of Asks


def ask_all(
    asks: Asks,
    answers: Answers,
    budget: Budget,
    *,
    read: Read[T],
    models: Sequence[LanguageModel],
    key: str | Sequence[str],
    retries: int = 2,
    opened: dict[str, Answerer] | None = None,
) -> Generator[tuple[LanguageModel, Ask, Outcome[T]], None, None]:
    """Yield each Ask with its outcome, in the order in which answers arrive. `asks` is drawn from as needed.

    Answers in the journal are not asked for again. `models` lists all models that `asks` uses. Before the first call, all of
    them are opened and checked together; if the journal answers everything, none is opened. `key` is the configuration key of
    their group or, if they belong to several groups, the key of each model. If `read` rejects an answer (ValueError), the Ask
    is repeated up to `retries` times with another random seed. The outcome `failed` is not kept in the journal, so a later run
    asks again. `opened` holds the models that are open already, by digest; they stay open, and the others are closed at the end.
    If the generator is interrupted or closed, the models opened here are awaited, and the journal keeps their answers.

    An Ask may depend on earlier answers, as in a conversation. `asks` then yields None while the next Ask depends on an answer
    that has not arrived. The caller receives that answer from this generator, in the thread that draws from `asks`.

    Raises:
        RuntimeError: if `asks` yields None while no call is under way, because the awaited answer could never arrive.
        BudgetSpent: if the next call would exceed the budget; raised after the outcomes of all calls under way.
        UserError: for a wrong API key, model name or address, if no server is left, or if no prompt fits a model; bought
            answers are kept.
    """
    if isinstance(key, str):
        check_names(models, key)
    desk = _Desk(answers, budget, read, retries, models, keys_of(models, key) if isinstance(key, str) else key, opened)
    try:
        yield from desk.work(iter(asks))
    finally:
        desk.close()


@dataclass
class _Call:
    model: LanguageModel
    ask: Ask
    attempt: int
    held: float = 0.0

    @property
    def seed(self) -> int:
        """A different random seed for each attempt."""
        return (self.ask.seed + 0x9E3779B1 * self.attempt) % (1 << 32)


@dataclass
class _Arrival:
    call: _Call
    answer: Answer | None
    error: BaseException | None = None


class _Desk(Generic[T]):
    """The work of `ask_all`: Asks that are waiting, under way and answered.

    All methods run in the caller's thread, except those of the keeper: a thread that writes answers to the journal. It writes
    all answers that arrived in the meantime at once.
    """

    def __init__(
        self,
        answers: Answers,
        budget: Budget,
        read: Read[T],
        retries: int,
        models: Sequence[LanguageModel],
        keys: Sequence[str],
        opened: dict[str, Answerer] | None,
    ) -> None:
        self.answers, self.budget, self.read, self.retries = answers, budget, read, retries
        # Keyed by digest, because models of two groups may share a name; two models with the same settings are opened once.
        self.models = {model.digest: (model, key) for model, key in zip(models, keys, strict=True)}
        self._known = set[str]()  # models with an answer in the journal
        self._given = opened or {}  # they stay open
        self._open = dict(self._given)
        self._waiting: dict[str, deque[_Call]] = {digest: deque() for digest in self.models}
        self._under_way = dict.fromkeys(self._waiting, 0)
        self._answered: queue.SimpleQueue[tuple[_Call, Future[Answer]] | None] = queue.SimpleQueue()
        self._journalled: queue.SimpleQueue[_Arrival] = queue.SimpleQueue()
        self._keeper = threading.Thread(target=self._keep, name="journal", daemon=True)
        self._error: BaseException | None = None

    def work(self, asks: Iterator[tuple[LanguageModel, Ask] | None]) -> Iterator[tuple[LanguageModel, Ask, Outcome[T]]]:
        state = _MORE
        while True:
            state = _MORE if state == _UNKNOWN else state
            for _ in range(_LOOKED_UP):
                if state != _MORE or self._error or self._is_full():
                    break
                pair = next(asks, _END)
                if pair is None or isinstance(pair, str):
                    state = _UNKNOWN if pair is None else _END
                    break
                result = self.answers.settled(*pair, self.read, self.retries)
                if isinstance(result, Outcome):
                    self._known.add(pair[0].digest)
                    yield *pair, result
                else:
                    self._waiting[pair[0].digest].append(_Call(*pair, result))
            has_room = self._submit() if not self._error else False
            if self._is_idle(has_room):
                if state == _END:
                    self._require_fit()
                    return
                if state == _UNKNOWN:
                    raise RuntimeError("asks wait for an answer, and none is under way")
            under_way = sum(self._under_way.values())
            stays = self._is_full() or state != _MORE or self._error is not None or not has_room
            yield from self._outcomes(block=under_way > 0 and stays)

    def _is_full(self) -> bool:
        return sum(map(len, self._waiting.values())) >= _WINDOW

    def _require_fit(self) -> None:
        """Raise the error of a model whose context is too short for every prompt: repeating the command would not help."""
        for opened in self._open.values():
            if opened.misfit and not opened.fitted:
                raise opened.misfit

    def _is_idle(self, has_room: bool) -> bool:
        """Return True if no call is under way or waiting. If no call is under way, raise the error that ends the run, if any."""
        if any(self._under_way.values()):
            return False
        if self._error:
            raise self._error
        if not has_room:
            raise self.budget.spent_out()
        return not any(self._waiting.values())

    def close(self) -> None:
        """Close the models that were opened here. The keeper still writes the answers that have arrived."""
        for digest in self._open.keys() - self._given.keys():
            self._open[digest].close()
        if self._keeper.is_alive():
            self._answered.put(None)
            self._keeper.join()

    def _submit(self) -> bool:
        """Submit waiting calls while models have free slots; returns False if the budget has no room for the next one."""
        for digest, (model, _) in self.models.items():
            waiting = self._waiting[digest]
            if not waiting:
                continue
            if not self._keeper.is_alive():
                self._begin()
            while waiting and self._under_way[digest] < self._open[digest].slots:
                call = waiting[0]
                call.held = likely_maximum(model, call.ask)
                if not self.budget.hold(call.held):
                    return False
                waiting.popleft()
                self._under_way[digest] += 1
                future = submitted(self._open[digest], call.ask, call.seed)
                future.add_done_callback(lambda done, call=call: self._answered.put((call, done)))  # type: ignore[misc]
        return True

    def _begin(self) -> None:
        """Open and check all models that are not open, before anything is paid for."""
        new = self.models.keys() - self._open.keys()
        for digest in new:
            self._open[digest] = open_model(*self.models[digest])
            self._open[digest].fitted = digest in self._known
        for digest in new:
            self._open[digest].check()
        self._keeper.start()

    def _outcomes(self, block: bool) -> Iterator[tuple[LanguageModel, Ask, Outcome[T]]]:
        """Yield the outcomes that have arrived; with `block`, wait for at least one answer."""
        while True:
            try:
                arrival = self._journalled.get(block=block)
            except queue.Empty:
                return
            block, call = False, arrival.call
            self._under_way[call.model.digest] -= 1
            answer = arrival.answer
            is_bought = answer is not None and answer.outcome != FAILED
            self.budget.release(call.held, cost_of(call.model, call.ask, answer) if answer and is_bought else None)
            if answer is None:
                self._error = self._error or arrival.error
                continue
            if (outcome := outcome_of(call.ask, answer, self.read, call.attempt, self.retries)) is not None:
                yield call.model, call.ask, outcome
            else:
                self._waiting[call.model.digest].appendleft(_Call(call.model, call.ask, call.attempt + 1))

    # -- the keeper

    def _keep(self) -> None:
        while (first := self._answered.get()) is not None:
            batch = [first]
            while not self._answered.empty():
                if (more := self._answered.get()) is None:
                    self._answered.put(None)
                    break
                batch.append(more)
            arrivals = [_arrival(self._open[call.model.digest], call, future) for call, future in batch]
            try:
                self.answers.keep(
                    [
                        (call.model, call.ask, call.attempt, answer, cost_of(call.model, call.ask, answer))
                        for call, answer in ((arrival.call, arrival.answer) for arrival in arrivals)
                        if answer is not None and answer.outcome != FAILED
                    ]
                )
            except BaseException as error:  # e.g. a full disk: an answer that was not written must not be used
                arrivals = [_Arrival(arrival.call, None, error) for arrival in arrivals]
            for arrival in arrivals:
                self._journalled.put(arrival)


def _arrival(opened: Answerer, call: _Call, future: Future[Answer]) -> _Arrival:
    try:
        return _Arrival(call, answer_of(opened, future))
    except (CancelledError, Exception) as error:
        return _Arrival(call, None, error)
