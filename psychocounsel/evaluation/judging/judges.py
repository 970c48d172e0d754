"""`judge=several`: several judges. Each of them compares every pair of replies."""

from dataclasses import dataclass
from typing import ClassVar

from psychocounsel.asking.several_models import SeveralModels


@dataclass(kw_only=True)
class Judges(SeveralModels):
    """Settings of `judge=several`; the parent class holds the members."""

    config_group: ClassVar[str] = "judge"
    example: ClassVar[str] = "[reward,openai]"

    name: str = "several"
