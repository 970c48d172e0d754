"""Keys of commands that compose no files: KEY=VALUE for the fields of a dataclass."""

from collections.abc import Sequence
from typing import cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from psychocounsel.errors import UserError
from psychocounsel.settings.keys import refuse_lines_in_overrides
from psychocounsel.settings.schema import check_limits, flat_keys, suggestion


def read_typed(schema: type, arguments: Sequence[str]) -> DictConfig:
    """The fields of the dataclass `schema` with the values that `arguments` give, checked for types and limits.

    Raises:
        UserError: for a key that there is not or a value that it cannot have, with what to type instead.
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
            raise UserError(f"unknown key {key}: {suggestion(key, known)}") from error
        except OmegaConfBaseException as error:
            raise UserError(f"{text}: is no value for {key}; --help shows one") from error
    check_limits(schema, config)
    return config
