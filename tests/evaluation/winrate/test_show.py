"""Blocks of win rates, against win rates computed from verdicts.parquet and the intervals in figures.json."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from psychocounsel.blocks.cells import Titled
from psychocounsel.blocks.kinds import Block
from psychocounsel.blocks.terminal import terminal_lines
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.evaluation.contestants import replies_step as replies_step
from psychocounsel.evaluation.judging import verdicts_step
from psychocounsel.evaluation.winrate import statistics_step
from psychocounsel.evaluation.winrate.figures import RankingResult, WinrateFigures, WinrateVariant
from psychocounsel.evaluation.winrate.show import winrate_blocks, winrate_conclusions
from psychocounsel.storage.files import read_json
from tests.support.annotating import model_server
from tests.support.contests import PROMPTS, Recorder, contest, context, data, replies, shown, verdict
from tests.support.harness import write_jsonl
from tests.support.scripted import completion
from tests.support.shown_blocks import chart, column, numbers, rows, said, tables, written


def longer(payload: Any, number: int) -> Any:
    """Judge that prefers the longer reply, or the first one if both are equally long."""
    first, second = shown(payload)
    return completion(verdict("second" if len(second) > len(first) else "first"), payload)


@pytest.fixture(scope="module")
def printed() -> list[str]:
    """Lines that the step `statistics` printed."""
    return []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, printed: list[str]) -> Path:
    """Contest of `mine` against two opponents under two length limits, with an expert on two pairs."""
    folder = tmp_path_factory.mktemp("winrate")
    replies(
        folder / "mine.jsonl", lambda prompt: f"{'Hm' if int(prompt[11:13]) % 3 else 'Hello there'}, {prompt[:13]}?"
    )
    replies(folder / "base.jsonl", lambda prompt: f"Hallo, {prompt[:13]}.")
    replies(folder / "other.jsonl", lambda prompt: f"Hi, {prompt[:13]}, tell me more." * (int(prompt[11:13]) % 2 + 1))
    pairs = [
        {
            "prompt": prompt,
            "reply_a": f"Hello there, {prompt[:13]}?",
            "reply_b": f"Hallo, {prompt[:13]}.",
            "better": side,
        }
        for prompt, side in ((PROMPTS[0], "a"), (PROMPTS[3], "b"))
    ]
    experts = write_jsonl(folder / "experts.jsonl", pairs)
    with model_server(change=Recorder(longer)) as server:
        config = contest(
            "evaluation=winrate", *data(folder), f"model.path={folder}/mine.jsonl", "replies.length_limits=[null,3]",
            f"against=[{folder}/base.jsonl,{folder}/other.jsonl]", f"evaluation.experts=[{experts}]",
            "judge=local_vllm", "judge.model=j", f"judge.addresses=[{server.address}/v1]",
        )  # fmt: skip
        files = context(config, folder / "contest", printed)
        for step in (replies_step, verdicts_step, statistics_step):
            del printed[:]
            step.run(files)
    return folder / "contest"


@pytest.fixture(scope="module")
def figures(folder: Path) -> WinrateFigures:
    figures: Any = read_json(folder / "figures.json")
    return figures


@pytest.fixture(scope="module")
def blocks(figures: WinrateFigures) -> list[Block]:
    return winrate_blocks([Titled("", figures)])


def win_rates(path: Path, verdict_of: str) -> dict[tuple[str, str], float]:
    """Return win rates by opponent and limit from the verdicts alone: mean over speeches of the mean of both orders."""
    sides = defaultdict[tuple[str, str], dict[str, list[int]]](lambda: defaultdict(list))
    for row in pq.read_table(path / "verdicts.parquet").to_pylist():
        limit = "no limit" if row["length_limit"] is None else f"at most {row['length_limit']} words"
        sides[row["second_setting"], limit][row["speech"]].append(row[verdict_of])
    return {
        key: sum((1 + sum(each) / len(each)) / 2 for each in speeches.values()) / len(speeches)
        for key, speeches in sides.items()
    }


def test_headlines_are_the_win_rates_of_the_verdicts(
    folder: Path, figures: WinrateFigures, blocks: list[Block]
) -> None:
    expected, table = win_rates(folder, "overall"), rows(blocks, "win-rates")
    assert {(row["against"], row["length limit"]) for row in table} == set(expected) and len(table) == 4
    variants = {variant["length_limit"]: variant for variant in figures["variants"]}
    for row in table:
        value, low, high = numbers(row["win rate"])
        assert value == pytest.approx(expected[row["against"], row["length limit"]])
        against = variants[None if row["length limit"] == "no limit" else 3]["opponents"][row["against"]]
        assert (value, low, high) == written(against["overall"]["win_rate"])
        assert numbers(row["at equal length"]) == written(against["length_controlled"]["win_rate"])
        assert (row["p"].value, row["Holm p"].value) == (against["p"], against["p_adjusted"])
        assert (row["speeches"], row["pairs"], row["model"]) == ("12", "12", "mine")
        assert row["note"] == "few clients"
    assert len({value for value, _, _ in map(numbers, column(table, "win rate"))}) > 1, (
        "otherwise mixed-up rows would go unnoticed"
    )


def test_experts_stand_beside_the_figures_they_spoke_of(blocks: list[Block]) -> None:
    table = {(row["against"], row["length limit"]): row for row in rows(blocks, "win-rates")}
    known = table["base", "no limit"]
    assert (numbers(known["judges and experts agree"])[0], known["pairs judged by experts"]) == (0.5, "2")
    assert table["other", "no limit"]["judges and experts agree"] is None
    agreement = rows(blocks, "judge-agreement")
    assert ("j", "expert experts", "2") in {(row["judge"], row["with"], row["pairs"]) for row in agreement}
    assert not [line for line in said(blocks) if "no expert" in line]


def test_principles_have_their_own_win_rates(folder: Path, blocks: list[Block]) -> None:
    table = rows(blocks, "win-rate-by-principle")
    assert column(table, "principle") == [*PRINCIPLES] * 4
    for name in PRINCIPLES:
        expected = win_rates(folder, name)
        for row in (row for row in table if row["principle"] == name):
            assert numbers(row["win rate"])[0] == pytest.approx(expected[row["against"], row["length limit"]])
    drawn = chart(blocks, "win-rate-principles")
    assert [*drawn.ticks] == [*PRINCIPLES] and drawn.reference == 0.5 and len(drawn.curves) == 4
    for curve in drawn.curves:
        assert [round(place) for place in curve.x["principle"]] == [*range(7)]


def test_the_overview_shows_each_comparison_at_its_own_place(folder: Path, blocks: list[Block]) -> None:
    drawn = chart(blocks, "win-rate-overview")
    overall = next(curve for curve in drawn.curves if curve.title == "win rate")
    expected = win_rates(folder, "overall")
    for place, value in zip(overall.x["comparison"], overall.y, strict=True):
        opponent = drawn.ticks[round(place)].removeprefix("mine against ").partition(", ")
        assert value == pytest.approx(expected[opponent[0], opponent[2] or "no limit"])


def test_a_judge_that_takes_the_first_place_is_told(folder: Path, blocks: list[Block]) -> None:
    texts = {row["reply"]: row["text"] for row in pq.read_table(folder / "replies.parquet").to_pylist()}
    verdicts = pq.read_table(folder / "verdicts.parquet").to_pylist()
    same = [
        len(texts[row["first_reply"]]) == len(texts[row["second_reply"]])
        for row in verdicts
        if row["order"] == "forward"
    ]
    for row in rows(blocks, "judge-bias"):
        assert numbers(row["contradicts itself"])[0] == pytest.approx(sum(same) / len(same))
        assert row["all its calls"] == "96 text"


def test_models_stand_on_one_scale(folder: Path, blocks: list[Block]) -> None:
    expected, table = win_rates(folder, "overall"), rows(blocks, "bradley-terry")
    for limit in ("no limit", "at most 3 words"):
        order = [row["model"] for row in table if row["length limit"] == limit]
        assert (order.index("mine") < order.index("base")) == (expected["base", limit] > 0.5)
        assert sum(numbers(row["Elo"])[0] for row in table if row["length limit"] == limit) == pytest.approx(3000)


def test_several_evaluations_share_the_tables(figures: WinrateFigures, blocks: list[Block]) -> None:
    again: WinrateFigures = {**figures, "warnings": ["warning: beware"], "left_out": 3}
    both = winrate_blocks([Titled("one", figures), Titled("two", again)])
    assert tables(both) == tables(blocks), "names of tables do not depend on the number of evaluations"
    assert column(rows(both, "win-rates"), "evaluation") == ["one"] * 4 + ["two"] * 4
    assert "evaluation" not in rows(blocks, "win-rates")[0]
    assert chart(both, "win-rate-overview").ticks[4].startswith("two: mine against base")
    assert "two: beware" in said(both, "warning")
    assert "two: skipped as near-duplicates of training data: 3 speeches." in said(both)
    assert "win-rate-seeds" not in tables(both), "one seed has no spread"


def test_what_cannot_be_told_is_a_warning(figures: WinrateFigures) -> None:
    variants = figures["variants"]
    ranking = variants[0]["ranking"]
    assert ranking is not None
    apart: RankingResult = {**ranking, "strengths": {}, "groups": [["mine", "base"], ["other"]]}
    unbounded: RankingResult = {**ranking, "groups": [["mine", "base", "other"]], "bounded": False}
    unknown: list[WinrateVariant] = [
        {**variants[0], "experts": [], "ranking": apart},
        {**variants[1], "experts": [], "ranking": unbounded},
        {**variants[1], "length_limit": 5, "opponents": {}, "experts": [], "ranking": None},
    ]
    assert said(winrate_blocks([Titled("", {**figures, "variants": unknown})]), "warning") == [
        *(line.removeprefix("warning: ") for line in figures["warnings"]),
        "no chain of comparisons links these groups: mine, base | other",
        "some models won, or lost, every comparison with others: their order on the one scale is valid, the distances are not "
        "(replies of at most 3 words)",
        "no verdicts, so win rates are unknown (replies of at most 5 words)",
        "no expert has compared these replies, so the judges' agreement with people is unknown",
    ]


def test_without_a_verdict_nothing_is_concluded(figures: WinrateFigures) -> None:
    """Cut and empty replies count as lost without a judge, which is no win rate."""
    withheld: Any = {**figures, "verdicts": {name: {"withheld": 9, "empty": 1} for name in figures["verdicts"]}}
    (conclusion,) = winrate_conclusions(withheld)
    assert conclusion.word == "undecided" and conclusion.text.startswith("No pair of replies has a verdict: ")


def test_the_step_prints_the_conclusions_and_writes_these_blocks(
    folder: Path, printed: list[str], blocks: list[Block], figures: WinrateFigures
) -> None:
    tables = (folder / "tables.txt").read_text().splitlines()
    assert [*filter(None, tables)] == [*filter(None, terminal_lines(blocks))]
    texts = [conclusion.text for conclusion in winrate_conclusions(figures)]
    assert len(texts) == 4 and [line for line in printed if line in texts] == texts


def test_with_several_training_seeds_the_sentence_has_the_interval_over_them(figures: WinrateFigures) -> None:
    opponents = figures["variants"][0]["opponents"]
    first = next(iter(opponents))
    seeds = {**opponents[first]["seeds"], "mean": 0.66, "interval": [0.14, 0.96], "over_seeds": True}
    changed: Any = {**figures["variants"][0], "opponents": {first: {**opponents[first], "seeds": seeds}}}
    (conclusion,) = winrate_conclusions({**figures, "variants": [changed]})
    assert conclusion.word == "undecided" and "66.0 % (14.0 to 96.0)" in conclusion.text
