"""The shipped crisis set and its swaps: complete, original, with the right labels; experts' reviews; wrong files."""

import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
import yaml

from psychocounsel.counsel.principles import ACTIONS, DISCLOSURES, RECENCIES, RISK_KINDS, allowed_actions
from psychocounsel.counsel.rubric import load_rubric
from psychocounsel.counsel.traits import NONE, UNKNOWN, read_risk_rules
from psychocounsel.data.near_duplicates import near_matches, sketches
from psychocounsel.data.selection import speech_hash
from psychocounsel.data.sources import load_examples
from psychocounsel.errors import UserError
from psychocounsel.evaluation.contestants.speeches import client_words
from psychocounsel.evaluation.safety.speeches import (
    AXES,
    COLUMNS,
    NOT_VALIDATED,
    SHIPPED_SWAPS,
    VARIETIES,
    crisis_speeches,
    is_swap,
    of_the_set,
    read_set_review,
    swapped_speeches,
    validation,
)
from psychocounsel.evaluation.session.scripted import ScriptedPersonas
from tests.support.harness import ROOT

# The shipped crisis set: complete, labelled by the rubric's table, disjoint from the sample, without methods or
# numbers.

SET = crisis_speeches()
AT_RISK = [each for each in SET if not each.look_alike]
LOOK_ALIKES = [each for each in SET if each.look_alike]
DUE = [each for each in SET if allowed_actions(each.expected_action)[0] in ACTIONS[1:]]
RUBRIC = load_rubric()
DANGERS = [kind for kind in RISK_KINDS if RUBRIC.risk.kinds[kind].role == "danger"]


def test_it_is_large_enough_and_covers_the_taxonomy() -> None:
    assert len(AT_RISK) >= 300 and len(DUE) >= 250 and len(LOOK_ALIKES) >= 120
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
        assert (each.expected_action != by_table) == bool(each.because), each.text
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
    due = [each for each in seen if each in DUE]
    words = " ".join((ROOT / "docs" / "safety.md").read_text().split())
    assert f"in {len(due)} of the {len(DUE)} speeches that call for an action" in words
    assert f"in {sum(each.look_alike for each in seen)} of the {len(LOOK_ALIKES)} look-alikes" in words
    assert f"{len(AT_RISK)} speeches in all" in words


def test_training_knows_every_speech_that_is_measured_on() -> None:
    turns = [state.says for persona in ScriptedPersonas().personas() for state in persona.script.states.values()]
    texts = [*(each.text for each in SET), *(each.text for each in SWAPS), *turns]
    file = ROOT / "psychocounsel" / "data" / "test_speeches.yaml"
    assert yaml.safe_load(file.read_text()) == sorted({speech_hash(text) for text in texts})


def test_a_set_with_faults_lists_them(tmp_path: Path) -> None:
    for file in (Path(__file__).parents[3] / "psychocounsel" / "evaluation" / "safety" / "crisis_set").glob("*.yaml"):
        (tmp_path / file.name).write_text(file.read_text())
    (tmp_path / "mania.yaml").unlink()
    abuse = tmp_path / "abuse.yaml"
    abuse.write_text(abuse.read_text().replace("expected_action: emergency", "expected_action: alarm", 1))
    with pytest.raises(UserError, match=r"mania\.yaml is missing.*abuse\.yaml.*expected_action must be one of"):
        crisis_speeches(tmp_path)


# The shipped swaps: each has a base in the crisis set and a unique text. Wrong files are rejected.

BY_SPEECH = {each.speech: each for each in crisis_speeches()}
SWAPS = swapped_speeches()
BASES = {each.base for each in SWAPS}


def test_every_base_has_each_axis_once_and_the_bases_are_spread() -> None:
    assert all(BY_SPEECH[each.base.speech] == each.base for each in SWAPS)
    assert Counter((each.base.speech, each.axis) for each in SWAPS) == {
        (base.speech, axis): 1 for base in BASES for axis in AXES
    }
    assert len(BASES) >= 40
    assert {base.kind for base in BASES if not base.look_alike} == set(RISK_KINDS)
    assert sum(base.look_alike for base in BASES) >= 5
    actions = Counter(base.expected_action for base in BASES)
    assert min(actions[action] for action in ACTIONS) >= 6
    disclosures = Counter(base.risks[0].disclosure for base in BASES if base.risks)
    assert min(disclosures[each] for each in ("hinted", "denied", "reported", "stated", "planned")) >= 5
    varieties = Counter(each.change for each in SWAPS if each.axis == "dialect")
    assert set(varieties) == set(VARIETIES) and min(varieties.values()) >= 4


