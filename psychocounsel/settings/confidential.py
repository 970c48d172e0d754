"""`data.confidential=true`: which hosts would see texts of the data, and a refusal of those that are not allowed to."""

from collections.abc import Iterator, Sequence

from omegaconf import DictConfig

from psychocounsel.errors import UserError
from psychocounsel.settings.sections.server_access import host_of, proxy_of
from psychocounsel.settings.targets import build


def check_confidential(config: DictConfig) -> None:
    """Refuse to send texts to hosts that are not in `data.allowed_hosts`, where the data are confidential.

    Raises:
        UserError: naming the key and the host, also of a proxy on the way.
    """
    data = config.data
    for host in data.allowed_hosts:
        if host.lower() != host_of(host) or not host:
            raise UserError(f"data.allowed_hosts: {host} is no name of a host; give it alone, as reward.clinic.example")
    if data.allowed_hosts and not data.confidential:
        raise UserError(
            "data.allowed_hosts limits confidential data alone: add data.confidential=true, or leave it out"
        )
    if not data.confidential:
        return
    for group in ("tracker", "reward", "rollout"):
        if group in config:
            for key, address in build(config, group).receivers(group):
                refuse_host(key, address, data.allowed_hosts)
    for address in config.counterfactuals.addresses if "counterfactuals" in config else ():
        refuse_host("counterfactuals.addresses", address, data.allowed_hosts)


def refuse_host(key: str, address: str, allowed: Sequence[str]) -> None:
    """Refuse a receiver of texts that is not among the hosts in `allowed`.

    Raises:
        UserError: naming `key` and the host.
    """
    for host, what in _on_the_way(address):
        if host not in {name.lower() for name in allowed}:
            hosts = ",".join(f"'{name}'" if ":" in name else name for name in (*allowed, host))
            raise UserError(
                f"{key}: would send texts to {what}{host}, which data.confidential=true does not allow: add "
                f"data.allowed_hosts=[{hosts}] if it may see them, or give another {key}"
            )


def _on_the_way(address: str) -> Iterator[tuple[str, str]]:
    """The host of an address, and that of the proxy of the environment by which it is reached."""
    yield host_of(address), ""
    if proxy := proxy_of(address):
        variable, url = proxy
        yield host_of(url), f"the proxy {variable}="
