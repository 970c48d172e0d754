"""Redirection of vLLM's start-up output from the terminal to the attempt's log."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from psychocounsel.errors import UserError, words
from psychocounsel.rundir.attempts import engine_log


@contextmanager
def quiet_start(what: str) -> Iterator[None]:
    """Keep the output of a starting vLLM engine off the terminal; errors name the setting `what`.

    The output goes to the run's `engine_log`, which survives even if the process is aborted.

    Raises:
        UserError: if the start fails, after all of its output was printed.
    """
    shown = os.dup(1), os.dup(2)
    with _log() as said:
        start = said.seek(0, os.SEEK_END)
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
        finally:
            for number, descriptor in enumerate(shown, 1):
                os.dup2(descriptor, number)
                os.close(descriptor)
        if failure is not None:
            said.seek(start)
            os.write(2, said.read())
            line = (str(failure).strip().splitlines() or [type(failure).__name__])[0]
            raise UserError(f"{what}: the engine could not start: {words(line[:300])}") from failure


def _log() -> IO[bytes]:
    file = engine_log()
    return open(file, "a+b") if file else tempfile.TemporaryFile()
