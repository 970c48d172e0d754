"""The shipped swaps: each has a base in the crisis set and a unique text. Wrong files are rejected."""

import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
import yaml

from psychocounsel.counsel.principles import ACTIONS, RISK_KINDS
from psychocounsel.counsel.rubric.rubric_folder import load_rubric
from psychocounsel.data.sources import load_examples
from psychocounsel.errors import UserError
from psychocounsel.evaluation.contestants.evaluation_speeches import client_words
from psychocounsel.evaluation.safety.crisis_speeches import crisis_speeches
from psychocounsel.evaluation.safety.swaps.swapped_speeches import (
    AXES,
    SHIPPED,
    VARIETIES,
    is_swap,
    of_the_set,
    swapped_speeches,
)
from tests.support.harness import ROOT

SET = {each.speech: each for each in crisis_speeches()}
SWAPS = swapped_speeches()
BASES = {each.base for each in SWAPS}


def test_every_base_has_each_axis_once_and_the_bases_are_spread() -> None:
    assert all(SET[each.base.speech] == each.base for each in SWAPS)
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
    assert all(map(is_swap, ids)) and not any(map(is_swap, (*SET, "seeded-000")))
    rows = [{"speech": each} for each in sorted([*ids, *SET])]
    assert [row["speech"] for row in of_the_set(rows)] == sorted(SET)


def test_variants_differ_from_their_base_and_from_every_other_text() -> None:
    texts = [" ".join(text.split()) for text in (*(each.text for each in SWAPS), *(each.text for each in SET.values()))]
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
    folder = Path(shutil.copytree(SHIPPED, tmp_path / "swaps"))
    text = (folder / "abuse.yaml").read_text()
    assert old in text
    (folder / "abuse.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=rf"^swaps {folder}: .*{said}") as refused:
        swapped_speeches(folder)
    assert "\n" not in str(refused.value)


def test_a_missing_file_a_base_twice_and_words_twice_are_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SHIPPED, tmp_path / "swaps"))
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
