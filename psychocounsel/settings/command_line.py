"""Parser and error lines of the commands that do not compose a configuration."""

import argparse
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from psychocounsel.errors import CONTINUE_LATER, USER_ERROR, GoOnLater, UserError, is_disk_full
from psychocounsel.storage.modes import let_nobody_else_write

_INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """Argument parser that refuses abbreviated options and turns errors into UserError."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)  # also passed on to subcommands

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")


def run(main: Callable[[list[str]], int], *more: type[Exception]) -> NoReturn:
    """Call `main` with the process's arguments and exit with its code. UserError, OSError and `more` print one line."""
    let_nobody_else_write()
    expected: tuple[type[Exception], ...] = (UserError, OSError, *more)
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    except GoOnLater as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(CONTINUE_LATER)
    except expected as error:
        from psychocounsel.settings.messages import one_line

        print(f"error: {one_line(error, sys.argv[1:])}", file=sys.stderr)
        sys.exit(CONTINUE_LATER if is_disk_full(error) else USER_ERROR)
