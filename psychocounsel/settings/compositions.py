"""Fast composition of many configurations: work that they share is done once."""

import contextlib
import pickle
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import hydra.version
import omegaconf._utils
import omegaconf.base
from hydra._internal import defaults_list
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import Container, DictConfig, OmegaConf, SCMode
from omegaconf._impl import _resolve_container_value
from omegaconf.basecontainer import BaseContainer
from omegaconf.errors import OmegaConfBaseException

_Values = dict[tuple[Any, ...], Any]
# By id of a schema: the schema, the values merged into it, and the result.
_last: dict[int, tuple[DictConfig, _Values, bytes]] = {}


def spare_work() -> None:
    """Patch Hydra and OmegaConf so that they skip repeated work. Their results stay the same.

    All compositions read one `ConfigStore`. Hydra copies its search path, and with it the store, whenever it composes or lists a
    group (6 ms). The store needs no copy, because it returns copies of its nodes.

    Hydra builds a map of all choices for each file, to resolve interpolations in its defaults list. Here only files with such an
    interpolation get the map. OmegaConf parses an interpolation at each read, and Hydra parses a version string whenever it asks
    for its own version. Here each text is parsed once.

    `OmegaConf.to_container` makes a dozen checks of each value, and a sweep calls it 20 times for each job. Here values without
    interpolations are read directly.
    """
    ConfigStore.__deepcopy__ = lambda store, _: store  # type: ignore[attr-defined]
    setattr(defaults_list, "_create_interpolation_map", _choices_if_read)  # noqa: B010
    setattr(hydra.version, "_get_version", lru_cache(hydra.version._get_version))  # noqa: B010
    for module in (omegaconf.base, omegaconf._utils):  # parse trees are only read, and errors are not cached
        setattr(module, "parse", lru_cache(maxsize=4096)(module.parse))  # noqa: B010
    setattr(BaseContainer, "_to_content", staticmethod(_to_content))  # noqa: B010
    setattr(DictConfig, "_get_impl", _get_impl)  # noqa: B010


_convert = BaseContainer._to_content


class _NotPlainError(Exception):
    """A value needs OmegaConf's own conversion."""


def _to_content(
    conf: Container,
    resolve: bool,
    throw_on_missing: bool,
    enum_to_str: bool = False,
    structured_config_mode: SCMode = SCMode.DICT,
) -> Any:
    """Return a configuration as dictionaries and lists; the result equals that of `BaseContainer._to_content`."""
    if not enum_to_str and not throw_on_missing and structured_config_mode is SCMode.DICT:
        with contextlib.suppress(_NotPlainError):
            return _plain(conf, resolve)
    return _convert(conf, resolve, throw_on_missing, enum_to_str, structured_config_mode)


def _plain(node: Any, resolve: bool) -> Any:
    inside = vars(node)  # isinstance is slow for OmegaConf's abstract classes
    content = inside["_content"] if "_content" in inside else inside["_val"]
    if isinstance(content, dict):
        return {key: _plain(inner, resolve) for key, inner in content.items()}
    if isinstance(content, list):
        return [_plain(inner, resolve) for inner in content]
    if "_content" in inside and content is not None and not isinstance(content, str):
        return _plain(content, resolve)  # the node inside a union
    if resolve and isinstance(content, str) and "${" in content:
        raise _NotPlainError
    return content


_read = DictConfig._get_impl


def _get_impl(config: DictConfig, key: Any, *more: Any, **options: Any) -> Any:
    """Return the value of a key; the result equals that of `DictConfig._get_impl`."""
    content = vars(config)["_content"]
    if isinstance(content, dict) and key in content:
        inside = vars(content[key])
        if "_val" in inside:
            value = inside["_val"]
            if not isinstance(value, str) or ("${" not in value and value != "???"):
                return value
        elif isinstance(inside["_content"], dict | list):
            return content[key]
    return _read(config, key, *more, **options)


_choices_of = defaults_list._create_interpolation_map


def _choices_if_read(overrides: Any, defaults: list[Any], self_added: bool) -> DictConfig:
    """Return the choices that an interpolation in `defaults` may name (empty if it contains no interpolation)."""
    entries = [each for each in defaults if not each.is_self() and not each.is_override()]
    if any(each.is_interpolation() for each in entries):
        return _choices_of(overrides, defaults, self_added)
    return OmegaConf.create()


