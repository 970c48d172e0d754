"""Judges apart from a single language model: a reward model (`judge=reward`), and several judges (`judge=several`)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from omegaconf import OmegaConf

from psychocounsel.asking.in_process import BatchAnswerer, content_of
from psychocounsel.asking.language_model import TEXT, TOO_LONG, Answer, Answerer, Ask, LanguageModel, SeveralModels
from psychocounsel.asking.parties import is_own
from psychocounsel.errors import UserError
from psychocounsel.evaluation.judging.pairs import FIRST, SECOND, PairAsk
from psychocounsel.reward.base import RewardSettings, Scorer, open_scorer
from psychocounsel.reward.local_model import LocalReward
from psychocounsel.settings.schema import option
from psychocounsel.settings.targets import build_section

# `judge=several`: several judges. Each of them compares every pair of replies.


@dataclass(kw_only=True)
class Judges(SeveralModels):
    """Settings of `judge=several`; the parent class holds the members."""

    config_group: ClassVar[str] = "judge"
    example: ClassVar[str] = "[reward,openai]"

    name: str = "several"


# `judge=reward`: a reward model as the judge. It scores each reply separately, so their order makes no difference.


@dataclass(kw_only=True)
class RewardJudge(LanguageModel):
    """Judge that prefers the reply with the larger reward; `reward` holds the settings of the reward model."""

    config_group: ClassVar[str] = "judge"
    reads_prompts: ClassVar[bool] = False

    reward: dict[str, Any] = option({})
    batch_size: int = option(32, at_least=1)

    def open(self, key: str) -> Answerer:
        return _Scoring(self, key)

    def check(self, key: str) -> None:
        """Raise UserError if the settings of the reward model cannot work."""
        if not self.reward.get("_target_"):
            raise UserError(f"{key}.reward={self.reward}: give a name in conf/reward, or a mapping that contains one")
        settings = self.reward_settings()
        if settings.several:
            raise UserError(f"{key}.reward: an ensemble cannot be one judge; use judge=several with its reward models")
        settings.check(f"{key}.reward")

    def unused(self) -> dict[str, str]:
        """Return the keys that only concern prompts and written answers, each with the reason."""
        names = ("model", "temperature", "top_p", "max_tokens", "language", "terms")
        return dict.fromkeys(names, "a reward model reads no prompt and writes no words")

    def identity(self) -> dict[str, Any]:
        """Return the settings and a hash of the weights, because other weights under the same path give other scores."""
        settings = {name: value for name, value in self.reward.items() if name not in ("name", "normalise")}
        if isinstance(reward := self.reward_settings(), LocalReward):
            settings["dtype"] = reward.number_format()
        return {"kind": "RewardJudge", "reward": settings, "weights": self.content()}

    def content(self) -> str | None:
        """Return the content hash of the reward model's weights, as `LanguageModel.content` does."""
        return content_of(self.reward.get("path"))

    def receivers(self, key: str) -> list[tuple[str, str]]:
        return list(self.reward_settings().receivers(f"{key}.reward"))

    def is_third_party(self) -> bool:
        """Return `third_party` if it is set; otherwise True if a reward server may belong to somebody else."""
        if self.third_party is not None:
            return self.third_party
        return not all(is_own(address) for _, address in self.receivers("judge"))

    def reward_settings(self) -> RewardSettings:
        """Return the settings of the reward model."""
        return self._reward_settings

    @cached_property
    def _reward_settings(self) -> RewardSettings:  # every call that is priced asks for its receivers
        return build_section(OmegaConf.create(self.reward), "reward")


class _Scoring(BatchAnswerer):
    """Answerer that scores batches of pairs with the reward model.

    The model is loaded before the scoring thread starts, because two threads must not import transformers at once.
    """

    def __init__(self, settings: RewardJudge, key: str) -> None:
        self.name, self.scorer = settings.name, _opened(settings, key)
        super().__init__(settings.batch_size)

    def answer(self, asks: Sequence[Ask], seeds: Sequence[int]) -> list[Answer]:
        """Return the scores of each pair as JSON; `too_long` if a reply does not fit into the reward model."""
        from psychocounsel.reward.encoding import score_what_fits

        conversations = [
            [*ask.conversation, {"role": "assistant", "content": reply}]
            for ask in asks
            if isinstance(ask, PairAsk)
            for reply in ask.replies
        ]
        # Many pairs share a reply of the data, so equal conversations are scored once.
        numbers: dict[str, int] = {}
        places = [numbers.setdefault(json.dumps(conversation), len(numbers)) for conversation in conversations]
        distinct = [conversations[places.index(number)] for number in numbers.values()]
        scores = self.scorer.unnormalised(score_what_fits(self.scorer, distinct))[places].reshape(-1, 2)
        return [self._said(pair) for pair in scores]

    def _said(self, pair: np.ndarray) -> Answer:
        if np.isnan(pair).any():
            return Answer(TOO_LONG, model=self.name)
        scores = {FIRST: float(pair[0]), SECOND: float(pair[1])}
        return Answer(TEXT, json.dumps(scores), self.name)


def _opened(settings: RewardJudge, key: str) -> Scorer:
    """Load the judge's reward model, on a GPU if one is available. Error messages name the judge's `key`."""
    try:
        return open_scorer(settings.reward_settings())
    except UserError as error:
        raise UserError(re.sub(r"(?<!\S)reward(?=[.:=])", f"{key}.reward", str(error))) from error
