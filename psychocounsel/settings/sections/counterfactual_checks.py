"""`counterfactuals`: settings of its server go together, and nothing else goes without one."""

from urllib.parse import SplitResult, urlsplit

from omegaconf import DictConfig

from psychocounsel.errors import UserError


def check_counterfactuals(config: DictConfig) -> None:
    """Refuse half a server, where a command has such settings.

    Raises:
        UserError: naming the key that is missing, or the address that is none.
    """
    if "counterfactuals" not in config:
        return
    settings = config.counterfactuals
    for address in settings.addresses:
        parts = _parts(address)
        if parts is None:
            raise UserError(
                f"counterfactuals.addresses: {address} is no address of a server; it has the form http://HOST:PORT/v1"
            )
        if parts.username or parts.password:
            raise UserError(
                f"counterfactuals.addresses: the address of {parts.hostname} holds a secret; put it into a variable, and "
                "name that by counterfactuals.key_variable"
            )
    if settings.addresses and not settings.model:
        raise UserError("counterfactuals.addresses needs the name of the served model: add counterfactuals.model=NAME")


def idle_counterfactuals(config: DictConfig) -> dict[str, str]:
    """Keys that have no effect, each with the reason."""
    settings = config.counterfactuals
    of_server = ("model", "key_variable", "concurrency", "timeout_seconds", "retries")
    if not settings.limit:
        return dict.fromkeys(("addresses", *of_server), "counterfactuals.limit=0 makes none")
    if not settings.addresses:
        return dict.fromkeys(of_server, "there are no counterfactuals.addresses")
    return {}


def _parts(address: str) -> SplitResult | None:
    """The parts of a server's address; None if it is none."""
    try:
        parts = urlsplit(address)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        return None
    return parts if is_address and not parts.query and not parts.fragment else None
