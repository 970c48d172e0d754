"""Access to servers: their addresses, the proxy that the environment sets, the variable that holds a key, and free ports."""

import contextlib
import re
import secrets
import socket
import urllib.request
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

from psychocounsel.errors import UserError

SECRET_FORMS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[\w-]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}"
    r"|xox[abprs]-[\w-]{10,}|AKIA[0-9A-Z]{16})|://[^/\s:@$]+:[^/\s@$]+@|\bBearer\s+[\w.-]{16,}"
)
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")  # the name of an environment variable
_PORTS = {"http": 80, "https": 443}


def check_key_variable(variable: str | None, key: str) -> None:
    """Refuse a text that is not the name of a variable. The message does not quote it, because it may be the secret itself.

    Raises:
        UserError: naming `key`.
    """
    if variable is not None and (not VARIABLE.fullmatch(variable) or SECRET_FORMS.search(variable)):
        raise UserError(
            f"{key}: is not the name of an environment variable; put the server's key into a variable, as SERVER_KEY, and give "
            f"{key}=SERVER_KEY"
        )


def host_of(address: str) -> str:
    """Return the host in an address (or the given host), in lower case."""
    if "/" not in address and address.count(":") > 1 and not address.startswith("["):
        return address.lower()  # an IPv6 address
    try:
        return (urlsplit(address if "//" in address else f"//{address}").hostname or "").lower()
    except ValueError:
        return ""


def proxy_of(address: str) -> tuple[str, str] | None:
    """Return the proxy for an address as its variable and its URL, or None.

    The proxy is that of the address's scheme, otherwise `ALL_PROXY`. `NO_PROXY` is `*`, or a comma-separated list of names (each
    includes its subdomains), addresses and networks (10.0.0.0/8), with or without a port.
    """
    proxies, scheme = urllib.request.getproxies(), urlsplit(address).scheme
    name = scheme if proxies.get(scheme) else "all"
    proxy = proxies.get(name)
    if not proxy or any(_excepts(entry.strip().lower(), address) for entry in proxies.get("no", "").split(",")):
        return None
    return f"{name.upper()}_PROXY", proxy if "://" in proxy else f"http://{proxy}"


def _excepts(entry: str, address: str) -> bool:
    """Return True if an entry of `NO_PROXY` matches the server at `address`."""
    if entry == "*":
        return True
    host = host_of(address)
    with contextlib.suppress(ValueError):  # the host or the entry is a name, not an address
        return ip_address(host) in ip_network(entry.strip("[]"), strict=False)
    try:
        wanted, given = urlsplit(f"//{entry.lstrip('*.')}"), urlsplit(address)
        is_port = wanted.port in (None, given.port or _PORTS.get(given.scheme))
    except ValueError:  # a port that is not a number
        return False
    return bool(wanted.hostname) and is_port and (host == wanted.hostname or host.endswith(f".{wanted.hostname}"))


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


# Ports for the rendezvous of a run and for its servers

_FIRST_PORT, _END_OF_PORTS = 10000, 32768  # below the ports that Linux assigns to clients


def free_port() -> int:
    """Return a random port that is free on this node; random, so that nobody can take it beforehand and jobs do not share it."""
    while True:
        port = _FIRST_PORT + secrets.randbelow(_END_OF_PORTS - _FIRST_PORT)
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        return port
