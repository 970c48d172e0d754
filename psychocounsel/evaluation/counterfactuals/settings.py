"""Checks of `counterfactuals`: the addresses of its server require the name of a model."""

from collections.abc import Iterator
from dataclasses import dataclass

from omegaconf import DictConfig

from psychocounsel.errors import UserError
from psychocounsel.remote.server_access import check_addresses, check_key_variable
from psychocounsel.settings.schema import option


@dataclass
class CounterfactualConfig:
    limit: int = option(25, at_least=0)
    addresses: list[str] = option([])
    model: str | None = None
    key_variable: str | None = None
    concurrency: int = option(4, at_least=1)
    timeout_seconds: float = option(120.0, above=0, at_most=1_000_000)
    retries: int = option(8, at_least=0)


def check_counterfactuals(config: DictConfig) -> None:
    """Refuse incomplete settings of the server of counterfactuals.

    Raises:
        UserError: naming the missing key or the invalid address.
    """
    if config.get("counterfactuals") is None:
        return
    settings = config.counterfactuals
    check_key_variable(settings.key_variable, "counterfactuals.key_variable")
    if settings.addresses:
        check_addresses(settings.addresses, "counterfactuals.addresses")
        if not settings.model:
            raise UserError(
                "counterfactuals.addresses needs the name of the served model: add counterfactuals.model=NAME"
            )


def idle_counterfactuals(config: DictConfig) -> dict[str, str]:
    """Return the keys that have no effect, each with the reason."""
    settings = config.counterfactuals
    of_server = ("model", "key_variable", "concurrency", "timeout_seconds", "retries")
    if not settings.limit:
        return dict.fromkeys(("addresses", *of_server), "counterfactuals.limit=0 switches counterfactuals off")
    if not settings.addresses:
        return dict.fromkeys(of_server, "counterfactuals.addresses is empty")
    return {}


def counterfactual_receivers(config: DictConfig) -> Iterator[tuple[str, str]]:
    """Yield the servers that write counterfactuals, as (key, address)."""
    for address in config.counterfactuals.addresses if config.get("counterfactuals") is not None else ():
        yield "counterfactuals.addresses", address
