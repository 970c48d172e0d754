"""`judge=several`: several judges, each of which compares every pair of replies."""

from dataclasses import dataclass
from typing import ClassVar

from psychocounsel.asking.several_models import SeveralModels


@dataclass(kw_only=True)
class Judges(SeveralModels):
    """Several judges."""

    config_group: ClassVar[str] = "judge"
    example: ClassVar[str] = "[reward,openai]"

    name: str = "several"
