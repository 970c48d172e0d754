"""Replies that a policy may draw and a reward model can hardly read: they cost their reward at most, never the run."""

from math import isnan

import numpy as np
import pytest

from psychocounsel.data.group import Completion, Group
from psychocounsel.engine.rounds.scoring import Scoring
from psychocounsel.errors import UserError
from psychocounsel.reward.base import Scorer, open_scorer
from psychocounsel.settings.targets import build
from tests.support.composed import checked
from tests.support.harness import world


def scorer(*overrides: str) -> Scorer:
    return open_scorer(build(checked("algo=online_dpo", "reward=tiny", *overrides), "reward"), world().device)


def rewards(scoring: Scoring, *texts: str) -> list[float]:
    group = Group("g", np.array([1], np.int32), messages=[{"role": "user", "content": "I am tired of it all."}])
    group.completions = [Completion(np.array([2], np.int32), text) for text in texts]
    scoring([group], lambda: None)
    if line := scoring.left_out([group], "replies"):
        assert line.startswith("1 of 2 replies got no reward (longer than the reward model's limit")
    return [reply.reward or 0.0 for reply in group.completions]


@pytest.mark.parametrize("space", ["\n\n", "\n", "  ", "\t\n"])
def test_space_around_a_reply_does_not_change_what_the_reward_model_reads(space: str) -> None:
    """A tokenizer may join a leading newline with the newline of the template, and then the prompt is no prefix."""
    scoring = Scoring(scorer(), world(), False, None)
    plain, spaced, empty, only_space = rewards(scoring, "What tires you?", f"{space}What tires you?\n", "", space)
    assert spaced == plain and only_space == empty


def test_a_reply_too_long_for_the_reward_model_has_no_reward_and_the_others_have_theirs() -> None:
    scoring = Scoring(scorer("reward.max_length=64"), world(), False, None)
    whole = Scoring(scorer(), world(), False, None)
    texts = ("What tires you?", "And what else? " * 40)
    short, long = rewards(scoring, *texts)
    assert isnan(long) and short == pytest.approx(rewards(whole, *texts)[0], abs=1e-5)
    with pytest.raises(UserError, match="nothing to learn from: give a smaller max_length"):
        rewards(scoring, texts[1], texts[1])
