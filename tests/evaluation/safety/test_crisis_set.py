"""The shipped crisis set: complete, labelled by the rubric's table, disjoint from the sample, without methods or numbers."""

import re
from collections import Counter
from pathlib import Path

import pytest

from psychocounsel.counsel.principles import ACTIONS, DISCLOSURES, RECENCIES, RISK_KINDS
from psychocounsel.counsel.risk_rules import NONE, UNKNOWN, read_risk_rules
from psychocounsel.counsel.rubric.rubric_folder import load_rubric
from psychocounsel.data.selection.near import near_matches, sketches
from psychocounsel.data.sources import load_examples
from psychocounsel.errors import UserError
from psychocounsel.evaluation.contestants.evaluation_speeches import client_words
from psychocounsel.evaluation.safety.crisis_speeches import crisis_speeches
from tests.support.harness import ROOT

SET = crisis_speeches()
AT_RISK = [each for each in SET if not each.look_alike]
LOOK_ALIKES = [each for each in SET if each.look_alike]
RUBRIC = load_rubric()
DANGERS = [kind for kind in RISK_KINDS if RUBRIC.risk.kinds[kind].role == "danger"]


def test_it_is_large_enough_and_covers_the_taxonomy() -> None:
    assert sum(each.expected_action != "none" for each in AT_RISK) >= 300 and len(LOOK_ALIKES) >= 120
    signs = Counter((each.kind, each.risks[0].disclosure) for each in AT_RISK)
    for kind in DANGERS:
        assert all(signs[kind, disclosure] >= 4 for disclosure in DISCLOSURES[1:])
    assert all(signs.total() and sum(signs[kind, each] for each in DISCLOSURES) >= 10 for kind in RISK_KINDS)
    assert {each.risks[0].recency for each in AT_RISK} == set(RECENCIES)
    actions = Counter(each.expected_action for each in AT_RISK)
    assert min(actions[action] for action in ACTIONS[1:]) >= 60
    assert {each.kind for each in LOOK_ALIKES} == set(DANGERS)


def test_the_expected_action_is_the_tables_unless_a_reason_stands_beside_it() -> None:
    for each in AT_RISK:
        by_table = RUBRIC.risk.most_urgent(each.risks)
        if each.because:
            assert ACTIONS.index(each.expected_action) > ACTIONS.index(by_table)
        else:
            assert each.expected_action == by_table, each.text
    assert all(each.expected_action == "none" and each.because for each in LOOK_ALIKES)


def test_no_speech_is_in_the_sample_or_the_rubric() -> None:
    texts = [each.text for each in SET]
    sample = {client_words(example.prompt) for example in load_examples("builtin:sample", "train", None)}
    rubric = {speech for principle in RUBRIC.principles.values() for speech in principle.speeches.values()}
    rubric |= {case.speech for case in RUBRIC.safety_questions.cases}
    assert near_matches(sketches(texts), sketches(sorted(sample | rubric)), 0.3) == set()
    assert len(sample) > 100


def test_speeches_differ_from_one_another() -> None:
    texts = [each.text for each in SET]
    for number, text in enumerate(texts):
        others = texts[:number] + texts[number + 1 :]
        if number % 20 == 0:
            assert near_matches(sketches([text]), sketches(others), 0.3) == set()
    assert all(100 <= len(text) <= 600 for text in texts)
    openings = Counter(" ".join(text.split()[:4]) for text in texts)
    assert openings.most_common(1)[0][1] <= 4


def test_nothing_in_it_tells_how_or_whom_to_call() -> None:
    amounts = re.compile(
        r"\b\d+\s*(?:mg|ml|g|milligrams?|tablets?|pills?|units?)\b|\b(?:paracetamol|ibuprofen|insulin)\b", re.I
    )
    numbers = re.compile(r"\b\d{3,}\b(?!s)")
    for each in SET:
        assert not amounts.search(each.text), each.text
        known_years = re.sub(r"\b(?:19|20|18)\d\d\b|\b800\b", "", each.text)
        assert not numbers.search(known_years), each.text


def test_what_the_documentation_says_of_the_shipped_cues_is_so() -> None:
    rules = read_risk_rules()
    seen = [each for each in SET if rules.of(each.text).kind not in (NONE, UNKNOWN)]
    due = [each for each in seen if each.expected_action != "none"]
    words = " ".join((ROOT / "docs" / "safety.md").read_text().split())
    all_due = sum(each.expected_action != "none" for each in SET)
    assert f"in {len(due)} of the {all_due} speeches that call for an action" in words
    assert f"in {sum(each.look_alike for each in seen)} of the {len(LOOK_ALIKES)} look-alikes" in words
    assert f"{len(AT_RISK)} speeches in all" in words


def test_a_set_with_faults_lists_them(tmp_path: Path) -> None:
    for file in (Path(__file__).parents[3] / "psychocounsel" / "evaluation" / "safety" / "crisis_set").glob("*.yaml"):
        (tmp_path / file.name).write_text(file.read_text())
    (tmp_path / "mania.yaml").unlink()
    abuse = tmp_path / "abuse.yaml"
    abuse.write_text(abuse.read_text().replace("expected_action: emergency", "expected_action: alarm", 1))
    with pytest.raises(UserError, match=r"mania\.yaml is missing.*abuse\.yaml.*expected_action must be one of"):
        crisis_speeches(tmp_path)
