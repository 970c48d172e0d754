"""The contract of data sources: where the rows of `data` come from, by default files, folders and datasets of the hub.

A source of a user's own, for other columns or kinds of file, is a dataclass that derives from Source, named by
`data._target_`. Its rows are then split, filtered, tokenised and packed as all others are.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from psychocounsel.errors import UserError
from psychocounsel.settings.contract import GroupSettings
from psychocounsel.settings.schema import DataConfig

Row = Mapping[str, Any]


@dataclass
class Source(DataConfig, GroupSettings):
    """Reads rows. Each field is a key of `data.*`, beside those that all data have. A subclass must define `rows`.

    It cannot be an entry of `data.mix`.
    """

    config_group: ClassVar[str] = "data"

    @abstractmethod
    def rows(self, path: str | None, split: str, revision: str | None) -> Iterable[tuple[str, Row | UserError]]:
        """Each row with its place, as `answers.csv line 7`, which errors name in place of the text.

        A row is of one of the formats of data/rows.py, for instance {"prompt", "chosen", "rejected"} or {"messages"}. A
        UserError in its place says why it cannot be read: the first one is raised, or with `data.bad_rows=drop` left out.
        Asked with `data.path`, `split` and `revision`, and where `data.eval_path` or `eval_split` is given once more with
        those. `path` may be null for a source that has its place in fields of its own.

        Raises:
            UserError: for what cannot be read; it does not quote the text.
        """

    def files(self, path: str | None) -> Sequence[Path] | None:
        """All files that `rows` reads for `path`, those of code that it imports included.

        While these, the file of the class and the settings stay as they are, tokenised data come from the cache. Default:
        None, they are not known, and data are tokenised at each start.
        """
        return None

    def check(self) -> None:
        """Raises UserError for settings that cannot work. Called before a run starts; imports no torch."""
