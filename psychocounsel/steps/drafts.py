"""Draft directories for dry runs: temporary tables next to the real journal."""

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from psychocounsel.steps.context import F


@contextmanager
def draft_of(files: F) -> Iterator[F]:
    """Give a directory like `files` in a temporary folder that only this user can read.

    The folder is removed at the end of the block, after SIGTERM as well. It lies inside the directory of `files` if
    that is writable, so that the next run there removes it if this process is killed. The draft uses the journal of
    `files`, so that bought answers are found.
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
