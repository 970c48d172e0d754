"""The test of reading separates scorers that read the speech from scorers that do not."""

import numpy as np
import pytest

from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.data.messages import Message
from psychocounsel.errors import UserError
from psychocounsel.evaluation.audit.pairs import Pairs, pairs_from
from psychocounsel.evaluation.audit.reading import (
    REMOVED,
    beyond_overlap,
    other_prompts,
    overlap_margins,
    principle_reading,
    reading_figures,
    reward_margins,
)
from tests.support.preferences import WORDS, example, text


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    """Return pairs whose chosen reply repeats three words of the speech, and in 70 % of pairs ends with a question."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(200):
        speech = rng.choice(WORDS[200:], 12, replace=False).tolist()
        end = "?." if rng.random() < 0.7 else ".?"
        chosen, rejected = (" ".join([text(rng, 6), *words]) for words in (speech[:3], rng.choice(WORDS[200:], 3)))
        rows.append(example(number, " ".join(speech), chosen + end[0], rejected + end[1]))
    return pairs_from(rows)


def reads(conversations: list[list[Message]]) -> np.ndarray:
    return np.array(
        [len(set(turns[-2]["content"].split()) & set(turns[-1]["content"][:-1].split())) for turns in conversations]
    )


def counts_questions(conversations: list[list[Message]]) -> np.ndarray:
    return np.array([turns[-1]["content"].endswith("?") for turns in conversations])


def test_a_scorer_that_reads_gains_by_the_clients_own_speech(pairs: Pairs) -> None:
    other = other_prompts(pairs, np.zeros(200, int), seed=0)
    found = reading_figures(reward_margins(pairs, other, reads), pairs.component)
    assert found["own"]["accuracy"] > 0.97
    for condition in ("swapped", "removed"):
        assert 0.4 < found[condition]["accuracy"] < 0.62
        gain = found["gains"][condition]
        assert gain["gain"] == pytest.approx(found["own"]["accuracy"] - found[condition]["accuracy"])
        assert gain["low"] > 0.3 and gain["low"] < gain["gain"] < gain["high"]


def test_one_that_does_not_read_gains_nothing_however_good_it_is(pairs: Pairs) -> None:
    other = other_prompts(pairs, np.zeros(200, int), seed=0)
    found = reading_figures(reward_margins(pairs, other, counts_questions), pairs.component)
    assert found["own"]["accuracy"] == pytest.approx(0.7, abs=0.07)
    for condition in ("swapped", "removed"):
        gain, clients = found["gains"][condition], len({*pairs.component.tolist()})
        assert found[condition] == found["own"] and gain["gain"] == 0
        assert -gain["low"] == gain["high"] == pytest.approx(1 - 0.025 ** (1 / clients)), "no spread is no certainty"


def test_a_noisy_scorer_that_does_not_read_straddles_no_gain(pairs: Pairs) -> None:
    rng = np.random.default_rng(0)
    other = other_prompts(pairs, np.zeros(200, int), seed=0)

    def noisy(conversations: list[list[Message]]) -> np.ndarray:
        return counts_questions(conversations) + rng.normal(0, 1, len(conversations))

    gains = reading_figures(reward_margins(pairs, other, noisy), pairs.component)["gains"]
    for gain in gains.values():
        assert gain["low"] < 0 < gain["high"]


def test_word_overlap_is_the_share_of_words_taken_from_the_speech(pairs: Pairs) -> None:
    other = other_prompts(pairs, np.zeros(200, int), seed=0)
    margins = overlap_margins(pairs, other)

    def share(reply: str, speech: str) -> float:
        words = {word.strip(".?") for word in reply.split() if len(word.strip(".?")) >= 4}
        return len(words & set(speech.split())) / len(words) if words else 0.0

    for name, prompts in (("own", pairs.prompt), ("swapped", other[pairs.prompt])):
        expected = [
            share(pairs.replies[chosen], pairs.speech(prompt)) - share(pairs.replies[rejected], pairs.speech(prompt))
            for chosen, rejected, prompt in zip(pairs.chosen, pairs.rejected, prompts, strict=True)
        ]
        np.testing.assert_allclose(margins[name], expected)
    found = reading_figures(margins, pairs.component)
    assert found["gains"]["swapped"]["low"] > 0.2


def test_each_conversation_is_scored_once() -> None:
    rows = [example(number, "One speech.", f"reply {number}", f"reply {number + 1}") for number in range(3)]
    rows.append(example(3, "Another.", "yes", "no"))
    pairs, seen = pairs_from(rows), []

    def score(conversations: list[list[Message]]) -> np.ndarray:
        seen.extend(tuple(turn["content"] for turn in turns) for turn_list in [conversations] for turns in turn_list)
        return np.zeros(len(conversations))

    reward_margins(pairs, other_prompts(pairs, np.zeros(4, int), 0), score)
    assert len(seen) == len(set(seen)) == 3 * 6
    assert {turns[0] for turns in seen} == {"One speech.", "Another.", REMOVED[0]["content"]}


def test_another_clients_speech_is_of_another_component_and_of_the_same_topic() -> None:
    rng = np.random.default_rng(0)
    rows = [example(number, f"Speech {number}", f"reply {rng.integers(60)} a", text(rng)) for number in range(90)]
    pairs, topic = pairs_from(rows), np.arange(90) % 3
    topic[5] = 3  # a topic with a single pair
    other = other_prompts(pairs, topic, seed=0)
    component, topics = pairs.component, topic  # a prompt for each pair, in order
    assert (component[other] != component).all()
    same = topics[other] == topics
    assert same.sum() == 89 and not same[5]
    assert len(set(other.tolist())) > 60, "hardly a speech is used twice"
    with pytest.raises(ValueError, match="one component"):
        other_prompts(pairs_from(rows[:1]), np.zeros(1, int), 0)


def test_pairs_that_are_too_long_in_one_condition_count_in_none(pairs: Pairs) -> None:
    other = other_prompts(pairs, np.zeros(200, int), seed=0)
    short = np.argsort([len(prompt[0]["content"]) for prompt in pairs.prompts])[:150]
    known = {pairs.prompts[number][0]["content"] for number in short} | {REMOVED[0]["content"]}

    def narrow(conversations: list[list[Message]]) -> np.ndarray:
        return np.where([turns[-2]["content"] in known for turns in conversations], reads(conversations), np.nan)

    found = reading_figures(reward_margins(pairs, other, narrow), pairs.component)
    fits = np.isin(pairs.prompt, short) & np.isin(other[pairs.prompt], short)
    kept = reading_figures(
        {name: margins[fits] for name, margins in reward_margins(pairs, other, reads).items()},
        pairs.component[fits],
    )
    assert found == {**kept, "left_out": 200 - int(fits.sum())} and found["left_out"] >= 50
    with pytest.raises(UserError, match="raise reward.max_length"):
        reading_figures({"own": np.full(200, np.nan), "swapped": np.zeros(200)}, pairs.component)


def test_each_principle_is_read_on_the_pairs_that_differ_in_its_rating(pairs: Pairs) -> None:
    rng = np.random.default_rng(3)
    other = other_prompts(pairs, np.zeros(200, int), seed=0)
    ratings = rng.integers(1, 4, (200, 2, 7)).astype(float)
    ratings[:50, 0, 3] = np.nan
    ratings[:, :, 6] = 2  # never differs

    def score(conversations: list[list[Message]]) -> np.ndarray:
        lengths = [len(turns[-1]["content"]) for turns in conversations]
        drawn = rng.normal(0, 1, (len(conversations), 4))
        return np.column_stack([reads(conversations), counts_questions(conversations), lengths, drawn])

    margins, overlap = reward_margins(pairs, other, score), overlap_margins(pairs, other)
    found = principle_reading(margins, overlap, ratings, pairs)
    assert [*found] == [*PRINCIPLES]
    longer = np.array([len(pairs.replies[row]) for row in pairs.chosen])
    longer -= [len(pairs.replies[row]) for row in pairs.rejected]
    for column, name in enumerate(PRINCIPLES):
        chosen, rejected = ratings[:, 0, column], ratings[:, 1, column]
        rows = np.flatnonzero((chosen > rejected) | (chosen < rejected))
        own = margins["own"][:, column]
        both = np.corrcoef(np.concatenate([own, -own]), np.concatenate([longer, -longer]))[0, 1]
        length = found[name]["length"]
        assert length["value"] == pytest.approx(both) and length["low"] <= length["value"] <= length["high"]
        assert found[name]["pairs"] == len(rows)
        if name == PRINCIPLES[6]:
            assert "own" not in found[name] and found[name]["raters_length"] is None
            continue
        turned = {
            condition: np.where(chosen > rejected, values[:, column], -values[:, column])[rows]
            for condition, values in margins.items()
        }
        words = {key: np.where(chosen > rejected, values, -values)[rows] for key, values in overlap.items()}
        expected = reading_figures(turned, pairs.component[rows])
        assert {key: found[name][key] for key in expected} == expected
        assert found[name]["beyond_overlap"] == beyond_overlap(turned, words, pairs.component[rows])
    assert found[PRINCIPLES[2]]["length"]["value"] == pytest.approx(1)


def test_principles_without_ratings_are_read_on_the_pairs_as_they_are(pairs: Pairs) -> None:
    other = other_prompts(pairs, np.zeros(200, int), seed=0)
    overlap, unrated = overlap_margins(pairs, other), np.full((200, 2, 7), np.nan)
    of_reader = reward_margins(pairs, other, reads)
    margins = {name: np.tile(values[:, None], 7) for name, values in of_reader.items()}
    margins["swapped"][5] = np.nan  # too long
    found = principle_reading(margins, overlap, unrated, pairs)[PRINCIPLES[4]]
    assert (found["pairs"], found["left_out"], found["raters_length"]) == (200, 1, None)
    assert found["gains"]["swapped"]["low"] > 0.3
    too_long = {name: np.full((200, 7), np.nan) for name in margins}
    found = principle_reading(too_long, overlap, unrated, pairs)[PRINCIPLES[4]]
    assert found == {"pairs": 200, "length": None, "raters_length": None}


def test_a_removed_speech_leaves_the_system_message() -> None:
    rows = [example(number, f"speech {number}", f"good {number}", f"bad {number}") for number in range(6)]
    for row in rows:
        row.prompt.insert(0, {"role": "system", "content": "Be kind."})
    pairs, seen = pairs_from(rows), list[list[Message]]()

    def listen(conversations: list[list[Message]]) -> np.ndarray:
        seen.extend(conversations)
        return np.zeros(len(conversations))

    reward_margins(pairs, other_prompts(pairs, np.zeros(6, int), seed=0), listen)
    removed = [turns for turns in seen if turns[-2] == REMOVED[0]]
    assert len(removed) == 12 and all(turns[0] == {"role": "system", "content": "Be kind."} for turns in removed)


def test_equal_differences_of_components_are_no_certainty() -> None:
    """Each of six clients gains on one of two pairs: their means do not vary, but another client's may."""
    own, swapped = np.ones(12), np.array([-1.0, 1.0] * 6)
    figures = beyond_overlap({"own": own, "swapped": swapped}, {"own": own, "swapped": own}, np.repeat(np.arange(6), 2))
    gain = figures["gain"]
    assert gain["value"] == 0.5 and gain["low"] < 0.2 and gain["high"] > 0.8
