"""Import and instantiation of the dataclass that a group's `_target_` names, without torch."""

import dataclasses
from importlib import import_module
from typing import Any

from omegaconf import DictConfig, OmegaConf

from psychocounsel.errors import UserError
from psychocounsel.settings.contract import check_target
from psychocounsel.settings.keys import refuse_unknown

_BASES = {
    "reward": "psychocounsel.reward.base.RewardSettings",
    "rollout": "psychocounsel.rollout.base.RolloutSettings",
    "data": "psychocounsel.data.base.Source",
    "writers": "psychocounsel.asking.language_model.LanguageModel",
    "annotator": "psychocounsel.asking.language_model.LanguageModel",
    "contestants": "psychocounsel.asking.language_model.LanguageModel",
    "judge": "psychocounsel.asking.language_model.LanguageModel",
    "client": "psychocounsel.asking.language_model.LanguageModel",
    "evaluation": "psychocounsel.evaluation.base.Evaluation",
    "personas": "psychocounsel.evaluation.session.persona_set.PersonaSet",
    "speeches": "psychocounsel.annotation.speeches.settings.Speeches",
}
# Any model that generates text may rate, judge and play a client.
_ALSO = dict.fromkeys(("annotator", "contestants", "judge", "client"), "writers")


def target_class(config: DictConfig, group: str) -> Any:
    """Import the dataclass that `<group>._target_` names.

    Raises:
        UserError: if `_target_` is missing, cannot be imported, or is not a class of its group.
    """
    return class_of(OmegaConf.select(config, group), group)


def class_of(section: Any, group: str) -> Any:
    """Import the dataclass named by the `_target_` of `section`, a section of `group`. Raises like target_class."""
    name = OmegaConf.select(section, "_target_") if OmegaConf.is_dict(section) else None
    if not name:
        raise UserError(f"{group} has no _target_: its YAML must name the dataclass that implements it")
    module, _, last = name.rpartition(".")
    try:
        target = getattr(import_module(module), last)
    except UserError as error:  # raised by the file itself
        raise UserError(f"{group}._target_={name}: {error}") from error
    except Exception as error:
        cause = str(error).splitlines()[-1] if str(error) else type(error).__name__
        raise UserError(
            f"{group}._target_={name}: cannot be imported ({cause}); "
            "put its file next to the folder given by --config-dir, or into it"
        ) from error
    fields = {item for base in target.__mro__ for item in vars(base).get("__dataclass_fields__", {})}
    if not dataclasses.is_dataclass(target) or fields - set(target.__dataclass_fields__):
        raise UserError(f"{group}._target_={name}: is not a dataclass; write @dataclass above the class")
    if group in _BASES:
        check_target(group, name, target, _BASES[group], _ALSO.get(group, group))
    return target


def target_names(config: DictConfig) -> set[str]:
    """Return every dotted name that a configuration imports."""
    ahead, found = [OmegaConf.to_container(config)], set[str]()
    while ahead:
        node: Any = ahead.pop()
        if isinstance(node, dict) and isinstance(node.get("_target_"), str):
            found.add(node["_target_"])
        if isinstance(node, dict | list):
            ahead += node.values() if isinstance(node, dict) else node
    return found


def build(config: DictConfig, group: str) -> Any:
    """Return the object of a checked group: an instance of its dataclass."""
    return build_section(config[group], group)


def build_section(section: DictConfig, group: str) -> Any:
    """Return the object of a section, like `build`; the section is the group's, or one member of several.

    Raises:
        UserError: as `class_of` raises it, and for a key that the dataclass lacks.
    """
    content: Any = OmegaConf.to_container(section, resolve=True)
    plain = {str(key): value for key, value in content.items() if key != "_target_"}
    target = class_of(section, group)
    refuse_unknown(group, plain, target)
    return target(**plain)
