"""Verdicts about pairs of replies, each judged in both orders, and the score of both orders together."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from psychocounsel.metrics.stats import mean_intervals


@dataclass(frozen=True)
class Verdicts:
    """Verdicts of judges about n pairs of replies; all arrays have the shape [n].

    Attributes:
        prompt: number of the client's speech.
        sample: number of the sample: each setting may reply several times to one speech.
        a, b: numbers of the two settings that replied.
        seed_a, seed_b: the training seed of each setting.
        judge: number of the judge.
        forward, backward: the verdicts with a's reply shown first, and shown second: 1 a is better, 0 tie, -1 b is better,
            NaN no verdict. For a judge that does not see the order, both are equal.
        length_a, length_b: lengths of the replies, in one unit.
        crisis: True if the client's speech shows a risk.
        question_a, question_b: True if the reply ends with a question.
        formatted_a, formatted_b: True if the reply has lists, headings or bold type.
    """

    prompt: np.ndarray
    sample: np.ndarray
    a: np.ndarray
    b: np.ndarray
    seed_a: np.ndarray
    seed_b: np.ndarray
    judge: np.ndarray
    forward: np.ndarray
    backward: np.ndarray
    length_a: np.ndarray
    length_b: np.ndarray
    crisis: np.ndarray
    question_a: np.ndarray
    question_b: np.ndarray
    formatted_a: np.ndarray
    formatted_b: np.ndarray

    def __post_init__(self) -> None:
        shapes = {field.name: np.shape(getattr(self, field.name)) for field in fields(self)}
        if len(set(shapes.values())) > 1:
            raise ValueError(f"the arrays of verdicts must have one length: {shapes}")
        for name in ("forward", "backward"):
            known = getattr(self, name)[~np.isnan(getattr(self, name))]
            if not np.isin(known, (-1, 0, 1)).all():
                raise ValueError(f"{name}: verdicts must be -1, 0, 1 or NaN")
        if (self.a == self.b).any():
            raise ValueError("a setting was compared with itself")

    def where(self, rows: np.ndarray) -> Verdicts:
        """Return the rows that a mask (bool[n]) or an array of row numbers selects."""
        return Verdicts(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def turned(self) -> Verdicts:
        """Return the same verdicts with a and b exchanged."""
        sides = ("", "seed_", "length_", "question_", "formatted_")
        swapped = {f"{side}a": getattr(self, f"{side}b") for side in sides}
        swapped |= {f"{side}b": getattr(self, f"{side}a") for side in sides}
        return replace(self, **swapped, forward=-self.backward, backward=-self.forward)

    def between(self, first: int, second: int) -> Verdicts:
        """Return the verdicts about settings `first` and `second`, with `first` as a in every row."""
        ahead = self.where((self.a == first) & (self.b == second))
        behind = self.where((self.a == second) & (self.b == first)).turned()
        return Verdicts(
            **{
                each.name: np.concatenate([getattr(ahead, each.name), getattr(behind, each.name)])
                for each in fields(self)
            }
        )

    def judged(self) -> Verdicts:
        """Return the rows with a verdict in both orders, because one order alone would count position bias as a verdict."""
        return self.where(~np.isnan(self.forward) & ~np.isnan(self.backward))

    def scores(self) -> np.ndarray:
        """Return a's score in each row [0 to 1]: the mean over both orders, with 1 for a win, 1/2 for a tie, 0 for a loss.

        Contradicting verdicts are therefore a tie (Zheng et al. 2023, arXiv 2306.05685), and a win in one order with a tie
        in the other is 3/4 (mean of both orders: Wang et al. 2023, arXiv 2305.17926). NaN if an order is missing.
        """
        return 0.5 + (self.forward + self.backward) / 4


@dataclass(frozen=True)
class PromptMeans:
    """Mean score of a on each prompt.

    Attributes:
        prompts: numbers of the prompts, int[m], in rising order.
        means: a's mean score over the rows of each prompt, float64[m].
    """

    prompts: np.ndarray
    means: np.ndarray


def prompt_means(verdicts: Verdicts) -> PromptMeans:
    """Return a's mean score on each prompt that has verdicts in both orders, over its samples, seeds and judges."""
    judged = verdicts.judged()
    prompts, rows = np.unique(judged.prompt, return_inverse=True)
    return PromptMeans(
        prompts, np.bincount(rows, judged.scores(), len(prompts)) / np.bincount(rows, minlength=len(prompts))
    )


def mean_interval(values: np.ndarray, samples: int, seed: int) -> tuple[float, float]:
    """Return the bootstrap interval of the mean of shares, float64[prompts].

    If all shares are 0 or all are 1, the interval is the exact binomial one.
    """
    low, high = mean_intervals(values[:, None], np.arange(len(values)), samples, seed=seed, shares=True)[0]
    return float(low), float(high)
