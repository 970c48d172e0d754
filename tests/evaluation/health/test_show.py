"""The blocks of health show the figures of the replies: counted anew from replies.parquet, intervals from figures.json."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from psychocounsel.blocks.cells import Titled
from psychocounsel.blocks.kinds import Block
from psychocounsel.blocks.terminal import terminal_lines
from psychocounsel.evaluation.contestants import replies_step
from psychocounsel.evaluation.health import figures_step
from psychocounsel.evaluation.health.figures import HealthFigures
from psychocounsel.evaluation.health.show import health_blocks, health_conclusions, limit_warnings
from psychocounsel.storage.files import read_json
from tests.support.contests import PROMPTS, contest, context, data, replies
from tests.support.shown_blocks import chart, column, numbers, rows, said, tables, written


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every third reply of `mine` ends with a question. Replies of the base are one word longer."""
    folder = tmp_path_factory.mktemp("health")
    mine = replies(
        folder / "mine.jsonl", lambda prompt: f"You said so, {'truly?' if int(prompt[11:13]) % 3 == 0 else 'truly.'}"
    )
    base = replies(folder / "base.jsonl", lambda prompt: "You said it all so, truly.")
    config = contest("evaluation=health", *data(folder), f"model.path={mine}", f"against={base}")
    files = context(config, folder / "measured")
    replies_step.run(files)
    figures_step.run(files)
    return folder / "measured"


@pytest.fixture(scope="module")
def figures(folder: Path) -> HealthFigures:
    figures: Any = read_json(folder / "figures.json")
    return figures


@pytest.fixture(scope="module")
def blocks(figures: HealthFigures) -> list[Block]:
    return health_blocks([Titled("", figures)])


def texts(folder: Path, setting: str) -> list[str]:
    return [row["text"] for row in pq.read_table(folder / "replies.parquet").to_pylist() if row["setting"] == setting]


def test_figures_are_those_of_the_replies(folder: Path, figures: HealthFigures, blocks: list[Block]) -> None:
    shares = {(row["contestant"], row["figure"]): row for row in rows(blocks, "health-shares")}
    measures = {(row["contestant"], row["figure"]): row for row in rows(blocks, "health-measures")}
    for name in ("mine", "base"):
        own = texts(folder, name)
        asking = shares[name, "ends with a question"]
        assert numbers(asking["value"])[0] == pytest.approx(sum(text.endswith("?") for text in own) / len(own))
        assert (asking["speeches"], asking["replies"]) == ("12", "12")
        words = numbers(measures[name, "words"]["value"])[0]
        assert words == pytest.approx(sum(len(text.split()) for text in own) / len(own))
    mine = figures["variants"][0]["settings"]["mine"]
    assert numbers(shares["mine", "ends with a question"]["value"]) == written(
        mine["figures"]["question_ending"], "mean"
    )
    checks = {check["name"]: check for check in mine["limits"]}
    row = shares["mine", "refusal"]
    assert (row["limit"].value, row["verdict"]) == (checks["refusal"]["limit"], checks["refusal"]["verdict"])
    assert ("mine", "cut at max_tokens") in shares, "files of replies do not record this: the value is missing"
    assert shares["mine", "cut at max_tokens"]["value"] is None
    assert column(rows(blocks, "health-replies"), "outcomes of all calls") == ["12 text", "12 text"]


def test_the_chart_shows_the_shares_at_their_names(folder: Path, blocks: list[Block]) -> None:
    drawn = chart(blocks, "health")
    for curve in drawn.curves:
        own = texts(folder, curve.title)
        by_name = {drawn.ticks[round(place)]: value for place, value in zip(curve.x["figure"], curve.y, strict=True)}
        assert by_name["ends with a question"] == pytest.approx(sum(text.endswith("?") for text in own) / 12)
        assert "cut at max_tokens" not in by_name
    assert {curve.title for curve in drawn.curves} == {"mine", "base"}


def test_differences_are_paired_by_speech(folder: Path, figures: HealthFigures, blocks: list[Block]) -> None:
    words = next(row for row in rows(blocks, "health-differences-measures") if row["figure"] == "words")
    lengths = [[len(text.split()) for text in texts(folder, name)] for name in ("mine", "base")]
    change = [mine - base for mine, base in zip(*lengths, strict=True)]
    assert numbers(words["difference"])[0] == pytest.approx(sum(change) / 12)
    against = figures["variants"][0]["against"]["base"]
    assert numbers(words["difference"]) == written(against["words"], "difference")
    assert (words["model"], words["minus"], words["speeches"], words["verdict"]) == ("mine", "base", "12", "differs")
    asking = next(row for row in rows(blocks, "health-differences-shares") if row["figure"] == "ends with a question")
    assert numbers(asking["difference"])[0] == pytest.approx(4 / 12)
    assert asking["model's"].value == pytest.approx(4 / 12) and asking["base's"].value == 0


def test_several_evaluations_share_the_tables(figures: HealthFigures, blocks: list[Block]) -> None:
    looping: HealthFigures = {**figures, "warnings": ["warning: mine: loop"]}
    both = health_blocks([Titled("one", figures), Titled("two", looping)])
    assert tables(both) == tables(blocks), "names of tables do not depend on the number of evaluations"
    assert column(rows(both, "health-replies"), "evaluation") == ["one", "one", "two", "two"]
    assert "evaluation" not in rows(blocks, "health-replies")[0]
    assert said(both, "warning") == [
        "two: mine: loop",
        "one: mine, one: base, two: mine, two: base: fewer than 30 clients: too few to stand for others",
    ]
    assert [curve.title for curve in chart(both, "health").curves] == [
        "one: mine",
        "one: base",
        "two: mine",
        "two: base",
    ]


