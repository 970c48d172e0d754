"""Addresses of servers that give the same answers: chooses the address of each request and skips failed ones."""

import sys
import threading
import time
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from psychocounsel.errors import UserError

_AWAY_SECONDS = 300  # a failed address is skipped for this time


def check_addresses(addresses: Sequence[str], key: str) -> None:
    """Reject an invalid list of base addresses.

    Raises:
        UserError: if there is no address, an address is listed twice, or is invalid; names the first invalid address.
    """
    if not addresses:
        raise UserError(f"{key} is empty: give the servers' addresses, for instance [http://HOST:8000]")
    for number, address in enumerate(addresses, 1):
        if set(address) & set("@?#"):
            raise UserError(
                f"{key}: address {number} may hold a secret, because it contains @, ? or #; use the form http://HOST:PORT, and "
                "put a key into an environment variable"
            )
        try:
            parts = urlsplit(address)
            is_base = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # a port that is not a number
            is_base = False
        if not is_base:
            raise UserError(f"{key}: {address} is not a server address; use the form http://HOST:PORT")
    if len(set(addresses)) < len(addresses):
        raise UserError(f"{key}: the same address is listed twice")


class NoServerLeft(UserError):
    """Error: none of the addresses answers."""


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
        self._away: dict[str, tuple[float, str]] = {}  # time of the failure, and its reason

    def take(self, most: int | None = None) -> str:
        """Return the address with the fewest requests in progress and count one more there; call `give_back` afterwards.

        With `most` it waits until an address has fewer requests than that.

        Raises:
            NoServerLeft: if all addresses have failed, with the reason of each.
        """
        with self._lock:
            while True:
                here = [address for address in self.all if not self._is_away(address)]
                if not here:
                    reasons = {address: self._away[address][1] for address in self.all}
                    raise self.none_left(reasons)
                address = min(here, key=self._busy.__getitem__)
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
        said = "; ".join(f"{address}: {reason}" for address, reason in reasons.items())
        return NoServerLeft(
            f"{self.key}: no server answers ({said}): start the servers, or give addresses that this machine can reach"
        )

    def answered(self, address: str) -> None:
        """Record that an address has answered."""
        with self._lock:
            self._failures[address], self.last_answer = 0, time.monotonic()

    def failed(self, address: str, reason: str, most: int) -> None:
        """Record a failed attempt; after `most` consecutive failures the address is skipped if there are others."""
        with self._lock:
            self._failures[address] += 1
            others = any(not self._is_away(other) for other in self.all if other != address)
            is_dead = others and self._failures[address] >= most
            self._failures[address] *= not is_dead
        if is_dead:
            self.set_aside(address, reason)

    def set_aside(self, address: str, reason: str) -> None:
        """Skip an address for some minutes."""
        with self._lock:
            known = self._is_away(address)
            self._away[address] = (time.monotonic(), reason)
            others = not all(map(self._is_away, self.all))
            self._lock.notify_all()
        if others and not known:
            print(
                f"{self.key}: {address} is skipped for now ({reason}); others take over its requests",
                file=sys.stderr,
                flush=True,
            )

    def is_away(self, address: str) -> bool:
        with self._lock:
            return self._is_away(address)

    def live(self) -> list[str]:
        """Return the addresses that are not skipped at the moment."""
        with self._lock:
            return [address for address in self.all if not self._is_away(address)]

    def _is_away(self, address: str) -> bool:
        return address in self._away and time.monotonic() - self._away[address][0] < _AWAY_SECONDS
