"""A judge that answers by the word checks' rules, for tests of judges' figures: unlike `judge=checks`, it counts as a model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import DictConfig, OmegaConf

from psychocounsel.asking.language_model import TEXT, Answer, WithoutModel
from psychocounsel.evaluation.safety.questions import written_answers
from psychocounsel.evaluation.safety.word_checks import check_reply


@dataclass(kw_only=True)
class WordJudge(WithoutModel):
    config_group: ClassVar[str] = "judge"
    choice: ClassVar[str] = "judge=word_judge"
    version: ClassVar[int] = 1

    def answer(self, ask: Any) -> Answer:
        return Answer(TEXT, written_answers(check_reply(ask.reply)), "checks")


def with_word_judge(config: DictConfig) -> DictConfig:
    """Return the configuration with this judge in place of the word checks, under their name."""
    config.judge = OmegaConf.create({"_target_": "tests.support.word_judge.WordJudge", "name": "checks"})
    return config


def word_judge(folder: Path) -> list[str]:
    """Write this judge to `folder/my`, as a user's own, and return the overrides of a command in `folder` that choose it."""
    (folder / "my" / "judge").mkdir(parents=True, exist_ok=True)
    (folder / "my" / "word_judge.py").write_text(Path(__file__).read_text())
    (folder / "my" / "judge" / "word_judge.yaml").write_text("_target_: word_judge.WordJudge\nname: checks\n")
    return ["--config-dir=my", "judge=word_judge"]
