"""Finished conversations in VERA-MH's and MindEval's formats; errors in malformed files name the line."""

import json
from pathlib import Path
from typing import Any

import pytest

from psychocounsel.errors import UserError
from psychocounsel.evaluation.session.transcripts import read_transcripts
from tests.support.foreign_sets import CONVERSATION, PROFILE
from tests.support.harness import write_jsonl

TURNS = (
    (
        "Hello. I don't know why I write.\n\nIt has been a long week.",
        "What made it long?\n\n- work\n- home\n\nNote: you can take your time.",
    ),
    ("Everything. I'd rather not wake up.", "I hear that. Are you safe tonight?"),
)


def test_replies_keep_their_empty_lines(tmp_path: Path) -> None:
    folder = tmp_path / "p_one__a_two"
    folder.mkdir()
    (folder / "1a2b3c_Ida_one_run2.txt").write_text(CONVERSATION)
    (folder / "other.txt").write_text(CONVERSATION.replace("agent:", "chatbot:").replace("\n", "\r\n"))
    ida, other = read_transcripts(tmp_path)
    assert ida.turns == other.turns == TURNS
    assert (ida.persona, ida.setting, other.persona) == ("Ida", "p_one__a_two", "other") and ida.id != other.id
    assert read_transcripts(folder / "other.txt") == [other]


def test_last_words_without_a_reply_and_marks_of_the_end_are_left_out(tmp_path: Path) -> None:
    (file := tmp_path / "a.txt").write_text(
        f"{CONVERSATION}\nuser: Thank you, I'm done.\n[CONVERSATION ENDED - one signaled termination]\n"
    )
    assert read_transcripts(file)[0].turns == TURNS
    file.write_text("chatbot: Hello?\n\nuser: Hi.\n\nchatbot: user: is a word, too.\nuser: so is this.\n")
    assert read_transcripts(file)[0].turns == (("", "Hello?"), ("Hi.", "user: is a word, too.\nuser: so is this."))


def test_a_reply_may_be_empty(tmp_path: Path) -> None:
    (file := tmp_path / "a.txt").write_text("user: Hello.\n\nagent: \n\nuser: Anybody?\n\nagent: Yes.\n")
    assert read_transcripts(file)[0].turns == (("Hello.", ""), ("Anybody?", "Yes."))


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "contains no turn"),
        ("\n\nHello.\n", 3, "must start with user:, agent: or chatbot:"),
        ("User: Hello.\n\nagent: Hi.", 1, "must start with user:"),
        ("user: Hello.\n\nuser: Hello?\n", 3, "the client has two turns in a row"),
        ("user: Hello.\n\nagent: Hi.\n\nagent: Hm.\n", 5, "the counsellor has two turns in a row"),
        ("user: Hello.\n\nagent:\n\nuser: Hi.\n", 5, "the counsellor has no text in any turn"),
        ("user: Hello.\n", 1, "the counsellor has no text in any turn"),
    ],
)
def test_malformed_texts_are_refused_by_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    (file := tmp_path / "a.txt").write_text(text)
    with pytest.raises(UserError) as error:
        read_transcripts(tmp_path)
    assert str(error.value).startswith(f"{file}, line {line}: ") and message in str(error.value)


def messages(*texts: str, first: str = "user") -> list[dict[str, str]]:
    roles = ("user", "assistant") if first == "user" else ("assistant", "user")
    return [{"role": roles[number % 2], "content": text} for number, text in enumerate(texts)]


def test_interactions_and_annotated_conversations(tmp_path: Path) -> None:
    member = PROFILE["member_attributes"]
    rows: list[dict[str, Any]] = [
        {"member_profile": member, "interaction": messages("Hello", "Hi. What brings you?", "The flood.")},
        {
            "member_attributes": member,
            "messages": messages("Hi Mara.", "Hi.", "Go on.", first="assistant"),
            "model": "m",
        },
        {"messages": messages("Hello", "Hi.")},
    ]
    write_jsonl(file := tmp_path / "interactions.jsonl", rows)
    one, two, three = read_transcripts(file)
    assert one.turns == (("Hello", "Hi. What brings you?"),) and two.turns == (("", "Hi Mara."), ("Hi.", "Go on."))
    assert one.persona == two.persona and one.persona.startswith("Mara ") and three.persona == "interactions 3"
    assert (one.setting, two.setting) == ("interactions", "m")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"turns": []}, "must contain the key interaction or messages"),
        ({"messages": []}, "messages is not a list of messages"),
        ({"interaction": "user: Hi"}, "interaction is not a list of messages"),
        ({"messages": [{"role": "system", "content": "Hi"}]}, "lacks a role"),
        ({"messages": [{"role": "user"}]}, "lacks a role (user or assistant) or a text as content"),
        ({"messages": messages("Hi", " ")}, "the counsellor has no text in any turn"),
        ({"messages": [*messages("Hi"), *messages("Hi", "Ho")]}, "the client has two turns in a row"),
    ],
)
def test_malformed_lines_are_refused_by_line(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    (file := tmp_path / "a.jsonl").write_text(f"{json.dumps({'messages': messages('Hi', 'Ho')})}\n{json.dumps(row)}\n")
    with pytest.raises(UserError) as error:
        read_transcripts(file)
    assert str(error.value).startswith(f"{file}, line 2: ") and message in str(error.value)


def test_a_folder_without_conversations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"contains no \.txt or \.jsonl file"):
        read_transcripts(tmp_path)
    (tmp_path / "a.jsonl").write_text("\n")
    with pytest.raises(UserError, match="contains no conversations"):
        read_transcripts(tmp_path)