def compose_alone(loader: Any, name: str) -> DictConfig:
    """Return the result of `hydra.compose(name)` for Hydra's `loader`, without composing the group `hydra` only to drop it.

    Raises:
        HydraException: if the file, or a file that it names, is missing or does not fit.
    """
    try:
        _, files = loader._parse_overrides_and_create_caching_repo(name, [])
        found = defaults_list.create_defaults_list(
            files, name, overrides_list=[], prepend_hydra=False, skip_missing=False
        )
        config: DictConfig = loader._compose_config_from_defaults_list(defaults=found.defaults, repo=files)
    except OmegaConfBaseException as error:
        raise ConfigCompositionException().with_traceback(sys.exc_info()[2]) from error
    OmegaConf.set_struct(config, True)
    return config


@lru_cache(maxsize=4096)
def parsed(text: str) -> Override:
    """Return a parsed override; cached because the runs of a sweep share most of theirs.

    Raises:
        HydraException: if the text is not an override.
    """
    (override,) = OverridesParser.create().parse_overrides([text])
    return override


class Compositions:
    """Cache of composed configurations: files are composed once, then values are applied as Hydra applies them.

    `load(choices)` composes files by Hydra's `loader`. It is called once for each set of overrides that choose files.
    """

    def __init__(self, loader: Any, load: Callable[[list[str]], DictConfig]) -> None:
        self.loader, self.load = loader, load
        self.composed: dict[tuple[str, ...], bytes] = {}
        self.parsed: dict[str, tuple[Any, bool]] = {}

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """Return the configuration for `overrides`, written as on the command line.

        Raises:
            HydraException: for an override that cannot be parsed, or that names a missing file or key.
        """
        parsed = {text: self._parse(text) for text in overrides}
        choices = tuple(text for text in overrides if not parsed[text][1])
        if choices not in self.composed:
            loaded = self.load(list(choices))
            plain = OmegaConf.create({key: loaded._get_node(key) for key in loaded if key != "hydra"})
            OmegaConf.set_struct(plain, True)
            self.composed[choices] = pickle.dumps(plain)
        config: DictConfig = pickle.loads(self.composed[choices])  # pickle is four times as fast as a deep copy
        values = [parsed[text][0] for text in overrides if parsed[text][1]]
        type(self.loader)._apply_overrides_to_config(values, config)
        return config

    def _parse(self, text: str) -> tuple[Any, bool]:
        """Return a parsed override, and True if it only sets a value."""
        if text not in self.parsed:
            each = parsed(text)
            self.loader.validate_sweep_overrides_legal([each], RunMode.RUN, from_shell=False)
            is_value = not each.is_delete() and not self.loader.repository.group_exists(each.key_or_group)
            self.parsed[text] = each, is_value
        return self.parsed[text]


def merged(schema: DictConfig, plain: DictConfig, check: Callable[[], None]) -> DictConfig:
    """Return `OmegaConf.merge(schema, plain)`. The schema must not change afterwards.

    If only values differ from the last merge, they are set in a copy of its result. Otherwise `check` is called, and then
    the two are merged.

    Raises:
        OmegaConfBaseException: as `OmegaConf.merge` raises it.
    """
    values = _values(OmegaConf.to_container(plain))
    changed = _changed(schema, values)
    if changed is not None:
        return changed
    check()
    config = OmegaConf.merge(schema, plain)
    assert isinstance(config, DictConfig)
    # Pickling fails for a class that its module does not contain by name.
    with contextlib.suppress(pickle.PicklingError, AttributeError):
        _last[id(schema)] = schema, values, pickle.dumps(config)
    return config


def resolve(node: Container) -> None:
    """Resolve all interpolations in place, like `OmegaConf.resolve`, but without reading the other values.

    Raises:
        OmegaConfBaseException: for an interpolation that cannot be resolved.
    """
    content = vars(node).get("_content")
    if not isinstance(content, dict | list):
        return  # null or missing
    for key, inner in content.items() if isinstance(content, dict) else enumerate(content):
        value = inner._value()
        if isinstance(value, str) and "${" in value:
            _resolve_container_value(node, key)
        elif "_content" in vars(inner):
            resolve(inner)


def _changed(schema: DictConfig, values: _Values) -> DictConfig | None:
    """Return the last result for the schema with changed values; None if keys or lists differ, or a value is refused."""
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
    except OmegaConfBaseException:  # merging raises the clearer error
        return None
    return config


def _values(node: Any, path: tuple[Any, ...] = ()) -> _Values:
    """Return every value of nested mappings by its path. A list counts as one value, as does a mapping without keys."""
    if not isinstance(node, dict) or not node:
        return {path: node}
    return {place: value for key, inner in node.items() for place, value in _values(inner, (*path, key)).items()}
