"""From a group of a configuration to the dataclass that its `_target_` names, and to an object of it; no torch."""

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
# Any model that writes may rate, judge and play a client.
_ALSO = dict.fromkeys(("annotator", "contestants", "judge", "client"), "writers")


def target_class(config: DictConfig, group: str) -> Any:
    """Import the dataclass that `<group>._target_` names.

    Raises:
        UserError: if there is none, it cannot be imported, or is not what its group asks for.
    """
    return class_of(OmegaConf.select(config, group), group)


def class_of(section: Any, group: str) -> Any:
    """Import the dataclass that the `_target_` of `section`, a configuration of `group`, names. Raises as target_class."""
    name = OmegaConf.select(section, "_target_") if OmegaConf.is_dict(section) else None
    if not name:
        raise UserError(f"{group} has no _target_: its YAML must name the dataclass that implements it")
    module, _, last = name.rpartition(".")
    try:
        target = getattr(import_module(module), last)
    except UserError as error:  # which the file itself raises
        raise UserError(f"{group}._target_={name}: {error}") from error
    except Exception as error:
        cause = str(error).splitlines()[-1] if str(error) else type(error).__name__
        raise UserError(
            f"{group}._target_={name}: cannot be imported ({cause}); "
            "put its file beside the folder given by --config-dir, or in it"
        ) from error
    fields = {item for base in target.__mro__ for item in vars(base).get("__dataclass_fields__", {})}
    if not dataclasses.is_dataclass(target) or fields - set(target.__dataclass_fields__):
        raise UserError(f"{group}._target_={name}: is no dataclass; write @dataclass above the class")
    if group in _BASES:
        check_target(group, name, target, _BASES[group], _ALSO.get(group, group))
    return target


def build(config: DictConfig, group: str) -> Any:
    """Make the object of a checked group: its dataclass, with its fields as attributes."""
    return build_section(config[group], group)


def build_section(section: DictConfig, group: str) -> Any:
    """As `build`, of a section that is the group's, or stands in for it: a member of several rewards."""
    content: Any = OmegaConf.to_container(section, resolve=True)
    plain = {str(key): value for key, value in content.items() if key != "_target_"}
    target = class_of(section, group)
    refuse_unknown(group, plain, target)
    return target(**plain)
