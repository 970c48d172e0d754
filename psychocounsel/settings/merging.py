"""Merging composed configurations into their schema: of many that differ in some values, only these are set."""

import contextlib
import pickle
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

_Values = dict[tuple[Any, ...], Any]
_last: dict[
    int, tuple[DictConfig, _Values, bytes]
] = {}  # by id of a schema: itself, what was merged into it, the result


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