def test_ids_are_in_order_and_name_base_and_axis() -> None:
    ids = [each.speech for each in SWAPS]
    assert ids == sorted(ids) == sorted(f"{base.speech}-{axis}" for base in BASES for axis in AXES)
    assert all(map(is_swap, ids)) and not any(map(is_swap, (*BY_SPEECH, "seeded-000")))
    rows = [{"speech": each} for each in sorted([*ids, *BY_SPEECH])]
    assert [row["speech"] for row in of_the_set(rows)] == sorted(BY_SPEECH)


def test_variants_differ_from_their_base_and_from_every_other_text() -> None:
    texts = [
        " ".join(text.split()) for text in (*(each.text for each in SWAPS), *(each.text for each in BY_SPEECH.values()))
    ]
    assert len(set(texts)) == len(texts)
    for each in SWAPS:
        assert 90 <= len(each.text) <= 600
        shared = set(words(each.text)) & set(words(each.base.text))
        # A dialect changes nearly all words, another gender or age only a few.
        assert len(shared) / len(set(words(each.base.text))) > (0.2 if each.axis == "dialect" else 0.6), each.text


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower().replace("'", ""))


def runs(text: str) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[place : place + 8]) for place in range(len(found) - 7)}


def test_no_eight_words_in_a_row_stand_in_the_sample_or_the_rubric() -> None:
    rubric = load_rubric()
    others = [client_words(example.prompt) for example in load_examples("builtin:sample", "train", None)]
    others += [speech for principle in rubric.principles.values() for speech in principle.speeches.values()]
    others += [case.speech for case in rubric.safety_questions.cases]
    known = {run for text in others for run in runs(text)}
    assert len(known) > 3000
    assert not [each.text for each in SWAPS if runs(each.text) & known]


def test_nothing_in_them_tells_an_amount_or_a_number_to_call() -> None:
    amounts = re.compile(r"\b\d+\s*(?:mg|ml|g|milligrams?|tablets?|pills?|units?)\b|\d{3,}", re.I)
    assert not [each.text for each in SWAPS if amounts.search(each.text)]


def test_who_is_old_or_young_stays_as_much_a_minor_as_before() -> None:
    """No variant turns an adult into a minor or a minor into an adult, because the risk `minor` changes the expected action."""
    young = re.compile(
        r"\b(?:i'm|we're|who's) (?:only )?(?:ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen)\b", re.I
    )
    for each in SWAPS:
        assert bool(young.search(each.text)) == bool(young.search(each.base.text)), each.text


def test_the_documentation_names_how_many_there_are() -> None:
    said = " ".join((ROOT / "docs" / "safety.md").read_text().split())
    assert f"{len(BASES)} speeches of the crisis set" in said and f"{len(SWAPS)} variants" in said
    comment = (ROOT / "conf" / "evaluation" / "safety.yaml").read_text()
    assert f"repeat {len(BASES)} speeches" in comment and f"saves {len(SWAPS)} replies" in comment


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("  - base: >-\n      He", "  - base: >-\n      She", r"swaps\[\d\]: the base is not the exact text of a crisis speech"),
        ("variety: Scottish", "variety: Scotish", r"variety must be one of African American, .*Singaporean"),
        ("    age:\n", "    ages:\n", r"age is missing.*unknown key ages \(did you mean age\?\)"),
        ("swaps:\n", "swaps: []\nmore:\n", r"abuse\.yaml: swaps needs 1 entry"),
        ("change: wife to husband", "change: ", "change must be text"),
        ("swaps:\n", "swaps\n", r"abuse\.yaml is not valid YAML"),
    ],
)  # fmt: skip
def test_a_file_with_faults_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    folder = Path(shutil.copytree(SHIPPED_SWAPS, tmp_path / "swaps"))
    text = (folder / "abuse.yaml").read_text()
    assert old in text
    (folder / "abuse.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=rf"^swaps {folder}: .*{said}") as refused:
        swapped_speeches(folder)
    assert "\n" not in str(refused.value)


def test_a_missing_file_a_base_twice_and_words_twice_are_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SHIPPED_SWAPS, tmp_path / "swaps"))
    (folder / "mania.yaml").unlink()
    elder = yaml.safe_load((folder / "elder.yaml").read_text())["swaps"]
    elder[1]["gender"]["speech"] = elder[1]["base"].upper()
    elder[1]["age"]["speech"] = elder[0]["age"]["speech"]
    (folder / "elder.yaml").write_text(yaml.safe_dump({"swaps": [*elder, elder[0]]}))
    again = "has the same words as another variant or a speech of the set"
    with pytest.raises(UserError) as refused:
        swapped_speeches(folder)
    assert str(refused.value) == f"swaps {folder}: " + "; ".join(
        [
            "mania.yaml is missing",
            f"elder.yaml: swaps[2]: gender: {again}",
            f"elder.yaml: swaps[2]: age: {again}",
            "elder.yaml: swaps[3]: the base occurs twice",
        ]
    )


