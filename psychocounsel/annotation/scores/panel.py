"""`annotator=panel`: several annotators; each of them rates every reply."""

from dataclasses import dataclass
from typing import ClassVar

from psychocounsel.asking.several_models import SeveralModels


@dataclass(kw_only=True)
class Panel(SeveralModels):
    """Settings of a panel of annotators."""

    config_group: ClassVar[str] = "annotator"
    fewest: ClassVar[int] = 2
    example: ClassVar[str] = "[local_vllm,openai]"

    name: str = "panel"
