"""Reward models of a configuration: turns the user's entries into the settings of each model, without torch.

The entries are `reward`, `compare`, and the members of an ensemble in either.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from psychocounsel.errors import UserError
from psychocounsel.model.settings import check_model_paths, teacher_of
from psychocounsel.remote.hub_sources import HubSource, is_here
from psychocounsel.rundir.paths import RunDir
from psychocounsel.settings.paths import check_asked_model, make_absolute, name_by_path
from psychocounsel.settings.targets import build_section, class_of, is_on_hub
from psychocounsel.storage.files import folder_of
from psychocounsel.storage.weight_files import is_language_model, no_reward_model

Preset = Callable[[str, str], DictConfig]  # arguments: a group, and the name of a choice

_JUDGE = "reward.judge"

# `use: llm` has no file in conf/reward, because a model that ranks pairs is only allowed in `compare`.
_RANKER = {
    "_target_": "psychocounsel.evaluation.reward.rankers.Ranker",
    **{"name": "llm", "judge": None, "rubric": "builtin:en", "examples": False, "retries": 2},
    "crisis_to_third_parties": False,
}


def reward_sections(config: DictConfig) -> Iterator[tuple[str, DictConfig]]:
    """Yield each single reward model of a configuration with its key: `reward`, `compare[0]`, `reward.members[0]` and so on."""
    for key, section in scorer_sections(config):
        if not _is_several(section):
            yield key, section
            continue
        for index, member in enumerate(section.members):
            yield f"{key}.members[{index}]", member


def scorer_sections(config: DictConfig) -> Iterator[tuple[str, DictConfig]]:
    """Yield each scorer with its key: `reward`, then `compare[0]` and so on; an ensemble is one scorer."""
    if config.get("reward") is not None:
        yield "reward", config.reward
    for index, section in enumerate(config.get("compare") or []):
        yield f"compare[{index}]", section


def judge_models(config: DictConfig) -> Iterator[tuple[str, DictConfig]]:
    """Yield the settings of each language model that rewards or ranks replies, with its key, such as `compare[0].judge`."""
    for key, section in reward_sections(config):
        if class_of(section, "reward").asks:
            yield f"{key}.judge", section.judge


def path_is(section: DictConfig) -> str:
    """Return the role of `path` in a reward's section, as in RewardSettings: a model that is loaded, a served one, or nothing."""
    return str(class_of(section, "reward").path_is)


def local_models(config: DictConfig) -> Iterator[tuple[str, str, bool]]:
    """Yield key, folder, and True if the weights are loaded, for each local model of a checked configuration."""
    sections = [("model", config.model, True)] if config.get("model") is not None else []
    sections += [("algo.teacher", teacher, True)] if (teacher := teacher_of(config)) is not None else []
    sections += [(key, section, path_is(section) == "loaded") for key, section in reward_sections(config)]
    for key, section, weights in sections:
        is_model = key in ("model", "algo.teacher") or path_is(section) != "nothing"
        path = section.get("path") if is_model else None
        if path and os.path.isdir(str(path)):
            yield f"{key}.path", str(path), weights


def _is_several(section: Any) -> bool:
    return bool(class_of(section, "reward").several)


def resolve_rewards(composed: DictConfig, preset: Preset) -> None:
    """Turn the user's entries in `compare` and in ensembles into settings, because the worker does not compose.

    An entry of `compare` is a path, a name in `conf/reward/`, or a mapping; its key `use` names the file with the defaults
    (default: `local`). {use: llm, judge: ...} is a language model that ranks; `judge` is a name in `conf/judge/`, or a mapping
    with `use`. A member is a path, or a mapping whose `name` is a file in `conf/reward/`. `preset` loads a file.

    Raises:
        UserError: for an entry or member of another form.
    """
    compared = composed.get("compare")
    if compared is not None and not OmegaConf.is_list(compared):
        raise UserError("compare: is a list of reward models, for instance [tiny,RUN/model]")
    with open_dict(composed):
        if compared:
            composed.compare = [
                _compared(f"compare[{index}]", section, preset) for index, section in enumerate(compared)
            ]
        if OmegaConf.is_dict(composed.get("reward")):
            _resolve_members("reward", composed.reward, preset)
        for index, section in enumerate(composed.get("compare") or []):
            _resolve_members(f"compare[{index}]", section, preset)


