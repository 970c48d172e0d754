"""Verdicts of simulated judges with known position bias, preference for length and error rate."""

import numpy as np
from scipy.special import expit

from psychocounsel.metrics.intervals import Measure
from psychocounsel.metrics.win_rates import Verdicts

FLAGS = ("question_a", "question_b", "formatted_a", "formatted_b")


def verdicts(forward: object, backward: object, **columns: object) -> Verdicts:
    """Return rows of settings 0 and 1, each with its own prompt and client and equal replies, except for the given columns."""
    count = len(np.asarray(forward))
    values: dict[str, object] = dict.fromkeys(("sample", "a", "seed_a", "seed_b", "judge"), np.zeros(count, int))
    values |= {"prompt": np.arange(count), "b": np.ones(count, int)}
    values["client"] = columns.get("prompt", values["prompt"])
    values |= dict.fromkeys(FLAGS, np.zeros(count, bool)) | dict.fromkeys(
        ("length_a", "length_b"), np.full(count, 100.0)
    )
    given = {"forward": np.asarray(forward, float), "backward": np.asarray(backward, float)}
    return Verdicts(**(values | given | {name: np.asarray(each) for name, each in columns.items()}))  # type: ignore[arg-type]


def judged(
    better: np.ndarray, rng: np.random.Generator, shift: float = 0, lapse: float = 0, **columns: object
) -> Verdicts:
    """Return a judge's verdicts. `better`: log-odds that a is preferred, float[n]; `shift` is added for the reply shown first.

    With probability `lapse`, a call gives the opposite verdict.
    """

    def call(log_odds: np.ndarray) -> np.ndarray:
        prefers_a = (rng.random(len(log_odds)) < expit(log_odds)) ^ (rng.random(len(log_odds)) < lapse)
        return np.where(prefers_a, 1.0, -1.0)

    return verdicts(call(better + shift), call(better - shift), **columns)


def random_verdicts(count: int, seed: int, settings: int = 2, prompts: int = 40, missing: float = 0.1) -> Verdicts:
    """Return random verdicts with ties, missing verdicts, and several samples, seeds and judges."""
    rng = np.random.default_rng(seed)
    a = rng.integers(0, settings, count)
    says = lambda: np.where(rng.random(count) < missing, np.nan, rng.integers(-1, 2, count))  # noqa: E731
    flags = {name: rng.random(count) < 0.4 for name in FLAGS}
    numbers = {name: rng.integers(0, 3, count) for name in ("sample", "seed_a", "seed_b", "judge")}
    lengths = {name: rng.integers(20, 400, count) for name in ("length_a", "length_b")}
    b = (a + rng.integers(1, settings, count)) % settings
    return verdicts(says(), says(), prompt=rng.integers(0, prompts, count), a=a, b=b, **flags, **numbers, **lengths)


def near(found: Measure, truth: float) -> bool:
    """Return True if the interval, made twice as wide, contains the truth.

    The wide interval has about 4 standard errors on each side, so it misses the truth by chance once in 10,000.
    """
    return 2 * found.low - found.value < truth < 2 * found.high - found.value
