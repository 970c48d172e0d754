"""`data.confidential=true`: which hosts would see texts of the data, and a refusal of those that are not allowed to."""

from collections.abc import Iterator, Sequence

from omegaconf import DictConfig

from psychocounsel.errors import UserError
from psychocounsel.settings.sections.annotation_groups import MODEL_GROUPS
from psychocounsel.settings.sections.server_access import host_of, proxy_of
from psychocounsel.settings.targets import build


def check_confidential(config: DictConfig) -> None:
    """Refuse to send texts to hosts that are not in `data.allowed_hosts`, where the data are confidential.

    Of an annotation the keys are `speeches.confidential` and `speeches.allowed_hosts`.

    Raises:
        UserError: naming the key and the host, also of a proxy on the way.
    """
    group = "speeches" if "speeches" in config else "data"
    texts = config[group]
    for host in texts.allowed_hosts:
        if host.lower() != host_of(host) or not host:
            raise UserError(
                f"{group}.allowed_hosts: {host} is no name of a host; give it alone, as reward.clinic.example"
            )
    if texts.allowed_hosts and not texts.confidential:
        raise UserError(
            f"{group}.allowed_hosts limits confidential data alone: add {group}.confidential=true, or leave it out"
        )
    if not texts.confidential:
        return
    for sender in ("tracker", "reward", "rollout", *MODEL_GROUPS):
        if sender in config:
            for key, address in build(config, sender).receivers(sender):
                refuse_host(key, address, texts.allowed_hosts, group)
    for address in config.counterfactuals.addresses if "counterfactuals" in config else ():
        refuse_host("counterfactuals.addresses", address, texts.allowed_hosts)


def refuse_host(key: str, address: str, allowed: Sequence[str], group: str = "data") -> None:
    """Refuse a receiver of texts that is not among the hosts in `allowed`, which stand in `group`.

    Raises:
        UserError: naming `key` and the host.
    """
    for host, what in _on_the_way(address):
        if host not in {name.lower() for name in allowed}:
            hosts = ",".join(f"'{name}'" if ":" in name else name for name in (*allowed, host))
            raise UserError(
                f"{key}: would send texts to {what}{host}, which {group}.confidential=true does not allow: add "
                f"{group}.allowed_hosts=[{hosts}] if it may see them, or give another {key}"
            )


def _on_the_way(address: str) -> Iterator[tuple[str, str]]:
    """The host of an address, and that of the proxy of the environment by which it is reached."""
    yield host_of(address), ""
    if proxy := proxy_of(address):
        variable, url = proxy
        yield host_of(url), f"the proxy {variable}="