def test_the_terminal_shows_figures_and_warnings_but_no_text() -> None:
    client = "I have not slept for three weeks, and I cry every morning before work."
    speeches = [{"speech": str(number), "text": client, "language": "en"} for number in range(40)]
    replied = {"base": ("Three weeks. What is hardest?", "text"), "mine": ("I hear you. " * 5, "cut")}
    made = [
        {"setting": setting, "seed": 0, "speech": speech["speech"], "text": text, "outcome": outcome}
        | {"length_limit": 150, "completion_tokens": 9}
        for setting, (text, outcome) in replied.items()
        for speech in speeches
    ]
    variants = figures_step.summarise(made, speeches, "mine")
    of_turns = figures_step.summarise(
        made, speeches, "mine", clients={str(number): number % 20 for number in range(40)}
    )
    for found, cautions in ((variants, 0), (of_turns, 1)):  # forty clients, and forty turns of twenty clients
        told = health_conclusions({"evaluation": "health", "model": "mine", "variants": found, "warnings": []})
        assert len(told[0].cautions) == cautions
    warnings = [*limit_warnings(variants)]
    loops = "mine (replies of at most 150 words): loop: 100.0 % (91.2 to 100.0), above the limit of 2 %"
    assert loops in warnings
    lines = [
        *terminal_lines(
            health_blocks(
                [Titled("", {"evaluation": "health", "model": "mine", "variants": variants, "warnings": warnings})]
            )
        )
    ]
    assert lines[-len(warnings) :] == [f"warning: {text}" for text in warnings]
    table = [" ".join(line.split()) for line in lines]
    assert "mine at most 150 words loop 40 40 100.0 (91.2 to 100.0) 2.0 exceeded" in table
    assert "mine base at most 150 words loop 40 100.0 0.0 100.0 (82.5 to 100.0) worse" in table
    assert "mine at most 150 words 40 40 40 cut" in table
    assert not [line for line in lines if "sleep" in line or "hear" in line or "hardest" in line]


def test_a_limit_that_no_reply_can_show_is_unknown_and_no_reason_for_more_speeches() -> None:
    """A file of replies says nothing of `max_tokens`, and without a system prompt there is nothing to recite."""
    speeches = [{"speech": str(number), "text": f"I am tired of {number}.", "language": "en"} for number in range(500)]
    about = {"setting": "mine", "seed": 0, "outcome": "text", "length_limit": None, "completion_tokens": None}
    made = [about | {"speech": speech["speech"], "text": "What tires you?"} for speech in speeches]
    variants = figures_step.summarise(made, speeches, "mine")
    (told,) = health_conclusions({"evaluation": "health", "model": "mine", "variants": variants, "warnings": []})
    unknown = [check["name"] for check in variants[0]["settings"]["mine"]["limits"] if check["mean"] is None]
    assert "recital" in unknown and told.word == "within" and not told.missing
    assert f"within all {11 - len(unknown)} limits, unknown: " in told.text


def test_the_step_prints_these_blocks(tmp_path: Path) -> None:
    bad = replies(tmp_path / "bad.jsonl", lambda prompt: "and then I cry " * 5)
    config = contest("evaluation=health", *data(tmp_path), f"model.path={bad}")
    printed: list[str] = []
    files = context(config, tmp_path / "out", printed)
    replies_step.run(files)
    del printed[:]
    figures_step.run(files)
    figures: Any = read_json(tmp_path / "out" / "figures.json")
    tables = (tmp_path / "out" / "tables.txt").read_text().strip().splitlines()
    assert [*filter(None, tables)] == [*filter(None, terminal_lines(health_blocks([Titled("", figures)])))]
    assert {f"warning: {text}" for text in limit_warnings(figures["variants"])} == {*figures["warnings"]} < {*tables}
    assert len(printed) <= 11 and "limits exceeded" in printed[0] and printed[-1].startswith("all tables: ")
    assert not [prompt for prompt in PROMPTS if any(prompt in line for line in printed)]


def test_the_page_to_read_has_replies_to_twenty_speeches_spread_over_all(tmp_path: Path) -> None:
    prompts = [f"Since week {number} I cannot sleep." for number in range(50)]
    good = replies(
        tmp_path / "good.jsonl", lambda prompt: f"You said:\n{prompt}\n![x](https://e.org/y) \x1b[2J<img>", prompts
    )
    empty = replies(tmp_path / "empty.jsonl", lambda prompt: "", prompts)
    options = [*data(tmp_path, prompts), f"model.path={good}", f"against={empty}", "replies.samples=2"]
    files = context(contest("evaluation=health", *options), tmp_path / "out", printed := [])
    replies_step.run(files)
    figures_step.run(files)
    page = tmp_path / "out" / "samples.md"
    assert f"read before you believe a figure: {page} (20 of 50 speeches)" in printed
    heading, *parts = page.read_text().split("\n\n---\n\n")
    assert heading == "# 20 of 50 speeches, with the first reply of each contestant"
    messages = pq.read_table(tmp_path / "out" / "speeches.parquet")["messages"].to_pylist()
    texts = [json.loads(text)[-1]["content"] for text in messages]
    for number, part in enumerate(parts):
        assert f": {texts[number * 50 // 20]}\n" in part
    assert len(parts) == 20
    prompt = next(prompt for prompt in prompts if f": {prompt}\n" in parts[0])
    assert parts[0] == (
        f"> **user**: {prompt}\n\n## good\n\n> **assistant**: You said:\n> {prompt}\n"
        "> !\\[x](https://e.org/y)  \\[2J\\<img>\n\n## empty\n\n> **assistant (empty)**: "
    )
