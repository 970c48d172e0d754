"""`writers=pool`: several language models; some of them are drawn for each speech."""

from dataclasses import dataclass
from typing import ClassVar

from psychocounsel.asking.several_models import SeveralModels


@dataclass(kw_only=True)
class Pool(SeveralModels):
    """Settings of a pool of writers."""

    config_group: ClassVar[str] = "writers"
    example: ClassVar[str] = "[tiny,openai]"

    name: str = "pool"
