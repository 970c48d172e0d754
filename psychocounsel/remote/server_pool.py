"""The addresses of servers that give the same answers: which one a request goes to, and which are left out."""

import sys
import threading
import time
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from psychocounsel.errors import UserError

_AWAY_SECONDS = 300  # then an address that had failed gets another chance


def check_addresses(addresses: Sequence[str], key: str) -> None:
    """Refuse what is no list of base addresses.

    Raises:
        UserError: naming the first that cannot be one.
    """
    if not addresses:
        raise UserError(f"{key} is empty: give the servers' addresses, for instance [http://HOST:8000]")
    for number, address in enumerate(addresses, 1):
        if set(address) & set("@?#"):
            raise UserError(
                f"{key}: address {number} may hold a secret, as it has @, ? or #; its form is http://HOST:PORT, and a variable "
                "in the environment holds a key"
            )
        try:
            parts = urlsplit(address)
            is_base = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # a port that is no number
            is_base = False
        if not is_base:
            raise UserError(f"{key}: {address} is no address of a server; it has the form http://HOST:PORT")
    if len(set(addresses)) < len(addresses):
        raise UserError(f"{key}: the same address stands there twice")


class NoServerLeft(UserError):
    """None of the addresses answers."""


class Addresses:
    """Spreads requests over `addresses`, from any number of threads; `key` is what errors name.

    Raises:
        UserError: if there is none, or one is not of the form http://HOST:PORT.
    """

    def __init__(self, addresses: Sequence[str], key: str) -> None:
        check_addresses(addresses, key)
        self.all, self.key = [address.rstrip("/") for address in addresses], key
        self._lock = threading.Condition()
        self._busy, self._failures = dict.fromkeys(self.all, 0), dict.fromkeys(self.all, 0)
        self.last_answer = 0.0  # when one of them answered last, by time.monotonic
        self._away: dict[str, tuple[float, str]] = {}  # when it failed, and why

    def take(self, most: int | None = None) -> str:
        """The address with the fewest requests under way, for one more; `give_back` follows.

        With `most` this waits until there are fewer than so many at one of the addresses.

        Raises:
            NoServerLeft: if all have failed, with the reason of each.
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
        """What ends a run: why each address does not answer."""
        said = "; ".join(f"{address}: {reason}" for address, reason in reasons.items())
        return NoServerLeft(
            f"{self.key}: no server answers ({said}): start them, or give addresses that this machine can reach"
        )

    def answered(self, address: str) -> None:
        """Note that an address has answered."""
        with self._lock:
            self._failures[address], self.last_answer = 0, time.monotonic()

    def failed(self, address: str, reason: str, most: int) -> None:
        """Note that an attempt failed; an address where `most` of them fail one after another is left out if there are others."""
        with self._lock:
            self._failures[address] += 1
            others = any(not self._is_away(other) for other in self.all if other != address)
            is_dead = others and self._failures[address] >= most
            self._failures[address] *= not is_dead
        if is_dead:
            self.set_aside(address, reason)

    def set_aside(self, address: str, reason: str) -> None:
        """Send nothing more to an address for a while."""
        with self._lock:
            known = self._is_away(address)
            self._away[address] = (time.monotonic(), reason)
            others = not all(map(self._is_away, self.all))
            self._lock.notify_all()
        if others and not known:
            print(
                f"{self.key}: {address} is left out ({reason}); others take its requests", file=sys.stderr, flush=True
            )

    def is_away(self, address: str) -> bool:
        with self._lock:
            return self._is_away(address)

    def live(self) -> list[str]:
        """Those that are not left out at the moment."""
        with self._lock:
            return [address for address in self.all if not self._is_away(address)]

    def _is_away(self, address: str) -> bool:
        return address in self._away and time.monotonic() - self._away[address][0] < _AWAY_SECONDS
