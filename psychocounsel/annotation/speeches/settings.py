"""Settings of the group `speeches`: sources of client speeches and the rules that clean them. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import MISSING

from psychocounsel.data.sources import StandardSource
from psychocounsel.errors import UserError
from psychocounsel.settings.paths import SHIPPED_DATA, check_local_path
from psychocounsel.settings.schema import option
from psychocounsel.settings.targets import GroupSettings, is_on_hub

SCRIPTS = ("default", "cjk")
_NO_REVISION = "path is not a dataset of the hub"


@dataclass
class _Place:
    """Location and columns of speeches: the keys of a source, and of `speeches` itself if it has a single source."""

    path: str | None = None
    split: str = "train"
    revision: str | None = None
    column: str | None = None
    license: str | None = None
    language: str | None = None
    topic_column: str = "topic"
    risk_column: str = "risk"


@dataclass
class SpeechSource(_Place):
    """One source of speeches. `name` is the value of the column `source`; null: the last part of the path."""

    name: str | None = None

    @property
    def title(self) -> str:
        return self.name or (self.path if self.path in SHIPPED_DATA else Path(str(self.path)).name)

    def files(self) -> Sequence[Path]:
        """Return the local files of the source; none for a dataset of the hub."""
        return StandardSource().files(self.path)


@dataclass
class Speeches(_Place, GroupSettings):
    """Settings of the group; each field is a key of `speeches.*`, explained in conf/speeches/local.yaml."""

    config_group: ClassVar[str] = "speeches"

    name: str = MISSING
    sources: list[SpeechSource] = option([])
    turns: str = option("last", choices=("last", "all", "every"))
    bad_rows: str = option("refuse", choices=("refuse", "drop"))
    min_characters: dict[str, int] = field(default_factory=lambda: {"default": 100, "cjk": 40})
    max_characters: dict[str, int] = field(default_factory=lambda: {"default": 1000, "cjk": 400})
    languages: list[str] | None = None
    near: float = option(0.8, at_least=0.5, at_most=1)
    split_near: float = option(0.6, at_least=0.5, at_most=1)
    limit: int | None = option(None, at_least=1)
    identifiers: bool = True
    presidio: str = option("installed", choices=("installed", "always", "never"))
    presidio_model: str | None = None
    shown: int = option(50, at_least=0, at_most=1000)
    topics: str = "builtin:en"
    risk_cues: str = "builtin:en"
    rules_may_clear: bool = False
    confidential: bool = False
    allowed_hosts: list[str] = option([])

    def all_sources(self) -> list[SpeechSource]:
        """Return the sources in order. Of equal speeches, the one from the earliest source is kept."""
        if not self.sources:
            own = {item.name: getattr(self, item.name) for item in fields(_Place)}
            return [SpeechSource(name=None if self.path and self.name == "local" else self.name, **own)]
        return [source if isinstance(source, SpeechSource) else SpeechSource(**source) for source in self.sources]

    def files(self) -> list[Path]:
        """Return all files that speeches are read from; output files are as private as these."""
        return [file for source in self.all_sources() for file in source.files()]

    def check(self, config: Any = None) -> None:
        """Refuse settings that cannot work.

        Raises:
            UserError: names the key and what to type instead.
        """
        if not self.sources and not self.path:
            raise UserError("speeches.path is not set: add speeches=FILE, or speeches.sources=[{path: FILE}, ...]")
        for number, source in enumerate(self.all_sources()):
            key = f"speeches.sources[{number}]" if self.sources else "speeches"
            if not source.path:
                raise UserError(f"{key}.path is not set: each source needs a path")
            check_local_path(source.path, f"{key}.path", of_data=True, revision=source.revision)
            if self.sources and source.revision is not None and not is_on_hub(source.path):
                raise UserError(
                    f"{key}.revision={source.revision}: has no effect, because {_NO_REVISION}; leave it out"
                )
        titles = [source.title for source in self.all_sources()]
        if twice := next((title for title in titles if titles.count(title) > 1), None):
            raise UserError(
                f"speeches.sources: two sources have the name {twice}; give each a name of its own: {{name: NAME, path: ...}}"
            )
        for key in ("min_characters", "max_characters"):
            limits = getattr(self, key)
            if wrong := sorted(set(limits) - set(SCRIPTS)):
                raise UserError(f"speeches.{key}.{wrong[0]}: unknown script; use {' or '.join(SCRIPTS)}")
            if "default" not in limits or any(value < 1 for value in limits.values()):
                raise UserError(
                    f"speeches.{key} needs `default` and whole numbers from 1, such as {{default: 100, cjk: 40}}"
                )
        for script in SCRIPTS:
            low, high = limit_of(self.min_characters, script), limit_of(self.max_characters, script)
            if low > high:
                raise UserError(f"speeches.min_characters.{script}={low} is more than max_characters ({high})")
        if self.split_near > self.near:
            raise UserError(f"speeches.split_near={self.split_near} must be at most speeches.near={self.near}")
        if self.languages == []:
            raise UserError("speeches.languages=[] keeps no speech: use null for any language, or a list such as [en]")

    def unused(self, config: Any = None) -> dict[str, str]:
        """Return the fields without effect under these settings, each with the reason. Setting one of them is refused."""
        reasons: dict[str, str] = {}
        if self.sources:
            reason = "speeches.sources is given, and each source has this key itself"
            reasons |= {item.name: reason for item in fields(_Place)}
        elif not is_on_hub(self.path):
            reasons["revision"] = f"speeches.{_NO_REVISION}"
        if not self.identifiers:
            reasons |= dict.fromkeys(
                ("presidio", "presidio_model", "shown"), "speeches.identifiers=false searches for none"
            )
        elif self.presidio == "never":
            reasons["presidio_model"] = "speeches.presidio=never uses no model"
        if not self.confidential:
            reasons["allowed_hosts"] = "speeches.confidential=false limits no host"
        return reasons


def limit_of(limits: dict[str, int], script: str) -> int:
    """Return the limit for a script [characters]; a script without its own limit has that of `default`."""
    return limits.get(script, limits["default"])