def _compared(key: str, entry: Any, preset: Preset) -> DictConfig:
    if isinstance(entry, str):
        entry = OmegaConf.create({"path" if names_a_path(entry) else "use": entry})
    if not isinstance(entry, DictConfig):
        raise UserError(
            f"{key}: is a path, a name in conf/reward/, or a mapping, for instance {{path: RUN/model, dtype: bf16}}"
        )
    if "_target_" in entry:
        return entry  # resolved already, or the user's own reward
    use = str(entry.get("use") or "local")
    if use != "llm":
        return filled(key, own_keys(entry), loaded(key, "reward", use, preset))
    section = filled(key, own_keys(entry), OmegaConf.create(_RANKER))
    if section.judge is None:
        raise UserError(
            f"{key}.judge is not set: give a name in conf/judge/, or a mapping as {{use: openai, model: NAME}}"
        )
    with open_dict(section):
        section.judge = _judge(f"{key}.judge", section.judge, preset)
    return section


def names_a_path(entry: str) -> bool:
    """Return True for a path, or a hub or builtin name, instead of the name of a choice."""
    return bool(set("/.:") & set(entry)) or Path(entry).exists()


def _judge(key: str, entry: Any, preset: Preset) -> DictConfig:
    """Return the settings of the language model that ranks."""
    section = OmegaConf.create({"use": entry}) if isinstance(entry, str) else entry
    if not OmegaConf.is_dict(section) or not ("use" in section or "_target_" in section):
        raise UserError(f"{key}: is a name in conf/judge/, or a mapping with one, as {{use: openai, model: NAME}}")
    if "_target_" in section:
        return section
    base = loaded(key, "judge", str(section.use), preset)
    if "members" in base:
        raise UserError(f"{key}: {section.use} has several members; write a separate entry of compare for each")
    return filled(key, own_keys(section), base)


def loaded(key: str, group: str, name: str, preset: Preset) -> DictConfig:
    """Load the file of a group's choice for the entry at `key`."""
    try:
        return preset(group, name)
    except UserError as error:
        raise UserError(f"{key}: {str(error).partition(': ')[2]}") from error


def own_keys(entry: DictConfig) -> DictConfig:
    """Return the keys of an entry that override its file."""
    return OmegaConf.create({str(name): entry._get_node(name) for name in entry if name != "use"})


def _resolve_members(key: str, section: DictConfig, preset: Preset) -> None:
    if "members" not in section or not _is_several(section):
        return
    members = section.members
    if not OmegaConf.is_list(members) or len(members) < 2:
        raise UserError(f"{key}.members: give two or more, for instance [RUN1/model,RUN2/model]")
    with open_dict(section):
        section.members = [
            _resolved(f"{key}.members[{index}]", member, section, preset) for index, member in enumerate(members)
        ]


def _resolved(key: str, member: Any, ensemble: DictConfig, preset: Preset) -> DictConfig:
    section = OmegaConf.create({"path": member}) if isinstance(member, str) else member
    if not isinstance(section, DictConfig):
        raise UserError(f"{key}: is a path, or a mapping, for instance {{name: psychocounsel_8b}}")
    base = section if "_target_" in section else preset("reward", section.get("name", "local"))
    if _is_several(base):
        raise UserError(f"{key}: an ensemble cannot be a member of another")
    if "_target_" in section:
        return section  # resolved already, or the user's own reward
    if "normalise" in base:
        base.normalise = ensemble.normalise
    return filled(key, section, base)


def filled(key: str, own: Mapping[Any, Any], base: DictConfig) -> DictConfig:
    """Return the settings `base` updated by the `own` ones of the section at `key`.

    Raises:
        UserError: for a setting that `base` lacks.
    """
    if unknown := sorted({*map(str, own)} - {*map(str, base)}):
        raise UserError(f"{key}: has no key {unknown[0]}; it has {', '.join(map(str, base))}")
    merged = OmegaConf.merge(base, own)
    assert isinstance(merged, DictConfig)
    return merged


def check_entries(config: DictConfig, typed: Callable[[DictConfig], DictConfig]) -> None:
    """Check the entries of `compare` and ensemble members against their dataclasses and limits, by `typed`.

    Raises:
        UserError: naming the entry or member, and its key.
    """
    _check_list(config, "compare", "compare", typed)
    for key, section in scorer_sections(config):
        if _is_several(section):
            _check_list(section, "members", f"{key}.members", typed)


def _check_list(holder: DictConfig, name: str, key: str, typed: Callable[[DictConfig], DictConfig]) -> None:
    """Replace every section in the list `name` of `holder`; `key` is the list's key."""
    for index, section in enumerate(holder.get(name) or []):
        if not OmegaConf.is_dict(section) or "_target_" not in section:
            raise UserError(f"{key}[{index}]={section}: is not resolved to settings")
        try:
            holder[name][index] = typed(OmegaConf.create({"reward": section})).reward
        except UserError as error:
            message = re.sub(r"(?<![.\w])reward[.]", "", str(error))
            raise UserError(f"{key}[{index}]: {message}") from error


