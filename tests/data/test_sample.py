"""The sample agrees with its data card."""

import re
import statistics
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from psychocounsel.counsel.principles import PRINCIPLES, STAGES
from psychocounsel.counsel.rubric import load_rubric
from psychocounsel.data.rows import Example
from psychocounsel.data.selection import load_split, pairs_of
from psychocounsel.data.shared_text import components_of
from psychocounsel.data.shipped_rows import flip_files, read_sample_file, sample_files, sample_rows, topic_files
from psychocounsel.data.sources import load_examples
from psychocounsel.evaluation.audit.blind import wins
from psychocounsel.evaluation.audit.pairs import pairs_from
from psychocounsel.evaluation.audit.reading import overlap_margins
from psychocounsel.evaluation.reward.figures import flipped_rows
from tests.support.composed import check, compose
from tests.support.harness import cli, metrics_of

FOLDER = topic_files()[0].parent
CARD = (FOLDER / "README.md").read_text(encoding="utf-8")
ROWS: list[dict[str, Any]] = [dict(row) for _, row in sample_rows()]
ENTRIES = [row for row in ROWS if "-flip-" not in row["id"]]
FLIPS = [row for row in ROWS if "-flip-" in row["id"]]
REPLIES = [reply for row in ROWS for reply in row["replies"]]
URGENCY = ("none", "monitor", "same_day", "emergency")


@pytest.fixture(scope="module")
def pairs() -> list[Example]:
    rows = load_examples("builtin:sample", "train", None)
    return pairs_of(rows, check(compose(["data=sample"])).data, "sample", print)


def mean(reply: dict[str, Any]) -> float:
    return sum(reply["ratings"].values()) / len(PRINCIPLES)


def test_there_are_enough_speeches_topics_and_quartets() -> None:
    assert len(ENTRIES) >= 216
    assert len(topic_files()) == len(flip_files()) == 8
    assert len(FLIPS) >= 120 and len(FLIPS) % 2 == 0
    assert len({row["id"] for row in ROWS}) == len(ROWS)
    assert all(row["id"].startswith(f"{row['topic']}-") for row in ROWS)


def test_rows_hold_what_the_card_says() -> None:
    for row in ROWS:
        assert 100 <= len(row["prompt"]) <= 1000, row["id"]
        assert row["stage"] in STAGES, row["id"]
        assert len(row["replies"]) == (2 if row in FLIPS else 4), row["id"]
        for reply in row["replies"]:
            assert 80 <= len(reply["text"]) <= 1000, row["id"]
            assert set(reply["ratings"]) == set(PRINCIPLES)
            assert all(type(value) is int and 1 <= value <= 5 for value in reply["ratings"].values())


def test_expected_actions_are_those_of_the_rubric() -> None:
    kinds = load_rubric().risk.kinds
    for row in ROWS:
        actions = [kinds[risk["kind"]].expected_action[risk["disclosure"]][risk["recency"]] for risk in row["risk"]]
        assert row["expected_action"] == max(actions, key=URGENCY.index, default="none"), row["id"]


def test_risks_vary() -> None:
    risks = [tuple(risk.values()) for row in ENTRIES for risk in row["risk"]]
    assert len({kind for kind, _, _ in risks}) >= 13
    assert len(set(risks)) >= 40
    assert sum(row["expected_action"] in ("same_day", "emergency") for row in ENTRIES) >= 40


def test_two_clients_of_a_quartet_prefer_opposite_replies(pairs: list[Example]) -> None:
    for first, second in zip(FLIPS[::2], FLIPS[1::2], strict=True):
        assert [reply["text"] for reply in first["replies"]] == [reply["text"] for reply in second["replies"]]
        gaps = [mean(row["replies"][0]) - mean(row["replies"][1]) for row in (first, second)]
        assert gaps[0] * gaps[1] < 0 and min(map(abs, gaps)) >= 1 - 1e-9, first["id"]
    flipped = [pairs[row].id for row in flipped_rows(pairs)]
    assert {row["id"] for row in FLIPS} <= {name.rsplit("-", 2)[0] for name in flipped}


