"""The blocks of an audit: conclusions follow from the intervals, and figures equal counts from the audited pairs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from psychocounsel.blocks.cells import Titled
from psychocounsel.blocks.kinds import Block
from psychocounsel.blocks.terminal import terminal_lines
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.evaluation.audit.auditing import audit
from psychocounsel.evaluation.audit.figures import AuditFigures
from psychocounsel.evaluation.audit.show import audit_blocks
from psychocounsel.storage.files import read_json
from tests.support.composed import check, compose
from tests.support.harness import write_jsonl
from tests.support.shown_blocks import chart, column, numbers, rows, said, tables, written

WORDS = ("window", "harbour", "letter", "garden", "winter", "kitchen", "brother", "market", "silence", "ticket")


def planted(count: int) -> list[dict[str, Any]]:
    """Return pairs whose chosen reply repeats a word of the client; in three of four pairs it is also longer."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        own, other = rng.choice(WORDS, 2, replace=False)
        row: dict[str, Any] = {"prompt": f"Since {number} I think of the {own}.", "topic": "ab"[number % 2]}
        row["chosen"] = f"You think of the {own} at {number}." + " Go on, please." * (number % 4 > 0)
        row["rejected"] = f"You think of the {other} at {number}." + " Go on, please." * (number % 4 == 0)
        row |= {f"chosen_{name}_rating": 5 - (number + place) % 2 for place, name in enumerate(PRINCIPLES)}
        row |= {f"rejected_{name}_rating": 1 + (number + place) % 3 for place, name in enumerate(PRINCIPLES)}
        found.append(row)
    return found


def audited(
    folder: Path, *more: str, data: Sequence[dict[str, Any]] | None = None, said: list[str] | None = None
) -> AuditFigures:
    """Return audit.json as the audit wrote it. Its reward model counts words that the client has said."""
    file = write_jsonl(folder / "pairs.jsonl", [*(data or planted(60))])

    def score(conversations: list[Any]) -> np.ndarray:
        texts = [(each[-2]["content"], each[-1]["content"]) for each in conversations]
        shared = [sum(word in speech and word in reply for word in WORDS) for speech, reply in texts]
        return np.array(shared, np.float32)[:, None]

    given = ["data=local", f"data.path={file}", "data.min_gap=null", "audit.permutations=100", "reward=tiny"]
    given += ["verbose=true", *more]
    printed = [] if said is None else said
    audit(check(compose(given, "audit")), folder / "audit", printed.append, lambda names, *_: names, score)
    figures: Any = read_json(folder / "audit" / "audit.json")
    return figures


@pytest.fixture(scope="module")
def printed() -> list[str]:
    return []


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory, printed: list[str]) -> AuditFigures:
    return audited(tmp_path_factory.mktemp("audit"), said=printed)


@pytest.fixture(scope="module")
def found(figures: AuditFigures) -> list[Block]:
    return audit_blocks([Titled("", figures)])


def test_blind_baselines_stand_with_both_kinds_of_folds(figures: AuditFigures, found: list[Block]) -> None:
    wrote = figures["blind"]["baselines"]
    table = {row["baseline"]: row for row in rows(found, "audit-blind")}
    assert len(table) == len(wrote)
    assert numbers(table["surface features"]["accuracy"]) == written(wrote["surface"]["by_prompt"], "accuracy")
    assert numbers(table["surface features"]["accuracy, folds of topics"]) == written(
        wrote["surface"]["by_topic"], "accuracy"
    )
    assert table["surface features"]["pairs"] == "60"
    drawn = chart(found, "audit-blind")
    [curve] = drawn.curves
    by_name = {drawn.ticks[round(place)]: value for place, value in zip(curve.x["baseline"], curve.y, strict=True)}
    assert by_name == {name: numbers(row["accuracy"])[0] for name, row in table.items()} and drawn.reference == 0.5


def test_a_cue_wins_where_the_pairs_have_it(found: list[Block]) -> None:
    """Check the cue of length: three of four chosen replies are longer."""
    lengths = [(len(row["chosen"]), len(row["rejected"])) for row in planted(60)]
    length = next(row for row in rows(found, "audit-cues") if row["cue"] == "length")
    assert numbers(length["reply with more of it is chosen"])[0] == pytest.approx(
        np.mean([(a > b) + 0.5 * (a == b) for a, b in lengths])
    )
    assert length["pairs decided"] == str(sum(a != b for a, b in lengths))


def test_conclusions_follow_from_the_intervals(figures: AuditFigures, found: list[Block]) -> None:
    best = max(figures["blind"]["baselines"].values(), key=lambda each: each["by_prompt"]["accuracy"])["by_prompt"]
    [predicted] = [line for line in said(found, "warning") if "predicted" in line]
    assert best["low"] > 0.5 and f"{100 * best['accuracy']:.1f} % ({100 * best['low']:.1f} to" in predicted
    [reads] = [line for line in said(found, "warning") if "reads" in line]
    gain, beyond = (figures["reading"]["reward"][name] for name in ("gains", "beyond_overlap"))
    gain, beyond = gain["swapped"], beyond["gain"]
    assert gain["low"] > 0 and beyond["low"] <= 0, "its reward is a count of shared words"
    assert reads.startswith("no evidence that the reward model tiny reads more than words shared with the reply: ")
    assert (
        f"{100 * gain['gain']:+.1f} percentage points ({100 * gain['low']:+.1f} to {100 * gain['high']:+.1f})" in reads
    )
    assert f"{100 * beyond['value']:+.1f} ({100 * beyond['low']:+.1f} to {100 * beyond['high']:+.1f}) points" in reads
    assert not said(found, "good")


