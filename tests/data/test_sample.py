"""The sample is what its card says."""

import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.data.rows import Example
from psychocounsel.data.selection.select import pairs_of, split_by_prompt
from psychocounsel.data.sources import load_examples, sample_files
from psychocounsel.settings.config import check, compose
from tests.support.harness import cli, metrics_of

CARD = sample_files()[0].parent / "README.md"
ENTRIES: list[dict[str, Any]] = [entry for file in sample_files() for entry in yaml.safe_load(file.read_text("utf-8"))]
REPLIES = [reply for entry in ENTRIES for reply in entry["replies"]]


@pytest.fixture(scope="module")
def pairs() -> list[Example]:
    return pairs_of(
        load_examples("builtin:sample", "train", None), check(compose(["data=sample"])).data, "sample", print
    )


def test_there_are_enough_speeches_topics_and_crises() -> None:
    assert len(ENTRIES) >= 200
    assert len(sample_files()) == 8
    assert sum(entry["crisis"] for entry in ENTRIES) >= 24
    assert all(
        entry["id"].startswith(f"{file.stem}-") for file in sample_files() for entry in yaml.safe_load(file.read_text())
    )
    assert len({entry["id"] for entry in ENTRIES}) == len(ENTRIES)


def test_entries_hold_what_the_card_says() -> None:
    for entry in ENTRIES:
        assert set(entry) == {"id", "crisis", "speech", "replies"}
        assert isinstance(entry["crisis"], bool)
        assert 100 <= len(entry["speech"]) <= 1000, entry["id"]
        assert len(entry["replies"]) == 4
        assert len({reply["style"] for reply in entry["replies"]}) == 4, entry["id"]
        for reply in entry["replies"]:
            assert set(reply) == {"style", "text", "ratings"}
            assert len(reply["text"]) <= 1000
            assert set(reply["ratings"]) == set(PRINCIPLES)
            assert all(type(value) is int and 1 <= value <= 5 for value in reply["ratings"].values())


def test_texts_are_ascii_and_no_text_or_long_phrase_comes_twice() -> None:
    texts = [*(entry["speech"] for entry in ENTRIES), *(reply["text"] for reply in REPLIES)]
    assert all(text.isascii() for text in texts)
    assert len({" ".join(text.lower().split()) for text in texts}) == len(texts)
    sentences = Counter(part.strip() for text in texts for part in text.replace("?", ".").split(".") if len(part) > 60)
    assert [sentence for sentence, count in sentences.items() if count > 1] == []


def test_every_prompt_has_a_pair_and_length_does_not_tell_the_better_reply(pairs: list[Example]) -> None:
    assert {pair.prompt[0]["content"] for pair in pairs} == {entry["speech"] for entry in ENTRIES}
    shorter = sum(len(chosen) < len(rejected) for chosen, rejected in (pair.replies for pair in pairs))
    assert shorter >= 0.35 * len(pairs)
    for pair in pairs:
        assert pair.ratings is not None
        chosen, rejected = (sum(ratings.values()) / 7 for ratings in pair.ratings)
        assert chosen - rejected >= 1 - 1e-9


def test_replies_to_a_crisis_that_pass_it_over_are_rated_unsafe_and_never_chosen_over_safe_ones(
    pairs: list[Example],
) -> None:
    for entry in ENTRIES:
        safety = [reply["ratings"]["safety"] for reply in entry["replies"]]
        if entry["crisis"]:
            assert max(safety) == 5, entry["id"]
            assert min(safety) <= 2, entry["id"]
    assert all(pair.ratings and pair.ratings[0]["safety"] >= pair.ratings[1]["safety"] for pair in pairs)


def test_the_default_split_holds_out_a_fifth_of_the_prompts() -> None:
    data = check(compose(["data=sample"])).data
    train, held_out = split_by_prompt(
        load_examples("builtin:sample", "train", None), data.dev_fraction, data.split_seed
    )
    assert (len(train), len(held_out)) == (len(ENTRIES) - 43, 43)


def test_the_card_has_the_figures_of_today(pairs: list[Example]) -> None:
    shorter = sum(len(pair.replies[0]) < len(pair.replies[1]) for pair in pairs)
    card = CARD.read_text(encoding="utf-8")
    for line in (
        f"| client speeches | {len(ENTRIES)} |",
        f"| of them in crisis | {sum(entry['crisis'] for entry in ENTRIES)} |",
        f"| replies | {len(REPLIES)} |",
        f"| pairs (mean gap of at least 1) | {len(pairs)} |",
        f"| pairs whose chosen reply is the shorter | {shorter} ({shorter / len(pairs):.0%}) |",
    ):
        assert line in card


@pytest.mark.proof
def test_a_reward_model_learns_from_the_sample_what_length_does_not_tell(pairs: list[Example], tmp_path: Path) -> None:
    """Over five seeds: half an epoch from the shipped policy, which has seen no held-out prompt either."""
    settings = ["epochs=0.5", "eval.every=0", "checkpoint.every=0", "tracker=none"]
    cli(
        "train",
        "-m",
        "algo=reward",
        "seed=1,2,3,4,5",
        *settings,
        f"sweep_dir={tmp_path}/seeds",
        cwd=tmp_path,
        minutes=25,
    )
    scores = [metrics_of(run_dir)[-1] for run_dir in sorted((tmp_path / "seeds").glob("algo-reward_seed-*"))]
    assert len(scores) == 5
    accuracies = [line["eval/accuracy"] for line in scores]
    spread = 2.776 * statistics.stdev(accuracies) / len(accuracies) ** 0.5  # Student's t, four degrees of freedom
    print(f"held-out accuracies {accuracies}, lower bounds {[line['eval/accuracy_low'] for line in scores]}")
    assert statistics.mean(accuracies) - spread > 0.60  # over seeds
    assert min(line["eval/accuracy_low"] for line in scores) > 0.60  # over prompts, the least of the five

    data = check(compose(["data=sample"])).data
    _, held_out = split_by_prompt(pairs, data.dev_fraction, data.split_seed)
    assert len({pair.prompt[0]["content"] for pair in held_out}) >= 40
    longer = sum(len(pair.replies[0]) > len(pair.replies[1]) for pair in held_out) / len(held_out)
    assert max(longer, 1 - longer) < 0.55
