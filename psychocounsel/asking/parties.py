"""Tells the user's own servers from third parties'. Crisis speeches go to third parties only if the user allows it."""

from collections.abc import Sequence
from ipaddress import ip_address

from psychocounsel.asking.language_model import LanguageModel
from psychocounsel.settings.sections.server_access import host_of, proxy_of

_OWN_NAMES = (".local", ".internal", ".localhost")


def is_own(address: str) -> bool:
    """Whether a server is surely the user's own: a loopback, private or link-local address, or a name of the same kind.

    No name is resolved. Where a proxy of the environment stands on the way, it must be the user's own as well.
    """
    proxy = proxy_of(address)
    return _is_own_host(host_of(address)) and (proxy is None or _is_own_host(host_of(proxy[1])))


def may_see(model: LanguageModel, crisis: bool, crisis_to_third_parties: bool) -> bool:
    """Whether `model` may be asked about a speech; `crisis` is the column of this name in speeches.parquet."""
    return not crisis or crisis_to_third_parties or not model.is_third_party()


def who_may_see(models: Sequence[LanguageModel], crisis: bool, crisis_to_third_parties: bool) -> list[LanguageModel]:
    """Those of `models` that may be asked about a speech."""
    return [model for model in models if may_see(model, crisis, crisis_to_third_parties)]


def _is_own_host(host: str) -> bool:
    if host == "localhost" or host.endswith(_OWN_NAMES):
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_private or address.is_link_local
