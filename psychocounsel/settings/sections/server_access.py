"""How servers are reached: the proxy of the environment on the way, and the variable that holds their key."""

import contextlib
import re
import urllib.request
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

from psychocounsel.errors import UserError

SECRET_FORMS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[\w-]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}"
    r"|xox[abprs]-[\w-]{10,}|AKIA[0-9A-Z]{16})|://[^/\s:@$]+:[^/\s@$]+@|\bBearer\s+[\w.-]{16,}"
)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PORTS = {"http": 80, "https": 443}


def check_key_variable(variable: str | None, key: str) -> None:
    """Refuse what is no name of a variable: it may be the secret itself, so it is not quoted.

    Raises:
        UserError: naming `key`.
    """
    if variable is not None and (not _VARIABLE.fullmatch(variable) or SECRET_FORMS.search(variable)):
        raise UserError(
            f"{key}: is no name of an environment variable; put the server's key into one, SERVER_KEY for instance, and give "
            f"{key}=SERVER_KEY"
        )


def host_of(address: str) -> str:
    """The name of the host in an address, or in what is a host already; in small letters."""
    if "/" not in address and address.count(":") > 1 and not address.startswith("["):
        return address.lower()  # of version 6 of the Internet's protocol
    try:
        return (urlsplit(address if "//" in address else f"//{address}").hostname or "").lower()
    except ValueError:
        return ""


def proxy_of(address: str) -> tuple[str, str] | None:
    """The proxy of the environment by which an address is reached, as its variable and its URL; None without one.

    It is that of the address's scheme, or else `ALL_PROXY`. `NO_PROXY` is `*`, or lists names (with all below them), addresses
    and networks (10.0.0.0/8), parted by commas, each with a port or without.
    """
    found, scheme = urllib.request.getproxies(), urlsplit(address).scheme
    name = scheme if found.get(scheme) else "all"
    proxy = found.get(name)
    if not proxy or any(_excepts(entry.strip().lower(), address) for entry in found.get("no", "").split(",")):
        return None
    return f"{name.upper()}_PROXY", proxy if "://" in proxy else f"http://{proxy}"


def _excepts(entry: str, address: str) -> bool:
    """Whether an entry of `NO_PROXY` names the server at `address`."""
    if entry == "*":
        return True
    host = host_of(address)
    with contextlib.suppress(ValueError):  # one of them is a name
        return ip_address(host) in ip_network(entry.strip("[]"), strict=False)
    try:
        wanted, given = urlsplit(f"//{entry.lstrip('*.')}"), urlsplit(address)
        is_port = wanted.port in (None, given.port or _PORTS.get(given.scheme))
    except ValueError:  # a port that is no number
        return False
    return bool(wanted.hostname) and is_port and (host == wanted.hostname or host.endswith(f".{wanted.hostname}"))
