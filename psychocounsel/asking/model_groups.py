"""Groups of language models in a configuration: names of members become the settings of each model, without torch."""

import os
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from psychocounsel.errors import UserError
from psychocounsel.remote.hub_sources import HubSource, is_here
from psychocounsel.reward.sections import Preset, check_reward_path, filled, judge_models, path_is
from psychocounsel.settings.command import idle_keys
from psychocounsel.settings.paths import check_asked_model, is_of_earlier_run, make_absolute
from psychocounsel.settings.schema import option
from psychocounsel.settings.targets import build
from psychocounsel.storage.files import absolute, expanded

MODEL_GROUPS = ("writers", "annotator", "contestants", "judge", "client")
_OTHER_PROMPTS = {  # groups whose models have no prompt of their own, with the reason
    "annotator": "the prompt of an annotator is scores.rubric",
    "judge": "the prompt of a judge is evaluation.rubric",
    "client": "the prompt of a client is its persona's card",
    "contestants": "all contestants get replies.system_prompt",
}
NO_PRICE = "no model has an input_price or output_price; budget.calls limits calls"


@dataclass
class BudgetConfig:
    cost: float | None = option(None, above=0)
    calls: int | None = option(None, at_least=1)


def model_sections(config: DictConfig) -> Iterator[tuple[str, str, DictConfig]]:
    """Yield key, group and settings of each single language model: `writers`, or `writers.members[0]` and so on."""
    for group in MODEL_GROUPS:
        if config.get(group) is None:
            continue
        if config[group].get("members") is None:
            yield group, group, config[group]
            continue
        for index, member in enumerate(config[group].members):
            yield f"{group}.members[{index}]", group, member


def groups_of(config: DictConfig) -> list[str]:
    """Return the groups of language models that a configuration has."""
    return [group for group in MODEL_GROUPS if config.get(group) is not None]


def models_of(config: DictConfig) -> list[Any]:
    """Return all language models of a configuration."""
    return [model for group in groups_of(config) for model in build(config, group).models()]


def resolve_models(composed: DictConfig, preset: Preset) -> None:
    """Resolve the members of a pool or panel to settings, because the worker does not compose.

    A member is a name in `conf/<group>/`, or a mapping whose key `use` names the file with the defaults, for instance
    {use: openai, model: NAME}.

    Raises:
        UserError: for a member of another form.
    """
    for group in MODEL_GROUPS:
        section = composed.get(group)
        if not OmegaConf.is_dict(section) or "members" not in section:
            continue
        members = section.members
        if not OmegaConf.is_list(members) or not members:
            raise UserError(
                f"{group}.members: is a list of names in conf/{group}/, or of mappings, as [{{use: local_vllm, model: NAME}}]"
            )
        with open_dict(section):
            section.members = [_resolve(group, index, member, preset) for index, member in enumerate(members)]


def _resolve(group: str, index: int, member: Any, preset: Preset) -> DictConfig:
    key = f"{group}.members[{index}]"
    given = OmegaConf.create({"use": member}) if isinstance(member, str) else member
    if not isinstance(given, DictConfig) or not ("use" in given or "_target_" in given):
        raise UserError(f"{key}: is a name in conf/{group}/, or a mapping with one, as {{use: NAME, temperature: 0.7}}")
    if "_target_" in given:
        return given  # resolved already, or the user's own model
    base = preset(group, str(given.use))
    if "members" in base:
        raise UserError(f"{key}: {given.use} has members itself; name its members")
    return filled(key, {name: given[name] for name in given if name != "use"}, base)


def check_models(config: DictConfig, typed: Callable[[DictConfig], DictConfig]) -> None:
    """Check members against their dataclasses, by `typed`, and let every model check its settings.

    Raises:
        UserError: naming the model's key.
    """
    for key, group, section in list(model_sections(config)):
        if group in _OTHER_PROMPTS and section.get("prompt") is not None:
            raise UserError(f"{key}.prompt: {_OTHER_PROMPTS[group]}; leave it null")
        _make_absolute(config, section)
        if key == group:
            continue
        if not OmegaConf.is_dict(section) or "_target_" not in section:
            raise UserError(f"{key}={section}: is not resolved to settings")
        try:
            index = int(key.rpartition("[")[2].rstrip("]"))
            config[group].members[index] = typed(OmegaConf.create({group: section}))[group]
        except UserError as error:
            message = re.sub(rf"(?<![.\w]){group}[.]", "", str(error))
            raise UserError(f"{key}: {message}") from error
    for _, section in judge_models(config):
        _make_absolute(config, section)
    for group in groups_of(config):
        build(config, group).check(group)
    for key, group, section in model_sections(config):
        if group != "contestants":  # their paths are checked where they are named
            check_asked_model(config, key, section)
    for key, reward in _rewards_of_judges(config):
        check_reward_path(config, key, reward)
        make_absolute(config, reward, ("path", "chat_template"))


