"""Command lines of the commands that compose no configuration: a parser, KEY=VALUE arguments, and errors in one line."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from psychocounsel.errors import (
    CONTINUE_LATER,
    INTERRUPTED,
    USER_ERROR,
    GoOnLater,
    UserError,
    is_disk_full,
    print_printable,
)
from psychocounsel.settings.keys import refuse_lines_in_overrides
from psychocounsel.settings.schema import check_limits, flat_keys, suggestion
from psychocounsel.storage.modes import let_nobody_else_write


class Parser(argparse.ArgumentParser):
    """Argument parser that refuses abbreviated options and turns errors into UserError."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)  # also passed on to subcommands

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")


def run(main: Callable[[list[str]], int], *more: type[Exception]) -> NoReturn:
    """Call `main` with the process's arguments and exit with its code. UserError, OSError and `more` print one line."""
    let_nobody_else_write()
    print_printable()
    expected: tuple[type[Exception], ...] = (UserError, OSError, *more)
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except GoOnLater as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(CONTINUE_LATER)
    except expected as error:
        from psychocounsel.settings.messages import one_line

        print(f"error: {one_line(error, sys.argv[1:])}", file=sys.stderr)
        sys.exit(CONTINUE_LATER if is_disk_full(error) else USER_ERROR)


def read_typed(schema: type, arguments: Sequence[str]) -> DictConfig:
    """Return the fields of the dataclass `schema` with the values of `arguments`, checked for types and limits.

    Raises:
        UserError: for an unknown key or an invalid value, with what to type instead.
    """
    refuse_lines_in_overrides(arguments)
    config = OmegaConf.structured(schema)
    for text in arguments:
        if "=" not in text or text.startswith("-"):
            raise UserError(f"{text}: give KEY=VALUE; --help lists the keys")
    known = flat_keys(config)
    for text in arguments:
        key = text.partition("=")[0]
        try:
            config = cast(DictConfig, OmegaConf.merge(config, OmegaConf.from_dotlist([text])))
        except ConfigKeyError as error:
            raise UserError(f"unknown key {key}: {suggestion(key, known, '--help lists the keys')}") from error
        except yaml.YAMLError as error:
            raise UserError(f"{text}: cannot be read; put the value in quotes, or close its brackets") from error
        except OmegaConfBaseException as error:
            value = text.partition("=")[2]
            if OmegaConf.is_list(OmegaConf.select(config, key)) and not value.startswith(("[", "{")):
                raise UserError(f"{text}: is a list; type {key}=[{value or 'A,B'}]") from error
            raise UserError(f"{text}: is not a value of {key}; --help shows one") from error
    check_limits(schema, config)
    return config
