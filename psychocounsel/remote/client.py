"""HTTP client of the whole package: sends JSON requests to one or several servers that give the same answers."""

import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from psychocounsel.errors import GoOnLater, UserError
from psychocounsel.remote.exchange import Exchange, NotJson, Passing, Refused, Request
from psychocounsel.remote.journal import Journal, request_key
from psychocounsel.remote.received import joined
from psychocounsel.remote.server_access import check_addresses

# The client

T = TypeVar("T")
Read = Callable[[Any, Any], T]  # arguments: the parsed answer, and the payload that it answers

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # seconds between attempts, doubled each time
_LONGEST_WAIT = 300.0  # seconds; a server that asks for more by Retry-After counts as failed
_FEW_FAILURES = 4  # consecutive failures of an address before others take over
_PATIENCE = 300.0  # seconds without an answer to any request, after which `ask` gives up
_LOOK_SECONDS = 1.0  # between two looks at the answers that have arrived
_FEW_RETRIES = 2  # if another server can take over, or work has not started yet


class Unusable(UserError):
    """Error: a server's answer does not have the expected form."""


class Unanswered(UserError):
    """Error: one request has no answer after all attempts, while others are answered."""


class Client:
    """Posts JSON to `addresses`, spread over all of them, with at most `concurrency` requests in progress.

    Retries: an attempt fails if it finds no server, if no complete answer arrives within `timeout_seconds`, or with a
    status 408, 429 or 5xx. It is repeated up to `retries` times (at most twice while there are other servers), after
    growing pauses or the pause that the server asks for. After that the address is skipped for some minutes, and others
    take over its requests.

    Limits: an answer of more than LONGEST_ANSWER bytes is rejected without reading the rest. With `from_last_byte`,
    `timeout_seconds` is the longest silence of a server during its answer, not the duration of the whole answer.

    `key_variable` names the environment variable that holds a bearer key. A request that the journal in the folder
    `journal` answers is not sent. `key` is the config group that errors name. `direct` ignores the proxies of the
    environment.

    Raises:
        UserError: at construction for invalid addresses, a variable that is not set, and a damaged journal.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        key: str,
        *,
        timeout_seconds: float = 60.0,
        retries: int = 8,
        concurrency: int = 4,
        key_variable: str | None = None,
        journal: Path | None = None,
        direct: bool = False,
        from_last_byte: bool = False,
    ) -> None:
        self.key, self.retries = key, retries
        self._exchange = Exchange(key, timeout_seconds, key_variable, direct, from_last_byte)
        self.addresses = Addresses(addresses, f"{key}.addresses")
        self._journal = Journal(journal) if journal else None
        self._threads = ThreadPoolExecutor(concurrency, "client")

    def answers(self, route: str, payloads: Sequence[Any], read: Read[T]) -> Iterator[T]:
        """Yield the result of `read` for the answer to each payload, in order; requests start with the first iteration.

        `read` receives the parsed JSON and the payload; it raises ValueError with a reason if the answer is not valid.

        Raises:
            UserError: if no server is left, or a server refuses a request or gives an invalid answer.
        """
        with self._under_way(route, payloads, read, None) as (futures, _):
            for future in futures:
                yield future.result()[1]

    def as_answered(
        self,
        route: str,
        payloads: Sequence[Any],
        read: Read[T],
        most: int,
        ends: Callable[[], bool],
    ) -> Iterator[dict[int, tuple[str, T]]]:
        """Like `answers`, but yield once a second what has arrived: for each payload's place, the address and the result.

        `most` limits the requests in progress at one address. A second may have no results. Once `ends()` is true, no
        further request starts. Results that arrived before an error are yielded before it is raised.
        """
        with self._under_way(route, payloads, read, most) as (futures, stop):
            waiting = dict(enumerate(futures))
            while waiting:
                arrived, failure = dict[int, tuple[str, T]](), None
                wait(waiting.values(), _LOOK_SECONDS)
                for place in [place for place, future in waiting.items() if future.done()]:
                    try:
                        arrived[place] = waiting.pop(place).result()
                    except CancelledError:
                        continue
                    except UserError as error:
                        failure = error
                yield arrived
                if failure is not None:
                    raise failure
                if ends():
                    stop.set()
                    for future in waiting.values():
                        future.cancel()

    @contextmanager
    def _under_way(
        self, route: str, payloads: Sequence[Any], read: Read[T], most: int | None
    ) -> Iterator[tuple[list[Future[tuple[str, T]]], threading.Event]]:
        """Context with requests in progress, and the event that stops them; at its end no further request starts."""
        stop = threading.Event()
        begun: dict[str, Future[tuple[str, T]]] = {}
        futures = [self._begin(Request(route, payload), read, stop, begun, most) for payload in payloads]
        try:
            yield futures, stop
        finally:
            stop.set()
            for future in futures:
                future.cancel()
            if self._journal is not None:
                wait(futures)  # answers in progress still reach the journal

    def ask(self, route: str, payload: Any, read: Read[T], stop: threading.Event, most: int) -> T:
        """Return the result of `read` for one payload; from any thread, with at most `most` requests in progress per address.

        A failure here need not stop the work of other threads. While other requests are answered, this one is repeated
        up to `retries` times, not counting status 429. While no request is answered, it is repeated for _PATIENCE
        seconds. An invalid answer counts as a failed attempt. The journal is not used.

        Raises:
            Refused: for an HTTP status that a retry would not change, such as 401.
            Unanswered: after all attempts.
            NoServerLeft: if no server has answered any request for _PATIENCE seconds; ServersLost if one did before.
            UserError: if the answer is too long.
            CancelledError: if `stop` is set before an attempt.
        """
        request, began, pause, failures = Request(route, payload), time.monotonic(), _FIRST_PAUSE, 0
        while not stop.is_set():
            address = self.addresses.take(most)
            try:
                result = _read(self._exchange.send(address + route, request), request, address + route, read)
                self.addresses.answered(address)
                return result
            except Refused:
                self.addresses.answered(address)
                raise
            except (Passing, NotJson, Unusable) as error:
                failure = error if isinstance(error, Passing) else Passing(str(error))
                self.addresses.failed(address, str(failure), max(_FEW_FAILURES, most))
            finally:
                self.addresses.give_back(address)
            failures += not failure.is_busy
            last = self.addresses.last_answer
            if failures > self.retries and last > began:
                raise Unanswered(f"{self.key}: {address}{route}: {failure}, {failures} times")
            if time.monotonic() - max(last, began) > _PATIENCE:
                raise self.addresses.none_left({address: str(failure)})
            stop.wait(max(min(failure.seconds, _LONGEST_WAIT), pause * random.uniform(0.5, 1.0)))
            pause = min(2 * pause, _LONGEST_PAUSE)
        raise CancelledError

    def events(self, route: str, payload: Any) -> Iterator[Any]:
        """Yield the parsed events of one streamed answer as they arrive; from any thread, without retries.

        Closing the iterator ends the request.

        Raises:
            Refused: for an HTTP status that a retry would not change, such as 401.
            Unanswered: if there is no answer, or it breaks off.
            UserError: if an event is not JSON, the answer is too long, or no server is left.
        """
        address = self.addresses.take()
        try:
            yield from self._exchange.events(address + route, Request(route, payload))
        except Passing as error:
            raise Unanswered(f"{self.key}: {address}{route}: {error}") from error
        finally:
            self.addresses.give_back(address)

    def joined(self, text: str, is_complete: bool) -> str:
        """Return a text that the caller has joined from several events, without the API key that its parts may spell."""
        return joined(text, self._exchange.secret, is_complete)

    def check(self, route: str, payload: Any, read: Read[Any], retries: int = _FEW_RETRIES) -> None:
        """Send one request to every address, to learn before work starts that they answer.

        Raises:
            UserError: if no address answers, or one refuses or gives an invalid answer after `retries` more attempts.
        """
        request = Request(route, payload)
        for address in self.addresses.all:
            for left in reversed(range(retries + 1)):
                try:
                    _read(self._ask_at(address, request, threading.Event(), left), request, address + route, read)
                except Passing as error:
                    self.addresses.set_aside(address, str(error))
                except (NotJson, Unusable):
                    if not left:
                        raise
                    continue
                break
        self.addresses.give_back(self.addresses.take())  # raises if no address is left

    def post(self, address: str, route: str, body: bytes, read: Read[T]) -> T | None:
        """Send `body` once to one address and return the result of `read`; without an answer, skip the address and return None.

        Raises:
            UserError: if the server refuses the request, or its answer is too long, not JSON or not as expected.
        """
        request = Request(route, None, body)
        try:
            return _read(self._exchange.send(address + route, request), request, address + route, read)
        except Passing as error:
            self.addresses.set_aside(address, str(error))
            return None

    def why_none(self) -> str:
        """Return a message with the reason of each address if no address is left, otherwise an empty text."""
        try:
            self.addresses.give_back(self.addresses.take())
        except NoServerLeft as error:
            return str(error)
        return ""

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        self._exchange.close()

    # -- one request

    def _begin(
        self,
        request: Request,
        read: Read[T],
        stop: threading.Event,
        begun: dict[str, Future[tuple[str, T]]],
        most: int | None,
    ) -> Future[tuple[str, T]]:
        if self._journal is None:
            return self._threads.submit(self._ask, request, read, stop, None, most)
        key = request_key(request.route, request.payload)
        if key not in begun and (line := self._journal.get(key)) is not None:
            begun[key] = Future()
            begun[key].set_result(("", _read(line.answer, request, str(self._journal.folder), read)))
        if key not in begun:
            begun[key] = self._threads.submit(self._ask, request, read, stop, key, most)
        return begun[key]

    def _ask(
        self, request: Request, read: Read[T], stop: threading.Event, key: str | None, most: int | None
    ) -> tuple[str, T]:
        """Return the address that answered, and the result of `read`."""
        while True:
            address = self.addresses.take(most)
            retries = min(self.retries, _FEW_RETRIES) if len(self.addresses.live()) > 1 else self.retries
            try:
                answer = self._ask_at(address, request, stop, retries)
            except Passing as error:
                self.addresses.set_aside(address, str(error))
                continue
            finally:
                self.addresses.give_back(address)
            result = _read(answer, request, address + request.route, read)
            if self._journal is not None and key is not None:
                self._journal.add(key, answer)
            return address, result

    def _ask_at(self, address: str, request: Request, stop: threading.Event, retries: int) -> Any:
        """Return the parsed answer of one address, after several attempts if necessary."""
        pause = _FIRST_PAUSE
        for attempt in range(retries + 1):
            if stop.is_set():
                raise CancelledError
            try:
                answer = self._exchange.send(address + request.route, request)
                self.addresses.answered(address)
                return answer
            except Passing as error:
                if attempt == retries or error.seconds > _LONGEST_WAIT or address not in self.addresses.live():
                    raise
                stop.wait(max(error.seconds, pause * random.uniform(0.5, 1.0)))
                pause = min(2 * pause, _LONGEST_PAUSE)
        raise AssertionError("the last attempt returns or raises")


def _read(answer: Any, request: Request, source: str, read: Read[T]) -> T:
    try:
        return read(answer, request.payload)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        reason = str(error) if isinstance(error, ValueError) else "it has an unexpected form"
        raise Unusable(f"{source}: its answer cannot be used: {reason}") from error


# Addresses: choice of a server for each request

_SKIPPED_SECONDS = 300  # a failed address is skipped for this time


class NoServerLeft(UserError):
    """Error: none of the addresses answers."""


class ServersLost(NoServerLeft, GoOnLater):
    """Error: servers that answered earlier requests no longer answer. The exit code is 75, because the input was right."""


class Addresses:
    """Spreads requests over `addresses`, from any number of threads; errors name the setting `key`.

    Raises:
        UserError: if `check_addresses` rejects the addresses.
    """

    def __init__(self, addresses: Sequence[str], key: str) -> None:
        check_addresses(addresses, key)
        self.all, self.key = [address.rstrip("/") for address in addresses], key
        self._lock = threading.Condition()
        self._busy, self._failures = dict.fromkeys(self.all, 0), dict.fromkeys(self.all, 0)
        self.last_answer = 0.0  # time.monotonic() of the last answer of any address
        self._skipped: dict[str, tuple[float, str]] = {}  # time of the failure, and its reason

    def take(self, most: int | None = None) -> str:
        """Return the address with the fewest requests in progress and count one more there; call `give_back` afterwards.

        With `most` it waits until an address has fewer requests than that.

        Raises:
            NoServerLeft: if all addresses have failed, with the reason of each; ServersLost if one answered before.
        """
        with self._lock:
            while True:
                available = [address for address in self.all if not self._is_skipped(address)]
                if not available:
                    reasons = {address: self._skipped[address][1] for address in self.all}
                    raise self.none_left(reasons)
                address = min(available, key=self._busy.__getitem__)
                if most is None or self._busy[address] < most:
                    self._busy[address] += 1
                    return address
                self._lock.wait()

    def give_back(self, address: str) -> None:
        with self._lock:
            self._busy[address] -= 1
            self._lock.notify()

    def none_left(self, reasons: Mapping[str, str]) -> NoServerLeft:
        """Return the error that ends a run, with the reason of each address."""
        listed = "; ".join(f"{address}: {reason}" for address, reason in reasons.items())
        if self.last_answer:
            return ServersLost(
                f"{self.key}: no server answers any more ({listed}): start the servers again; the same command resumes"
            )
        return NoServerLeft(
            f"{self.key}: no server answers ({listed}): start the servers, or give addresses that this machine can reach"
        )

    def answered(self, address: str) -> None:
        """Record that an address has answered."""
        with self._lock:
            self._failures[address], self.last_answer = 0, time.monotonic()

    def failed(self, address: str, reason: str, most: int) -> None:
        """Record a failed attempt; after `most` consecutive failures the address is skipped if there are others."""
        with self._lock:
            self._failures[address] += 1
            others = any(not self._is_skipped(other) for other in self.all if other != address)
            is_dead = others and self._failures[address] >= most
            self._failures[address] *= not is_dead
        if is_dead:
            self.set_aside(address, reason)

    def set_aside(self, address: str, reason: str) -> None:
        """Skip an address for some minutes."""
        with self._lock:
            known = self._is_skipped(address)
            self._skipped[address] = (time.monotonic(), reason)
            others = not all(map(self._is_skipped, self.all))
            self._lock.notify_all()
        if others and not known:
            print(
                f"{self.key}: {address} is skipped for now ({reason}); others take over its requests",
                file=sys.stderr,
                flush=True,
            )

    def live(self) -> list[str]:
        """Return the addresses that are not skipped at the moment."""
        with self._lock:
            return [address for address in self.all if not self._is_skipped(address)]

    def _is_skipped(self, address: str) -> bool:
        return address in self._skipped and time.monotonic() - self._skipped[address][0] < _SKIPPED_SECONDS