def _make_absolute(config: DictConfig, section: DictConfig) -> None:
    """Make the paths of a model's files absolute, because a job may start in another directory.

    So is the folder of a model that a run named in `after` will write. A server's model has a name.
    """
    if section.get("model") and "addresses" not in section and is_of_earlier_run(config, section.model):
        section.model = absolute(section.model)
    for name in ("prompt", "chat_template"):
        value = section.get(name)
        if value and value.endswith((".txt", ".jinja")) and expanded(value).is_file():
            section[name] = str(expanded(value).resolve())


def require_keys(config: DictConfig, groups: Collection[str]) -> None:
    """Refuse to start if the keys of the servers of `groups` are not in the environment.

    Raises:
        UserError: naming the missing environment variable.
    """
    for key, variable in key_variables(config):
        if re.split(r"[.\[]", key)[0] in groups and variable not in os.environ:
            raise UserError(
                f"{key}={variable}: this environment variable is not set: export {variable}=KEY and try again"
            )


def key_variables(config: DictConfig) -> Iterator[tuple[str, str]]:
    """Yield the name of each environment variable that holds a key, with the configuration key that names it."""
    for key, section in (*_asked(config), *_rewards_of_judges(config)):
        if section.get("key_variable"):
            yield f"{key}.key_variable", str(section.key_variable)


def model_receivers(config: DictConfig) -> Iterator[tuple[str, str]]:
    """Yield the servers that language models run on, as (key, address)."""
    for group in groups_of(config):
        yield from build(config, group).receivers(group)


def asked_repositories(config: DictConfig) -> Iterator[tuple[HubSource, str]]:
    """Yield the hub repositories of models that run in the process, and of judges' reward models; runs keep no commit of them."""
    for key, section in _asked(config):
        if "revision" in section and section.get("model") and not is_here(section.model):
            yield HubSource("model", section.model, section.revision, f"{key}.model"), ""
    for key, reward in _rewards_of_judges(config):
        if reward.get("path") and not is_here(reward.path):
            loaded = path_is(reward) == "loaded"
            yield HubSource("model", reward.path, reward.get("revision"), f"{key}.path", weights=loaded), ""


def _asked(config: DictConfig) -> Iterator[tuple[str, DictConfig]]:
    """Yield key and settings of each language model, those that reward or rank replies as well."""
    yield from ((key, section) for key, _, section in model_sections(config))
    yield from judge_models(config)


def _rewards_of_judges(config: DictConfig) -> Iterator[tuple[str, DictConfig]]:
    """Yield key and settings of each reward model that is a judge, such as `judge.members[0].reward`."""
    for key, section in _asked(config):
        if OmegaConf.is_dict(section.get("reward")):
            yield f"{key}.reward", section.reward


def idle_groups(config: DictConfig) -> Iterator[tuple[str, str]]:
    """Yield the keys of language models that their other keys disable, each with the reason."""
    for group in groups_of(config):
        yield from idle_keys(group, build(config, group).unused())


def idle_models(config: DictConfig) -> Iterator[tuple[str, str]]:
    """Yield the keys without effect of a command that asks language models within a budget, each with the reason."""
    yield from idle_groups(config)
    models = models_of(config)
    if config.crisis_to_third_parties and not any(model.is_third_party() for model in models):
        yield "crisis_to_third_parties", "no model belongs to a third party"
    if config.budget.cost is not None and not any(model.input_price or model.output_price for model in models):
        yield "budget.cost", NO_PRICE
    if config.shards > 1 and not hasattr(build(config, "cluster"), "internet"):
        yield "shards", "only cluster=slurm shares the work"
