"""Speech-blind baselines find planted cues, and find nothing in random labels."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from psychocounsel.counsel.cues import cue_values
from psychocounsel.data.rows import Example
from psychocounsel.errors import DONE, GATE_NO, GATE_UNDECIDED
from psychocounsel.evaluation.audit.auditing import judge_blind
from psychocounsel.evaluation.audit.blind import (
    CROSS_FITTED,
    accuracies,
    best_cue,
    blind_baselines,
    by_component,
    cross_fit,
    cue_signs,
    fit_best_cue,
    fit_sparse,
    wins,
)
from psychocounsel.evaluation.audit.figures import Accuracy, BlindFigures
from psychocounsel.evaluation.audit.pairs import pairs_from
from psychocounsel.evaluation.audit.topics import CLUSTERS, FROM_DATA, NONE, difference, tf_idf, topics_of, word_ngrams
from tests.support.preferences import example, random_pairs, text

# Speech-blind baselines find planted cues, and find nothing in random labels.


def measured(rows: list[Example]) -> BlindFigures:
    pairs = pairs_from(rows)
    return blind_baselines(pairs, topics_of(pairs, 0), folds=5, permutations=400, seed=0)


def by_prompt(found: BlindFigures, name: str) -> Accuracy:
    return found["baselines"][name]["by_prompt"]


def test_random_labels_are_predicted_by_nothing() -> None:
    found = measured(random_pairs(250, seed=2))
    assert set(found["baselines"]) == {"best_cue", "surface", "first_words", "words", "characters"}
    for name in found["baselines"]:
        assert by_prompt(found, name)["low"] < 0.5 < by_prompt(found, name)["high"], name
    assert found["maximum"]["p"] > 0.05
    assert judge_blind(found["baselines"], 0.65).code == DONE


def test_intervals_cover_one_half_under_random_labels() -> None:
    """Labels of 150 pairs are drawn again and again. Intervals for independent tests would cover 80 % of the truths."""
    pairs = pairs_from(random_pairs(150, seed=4))
    folds, rng = by_component(pairs.component, 5, 0), np.random.default_rng(0)
    signs, _ = cue_signs(pairs, cue_values(pairs.replies))
    held = {CROSS_FITTED: 0, 1.0: 0}
    for _ in range(200):
        margins = cross_fit(signs * rng.choice([-1.0, 1.0], (150, 1)), folds, fit_best_cue, 1)
        for inflation in held:
            [found] = accuracies(margins[:, None], pairs.component, inflation)
            held[inflation] += found["low"] <= 0.5 <= found["high"]
    assert held[CROSS_FITTED] >= 185 > 170 > held[1.0]


def test_a_planted_cue_is_found_by_name_and_by_every_baseline_that_can_see_it() -> None:
    rows = random_pairs(250, end="!")
    rows = [replace(row, replies=row.replies[::-1]) if number % 5 == 0 else row for number, row in enumerate(rows)]
    found = measured(rows)
    assert found["best"] == "exclamations" and found["maximum"]["p"] < 0.01
    assert found["cues"]["exclamations"]["accuracy"] == 0.8 and found["cues"]["exclamations"]["decides"] == 250
    for name in ("best_cue", "surface", "words"):
        assert by_prompt(found, name)["accuracy"] == pytest.approx(0.8, abs=0.06), name
    assert by_prompt(found, "characters")["low"] > 0.6
    assert by_prompt(found, "first_words")["accuracy"] < 0.65
    assert [judge_blind(found["baselines"], limit).code for limit in (0.6, 0.8, 0.95)] == [
        GATE_NO,
        GATE_UNDECIDED,
        DONE,
    ]


def test_a_reply_under_several_prompts_teaches_nothing_about_itself() -> None:
    """Each of 60 pairs of replies occurs under four prompts, so a model that has seen one of them knows the others."""
    rng = np.random.default_rng(1)
    rows = []
    for _ in range(60):
        chosen, rejected = text(rng), text(rng)
        rows += [example(len(rows), text(rng), chosen, rejected) for _ in range(4)]
    found = measured(rows)
    for name in ("words", "characters", "surface"):
        assert by_prompt(found, name)["low"] < 0.55 and by_prompt(found, name)["accuracy"] < 0.65, name
    pairs = pairs_from(rows)
    features = difference(tf_idf(word_ngrams(pairs.replies)), pairs.chosen, pairs.rejected)
    leaking = cross_fit(features, by_component(pairs.prompt, 5, 0), fit_sparse, 1)
    assert wins(leaking).mean() > 0.95, "folds of prompts alone would leak"


def test_writers_and_places_are_baselines_where_the_data_have_them() -> None:
    rng = np.random.default_rng(0)
    rows = random_pairs(200)
    strength = {"large": 2, "middle": 1, "small": 0}
    for number, row in enumerate(rows):
        first, second = rng.choice(list(strength), 2, replace=False)
        better = sorted([first, second], key=lambda name: -strength[name])
        rows[number] = replace(row, writers=better, order=[int(rng.random() < 0.5), 2])
    found = measured(rows)
    assert by_prompt(found, "writer")["accuracy"] == 1 and 0.97 < by_prompt(found, "writer")["low"] < 1
    assert by_prompt(found, "position")["accuracy"] == 1, "the chosen reply came first"
    assert found["best"] == "position" and found["cues"]["position"]["accuracy"] == 0


def test_a_topic_that_differs_is_seen_by_leaving_it_out() -> None:
    """In each topic other words decide, so a model fitted to the other topics cannot know them."""
    rows = [
        replace(row, replies=[f"{row.replies[0]} good{topic}", f"{row.replies[1]} bad{topic}"])
        for topic in "abcd"
        for row in random_pairs(60, ord(topic), topic=topic)
    ]
    pairs = pairs_from(rows)
    assert topics_of(pairs, 0).source == FROM_DATA
    words = measured(rows)["baselines"]["words"]
    assert words["by_prompt"]["accuracy"] > 0.95
    assert words["by_topic"]["accuracy"] < 0.65


def test_clusters_stand_in_for_topics() -> None:
    rng = np.random.default_rng(0)
    words = [["sleep", "night", "bed", "tired"], ["dog", "vet", "walk", "leash"], ["boss", "office", "desk", "mail"]]
    rows = [
        example(number, f"{' '.join(rng.choice(words[number % 3], 8))} {number}", text(rng), text(rng))
        for number in range(90)
    ]
    found = topics_of(pairs_from(rows), 0)
    assert found.source == CLUSTERS
    mostly = [np.bincount(found.of_pair[kind::3]).argmax() for kind in range(3)]
    assert len(set(mostly)) == 3
    assert topics_of(pairs_from(rows[:9]), 0).source == NONE


def test_the_gate_looks_at_every_interval() -> None:
    narrow, wide = (
        {"accuracy": mean, "low": low, "high": high} for mean, low, high in [(0.6, 0.59, 0.61), (0.598, 0.56, 0.635)]
    )
    found = {"best_cue": {"by_prompt": narrow}, "surface": {"by_prompt": wide}}
    verdicts = [judge_blind(found, limit) for limit in (0.58, 0.62, 0.64)]
    assert [verdict.code for verdict in verdicts] == [GATE_NO, GATE_UNDECIDED, DONE]
    assert [verdict.baseline for verdict in verdicts] == ["best_cue", "surface", "best_cue"]


def test_topics_that_leave_too_little_to_fit_to_are_not_judged() -> None:
    rows = [replace(row, topic="Anxiety" if number == 7 else "anxiety") for number, row in enumerate(random_pairs(100))]
    found = measured(rows)
    for figures in found["baselines"].values():
        assert figures["by_topic"]["judged"] == 1 and figures["by_prompt"]["judged"] == 100


def test_topics_that_all_share_their_prompts_judge_nothing() -> None:
    rows = [replace(row, topic=topic) for topic in ("empathy", "safety") for row in random_pairs(60)]
    found = measured(rows)
    assert all(list(figures) == ["by_prompt"] for figures in found["baselines"].values())


@pytest.mark.parametrize(("words", "clusters"), [(["sad"], 1), (["sad", "alone", "tired"], 3)])
@pytest.mark.filterwarnings("error")
def test_speeches_of_few_words_make_few_clusters(words: list[str], clusters: int) -> None:
    rng = np.random.default_rng(3)
    speeches = [" ".join([words[n % len(words)]] * (n + 1)) for n in range(21)]  # enough for four clusters
    pairs = pairs_from([example(n, speech, text(rng), text(rng)) for n, speech in enumerate(speeches)])
    topics = topics_of(pairs, 0)
    assert topics.source == (CLUSTERS if clusters > 1 else NONE) and len(topics.names) == clusters
    assert all(len(set(topics.of_pair[place :: len(words)])) == 1 for place in range(len(words)))
    blind_baselines(pairs, topics, folds=5, permutations=20, seed=0)


# Permutation test of the best cue, compared with all possible labellings.


NAMES = [f"cue {number}" for number in range(40)]


def every_maximum(signs: np.ndarray, component: np.ndarray) -> np.ndarray:
    """Return the best cue's share of won pairs, in its better direction, under each flip of whole components."""
    found = []
    for flips in itertools.product((1, -1), repeat=component.max() + 1):
        won = (signs * np.array(flips)[component][:, None] + 1) / 2  # a tie wins half
        found.append(np.maximum(won.mean(0), 1 - won.mean(0)).max())
    return np.array(found)


