"""The keys of `psychocounsel audit`, and the allowed forms of `audit.against`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from psychocounsel.data.settings import PairsConfig
from psychocounsel.errors import UserError
from psychocounsel.remote.hub_sources import HubSource, is_here
from psychocounsel.settings.paths import check_local_path, is_made_before, make_absolute
from psychocounsel.settings.schema import option


@dataclass
class AgainstEntry:
    name: str | None = None
    path: str | None = None
    split: str = "train"
    revision: str | None = None


@dataclass
class AuditOptions:
    max_blind: float | None = option(None, at_least=0.5, below=1)
    against: list[AgainstEntry] = option([])
    near: float = option(0.8, at_least=0.6, at_most=1)
    folds: int = option(5, at_least=2, at_most=20)
    permutations: int = option(2000, at_least=100, at_most=100_000)
    seed: int = option(0, at_least=0, at_most=2**32 - 1)
    controls: int = option(40, at_least=0)


@dataclass
class AuditConfig(PairsConfig):
    """The keys of `psychocounsel audit`; `cluster`, and a given `reward`, are added from their `_target_`."""

    part: str = option("all", choices=("held_out", "all"))
    verbose: bool = False
    audit: AuditOptions = field(default_factory=AuditOptions)


def leave_out_reward(plain: DictConfig) -> None:
    """Drop the reward group, which is optional for this command, if it names no reward model."""
    if names_no_reward(plain):
        with open_dict(plain):
            plain.pop("reward")


def names_no_reward(plain: DictConfig) -> bool:
    """Return True if the reward group is unchanged from its file and has no path of a reward model."""
    reward = plain.get("reward")
    return isinstance(reward, DictConfig) and reward.get("name") == "local" and OmegaConf.is_missing(reward, "path")


def against_repositories(config: DictConfig) -> Iterator[tuple[HubSource, str]]:
    """Yield the hub datasets of `audit.against`, each with the key of its revision."""
    for index, entry in enumerate(config.audit.against):
        if entry.path and not is_here(entry.path):
            key = f"audit.against[{index}]"
            yield HubSource("dataset", entry.path, entry.revision, f"{key}.path"), f"{key}.revision"


def check_against(config: DictConfig) -> None:
    """Refuse paths of other data sets that do not exist, and make the others absolute.

    Raises:
        UserError: naming the first missing path.
    """
    for entry in config.audit.against:
        if not is_made_before(config, entry.path):
            check_local_path(entry.path, "audit.against", of_data=True)
        make_absolute(config, entry, ("path",))


def resolve_against(composed: DictConfig, load_group: Callable[[str, str], DictConfig]) -> None:
    """Turn each entry of `audit.against` into a path: a file, folder or hub dataset, or the path of a choice of the data group.

    Names become paths here, because the worker does not compose. `load_group` gets a choice's name, and the key for messages.

    Raises:
        UserError: for an entry of another form.
    """
    entries = OmegaConf.select(composed, "audit.against")
    if not entries:
        return
    if not OmegaConf.is_list(entries):
        raise UserError(
            "audit.against: is a list of files, folders and names of data, for instance [other.jsonl,psychocounsel]"
        )
    with open_dict(composed):
        composed.audit.against = [_resolved(entry, load_group) for entry in entries]


def _resolved(entry: Any, load_group: Callable[[str, str], DictConfig]) -> dict[str, Any]:
    if OmegaConf.is_dict(entry) and set(entry) <= set(AgainstEntry.__dataclass_fields__) and entry.get("path"):
        return dict(entry)  # resolved already
    if not isinstance(entry, str):
        raise UserError(f"audit.against: {entry} is not a file, folder or name of data")
    if "/" in entry or "." in entry or Path(entry).exists() or entry.startswith("builtin:"):
        return {"name": entry, "path": entry}
    preset = load_group(entry, "audit.against")
    if preset.get("_target_") or not preset.get("path"):
        raise UserError(f"audit.against: data={entry} names no file, folder or hub dataset; give a path instead")
    return {
        "name": entry,
        **{key: preset.get(key) for key in ("path", "revision")},
        "split": preset.get("split") or "train",
    }
