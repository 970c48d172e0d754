"""A draft of a directory, for dry runs: tables that nobody keeps, beside the real journal."""

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from psychocounsel.rundir.paths import StepsDir

F = TypeVar("F", bound=StepsDir)


@contextmanager
def draft_of(files: F) -> Iterator[F]:
    """The files of a new folder, readable for this user alone, that goes afterwards, after SIGTERM as well.

    The folder lies in the directory of `files` if there is one: the next run there removes what a kill leaves. The journal is
    that of `files`, so that bought answers are known.
    """

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    out = files.path
    inside = str(out) if out.is_dir() and os.access(out, os.W_OK) else None
    before = signal.signal(signal.SIGTERM, stop)
    try:
        with tempfile.TemporaryDirectory(prefix=".forecast-", suffix=".tmp", dir=inside) as folder:
            draft = type(files)(Path(folder))
            if files.answers.exists():
                draft.answers = files.answers
            yield draft
    finally:
        signal.signal(signal.SIGTERM, before)
