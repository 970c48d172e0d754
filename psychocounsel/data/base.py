"""Base class of data sources, which read the rows of `data`.

The default source reads files, folders and datasets of the Hugging Face hub. For other columns or kinds of file, write
a dataclass that derives from Source and name it in `data._target_`. Its rows are split, filtered, tokenised and packed
like all others.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from psychocounsel.data.settings import DataConfig
from psychocounsel.errors import UserError
from psychocounsel.settings.targets import GroupSettings

Row = Mapping[str, Any]


@dataclass
class Source(DataConfig, GroupSettings):
    """Base of data sources. Each field is a key of `data.*`, in addition to the common ones. A subclass must define `rows`.

    A source of your own cannot be an entry of `data.mix`.
    """

    config_group: ClassVar[str] = "data"

    @abstractmethod
    def rows(self, path: str | None, split: str, revision: str | None) -> Iterable[tuple[str, Row | UserError]]:
        """Yield each row with its place, such as `answers.csv line 7`. Errors name this place and never quote the text.

        A row has one of the formats of data/rows.py, for instance {"prompt", "chosen", "rejected"} or {"messages"}. A
        UserError instead of a row says why it cannot be read. The first such error is raised, or the row is skipped
        with `data.bad_rows=drop`.

        Called with `data.path`, `split` and `revision`, and again for `data.eval_path` or `eval_split` if one is set.
        `path` may be null for a source that has its place in fields of its own.

        Raises:
            UserError: for data that cannot be read; it must not quote the text.
        """

    def files(self, path: str | None) -> Sequence[Path] | None:
        """Return all files that `rows` reads for `path`, including the files of code that it imports.

        Tokenised data come from the cache as long as these files, the file of the class and the settings are unchanged.
        With None (default: the files are unknown) data are tokenised at each start.
        """
        return None

    def check(self) -> None:
        """Reject settings that cannot work. Called before a run starts; must not import torch.

        Raises:
            UserError: naming the setting.
        """
