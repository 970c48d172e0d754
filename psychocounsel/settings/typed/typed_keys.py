"""Parser of KEY=VALUE arguments for commands that compose no files."""

from collections.abc import Sequence
from typing import cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from psychocounsel.errors import UserError
from psychocounsel.settings.keys import refuse_lines_in_overrides
from psychocounsel.settings.schema import check_limits, flat_keys, suggestion


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
            raise UserError(f"unknown key {key}: {suggestion(key, known)}") from error
        except OmegaConfBaseException as error:
            raise UserError(f"{text}: is not a value of {key}; --help shows one") from error
    check_limits(schema, config)
    return config