def test_reading_is_shown_with_each_speech(figures: AuditFigures, found: list[Block]) -> None:
    table = {(row["judged by"], row["speech shown"]): row for row in rows(found, "audit-reading")}
    wrote = figures["reading"]
    own = table["the reward model tiny", "the client's own speech"]
    assert numbers(own["accuracy"])[0] == 1.0 and own["pairs"] == "60", "it finds the planted word every time"
    swapped = table["words shared with the speech", "another client's speech"]
    assert numbers(swapped["accuracy"]) == written(wrote["overlap"]["swapped"], "accuracy")
    assert numbers(swapped["gain of own speech"]) == written(wrote["overlap"]["gains"]["swapped"], "gain")


def test_ratings_and_sizes_are_those_of_the_pairs(found: list[Block]) -> None:
    data = planted(60)
    for row in rows(found, "audit-ratings"):
        ratings = [pair[f"{side}_{row['principle']}_rating"] for pair in data for side in ("chosen", "rejected")]
        assert row["mean rating"].value == pytest.approx(np.mean(ratings))
        assert row["top rating"].value == pytest.approx(np.mean(np.array(ratings) == 5))
        assert row["replies"] == "120"
    assert column(rows(found, "audit-ratings"), "principle") == [*PRINCIPLES]
    [sizes] = rows(found, "audit-sizes")
    assert (sizes["pairs"], sizes["prompts"], sizes["replies"]) == ("60", "60", "120")


@pytest.mark.parametrize(("limit", "verdict", "tone"), [(0.99, "passed", "good"), (0.51, "refused", "bad")])
def test_the_gate_says_its_verdict(tmp_path: Path, limit: float, verdict: str, tone: str) -> None:
    found = audit_blocks([Titled("", audited(tmp_path, f"audit.max_blind={limit}"))])
    [gate] = [line for line in said(found, tone) if "gate audit" in line]
    assert f"audit.max_blind={limit}: {verdict}, because the whole interval is" in gate


def test_data_without_ratings_or_other_sets_have_no_such_table(tmp_path: Path) -> None:
    bare = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in planted(40)]
    found = audit_blocks([Titled("", audited(tmp_path, data=bare))])
    assert "audit-ratings" not in tables(found) and "audit-shared" not in tables(found)
    assert "the data have no ratings, so halo and ceiling are unknown." in said(found, "plain")


def test_the_command_prints_these_blocks(figures: AuditFigures, found: list[Block], printed: list[str]) -> None:
    *lines, written_to = printed
    assert lines[-len([*terminal_lines(found)]) :] == [*terminal_lines(found)] and written_to.startswith("written to ")
    assert not [line for line in printed if any(word in line for word in ("harbour", "kitchen"))]
    table = [" ".join(line.split()) for line in lines]
    assert "pairs 60 60 120 60 1" in table
    assert "replies under several prompts 0" in table
    assert "* folds of topics: leaving out each of 2 topics of the data" in table
    assert not [line for line in lines if "gate" in line], "no limit is set"
    best = figures["blind"]["maximum"]
    assert [line for line in table if f"({best['cue'].replace('_', ' ')}) wins {100 * best['accuracy']:.1f} %;" in line]


def test_facts_that_a_reader_must_not_miss(figures: AuditFigures) -> None:
    crowded: AuditFigures = {**figures, "counts": {**figures["counts"], "largest_component": 31}}
    best_cue = {**figures["blind"]["baselines"]["best_cue"]}
    best_cue["by_topic"] = {**best_cue["by_topic"], "judged": 7}
    baselines = {**figures["blind"]["baselines"], "best_cue": best_cue}
    crowded["blind"] = {**figures["blind"], "baselines": baselines}
    crowded["topics"] = {"source": "clusters", "count": 12}
    crowded["disagreement"] = {"replies": 3, "of": 120, "deviation": 0.5}
    blocks = audit_blocks([Titled("one", figures), Titled("two", crowded)])
    assert "two: one component holds more than half of the pairs: folds are uneven and intervals unreliable." in said(
        blocks, "warning"
    )
    lines = [*terminal_lines(blocks)]
    assert [line for line in lines if "* two: by topic, only 7 of 60 pairs are judged" in line]
    assert [line for line in lines if "* two: folds of topics: leaving out each of 12 clusters of prompts, " in line]
    assert [line for line in lines if line.endswith(", or all name the same, in 10 folds")]
    assert (
        "  * two: 3 of 120 replies have several different ratings; their standard deviation is 0.500 on average"
        in lines
    )
    assert "  * one: disagreement is unknown, because no reply has several different ratings" in lines
    assert [curve.title for curve in chart(blocks, "audit-blind").curves] == ["one", "two"]


def test_a_cue_that_means_the_opposite_in_other_topics_is_explained(tmp_path: Path) -> None:
    """In two topics the question is better, in two it is worse: the three other topics always teach the wrong direction."""
    data = planted(80)
    for number, row in enumerate(data):
        row["topic"] = "abcd"[number % 4]
        better, worse = ("chosen", "rejected") if number % 4 < 2 else ("rejected", "chosen")
        row |= {better: f"{number} and how is that?", worse: f"{number} and so it is."}
    found = audited(tmp_path, data=data)
    accuracy = found["blind"]["baselines"]["best_cue"]["by_topic"]
    assert accuracy["high"] < 0.1 and found["blind"]["baselines"]["best_cue"]["by_prompt"]["high"] > 0.4
    shown, plain = (terminal_lines(audit_blocks([Titled("", each)])) for each in (found, audited(tmp_path)))
    [note] = [line for line in shown if "below 50 % by topic (best single cue" in line]
    assert "the topic decides which reply is better" in note
    assert not any("below 50 % by topic" in line for line in plain)
