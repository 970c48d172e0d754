"""Ctrl-C while a command is still importing what it needs: one line in the place of a traceback.

Imports nothing of ours: it stands before all that takes time.
"""

import os
import signal

_LATER = 75  # errors.CONTINUE_LATER


def until_imported() -> None:
    """End at once on Ctrl-C, with nothing begun, until `imported` is called."""
    signal.signal(signal.SIGINT, _end)


def imported() -> None:
    """From now on Ctrl-C raises KeyboardInterrupt, as in any program."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(*_: object) -> None:
    os.write(2, b"stopped before anything had begun; to go on: the same command\n")
    os._exit(_LATER)
