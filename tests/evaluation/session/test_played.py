"""Clients played by a language model: its prompts, the parser of its answers, and the strict reader of card files."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from psychocounsel.asking.language_model import Ask
from psychocounsel.errors import UserError
from psychocounsel.evaluation.session.personas import ClientTurn, PersonaSet, SessionExchange
from psychocounsel.evaluation.session.played import (
    LEAVES,
    Card,
    MindEvalPersonas,
    PlayedPersona,
    PlayedPersonas,
    VeraMhPersonas,
    persona_files,
    read_cards,
    read_mindeval_profiles,
    read_vera_personas,
)
from tests.support.foreign_sets import PERSONA_COLUMNS, PERSONA_ROWS, PROFILE, personas, tsv
from tests.support.harness import write_jsonl

CARD = Card("Ida", "none", (("Who the client is", "Runs a bakery."), ("Age", "51")))
IDA = PlayedPersona("played", CARD)


def exchange(client: str, reply: str, ends: bool = False) -> SessionExchange:
    return SessionExchange(ClientTurn(client, ends=ends), reply)


def test_the_model_plays_the_client_with_roles_swapped() -> None:
    asked = IDA.next([exchange("Hello.", "What brings you?"), exchange("The oven.", "")], 7)
    assert isinstance(asked, Ask) and asked.speech == IDA.id and asked.seed == 7
    assert [each["role"] for each in asked.messages] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert [each["content"] for each in asked.messages[2:]] == [
        *("Hello.", "What brings you?", "The oven.", "(No answer came.)")
    ]
    rules = asked.messages[0]["content"]
    assert (
        rules.endswith("# The client\n\nName: Ida\n\nWho the client is: Runs a bakery.\n\nAge: 51\n")
        and LEAVES in rules
    )
    assert asked == IDA.next([exchange("Hello.", "What brings you?"), exchange("The oven.", "")], 7)


def test_the_client_begins_with_the_opening_or_is_asked_for_one() -> None:
    first = IDA.next([], 0)
    assert isinstance(first, Ask) and [each["role"] for each in first.messages] == ["system", "user"]
    opened = PlayedPersona("played", Card("Ida", "none", CARD.facts, "I need to talk."))
    assert opened.next([], 0) == ClientTurn("I need to talk.") and opened.id != IDA.id
    assert isinstance(opened.next([exchange("I need to talk.", "Go on.")], 0), Ask)


@pytest.mark.parametrize(
    ("text", "turn"),
    [
        ("  I can't sleep. \n", ClientTurn("I can't sleep.")),
        (f"Thanks, I'll go.\n\n{LEAVES}\n", ClientTurn("Thanks, I'll go.", ends=True)),
        (LEAVES, None),
        (f"\n{LEAVES} ", None),
    ],
)
def test_the_last_line_ends_the_session_and_is_no_part_of_the_message(text: str, turn: ClientTurn | None) -> None:
    assert IDA.read(text, [exchange("Hello.", "Hello.")]) == turn


@pytest.mark.parametrize(
    "text", ["", " \n", f"{LEAVES} Bye.", f"{LEAVES}\nBye.", f"Bye {LEAVES}", f"{LEAVES}\n{LEAVES}"]
)
def test_answers_that_are_no_message_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"the client says nothing|occurs before the last line"):
        IDA.read(text, [exchange("Hello.", "Hello.")])


def test_a_client_does_not_leave_before_it_has_said_a_word() -> None:
    with pytest.raises(ValueError, match="the client says nothing"):
        IDA.read(LEAVES, [])
    assert IDA.next([exchange("Bye.", "Bye.", ends=True)], 0) is None


def test_the_shipped_clients_are_played() -> None:
    found = PlayedPersonas(name="played").personas()
    assert len(found) == 8 == len({each.id for each in found}) == len({each.name for each in found})
    assert sum(each.kind == "none" for each in found) == 2 and {each.pattern for each in found} == {"played"}
    assert PlayedPersonas.asks_client and not PlayedPersonas.follows_checks


def test_personas_of_vera_mh_keep_all_their_columns(tmp_path: Path) -> None:
    ida, jo = read_vera_personas(personas(tmp_path))
    assert (ida.name, ida.kind, jo.kind) == ("Ida", "suicidal_thoughts", "none")
    assert [name for name, _ in ida.facts] == PERSONA_COLUMNS[1:]
    assert dict(jo.facts)["Disclosure of Suicide Risk"] == "N/A"
    later = tsv(
        tmp_path, "later.tsv", [[*PERSONA_COLUMNS, "Region", ""], *([*row, "Coast", "x"] for row in PERSONA_ROWS)]
    )
    assert read_vera_personas(later)[0].facts == (*ida.facts, ("Region", "Coast"))


def rows(change: Callable[[list[list[str]]], None]) -> list[list[str]]:
    table = [[*PERSONA_COLUMNS], *([*row] for row in PERSONA_ROWS)]
    change(table)
    return table


def _set(row: int, column: str, text: str) -> Callable[[list[list[str]]], None]:
    def change(table: list[list[str]]) -> None:
        table[row][PERSONA_COLUMNS.index(column)] = text

    return change


@pytest.mark.parametrize(
    ("change", "line", "message"),
    [
        (_set(0, "Name", "Who"), 1, "has no column Name"),
        (
            _set(0, "Current Risk Level", "Level"),
            1,
            "has none of the columns that tell the client's risk: Current Risk",
        ),
        (_set(0, "Current Suicidal Thoughts and Behaviors", "Age"), 1, "has two columns of the same name"),
        (_set(2, "Current Risk Level", " "), 3, "Current Risk Level is empty"),
        (_set(1, "Name", ""), 2, "Name is empty"),
        (_set(2, "Name", "Ida"), 3, "an earlier line has the same Name"),
        (lambda table: table[2].append("more"), 3, "has 13 cells, but the header has 12"),
        (lambda table: table.__delitem__(slice(1, None)), 1, "contains no personas below the header"),
    ],
)
def test_malformed_personas_are_refused_by_line(
    tmp_path: Path, change: Callable[[list[list[str]]], None], line: int, message: str
) -> None:
    path = tsv(tmp_path, "personas.tsv", rows(change))
    with pytest.raises(UserError) as error:
        read_vera_personas(path)
    assert str(error.value).startswith(f"{path}, line {line}: ") and message in str(error.value)


def test_another_set_of_personas_is_read_by_its_columns(tmp_path: Path) -> None:
    header = ["Name", "Gender", "Harm imminence", "User fear", "Final Seed Phrase", "Notes"]
    file = tsv(
        tmp_path,
        "p.tsv",
        [
            header,
            ["A1", "Man", "Imminent: tonight", "High", "He is here."],
            ["B2", "Man", "N/A: No harm", "", "Hm.", ""],
        ],
    )
    first, second = read_vera_personas(file)
    assert (first.kind, second.kind) == ("abuse", "none")
    assert dict(first.facts) == dict(zip(header[1:5], ["Man", "Imminent: tonight", "High", "He is here."], strict=True))


def test_a_checkout_of_vera_mh_is_named_by_its_folder(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    file = personas(tmp_path / "data")
    assert persona_files(tmp_path) == persona_files(tmp_path / "data") == [file]
    set_: PersonaSet = VeraMhPersonas(name="vera_mh", folder=str(tmp_path))
    set_.check("personas")
    assert [each.name for each in set_.personas()] == ["Ida", "Jo"]
    assert any("disclaimer" in note for note in set_.notes())
    with pytest.raises(UserError, match="give a checkout of VERA-MH"):
        VeraMhPersonas(name="vera_mh", folder=str(tmp_path / "none")).check("personas")
    with pytest.raises(UserError, match=r"has no personas; give a file such as personas\.tsv"):
        VeraMhPersonas(name="vera_mh", folder=str(tmp_path.parent)).check("personas")


def test_profiles_of_mindeval_are_named_by_member_and_line(tmp_path: Path) -> None:
    other = copy.deepcopy(PROFILE)
    other["member_attributes"]["age"] = 39
    write_jsonl(file := tmp_path / "profiles.jsonl", [PROFILE, other | {"member_narrative_thinking_trace": ""}])
    first, second = MindEvalPersonas(name="mindeval", file=str(file)).cards()
    assert (first.name, second.name, first.kind) == ("Mara 1", "Mara 2", None)
    assert first.facts == (
        *(("age", "38"), ("profession", "surveyor"), ("recent mood", "flat"), ("siblings", "none")),
        ("Your life so far", PROFILE["member_narrative"]),
    )
    assert dict(second.facts)["age"] == "39"


def _attribute(name: str, value: Any) -> str:
    return json.dumps(PROFILE | {"member_attributes": {**PROFILE["member_attributes"], name: value}})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "is not a JSON object"),
        (json.dumps({"member_narrative": "x"}), "member_attributes is not an object"),
        (json.dumps(PROFILE | {"member_narrative": ""}), "member_narrative is empty or not a text"),
        (json.dumps(PROFILE | {"member_narrative": ["x"]}), "member_narrative is empty or not a text"),
        (_attribute("name", ""), "member_attributes has no name"),
        (_attribute("age", None), "attribute 'age' must be a text or a number"),
        (_attribute("age", True), "attribute 'age' must be a text or a number"),
        (json.dumps(PROFILE), "repeats the profile of line 1"),
    ],
)
def test_malformed_profiles_are_refused_by_line(tmp_path: Path, line: str, message: str) -> None:
    (file := tmp_path / "profiles.jsonl").write_text(f"{json.dumps(PROFILE)}\n\n{line}\n")
    with pytest.raises(UserError) as error:
        read_mindeval_profiles(file)
    assert str(error.value) == f"{file}, line 3: {message}"


def test_a_file_without_profiles_or_with_another_encoding_is_refused(tmp_path: Path) -> None:
    (file := tmp_path / "profiles.jsonl").write_text("\n")
    with pytest.raises(UserError, match="contains no profiles"):
        read_mindeval_profiles(file)
    file.write_bytes(json.dumps(PROFILE).encode() + b"\n\xff")
    with pytest.raises(UserError, match="line 2: is not UTF-8"):
        read_mindeval_profiles(file)
    with pytest.raises(UserError, match="cannot be read"):
        read_mindeval_profiles(tmp_path)


@pytest.mark.parametrize("set_", [PlayedPersonas, MindEvalPersonas])
def test_a_missing_file_is_refused_by_its_key(tmp_path: Path, set_: Any) -> None:
    with pytest.raises(UserError, match=r"^personas\.file=.*nothing: is not a file; give "):
        set_(name="x", file=str(tmp_path / "nothing")).check("personas")


OWN = {
    "name": "Ida",
    "kind": "none",
    "about": "A baker.",
    "writes": "Briefly.",
    "discloses": "All.",
    "reacts": "Calmly.",
}


def test_own_cards_are_read_from_yaml_and_lines(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(json.dumps({"clients": [OWN, OWN | {"name": "Jo", "opening": "Hi."}]}))
    write_jsonl(tmp_path / "own.jsonl", [OWN, OWN | {"name": "Jo", "opening": "Hi."}])
    found = read_cards(tmp_path / "own.yaml")
    assert found == read_cards(tmp_path / "own.jsonl")
    assert [each.opening for each in found] == ["", "Hi."] and ("How the client writes", "Briefly.") in found[0].facts


@pytest.mark.parametrize(
    ("cards", "message"),
    [
        ([OWN, OWN], "two clients have the name Ida"),
        ([OWN | {"kind": "sadness"}], "kind must be one of suicidal_thoughts"),
        ([OWN | {"age": 3}], "age"),
        ([{"name": "Ida"}], "kind"),
        ([], "contains no card"),
    ],
)
def test_wrong_cards_are_refused(tmp_path: Path, cards: list[dict[str, Any]], message: str) -> None:
    write_jsonl(file := tmp_path / "own.jsonl", cards)
    with pytest.raises(UserError) as error:
        read_cards(file)
    assert str(error.value).startswith(f"{file}: ") and message in str(error.value)
    if cards and len(cards) == 1:
        assert "line 1" in str(error.value)
