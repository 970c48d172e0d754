"""Check of `data.confidential=true`: no host outside `data.allowed_hosts` may receive texts of the data."""

from collections.abc import Iterator, Sequence

from omegaconf import DictConfig

from psychocounsel.errors import UserError
from psychocounsel.remote.server_access import host_of, proxy_of
from psychocounsel.settings.command import Command


def check_confidential(command: Command, config: DictConfig) -> None:
    """Refuse settings that would send confidential texts to hosts outside `data.allowed_hosts`.

    For `annotate` the keys are `speeches.confidential` and `speeches.allowed_hosts`.

    Raises:
        UserError: naming the key and the host, which may be a proxy.
    """
    group = command.texts
    texts = config[group]
    for host in texts.allowed_hosts:
        if host.lower() != host_of(host) or not host:
            raise UserError(
                f"{group}.allowed_hosts: {host} is not a host name; give only the name, for instance reward.clinic.example"
            )
    if texts.allowed_hosts and not texts.confidential:
        raise UserError(
            f"{group}.allowed_hosts has an effect only with confidential data: add {group}.confidential=true, or leave it out"
        )
    if not texts.confidential:
        return
    for key, address in command.receivers(config):
        refuse_host(key, address, texts.allowed_hosts, group)


def refuse_host(key: str, address: str, allowed: Sequence[str], group: str = "data") -> None:
    """Refuse an address whose host is not in `allowed`, the hosts listed under `group`.

    Raises:
        UserError: naming `key` and the host.
    """
    for host, what in on_the_way(address):
        if host not in {name.lower() for name in allowed}:
            hosts = ",".join(f"'{name}'" if ":" in name else name for name in (*allowed, host))
            raise UserError(
                f"{key}: would send texts to {what}{host}, which {group}.confidential=true does not allow: add "
                f"{group}.allowed_hosts=[{hosts}] if it may see them, or give another {key}"
            )


def on_the_way(address: str) -> Iterator[tuple[str, str]]:
    """Yield (host, its prefix in a message) for an address, then for the proxy that the environment sets for it."""
    yield host_of(address), ""
    if proxy := proxy_of(address):
        variable, url = proxy
        yield host_of(url), f"the proxy {variable}="