def name_rewards(config: DictConfig) -> None:
    """Give each compared reward model and each ensemble member a unique name, under which figures are reported."""
    sections = [section for _, section in scorer_sections(config)]
    _part_names(sections)
    for section in sections:
        if _is_several(section):
            _part_names(section.members)


def _part_names(sections: Any) -> None:
    seen: dict[str, int] = {}
    for section in sections:
        seen[section.name] = seen.get(section.name, 0) + 1
        if seen[section.name] > 1:
            section.name = f"{section.name}-{seen[section.name]}"


def check_rewards(
    config: DictConfig, typed: Callable[[DictConfig], DictConfig], judge_may_reward: bool = False
) -> None:
    """Check all reward models: their entries against their dataclasses (by `typed`), then each one's own settings.

    `judge_may_reward` accepts a language model as `reward`.

    Raises:
        UserError: naming the key.
    """
    check_entries(config, typed)
    for key, section in reward_sections(config):
        if not class_of(section, "reward").asks or section._target_ == _RANKER["_target_"]:
            continue
        if key != "reward" or not judge_may_reward:
            raise UserError(
                f"{key}={section.name}: a language model gives rewards only alone and in a training with rollouts; "
                "evaluate compares reward models with one by compare=[{use: llm, judge: NAME}]"
            )
        if OmegaConf.is_missing(section.judge, "model"):
            raise UserError(f"{_JUDGE}.model is not set: add {_JUDGE}.model=NAME, and {_JUDGE}=CHOICE of conf/judge")
        try:
            judge = typed(OmegaConf.create({"judge": section.judge})).judge
        except UserError as error:
            raise UserError(re.sub(r"(?<![.\w])judge(?=[.=])", _JUDGE, str(error))) from error
        section.judge = OmegaConf.to_container(judge)
    for key, section in scorer_sections(config):
        build_section(section, "reward").check(key)


def check_reward_paths(config: DictConfig) -> None:
    """Refuse a reward model, or a language model that rewards or ranks, if its folder or chat template does not exist.

    Raises:
        UserError: naming the key.
    """
    for key, section in reward_sections(config):
        check_reward_path(config, key, section)
    for key, section in judge_models(config):
        check_asked_model(config, key, section)


def check_reward_path(config: DictConfig, key: str, section: DictConfig) -> None:
    """Check the path of the reward model at `key`.

    Raises:
        UserError: if its folder or chat template does not exist, or if it is a language model, or a run that trained one.
    """
    if path_is(section) != "nothing":
        check_model_paths(config, key, section)
    if path_is(section) == "loaded" and section.path:
        place = folder_of(section.path)
        if is_language_model(place) or is_language_model(RunDir(place).model):
            raise no_reward_model(f"{key}.path", section.path)


def settle_rewards(config: DictConfig) -> None:
    """Make the paths of reward models absolute, name the user's own models after their paths, and check what depends on these.

    Raises:
        UserError: naming the key.
    """
    for _, section in reward_sections(config):
        make_absolute(config, section, ("path", "chat_template", "criteria", "rubric"))
        name_by_path(section, ("local", "tiny", "tiny_2"))
    name_rewards(config)
    for key, section in scorer_sections(config):
        build_section(section, "reward").check_settled(key)


def idle_rewards(config: DictConfig) -> Iterator[tuple[str, str]]:
    """Yield the keys of reward models that their other keys disable, each with the reason."""
    for key, section in reward_sections(config):
        if "revision" in section and not is_on_hub(section.path):
            yield f"{key}.revision", f"{key}.path is not a repository of the hub"


def reward_repositories(config: DictConfig) -> Iterator[tuple[HubSource, str]]:
    """Yield the hub repositories of reward models, each with the key of its revision; shipped and local models are skipped."""
    for key, section in reward_sections(config):
        if section.get("path") and not is_here(section.path):
            weights = path_is(section) != "served"
            yield HubSource("model", section.path, section.get("revision"), f"{key}.path", weights), f"{key}.revision"


def reward_receivers(config: DictConfig) -> Iterator[tuple[str, str]]:
    """Yield the servers that receive texts to score, as (key, address)."""
    for key, section in scorer_sections(config):
        yield from build_section(section, "reward").receivers(key)