@pytest.mark.parametrize("seed", range(4))
def test_it_agrees_with_all_labellings(seed: int) -> None:
    rng = np.random.default_rng(seed)
    signs, component = rng.integers(-1, 2, (25, 4)).astype(float), np.append(np.arange(9), rng.integers(0, 9, 16))
    expected = every_maximum(signs, component)
    found = best_cue(signs, NAMES, component, samples=20_000, seed=seed)
    share = np.maximum((signs > 0).mean(0), (signs < 0).mean(0)) + (signs == 0).mean(0) / 2
    assert found["accuracy"] == pytest.approx(share.max()) and share[found["column"]] == pytest.approx(share.max())
    assert found["p"] == pytest.approx((expected >= share.max() - 1e-9).mean(), abs=0.015)
    assert (found["low"], found["high"]) == pytest.approx(np.quantile(expected, [0.025, 0.975]), abs=0.021)


def test_a_planted_cue_is_significant_and_the_best_of_many_random_ones_is_not() -> None:
    rng = np.random.default_rng(0)
    noise = rng.choice([-1.0, 1.0], (150, 40))
    alone = best_cue(noise, NAMES, np.arange(150))
    assert alone["accuracy"] > 0.56 and alone["low"] < alone["accuracy"] < alone["high"] and alone["p"] > 0.05
    one_cue = best_cue(noise[:, [alone["column"]]], NAMES, np.arange(150))
    assert one_cue["p"] < 0.05, "taken alone, the luckiest of 40 looks good"
    noise[:, 7] = np.where(rng.random(150) < 0.25, -1.0, 1.0)
    planted = best_cue(noise, NAMES, np.arange(150))
    assert (
        planted["column"] == 7
        and planted["cue"] == "cue 7"
        and planted["accuracy"] > planted["high"]
        and planted["p"] < 0.001
    )


def test_pairs_of_a_component_are_flipped_together() -> None:
    signs = np.ones((60, 1))
    together = best_cue(signs, NAMES, np.arange(60) // 20)
    assert together["p"] == pytest.approx(0.25, abs=0.04), "of three components, one labelling in four agrees with all"
    assert best_cue(signs, NAMES, np.arange(60))["p"] < 0.001
