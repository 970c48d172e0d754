"""Tells the user's own servers from third parties. Crisis speeches go to third parties only if the user allows it."""

from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Any

from omegaconf import DictConfig

from psychocounsel.asking.language_model import LanguageModel
from psychocounsel.errors import UserError
from psychocounsel.remote.server_access import host_of, proxy_of
from psychocounsel.settings.targets import GroupSettings, build

_OWN_NAMES = (".local", ".internal", ".localhost")


def is_own(address: str) -> bool:
    """Return True if a server is certainly the user's own: a loopback, private or link-local address, or a local name.

    Local names are `localhost` and names in .local, .internal or .localhost; names are not resolved. If the environment
    sets a proxy for the address, the proxy must be the user's own as well.
    """
    proxy = proxy_of(address)
    return _is_own_host(host_of(address)) and (proxy is None or _is_own_host(host_of(proxy[1])))


def may_see(model: LanguageModel, crisis: bool, crisis_to_third_parties: bool) -> bool:
    """Return True if `model` may see a speech; `crisis` is the speech's value in the column `crisis` of speeches.parquet."""
    return not crisis or crisis_to_third_parties or not model.is_third_party()


def who_may_see(models: Sequence[LanguageModel], crisis: bool, crisis_to_third_parties: bool) -> list[LanguageModel]:
    """Return the models that may see a speech."""
    return [model for model in models if may_see(model, crisis, crisis_to_third_parties)]


def refuse_internet(config: DictConfig, groups: Sequence[str]) -> None:
    """Refuse servers outside the cluster for the models of these config groups (see `refuse_internet_of`).

    Raises:
        UserError: names the key and the host.
    """
    refuse_internet_of(config, {group: build(config, group) for group in groups})


def refuse_internet_of(config: DictConfig, senders: Mapping[str, GroupSettings]) -> None:
    """Refuse servers outside the cluster if `cluster.internet` is false, because a job could not reach them.

    `senders` maps the place of settings in the configuration to the settings.

    Raises:
        UserError: names the key and the host.
    """
    internet: Any = config.cluster.get("internet")
    if internet is not False:
        return
    for key, address in (receiver for where, settings in senders.items() for receiver in settings.receivers(where)):
        host, group = host_of(address), key.partition(".")[0]
        if "." not in host or is_own(address):  # a name without a dot is a host of the cluster
            continue
        example = "use: vllm" if group not in config or group == "contestants" else f"{group}=vllm"
        example = "reward.judge=vllm" if group == "reward" else example
        raise UserError(
            f"{key}: {host} is outside the cluster; add cluster.internet=true if its compute nodes reach it, or use a model "
            f"inside the cluster, for example {example}"
        )


def _is_own_host(host: str) -> bool:
    if host == "localhost" or host.endswith(_OWN_NAMES):
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_private or address.is_link_local
