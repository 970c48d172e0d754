"""Sensitivity and invariance equal a plain loop over the pairs, and expose scorers with known faults."""

from collections.abc import Callable

import numpy as np
import pytest

from psychocounsel.data.rows import Example
from psychocounsel.data.selection.shared_text import normalised
from psychocounsel.evaluation.counterfactuals.invariance import Figures, counterfactual_figures
from psychocounsel.evaluation.counterfactuals.making import Counterfactual, by_rules, spread
from psychocounsel.settings.config import check, compose

Score = Callable[[str, str], float]  # scores a prompt and a reply


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    """Return the sample's held-out pairs."""
    from psychocounsel.data.selection.select import load_split

    return load_split(check(compose([])).data, lambda line: None)[1]


def prompts_of(examples: list[Example]) -> list[str]:
    return [normalised(example.prompt) for example in examples]


def measured(
    examples: list[Example], score: Score, made: list[Counterfactual]
) -> tuple[Figures, np.ndarray, np.ndarray]:
    prompts = prompts_of(examples)
    scores = np.array(
        [[score(prompt, text) for text in each.replies[:2]] for each, prompt in zip(examples, prompts, strict=True)]
    )
    changed = np.array([score(prompts[each.pair], each.text) for each in made])
    return counterfactual_figures(made, changed, scores, prompts), changed, scores


def overlap(prompt: str, reply: str) -> float:
    """Scorer that reads: the share of the prompt's long words that the reply repeats."""
    words = {word for word in prompt.split() if len(word) > 4}
    return len(words & set(normalised([{"role": "user", "content": reply}]).split())) / max(1, len(words))


def ending(prompt: str, reply: str) -> float:
    """Scorer that does not read: it prefers replies that end with a question and, slightly, longer ones."""
    return float(reply.rstrip().endswith("?")) + 1e-4 * len(reply)


def test_figures_are_those_of_a_loop(examples: list[Example]) -> None:
    made = by_rules(examples, spread(examples, 30))
    rng = np.random.default_rng(0)
    found, changed, scores = measured(examples, lambda prompt, reply: float(rng.integers(-3, 4)), made)
    gap = float(np.median([abs(chosen - rejected) for chosen, rejected in scores]))
    assert found["median_gap"] == gap > 0
    for name, figures in found["invariance"].items():
        rows = [(each, now) for each, now in zip(made, changed, strict=True) if each.kind.name == name]
        moves = [(now - scores[each.pair][each.side]) / gap for each, now in rows]
        flips = []
        for each, now in rows:
            before, after = scores[each.pair].copy(), scores[each.pair].copy()
            after[each.side] = now
            flips.append(abs(np.sign(before[0] - before[1]) - np.sign(after[0] - after[1])) / 2)
        assert figures["count"] == len(rows)
        assert figures["change"] == pytest.approx(np.mean(np.abs(moves)))
        assert figures["shift"] == pytest.approx(np.mean(moves))
        assert figures["flips"] == pytest.approx(np.mean(flips))
        assert figures["flips_low"] <= figures["flips"] <= figures["flips_high"]
    for name, figures in found["sensitivity"].items():
        wins = [
            1.0 if scores[each.pair][0] > now else 0.5 if scores[each.pair][0] == now else 0.0
            for each, now in zip(made, changed, strict=True)
            if each.kind.prefers_original and each.kind.principle == name
        ]
        assert (figures["count"], figures["value"]) == (len(wins), pytest.approx(np.mean(wins)))
    assert sum(figures["count"] for figures in found["sensitivity"].values()) + found["all_styles"]["count"] == len(
        made
    )


def test_a_scorer_that_reads_is_told_from_one_that_looks_at_the_ending(examples: list[Example]) -> None:
    made = by_rules(examples, spread(examples, 80))
    reads, looks = (measured(examples, score, made)[0] for score in (overlap, ending))
    assert reads["sensitivity"]["relevance"]["value_low"] > 0.7
    assert looks["sensitivity"]["relevance"]["value_high"] < 0.7
    assert looks["sensitivity"]["relevance"]["value_low"] < 0.5 < looks["sensitivity"]["relevance"]["value_high"]
    assert (
        looks["invariance"]["question_as_statement"]["flips"]
        > 0.3
        > reads["invariance"]["question_as_statement"]["flips"]
    )
    assert looks["invariance"]["question_as_statement"]["shift"] < -0.5


def test_a_scorer_that_counts_no_dress_is_invariant(examples: list[Example]) -> None:
    made = [each for each in by_rules(examples, spread(examples, 20)) if each.kind.name in ("capitals", "emoji")]
    found, _, _ = measured(examples, lambda _, reply: float(sum(map(str.isalpha, reply))), made)
    assert found["all_styles"] == {
        **{"count": len(made), "change": 0.0, "change_low": 0.0, "change_high": 0.0, "shift": 0.0},
        **{"flips": 0.0, "flips_low": 0.0, "flips_high": pytest.approx(1 - 0.025 ** (1 / 20))},  # exact, of 20 prompts
    }


def test_what_cannot_be_read_is_left_out_and_a_constant_scorer_has_no_unit(examples: list[Example]) -> None:
    made = by_rules(examples, spread(examples, 5))
    changed = np.zeros(len(made))
    changed[::2] = np.nan
    found = counterfactual_figures(made, changed, np.zeros((len(examples), 2)), prompts_of(examples))
    assert found["left_out"] == len(made[::2])
    assert found["all_styles"]["change"] is None and found["all_styles"]["flips"] == 0
    assert {figures["value"] for figures in found["sensitivity"].values()} == {0.5}


def test_pairs_are_spread_over_prompts_and_a_strangers_reply_looks_alike(examples: list[Example]) -> None:
    prompts = prompts_of(examples)
    count = len(set(prompts))
    assert len({prompts[index] for index in spread(examples, count)}) == count > 60
    assert spread(examples, 10_000) == list(range(len(examples)))
    made = [each for each in by_rules(examples, spread(examples, 100)) if each.kind.name == "another_clients_reply"]
    assert len({(prompts[each.pair], examples[each.pair].replies[0]) for each in made}) == len(made)
    for each in made:
        theirs = {prompts[index] for index, example in enumerate(examples) if example.replies[0] == each.text}
        assert theirs and prompts[each.pair] not in theirs
        own = examples[each.pair].replies[0]
        assert each.text.endswith("?") == own.endswith("?") and abs(len(each.text) - len(own)) < 150
