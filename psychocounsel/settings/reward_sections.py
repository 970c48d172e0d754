"""The members of `reward=ensemble` in a configuration: from what the user writes to the settings of each; no torch."""

import os
import re
from collections.abc import Callable, Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from psychocounsel.errors import UserError
from psychocounsel.settings.targets import build, class_of

Preset = Callable[[str], DictConfig]


def reward_sections(config: DictConfig) -> Iterator[tuple[str, DictConfig]]:
    """Each single reward model of a configuration with its key: `reward`, or `reward.members[0]` and so on."""
    if "reward" not in config:
        return
    if not _is_several(config):
        yield "reward", config.reward
        return
    for index, member in enumerate(config.reward.members):
        yield f"reward.members[{index}]", member


def path_is(section: DictConfig) -> str:
    """What `path` of a reward's section names, as RewardSettings says: loaded, served or nothing."""
    return str(class_of(section, "reward").path_is)


def local_models(config: DictConfig) -> Iterator[tuple[str, str, bool]]:
    """Key and folder of each model of a checked configuration that lies here, and whether its weights are loaded."""
    sections = [("model", config.model, True)] if "model" in config else []
    sections += [(key, section, path_is(section) == "loaded") for key, section in reward_sections(config)]
    for key, section, weights in sections:
        path = section.get("path") if path_is_model(key, section) else None
        if path and os.path.isdir(str(path)):
            yield f"{key}.path", str(path), weights


def path_is_model(key: str, section: DictConfig) -> bool:
    """Whether the `path` of a section names a model."""
    return key == "model" or path_is(section) != "nothing"


def _is_several(config: DictConfig) -> bool:
    return "reward" in config and bool(class_of(config.reward, "reward").several)


def resolve_members(composed: DictConfig, preset: Preset) -> None:
    """Fill in what each member leaves out: from `conf/reward/<name>.yaml` for one with a name, else from `local.yaml`.

    A member is a path, or a mapping of keys. The worker never composes, so names become settings here. `preset` loads a
    config of the reward group.

    Raises:
        UserError: for a member of another form.
    """
    reward = composed.get("reward")
    if not OmegaConf.is_dict(reward) or "members" not in reward or not _is_several(composed):
        return
    members = reward.members
    if not OmegaConf.is_list(members) or len(members) < 2:
        raise UserError("reward.members: give two or more, for instance [RUN1/model,RUN2/model]")
    with open_dict(reward):
        reward.members = [_resolve(index, member, reward, preset) for index, member in enumerate(members)]


def _resolve(index: int, member: Any, reward: DictConfig, preset: Preset) -> DictConfig:
    given = OmegaConf.create({"path": member}) if isinstance(member, str) else member
    if not isinstance(given, DictConfig):
        raise UserError(f"reward.members[{index}]: is a path, or a mapping, for instance {{name: psychocounsel_8b}}")
    base = given if "_target_" in given else preset(given.get("name", "local"))
    if class_of(base, "reward").several:
        raise UserError(f"reward.members[{index}]: an ensemble cannot be a member of another")
    if "_target_" in given:
        return given  # resolved before, or a reward of the user's own
    if "normalise" in base:
        base.normalise = reward.normalise
    unknown = sorted(set(given) - set(base))
    if unknown:
        raise UserError(f"reward.members[{index}]: has no key {unknown[0]}; it has {', '.join(map(str, base))}")
    merged = OmegaConf.merge(base, given)
    assert isinstance(merged, DictConfig)
    return merged


def check_members(config: DictConfig, typed: Callable[[DictConfig], DictConfig]) -> None:
    """Give the members the types of their dataclasses, by `typed`, and hold them against their limits.

    Raises:
        UserError: naming the member and its key.
    """
    if not _is_several(config):
        return
    for index, member in enumerate(config.reward.members):
        if not OmegaConf.is_dict(member) or "_target_" not in member:
            raise UserError(f"reward.members[{index}]={member}: is not resolved to settings")
        try:
            config.reward.members[index] = typed(OmegaConf.create({"reward": member})).reward
        except UserError as error:
            said = re.sub(r"(?<![.\w])reward[.]", "", str(error))
            raise UserError(f"reward.members[{index}]: {said}") from error


def name_members(config: DictConfig) -> None:
    """Give each member a name of its own: metrics are called by it."""
    seen: dict[str, int] = {}
    if not _is_several(config):
        return
    for member in config.reward.members:
        seen[member.name] = seen.get(member.name, 0) + 1
        if seen[member.name] > 1:
            member.name = f"{member.name}-{seen[member.name]}"


def check_reward(config: DictConfig) -> None:
    """Let the reward, if there is one, check its own settings.

    Raises:
        UserError: naming the key.
    """
    if "reward" in config:
        build(config, "reward").check("reward")
