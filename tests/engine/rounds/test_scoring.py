"""Replies that a policy may draw and a reward model can hardly read: they cost their reward at most, never the run."""

from math import isnan, nan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from psychocounsel.algo.base import RoundPlan
from psychocounsel.data.group import Completion, Group
from psychocounsel.engine.feed import Collector
from psychocounsel.engine.rounds.round_feed import RoundFeed, Unrewarded
from psychocounsel.engine.rounds.scoring import Scoring
from psychocounsel.errors import UserError
from psychocounsel.reward.base import Scorer, open_scorer
from psychocounsel.rundir.paths import RunDir
from psychocounsel.settings.targets import build
from psychocounsel.storage.files import write_json
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
    with pytest.raises(
        UserError, match=r"model's own\)\), so there is nothing to learn from: give a smaller max_length"
    ):
        rewards(scoring, texts[1], texts[1])


def test_a_reply_whose_thoughts_the_reward_models_template_leaves_out_has_no_reward(tmp_path: Path) -> None:
    template = tmp_path / "template.jinja"
    template.write_text(
        "<|begin|>{% for m in messages %}<|{{ m.role }}|>{{ m.content.split('</think>')[-1] }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    group = Group("g", np.array([1], np.int32), messages=[{"role": "user", "content": "I am tired of it all."}])
    texts = ("What tires you?", "<think>Tired.</think>What tires you?")
    group.completions = [Completion(np.array([2], np.int32), text) for text in texts]
    scoring = Scoring(scorer(f"reward.chat_template={template}"), world(), False, None)
    scoring([group], lambda: None)
    plain, thinking = (reply.reward for reply in group.completions)
    assert thinking is not None and isnan(thinking) and plain is not None and not isnan(plain)
    said = scoring.left_out([group], "replies")
    assert said.startswith("1 of 2 replies got no reward (") and "leaves out or changes a part of the reply" in said


class NoAnswer(Scorer):
    """A judge that gives the rewards of `given`, in turn; NaN is no usable answer."""

    asks = True

    def __init__(self, given: list[list[float]]) -> None:
        self.given = iter(given)

    def score(self, conversations: Any, progress: Any = iter) -> np.ndarray:
        return np.array(next(self.given), np.float32)


class Said:
    """A run that keeps what it says."""

    def __init__(self) -> None:
        self.lines = list[str]()

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.mark.parametrize(
    ("rounds", "trains", "ends"),
    [
        ([[nan, nan], [1.0, 2.0]], [False, True], False),
        ([[nan, 1.0], [1.0, 2.0]], [False, True], False),  # one reply has nothing to be compared with
        ([[nan, nan], [nan, nan], [0.0, 0.0], [nan, nan], [nan, nan]], [False, False, True, False, False], False),
        ([[nan, nan], [nan, 0.0], [nan, nan]], [False, False], True),
    ],
)
def test_rounds_without_a_usable_answer_train_nothing_and_three_in_a_row_end_the_run(
    rounds: list[list[float]], trains: list[bool], ends: bool
) -> None:
    run, scoring = Said(), Scoring(NoAnswer(rounds), world(), False, None)
    collector = SimpleNamespace(algorithm=SimpleNamespace(round=RoundPlan(samples=2, fewest=2)))
    shards = SimpleNamespace(scoring=scoring, order=SimpleNamespace(steps=9), world=world())
    feed = RoundFeed(run, shards, None, collector, lambda event: None)  # type: ignore[arg-type]
    for number in range(len(rounds)):
        group = Group("g", np.array([1], np.int32), messages=[{"role": "user", "content": "I am tired."}])
        group.completions = [Completion(np.array([2], np.int32), text) for text in ("Why?", "Since when?")]
        scoring([group], lambda: None)
        replies = feed._with_reward(number, [group])
        if number == len(trains):
            with pytest.raises(Unrewarded, match=r"round 2 is number 3 in a row .* The same command continues"):
                feed._count_unrewarded(number, replies)
            assert ends
            continue
        feed._count_unrewarded(number, replies)
        assert bool(replies) == trains[number]
        assert (f"round {number} trains nothing" in run.lines[-1:][0] if run.lines else False) != trains[number]
        run.lines.clear()


@pytest.mark.parametrize(
    ("files", "earlier"),
    [
        ([], None),
        ([{"kl": 1.0}], 1.0),
        ([{"kl": 1.0}, {}], 1.0),  # a round without rewards notes nothing
        ([{}, {}], None),
        ([{"kl": 1.0}, {"other": 2.0}], "has no kl"),
        ([{"kl": 1.0}, None], "has no kl"),
    ],
)
def test_a_note_is_that_of_the_last_round_that_noted_any(files: list[Any], earlier: Any, tmp_path: Path) -> None:
    run = SimpleNamespace(files=RunDir(tmp_path), is_main=True, config=SimpleNamespace(seed=0, get=lambda name: None))
    collector = Collector(run, SimpleNamespace(algorithm=None, world=world()), None)  # type: ignore[arg-type]
    for number, notes in enumerate(files):
        folder = run.files.round(number)
        folder.path.mkdir(parents=True)
        if notes is not None:
            write_json(folder.collected, notes)
    collector.begin(len(files))
    if isinstance(earlier, str):
        with pytest.raises(UserError, match=earlier):
            collector.earlier("kl")
    else:
        assert collector.earlier("kl") == earlier
