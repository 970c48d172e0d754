"""Caches for composing in the test's process, where hundreds of configurations come from the same files.

A command composes once, so none of this pays in production.
"""

import os
import pickle
from functools import cache, lru_cache
from typing import Any

import omegaconf._utils
import omegaconf.base
from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.hydra import Hydra
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from omegaconf import grammar_parser

_read: dict[Any, bytes] = {}  # files by path, inode, size and modification time
_merged: dict[str, bytes] = {}  # merged files by their versions


@cache
def compose_quickly() -> None:
    """Keep parsed files and interpolations in this process, and skip the names of choices where nothing refers to them.

    Hydra composes the configuration of a command twice. The first time it only reads `hydra.mode`, and none of our files
    sets this key.
    """
    _keep_files()
    _keep_compositions()
    read_mode = Hydra.get_mode
    Hydra.get_mode = lambda self, config_name, overrides: (  # type: ignore[method-assign]
        read_mode(self, config_name, overrides) if any("hydra" in text for text in overrides) else None
    )
    parse: Any = lru_cache(maxsize=4096)(grammar_parser.parse)
    omegaconf.base.parse = omegaconf._utils.parse = parse  # type: ignore[attr-defined]
    named = defaults_list._create_interpolation_map

    def named_if_used(overrides: Any, defaults: list[Any], self_added: bool) -> Any:
        return named(overrides, defaults, self_added) if any(each.is_interpolation() for each in defaults) else None

    defaults_list._create_interpolation_map = named_if_used


def _keep_files() -> None:
    """Make Hydra read each version of a YAML file once, because reading takes most of the time of composing."""
    Plugins.instance()
    read = ConfigRepository.load_config

    def load_config(self: Any, config_path: str) -> Any:
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        if source is None:
            return read(self, config_path)
        version: Any = None  # of what Hydra itself holds, which no test changes
        if source.scheme() == "file":
            found = os.stat(os.path.join(source.path, source._normalize_file_name(config_path)))
            version = found.st_ino, found.st_size, found.st_mtime_ns
        key = f"{source.provider} {source.path} {config_path}", version
        if key not in _read:
            _read[key] = pickle.dumps(read(self, config_path))
        result = pickle.loads(_read[key])
        result.version = key
        return result

    ConfigRepository.load_config = load_config  # type: ignore[method-assign]


def _keep_compositions() -> None:
    """Merge each combination of configuration files once; Hydra applies the overrides of single keys afterwards."""
    merge = ConfigLoaderImpl._compose_config_from_defaults_list

    def compose_files(self: Any, defaults: list[Any], repo: Any) -> Any:
        versions = [getattr(repo.cache.get(f"config_path={each.config_path}"), "version", None) for each in defaults]
        key = repr(([source.path for source in repo.get_sources()], list(zip(defaults, versions, strict=True))))
        if key not in _merged:
            _merged[key] = pickle.dumps(merge(self, defaults, repo))
        return pickle.loads(_merged[key])

    ConfigLoaderImpl._compose_config_from_defaults_list = compose_files  # type: ignore[method-assign]