def test_a_reply_that_fits_another_client_stands_under_both() -> None:
    where = defaultdict(list)
    for row in ENTRIES:
        for reply in row["replies"]:
            where[reply["text"]].append((row, reply))
    shared = [found for found in where.values() if len(found) > 1]
    assert len(shared) == len(ENTRIES)  # exactly each client's best reply
    for (one, under_one), (two, under_two) in shared:
        best, elsewhere = (under_one, under_two) if mean(under_one) > mean(under_two) else (under_two, under_one)
        assert one["topic"] == two["topic"]
        assert mean(best) - mean(elsewhere) >= 0.25
        assert under_one["ratings"]["clarity"] == under_two["ratings"]["clarity"]


def test_texts_are_ascii_and_no_sentence_comes_twice() -> None:
    texts = {*(row["prompt"] for row in ROWS), *(reply["text"] for reply in REPLIES)}
    assert all(text.isascii() for text in texts)
    assert len({" ".join(text.lower().split()) for text in texts}) == len(texts)
    sentences = Counter(part.strip() for text in texts for part in text.replace("?", ".").split(".") if len(part) > 60)
    assert [sentence for sentence, count in sentences.items() if count > 1] == []


def test_the_best_reply_is_safe_and_fit_to_be_learned() -> None:
    for row in ROWS:
        best = max(row["replies"], key=mean)
        assert best["ratings"]["safety"] >= (5 if row in ENTRIES else 4), row["id"]
        assert not best["harmful"]


def test_no_reply_counts_as_safe_that_leaves_a_hinted_danger_unasked() -> None:
    kinds = load_rubric().risk.kinds
    for row in ROWS:
        if any(kinds[risk["kind"]].role == "danger" and risk["disclosure"] == "hinted" for risk in row["risk"]):
            for reply in row["replies"]:
                asks = "?" in reply["text"] or "tell me" in reply["text"].lower()
                assert reply["ratings"]["safety"] < 4 or asks, row["id"]


def test_harmful_replies_stand_apart_and_are_never_chosen(pairs: list[Example]) -> None:
    harmful = {reply["text"] for reply in REPLIES if reply["harmful"]}
    assert harmful == {text.strip() for text in read_sample_file(FOLDER / "harmful.yaml").values()}
    assert len(harmful) >= 60
    assert all(reply["ratings"]["safety"] == 1 for reply in REPLIES if reply["harmful"])
    assert not any(pair.replies[0] in harmful for pair in pairs)
    others = "".join(file.read_text("utf-8") for file in sample_files() if file.name != "harmful.yaml")
    assert not any(text.split("\n")[0] in others for text in harmful)


def test_texts_name_no_number_to_call_and_no_dose() -> None:
    for text in {*(row["prompt"] for row in ROWS), *(reply["text"] for reply in REPLIES)}:
        assert not re.search(r"\b\d+ ?(?:mg|milligrams?|ml|pills|tablets)\b", text), text
    for reply in REPLIES:
        assert not re.search(r"(?!\b(?:19|20)\d\d\b)\b\d{3,}", reply["text"]), reply["text"]


def test_each_file_bears_the_canary() -> None:
    (canary,) = set(re.findall(r"GUID ([0-9a-f-]{36})", CARD))
    assert all(canary in file.read_text("utf-8").split("\n")[0] for file in sample_files())


def test_every_client_has_a_pair_and_neither_length_nor_ending_tells(pairs: list[Example]) -> None:
    assert {pair.prompt[0]["content"] for pair in pairs} == {row["prompt"] for row in ROWS}
    shorter = sum(len(chosen) < len(rejected) for chosen, rejected in (pair.replies for pair in pairs))
    assert 0.42 <= shorter / len(pairs) <= 0.58
    own = [pair for pair in pairs if "-flip-" not in pair.id]
    ends = [[reply.rstrip('" ').endswith("?") for reply in pair.replies] for pair in own]
    best = {max(row["replies"], key=mean)["text"] for row in ENTRIES}
    assert sum(not text.rstrip('" ').endswith("?") for text in best) >= len(best) / 3
    assert sum(rejected for _, rejected in ends) >= len(ends) / 3


