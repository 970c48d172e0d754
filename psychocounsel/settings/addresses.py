"""Addresses of servers, as a configuration gives them."""

from collections.abc import Sequence
from urllib.parse import urlsplit

from psychocounsel.errors import UserError


def check_addresses(addresses: Sequence[str], key: str) -> None:
    """Refuse what is no list of base addresses.

    Raises:
        UserError: naming the first that cannot be one.
    """
    if not addresses:
        raise UserError(f"{key} is empty: give the servers' addresses, for instance [http://HOST:8000]")
    for address in addresses:
        try:
            parts = urlsplit(address)
            is_base = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # a port that is no number
            is_base = False
        if not is_base or parts.query or parts.fragment:
            raise UserError(f"{key}: {address} is no address of a server; it has the form http://HOST:PORT")
        if parts.username or parts.password:
            raise UserError(
                f"{key}: the address of {parts.hostname} holds a secret; put it into a variable, and name that"
            )
    if len(set(addresses)) < len(addresses):
        raise UserError(f"{key}: the same address stands there twice")
