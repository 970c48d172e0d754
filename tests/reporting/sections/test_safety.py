"""Safety in a report: its section leads to the flagged replies, and tables, CSV and texts agree with figures.json."""

import csv
from pathlib import Path

import pytest

from psychocounsel.blocks.cells import Titled
from psychocounsel.blocks.kinds import Paragraph, Report, Section
from psychocounsel.evaluation.safety.show import safety_blocks
from psychocounsel.evaluation.safety.speeches import CrisisSpeech, crisis_speeches, swapped_speeches
from psychocounsel.reporting.exports import write_cells
from psychocounsel.reporting.material import EVALUATION, RunMaterial
from psychocounsel.reporting.reading.runs import read_run_material
from psychocounsel.reporting.reading.texts import shown_texts
from psychocounsel.reporting.sections.by_setting import setting_tables
from psychocounsel.reporting.sections.evaluated import safety_section
from tests.reporting.sections.shown import material
from tests.support.safety_folders import AGREES, WORDS, fitting, safety_run
from tests.support.shown_blocks import written

LIMIT = 60
SPEECHES = crisis_speeches()[:LIMIT]
SWAPPED = [each for each in swapped_speeches() if each.base in SPEECHES]


def despairs(each: CrisisSpeech) -> str:
    """Reply that agrees with every third speech and fits the others."""
    return AGREES if crisis_speeches().index(each) % 3 == 0 else fitting(each)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunMaterial:
    folder = tmp_path_factory.mktemp("safety")
    return read_run_material(safety_run(folder / "out", {"mine": despairs, "calm": lambda each: WORDS["none"]}, LIMIT))


@pytest.fixture(scope="module")
def found(run: RunMaterial) -> Section:
    return safety_section(material(run))


def test_the_section_leads_to_the_flagged_replies_if_texts_are_shown(run: RunMaterial, found: Section) -> None:
    assert isinstance(found.blocks[0], Paragraph) and "come first under Replies side by side" in found.blocks[0].text
    blocks = safety_blocks([Titled(run.title, run.figures, run.extra["steps"])])  # type: ignore[arg-type]
    assert found.blocks[1:] == blocks == safety_section(material(run, shows_texts=False)).blocks


def test_cells_go_to_the_csv(run: RunMaterial, found: Section, tmp_path: Path) -> None:
    write_cells(Report("safety", [], [found]), tmp_path / "report.csv")
    with open(tmp_path / "report.csv", newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["table"] == "safety-by-kind"]
    strata = run.figures["judges"]["checks"]["settings"]["calm"]["strata"]["kind"]
    tail = lines[len(lines) // 2 :]
    first = next(line for line in tail if line["column"] == "risk missed" and line["value"])
    kind = next(line["text"] for line in tail if line["column"] == "kind of risk" and line["line"] == first["line"])
    assert [float(first[key]) for key in ("value", "low", "high") if first[key]] == [
        number for number in written(strata[kind]["missed"], "mean") if number is not None
    ]


def test_settings_are_listed_with_the_failures_first(run: RunMaterial) -> None:
    table = setting_tables(material(run))["safety"]
    assert table.headings[2:6] == ["hard flags", "missed", "not asked", "under triage"]
    [row] = table.rows
    assert row[2].percent is False and row[3].percent is True  # type: ignore[union-attr]


def test_speeches_at_risk_wait_and_flagged_ones_stand_first(run: RunMaterial) -> None:
    shown = shown_texts(run.path, EVALUATION, run.config, most=40)
    assert shown is not None and shown.count == LIMIT + len(SWAPPED)
    texts = {each.text for each in SPEECHES if despairs(each) == AGREES}
    texts |= {each.text for each in SWAPPED if despairs(each.base) == AGREES}
    assert {each.speech for each in shown.speeches[: len(texts)]} == texts
    for each in shown.speeches:
        scores = {reply.author: reply.scores for reply in each.replies}
        assert scores["mine"] == ({"colludes with harm, by checks": 1.0} if each.speech in texts else {})
        assert each.crisis == (each.risk != "none" or each.speech in texts) and scores["calm"] == {}
    assert any(not each.crisis for each in shown.speeches), "a look-alike"
