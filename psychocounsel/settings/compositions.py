"""Composing many configurations, and merging them into their schema: what they have in common is done once."""

import contextlib
import pickle
from collections.abc import Callable, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

_Values = dict[tuple[Any, ...], Any]
_last: dict[
    int, tuple[DictConfig, _Values, bytes]
] = {}  # by id of a schema: itself, what was merged into it, the result


class Compositions:
    """What Hydra composes of overrides, without its own group `hydra`: files once, then values as it applies them itself.

    `load(choices)` composes files by Hydra's `loader`. It is asked once for each set of overrides that choose files.
    """

    def __init__(self, loader: Any, load: Callable[[list[str]], DictConfig]) -> None:
        self.loader, self.load = loader, load
        self.composed: dict[tuple[str, ...], bytes] = {}
        self.parsed: dict[str, tuple[Any, bool]] = {}

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The configuration of `overrides`, as the command line has them.

        Raises:
            HydraException: for an override that cannot be parsed, chooses no file, or sets a key that is not there.
        """
        parsed = {text: self._parse(text) for text in overrides}
        choices = tuple(text for text in overrides if not parsed[text][1])
        if choices not in self.composed:
            loaded = self.load(list(choices))
            plain = OmegaConf.create({key: loaded._get_node(key) for key in loaded if key != "hydra"})
            OmegaConf.set_struct(plain, True)
            self.composed[choices] = pickle.dumps(plain)
        config: DictConfig = pickle.loads(self.composed[choices])  # four times as fast as a deep copy
        values = [parsed[text][0] for text in overrides if parsed[text][1]]
        type(self.loader)._apply_overrides_to_config(values, config)
        return config

    def _parse(self, text: str) -> tuple[Any, bool]:
        """An override, and whether it only sets a value."""
        if text not in self.parsed:
            (each,) = OverridesParser.create(self.loader).parse_overrides([text])
            self.loader.validate_sweep_overrides_legal([each], RunMode.RUN, from_shell=False)
            is_value = not each.is_delete() and not self.loader.repository.group_exists(each.key_or_group)
            self.parsed[text] = each, is_value
        return self.parsed[text]


def merged(schema: DictConfig, plain: DictConfig) -> DictConfig:
    """What `OmegaConf.merge` makes of `schema` and `plain`. A schema is not to change afterwards.

    Raises:
        OmegaConfBaseException: as `OmegaConf.merge` says.
    """
    values = _values(OmegaConf.to_container(plain))
    changed = _changed(schema, values)
    if changed is not None:
        return changed
    config = OmegaConf.merge(schema, plain)
    assert isinstance(config, DictConfig)
    with contextlib.suppress(pickle.PicklingError, AttributeError):  # a class that its module does not have by name
        _last[id(schema)] = schema, values, pickle.dumps(config)
    return config


def _changed(schema: DictConfig, values: _Values) -> DictConfig | None:
    """The last result for the schema with other values; None if more than values differs, or one is refused."""
    _, before, result = _last.get(id(schema), (schema, {}, b""))
    if before.keys() != values.keys():
        return None
    config: DictConfig = pickle.loads(result)
    try:
        for path, value in values.items():
            if type(value) is not type(before[path]) or value != before[path]:
                if isinstance(value, dict | list) or isinstance(before[path], dict | list):
                    return None
                node: Any = config
                for part in path[:-1]:
                    node = node._get_node(part)
                node[path[-1]] = value
    except OmegaConfBaseException:  # merging says it better
        return None
    return config


def _values(node: Any, path: tuple[Any, ...] = ()) -> _Values:
    """Every value of nested mappings by its path; a list is one value, as is a mapping without keys."""
    if not isinstance(node, dict) or not node:
        return {path: node}
    return {place: value for key, inner in node.items() for place, value in _values(inner, (*path, key)).items()}
