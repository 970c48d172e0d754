"""Practice items: two replies from the rubric's examples whose ratings on one principle differ clearly."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.counsel.rubric.parts import RatedExample
from psychocounsel.counsel.rubric.rubric_folder import Rubric

LEAST_DIFFERENCE = 2  # between the two ratings


@dataclass(frozen=True)
class PracticeItem:
    """A practice item. On the principle, `left` is rated `ratings[0]` and `right` `ratings[1]`, for the given reasons."""

    number: int
    principle: str
    speech: str
    left: str
    right: str
    ratings: tuple[int, int]
    reasons: tuple[str, str]

    @property
    def better(self) -> str:
        return "left" if self.ratings[0] > self.ratings[1] else "right"


def practice_pairs(rubric: Rubric) -> list[tuple[str, str, RatedExample, RatedExample]]:
    """Return (principle, speech, reply, reply) for all pairs of the rubric's examples that differ by two points or more."""
    found = []
    for name in PRINCIPLES:
        principle = rubric.principles[name]
        examples = [each for level in principle.levels.values() for each in level.examples]
        for one, other in combinations(examples, 2):
            apart = abs(one.ratings[name] - other.ratings[name])
            if one.speech == other.speech and apart >= LEAST_DIFFERENCE:
                found.append((name, principle.speeches[one.speech], one, other))
    return found


def practice_round(rubric: Rubric, count: int, seed: Sequence[int], done: int) -> list[PracticeItem]:
    """Return the items of an expert's round after `done` rounds. Rounds continue through one random order.

    `seed` holds the review's seed and the expert's number. The order cycles through the principles.
    """
    random = np.random.default_rng([*seed, 3])
    pairs = practice_pairs(rubric)
    shuffled = [pairs[at] for at in random.permutation(len(pairs))]
    of_principle = {name: [pair for pair in shuffled if pair[0] == name] for name in PRINCIPLES}
    longest = max(len(each) for each in of_principle.values())
    in_turn = [each[at] for at in range(longest) for each in of_principle.values() if at < len(each)]
    sides = random.integers(2, size=len(in_turn))
    found = []
    for number in range(done * count, (done + 1) * count):
        at = number % len(in_turn)
        name, speech, one, other = in_turn[at]
        left, right = (one, other) if sides[at] else (other, one)
        ratings = left.ratings[name], right.ratings[name]
        found.append(PracticeItem(number, name, speech, left.reply, right.reply, ratings, (left.reason, right.reason)))
    return found
