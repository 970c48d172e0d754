"""Components of shared text equal scipy's, and texts are compared after normalisation."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from psychocounsel.data.shared_text import components
from psychocounsel.evaluation.audit.blind import by_component, by_topic
from psychocounsel.evaluation.audit.pairs import pairs_from, rated_from
from tests.support.preferences import example


def same_partition(first: np.ndarray, second: np.ndarray) -> bool:
    return len(set(zip(first, second, strict=True))) == len(set(first)) == len(set(second))


@pytest.mark.parametrize("texts", [20, 60, 200])
def test_components_are_those_of_the_graph_of_prompts_and_replies(texts: int) -> None:
    rng = np.random.default_rng(texts)
    for _ in range(20):
        prompt, replies = rng.integers(0, texts // 2, 40), rng.integers(0, texts, (40, 2))
        edges = np.concatenate([[prompt, texts + replies[:, side]] for side in (0, 1)], axis=1)
        graph = coo_array((np.ones(80), tuple(edges)), shape=(2 * texts, 2 * texts))
        _, expected = connected_components(graph, directed=False)
        assert same_partition(components(prompt.tolist(), replies.tolist()), expected[prompt])


def test_texts_that_differ_in_case_spacing_and_form_are_one() -> None:
    rows = [
        example(0, "I  can't sleep.", "Why?", "No."),
        example(1, "i can't SLEEP.", "Since when?", "Stop."),  # the prompt of the first row
        example(2, "My dog died.", "Oh.", "why?"),  # a reply of the first row
        example(3, "Caf\u00e9.", "Yes.", "Go."),
        example(4, "Cafe\u0301.", "Well.", "Hm."),
        example(5, "Alone.", "A.", "B."),
    ]
    pairs = pairs_from(rows)
    assert pairs.component.tolist() == [0, 0, 0, 1, 1, 2]
    assert [len(pairs.prompts), len(pairs.replies)] == [4, 12]


def test_turns_of_a_session_are_one_component() -> None:
    told = {
        "role": "user",
        "content": "Since my father left I have slept badly, and work gets worse every single week.",
    }
    rest = [{"role": "assistant", "content": "What is worst?"}, {"role": "user", "content": "The nights."}]
    rows = [
        replace(example(0, "", "Why?", "No."), prompt=[told]),
        replace(example(1, "", "Go on.", "So?"), prompt=[told, *rest]),
    ]
    assert pairs_from([*rows, example(2, "Alone.", "A.", "B.")]).component.tolist() == [0, 0, 1]


def test_folds_keep_components_whole_and_judge_each_pair_once() -> None:
    component = np.random.default_rng(0).integers(0, 30, 200)
    folds = by_component(component, 5, seed=1)
    assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(200))
    for fold in folds:
        assert not set(component[fold.train]) & set(component[fold.test])
        assert len(fold.train) + len(fold.test) == 200
        assert 30 <= len(fold.test) <= 50, "about as many pairs in each"


def test_a_topic_is_left_out_with_all_that_shares_text_with_it() -> None:
    rng = np.random.default_rng(0)
    component = rng.integers(0, 60, 300)
    topic = component % 4
    topic[rng.choice(300, 10)] = 2  # some components reach into another topic
    folds = by_topic(topic, component, most=10, seed=0)
    assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(300)) and len(folds) == 4
    for fold in folds:
        assert len(set(topic[fold.test])) == 1
        assert not set(topic[fold.train]) & set(topic[fold.test])
        assert not set(component[fold.train]) & set(component[fold.test])
    assert len(by_topic(np.arange(300) % 25, np.arange(300), most=10, seed=0)) == 10


def test_a_reply_that_pairs_repeat_is_rated_once() -> None:
    ratings = [{"empathy": 5.0, "safety": 3.0}, {"empathy": 1.0, "safety": 3.0}]
    rows = [
        example(0, "Help.", "Why?", "No.", ratings=ratings),
        example(1, "help.", "Why?", "Stop.", ratings=[ratings[0], {"empathy": 2.0, "safety": 2.0}]),
        example(2, "Help.", "No.", "Stop.", ratings=[{"empathy": 4.0, "safety": 3.0}, ratings[1]]),
        example(3, "Unrated.", "A.", "B."),
    ]
    rated = rated_from(rows, ["empathy", "safety"])
    found = sorted(zip(rated.reply, rated.ratings.tolist(), strict=True))
    assert [(reply.removeprefix("assistant: "), values) for reply, values in found] == [
        ("no.", [1, 3]),
        ("no.", [4, 3]),
        ("stop.", [1, 3]),
        ("stop.", [2, 2]),
        ("why?", [5, 3]),
    ]
