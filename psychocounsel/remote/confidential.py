"""Check of `data.confidential=true`: no host outside `data.allowed_hosts` may receive texts of the data."""

from collections.abc import Iterator, Sequence

from omegaconf import DictConfig

from psychocounsel.errors import UserError
from psychocounsel.remote.server_access import host_of, proxy_of
from psychocounsel.rundir.paths import ModelDir
from psychocounsel.rundir.trained_runs import confidential_folders
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
    receivers = list(command.receivers(config))
    if texts.confidential:
        for key, address in receivers:
            refuse_host(key, address, texts.allowed_hosts, group)
    elif receivers:
        _refuse_inherited(command, config, receivers)


def _refuse_inherited(command: Command, config: DictConfig, receivers: Sequence[tuple[str, str]]) -> None:
    """Refuse receivers of files in a folder whose own configuration calls its texts confidential.

    A trained model is no text, although permissions count its description among the sources.
    """
    sources = [source for source in command.sources(config) if source.name != ModelDir(source.parent).about.name]
    for folder, hosts in {
        place: allowed for source in sources for place, allowed in confidential_folders(source)
    }.items():
        for key, address in receivers:
            if any(host not in hosts for host, _ in on_the_way(address)):
                raise UserError(
                    f"{key}: would send texts of {folder}, which is confidential, to {host_of(address)}: "
                    f"add {command.texts}.confidential=true"
                )


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