def test_the_default_split_holds_out_a_fifth_of_the_clients_and_no_text_of_theirs(pairs: list[Example]) -> None:
    train, held_out = load_split(check(compose(["data=sample"])).data, print)
    clients = {pair.prompt[0]["content"] for pair in held_out}
    assert 0.18 * len(ROWS) <= len(clients) <= 0.22 * len(ROWS)
    assert {pair.topic for pair in held_out} == {row["topic"] for row in ROWS}
    component = components_of([*train, *held_out])
    assert not set(component[: len(train)]) & set(component[len(train) :])


def test_word_overlap_tells_neither_all_pairs_nor_the_flipped_ones() -> None:
    train, held_out = load_split(check(compose(["data=sample"])).data, print)
    examples = [*train, *held_out]
    audited = pairs_from(examples)
    won = wins(overlap_margins(audited, np.arange(len(audited.prompts)))["own"])
    flipped = flipped_rows(examples)
    for first in (0, len(train)):  # overall, and held-out pairs only
        assert won[first:].mean() <= 0.55
        assert won[flipped[flipped >= first]].mean() <= 0.6


def test_the_card_has_the_figures_of_today(pairs: list[Example]) -> None:
    shorter = sum(len(pair.replies[0]) < len(pair.replies[1]) for pair in pairs)
    actions = Counter(row["expected_action"] for row in ROWS)
    means = zip(*(sorted(map(mean, row["replies"]), reverse=True) for row in ENTRIES), strict=True)
    words = sorted(len(text.split()) for text in {reply["text"] for reply in REPLIES})
    spoken = sorted(len(row["prompt"].split()) for row in ROWS)
    for line in (
        f"| clients with four replies | {len(ENTRIES)} |",
        f"| flip quartets, of two clients each | {len(FLIPS) // 2} |",
        f"| different replies | {len(words)} |",
        f"| expected action: none, monitor, same day, emergency | {', '.join(str(actions[each]) for each in URGENCY)} |",
        f"| pairs (mean gap of at least 1) | {len(pairs)} |",
        f"| pairs whose chosen reply is the shorter | {shorter} ({shorter / len(pairs):.0%}) |",
        f"| words in a speech: least, median, most | {spoken[0]}, {spoken[len(spoken) // 2]}, {spoken[-1]} |",
        f"| words in a reply: least, median, most | {words[0]}, {words[len(words) // 2]}, {words[-1]} |",
        f"| mean rating of the best, second, third and last reply | "
        f"{', '.join(f'{statistics.mean(place):.1f}' for place in means)} |",
    ):
        assert line in CARD, line


@pytest.mark.proof
def test_a_reward_model_learns_from_the_sample_what_its_looks_do_not_tell(tmp_path: Path) -> None:
    """Five seeds of one epoch each, from the shipped policy, which was not trained on held-out clients either."""
    settings = ["epochs=1", "eval.every=0", "checkpoint.every=0", "tracker=none", f"sweep_dir={tmp_path}/seeds"]
    cli("train", "-m", "algo=reward", "seed=1,2,3,4,5", *settings, cwd=tmp_path, minutes=40)
    scores = [metrics_of(run_dir)[-1] for run_dir in sorted((tmp_path / "seeds").glob("seed-*"))]
    accuracies = [line["eval/accuracy"] for line in scores]
    spread = 2.776 * statistics.stdev(accuracies) / len(accuracies) ** 0.5  # Student's t, four degrees of freedom
    print(f"held-out accuracies {accuracies}, lower bounds {[line['eval/accuracy_low'] for line in scores]}")
    assert len(scores) == 5 and statistics.mean(accuracies) - spread > 0.5
