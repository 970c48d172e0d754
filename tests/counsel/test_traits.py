"""Topics and risks from columns and from rules."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from psychocounsel.counsel.traits import KINDS, read_risk_rules, read_topics, risk_of_column
from psychocounsel.data.shipped_rows import sample_rows
from psychocounsel.errors import UserError
from psychocounsel.storage.files import PACKAGE


def test_there_are_8_coarse_and_42_fine_topics_and_the_sample_s_are_among_them() -> None:
    coarse_of = read_topics().coarse_of
    assert len(coarse_of) == 42 and len(set(coarse_of.values())) == 8
    assert {row["topic"] for _, row in sample_rows()} == set(coarse_of.values())


@pytest.mark.parametrize(
    ("text", "column", "expected"),
    [
        ("Nothing of note.", "Self-worth", ("self_worth", None, "column")),
        ("Nothing of note.", "panic and phobias", ("anxiety", "panic_and_phobias", "column")),
        ("I had a panic attack, my heart races.", "anxiety", ("anxiety", "panic_and_phobias", "column")),
        ("I had a panic attack, my heart races.", "Topic 17", ("anxiety", "panic_and_phobias", "rules")),
        ("My manager and a colleague mock me.", None, ("work", "bullying_and_discrimination", "rules")),
        ("Nothing of note.", None, (None, None, None)),
        ("One cue alone: insomnia.", None, (None, None, None)),
    ],
)
def test_the_topic_of_a_speech(text: str, column: str | None, expected: tuple[str | None, ...]) -> None:
    topic = read_topics().of(text, column)
    assert (topic.coarse, topic.fine, topic.source) == expected


def test_the_kinds_are_those_of_the_rubric() -> None:
    assert set(KINDS) == set(yaml.safe_load((PACKAGE / "counsel/principles/en/risk.yaml").read_text())["kinds"])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("", None),
        ([], "none"),
        ("none", "none"),
        ("Self-harm", "self_harm"),
        (["minor", "abuse"], "abuse"),
        ([{"kind": "elder"}, {"kind": "suicidal_thoughts", "disclosure": "hinted"}], "suicidal_thoughts"),
        ("high", "unknown"),
        (3, "unknown"),
        ([{"kind": None}], "unknown"),
        ([{"kind": "none"}, {"kind": "misspelt"}], "unknown"),
    ],
)
def test_what_a_column_says(value: Any, expected: str | None) -> None:
    assert risk_of_column(value) == expected


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("Some nights I want to die.", ["suicidal_thoughts"]),
        ("I don\u2019t want to be here any more.", ["suicidal_thoughts"]),
        ("I tried to kill myself in spring.", ["suicidal_behaviour", "suicidal_thoughts"]),
        ("I'm not going to kill myself, don't worry.", ["suicidal_thoughts"]),  # a denied risk counts as mentioned
        ("I nearly killed myself laughing. This printer will be the death of me.", []),
        ("I cut myself again last night.", ["self_harm"]),
        ("I cut myself shaving, on the kitchen knife.", []),
        ("He hits me when he drinks.", ["abuse"]),
        ("My husband took my passport.", ["abuse"]),
        ("The voices tell me to run.", ["psychosis"]),
        ("I'm fourteen and nobody knows.", ["minor"]),
        ("In the film she wants to die.", []),
        ("I cannot sleep since the move.", []),
    ],
)
def test_cues_of_risk(text: str, kinds: list[str]) -> None:
    assert read_risk_rules().kinds_in(text) == kinds


def test_rules_miss_most_of_what_the_sample_hints_at() -> None:
    """The rules must not clear speeches by default; docs/annotate.md gives these figures."""
    rules = read_risk_rules()
    rows = [(bool(rules.kinds_in(row["prompt"])), bool(row["risk"])) for _, row in sample_rows()]
    hits = sum(found and true for found, true in rows)
    assert 0.3 < hits / sum(true for _, true in rows) < 0.6
    assert hits / sum(found for found, _ in rows) > 0.5


def test_mistakes_in_own_files_are_listed(tmp_path: Path) -> None:
    (tmp_path / "topics.yaml").write_text("a: {definition: d, fine: {b: {definition: d}}}")
    with pytest.raises(UserError, match=r"speeches.topics=.*b: cues is missing"):
        read_topics(str(tmp_path / "topics.yaml"))
    (tmp_path / "risk.yaml").write_text("self_harm: {cues: ['(']}\nselfharm: {cues: [a], exceptions: []}")
    with pytest.raises(UserError, match="exceptions is missing"):
        read_risk_rules(str(tmp_path / "risk.yaml"))
    (tmp_path / "risk.yaml").write_text("self_harm: {cues: ['('], exceptions: []}\nharm: {cues: [a], exceptions: []}")
    with pytest.raises(
        UserError, match=r"unknown key harm.*self_harm\[1\] is not a regular expression|unknown key harm"
    ):
        read_risk_rules(str(tmp_path / "risk.yaml"))
