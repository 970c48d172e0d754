"""The addresses of servers that give the same answers: which one a request goes to, and which are left out."""

import sys
import threading
import time
from collections.abc import Sequence
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
        self._lock = threading.Lock()
        self._busy = dict.fromkeys(self.all, 0)
        self._away: dict[str, tuple[float, str]] = {}  # when it failed, and why

    def take(self) -> str:
        """The address with the fewest requests under way, for one more; `give_back` follows.

        Raises:
            NoServerLeft: if all have failed, with the reason of each.
        """
        with self._lock:
            here = [address for address in self.all if not self._is_away(address)]
            if not here:
                reasons = "; ".join(f"{address}: {self._away[address][1]}" for address in self.all)
                raise NoServerLeft(
                    f"{self.key}: no server answers ({reasons}): start them, or give addresses that this machine can reach"
                )
            address = min(here, key=self._busy.__getitem__)
            self._busy[address] += 1
            return address

    def give_back(self, address: str) -> None:
        with self._lock:
            self._busy[address] -= 1

    def set_aside(self, address: str, reason: str) -> None:
        """Send nothing more to an address for a while."""
        with self._lock:
            known = self._is_away(address)
            self._away[address] = (time.monotonic(), reason)
            others = not all(map(self._is_away, self.all))
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
