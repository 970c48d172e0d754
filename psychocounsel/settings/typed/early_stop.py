"""Ctrl-C during the imports of a command: prints one line instead of a traceback.

This module imports nothing of the package, because it runs before the slow imports.
"""

import os
import signal

_LATER = 75  # equals errors.CONTINUE_LATER


def until_imported() -> None:
    """Exit at once on Ctrl-C until `imported` is called, because nothing has started yet."""
    signal.signal(signal.SIGINT, _end)


def imported() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again, as in any program."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(*_: object) -> None:
    os.write(2, b"stopped before anything started; to resume: the same command\n")
    os._exit(_LATER)
