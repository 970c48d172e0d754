"""`counterfactuals`: settings of its server go together, and nothing else goes without one."""

from urllib.parse import urlsplit

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
        if urlsplit(address).scheme not in ("http", "https") or not urlsplit(address).hostname:
            raise UserError(
                f"counterfactuals.addresses: {address} is no address of a server; it has the form http://HOST:PORT/v1"
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