# Experts' reviews of the crisis set: the sentence in outputs, and rejected tables with the line of the error.

KNOWN = {each.speech: each for each in SET}
HEAD = ",".join(COLUMNS)


def line(
    number: int, expert: str = "e01", action: str | None = None, believable: str = "yes", comment: str = ""
) -> str:
    speech = SET[number]
    return f'{speech.speech},{action or allowed_actions(speech.expected_action)[-1]},{believable},{expert},"{comment}"'


def written(folder: Path, *lines: str) -> str:
    file = folder / "set_review.csv"
    file.write_text("\n".join([HEAD, *lines]) + "\n")
    return str(file)


def test_without_a_review_no_clinician_has_reviewed_it() -> None:
    assert validation(None, SET) == NOT_VALIDATED


def test_experts_speeches_and_agreement_are_counted(tmp_path: Path) -> None:
    """Three experts review speeches 0 to 3: 7 of 9 answers are the expected action, and speech 3 has only one expert."""
    other = next(action for action in ACTIONS if action not in allowed_actions(SET[1].expected_action))
    rows = [line(number, expert) for number in (0, 2) for expert in ("e01", "e02", "e03")]
    rows += [line(1, "e01", other), line(1, "e02", "cannot_tell", "no"), line(3, "e03", comment="two\nlines, one cell")]
    file = written(tmp_path, *rows)
    assert validation(file, SET) == (
        f"3 experts reviewed 4 of {len(SET)} speeches of the crisis set, and agree with 78 % of the expected actions; "
        "only one expert reviewed 1 speech"
    )
    found = read_set_review(Path(file), KNOWN)
    assert [(each.expected_action, each.believable) for each in found[6:8]] == [(other, True), ("cannot_tell", False)]
    alone = written(tmp_path, line(0), line(1))
    assert validation(alone, SET).startswith("1 expert reviewed 2 of")
    assert validation(alone, SET).endswith(
        "agree with 100 % of the expected actions; only one expert reviewed 2 speeches"
    )


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "contains no reviews"),
        (
            [line(0), line(1, action="urgent")],
            "line 3: expected_action must be one of none, monitor, same_day, emergency",
        ),
        ([line(0, believable="maybe")], "line 2: believable must be one of yes, no"),
        (["0000000000000000,none,yes,e01,"], "line 2: no speech of this crisis set has this id"),
        ([line(0, expert=" ")], "line 2: adjudicator is empty"),
        ([line(0), line(1), line(0)], "line 4: the same speech and adjudicator as in line 2"),
        ([line(0, comment="a\nb"), line(0)], "line 4: the same speech and adjudicator as in line 3"),
        ([line(0) + ",more"], "line 2: must have 5 cells"),
        ([line(0).rpartition(",")[0]], "line 2: must have 5 cells"),
        ([line(0) + '"x'], "is not a CSV table"),
    ],
)
def test_what_is_no_review_is_refused_by_line(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        read_set_review(Path(written(tmp_path, *lines)), KNOWN)
    assert "evaluation.set_review=" in str(refused.value) and SET[0].text not in str(refused.value)


def test_a_file_of_other_columns_or_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.csv"
    file.write_text("speech,expected_action\n")
    with pytest.raises(UserError, match="line 1: the columns must be speech, expected_action, believable"):
        read_set_review(file, KNOWN)
    file.write_bytes(HEAD.encode() + b"\n\xff\xff")
    with pytest.raises(UserError, match="is not UTF-8 text"):
        read_set_review(file, KNOWN)
    with pytest.raises(UserError, match="No such file"):
        read_set_review(tmp_path / "none.csv", KNOWN)
