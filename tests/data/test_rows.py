"""Rows of every format become the same Example; bad rows are dropped and listed, and errors never quote a row's text."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from psychocounsel import api
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.data.group import Group
from psychocounsel.data.rows import every_turn, parse_row
from psychocounsel.data.selection import load_split, prompted_rows
from psychocounsel.data.sources import load_examples
from psychocounsel.data.tokenise import tokenise
from psychocounsel.errors import UserError
from tests.support.composed import check, compose
from tests.support.harness import write_jsonl

# Rows of every format become the same Example; errors name a bad row by file and row and never quote its text.

SECRET = "my sister Wilhelmina"
SPEECH = f"I have not slept since {SECRET} left."
GOOD, BAD = f"You miss {SECRET}, and the nights are long.", f"Just stop thinking of {SECRET}."


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def therapist(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def ratings(value: float = 4, **changes: Any) -> dict[str, Any]:
    return {**dict.fromkeys(PRINCIPLES, value), **changes}


PAIRS: dict[str, dict[str, Any]] = {
    "strings": {"prompt": SPEECH, "chosen": GOOD, "rejected": BAD},
    "question column": {"question": SPEECH, "chosen": GOOD, "rejected": BAD},
    "spaces around": {"prompt": f"  {SPEECH}\n", "chosen": f"\n{GOOD}  ", "rejected": f" {BAD}"},
    "null columns beside": {"question": None, "messages": None, "prompt": SPEECH, "chosen": GOOD, "rejected": BAD},
    "chat prompt": {"prompt": [user(SPEECH)], "chosen": GOOD, "rejected": BAD},
    "reply as message": {"prompt": [user(SPEECH)], "chosen": [therapist(GOOD)], "rejected": [therapist(BAD)]},
    "reply repeats the prompt": {
        "prompt": SPEECH,
        "chosen": [user(SPEECH), therapist(GOOD)],
        "rejected": [user(SPEECH), therapist(BAD)],
    },
    "implicit prompt": {"chosen": [user(SPEECH), therapist(GOOD)], "rejected": [user(SPEECH), therapist(BAD)]},
    "transcripts": {
        side: f"\n\nHuman: {SPEECH}\n\nAssistant: {text}" for side, text in (("chosen", GOOD), ("rejected", BAD))
    },
    "open transcript": {"prompt": f"\n\nHuman: {SPEECH}\n\nAssistant:", "chosen": f" {GOOD}", "rejected": BAD},
    "single messages": {
        "prompt": [{"from": "human", "value": SPEECH}],
        "chosen": {"from": "gpt", "value": GOOD},
        "rejected": {"from": "gpt", "value": BAD},
    },
}
WRITERS: dict[str, tuple[dict[str, Any], list[str] | None]] = {
    "of a pair": ({"chosen": GOOD, "rejected": BAD, "chosen_model": "a", "rejected_model": "b"}, ["a", "b"]),
    "one alone": ({"chosen": GOOD, "rejected": BAD, "chosen_model": "a"}, None),
    "of rated replies": (
        {"replies": [{"text": text, "ratings": ratings(), "model": name} for text, name in ((GOOD, "a"), (BAD, "b"))]},
        ["a", "b"],
    ),
    "of a demonstration": ({"completion": GOOD}, None),
}
DEMONSTRATIONS: dict[str, dict[str, Any]] = {
    "completion": {"prompt": SPEECH, "completion": GOOD},
    "response": {"question": SPEECH, "response": GOOD},
    "answer": {"question": SPEECH, "answer": GOOD},
    "a conversation beside": {"prompt": SPEECH, "completion": GOOD, "conversation": "About the night."},
    "completion as message": {"prompt": [user(SPEECH)], "completion": [therapist(GOOD)]},
    "messages": {"messages": [user(SPEECH), therapist(GOOD)]},
    "input and output": {"conversation": [{"input": SPEECH, "output": GOOD}]},
}


@pytest.mark.parametrize("name", PAIRS)
def test_every_preference_format_gives_the_same_example(name: str) -> None:
    example = parse_row(PAIRS[name], "f row 1")
    assert (example.prompt, example.replies) == ([user(SPEECH)], [GOOD, BAD])
    assert example.ratings is None
    assert not example.rated


@pytest.mark.parametrize("name", DEMONSTRATIONS)
def test_every_demonstration_format_gives_the_same_example(name: str) -> None:
    example = parse_row(DEMONSTRATIONS[name], "f row 1")
    assert (example.prompt, example.replies) == ([user(SPEECH)], [GOOD])


TALK = [user("Hello"), therapist("Good morning."), user(SPEECH), therapist(GOOD)]


@pytest.mark.parametrize(
    ("column", "speaker", "said", "names"),
    [
        ("conversations", "from", "value", ("human", "gpt")),
        ("dialog", "speaker", "content", ("seeker", "supporter")),
        ("dialog", "speaker", "text", ("speaker", "listener")),
        ("dialogue", "role", "content", ("Client", "Therapist")),
        ("messages", "role", "content", ("user", "assistant")),
    ],
)
def test_conversations_of_every_shape_are_the_same(
    column: str, speaker: str, said: str, names: tuple[str, str]
) -> None:
    given = [
        {speaker: names[message["role"] == "assistant"], said: f"{message['content']}\n", "annotation": {}}
        for message in TALK
    ]
    for tail in ([], [{speaker: names[0], said: "Thank you."}]):
        example = parse_row({column: [*given, *tail], "emotion_type": "grief"}, "f row 1")
        assert (example.prompt, example.replies, example.left_out) == (TALK[:-1], [GOOD], len(tail))
    else:
        doubled = [*given[:2], given[1], *given[2:]]
        assert parse_row({column: doubled}, "f row 1").prompt[1] == therapist("Good morning.\nGood morning.")
    if column != "messages":
        split = [*given[:2], {**given[2], said: "I have"}, {**given[2], said: "not slept."}, given[3]]
        assert parse_row({column: split}, "f row 1").prompt[-1] == user("I have\nnot slept.")


def test_a_transcript_with_marks_of_the_speakers_is_a_conversation() -> None:
    text = (
        f"Client: Hello\n**Counselor:** Good\nmorning.\nclient : {SPEECH}\nTherapist: {GOOD}\nClient: Bye: Doctor: bye."
    )
    example = parse_row({"dialogue": text}, "f row 1")
    assert example.prompt == [user("Hello"), therapist("Good\nmorning."), user(SPEECH)]
    assert (example.replies, example.left_out) == ([GOOD], 1)
    timed = f"Client [00:10]: {SPEECH}\nTherapist (0:12): {GOOD}"
    assert parse_row({"dialogue": timed}, "f row 1").replies == [GOOD]
    spoken = f"Client (sighs): {SPEECH}\nCounselor: Good morning.\n**Client [0:09] (crying):** Yes.\nCounselor: {GOOD}"
    example = parse_row({"dialogue": spoken}, "f row 1")
    assert example.prompt == [user(f"(sighs) {SPEECH}"), therapist("Good morning."), user("(crying) Yes.")]
    assert example.replies == [GOOD]
    stranger = f"Client: {SPEECH}\nMother: No.\nTherapist: {GOOD}\nMother: Well."
    with pytest.raises(
        UserError, match="f row 1: dialogue has lines of a speaker who is neither client nor counsellor"
    ):
        parse_row({"dialogue": stranger}, "f row 1")
    numbered = (
        f"Client 1: {SPEECH}\nTherapist #2: {GOOD}\nhttp://a.example\nhttp://b.example\nStep 1: rest\nStep 2: sleep"
    )
    assert parse_row({"dialogue": numbered}, "f row 1").replies[0].startswith(GOOD)
    with pytest.raises(UserError, match="dialogue has a line that begins with a speaker, but without a colon"):
        parse_row({"dialogue": f"Client: {SPEECH}\nTherapist: {GOOD}\nClient - it is bad\nTherapist: Oh."}, "f row 1")
    for odd in (SPEECH, f"Notes.\nClient: {SPEECH}\nTherapist: {GOOD}"):
        with pytest.raises(UserError, match="f row 1: dialogue is a text without speakers"):
            parse_row({"dialogue": odd}, "f row 1")


def test_every_turn_of_the_therapist_is_trained(tmp_path: Path) -> None:
    opening = [therapist("Welcome."), *TALK]
    turns = every_turn(parse_row({"messages": opening, "id": "a"}, "f row 1"))
    assert [(turn.id, turn.prompt, turn.replies) for turn in turns] == [
        ("a-2", opening[:2], ["Good morning."]),
        ("a", opening[:4], [GOOD]),
    ]
    talks = [{"messages": [user(f"Day {day}"), *TALK[1:]]} for day in range(20)]
    file = write_jsonl(tmp_path / "rows.jsonl", talks)
    grown = [{"messages": [user(f"Day {day}"), *TALK[1 : 2 * length]]} for day in range(12) for length in (1, 2)]
    file_of_grown = write_jsonl(tmp_path / "grown.jsonl", grown)
    train, held_out = api.load_groups(api.compose(["algo=sft", f"data.path={file_of_grown}", "data.train_on=every"]))
    assert held_out and not {group.prompt_text for group in train} & {group.prompt_text for group in held_out}
    counts = {}
    for train_on in ("last", "every"):
        train, held_out = api.load_groups(api.compose(["algo=sft", f"data.path={file}", f"data.train_on={train_on}"]))
        counts[train_on] = (len(train), len(held_out))
        spoken = [{group.prompt_text.split("Day ")[1][:2].strip() for group in part} for part in (train, held_out)]
        assert not spoken[0] & spoken[1], "all turns of a conversation are in one part"
    assert counts == {"last": (18, 2), "every": (18, 2)}
    online = ["algo=grpo", "reward=tiny", f"data.path={file}", "data.train_on=every"]
    prompts, _ = api.load_groups(config := api.compose(online))
    assert len(prompts) > 18 and all((group.messages or [])[-1]["role"] == "user" for group in prompts)
    assert {group.id for group in prompts} <= {row.id for part in prompted_rows(config.data) for row in part}
    with pytest.raises(UserError, match=r"data.train_on=every: algo=KTO learns from the last turn alone: use algo=sft"):
        api.compose(["algo=kto", f"data.path={file}", "data.train_on=every"])


def test_a_conversation_keeps_its_turns_and_its_system_message() -> None:
    talk = [{"role": "system", "content": "Be brief."}, user("Hello"), therapist("Good morning."), user(SPEECH)]
    for row in (
        {"prompt": talk, "chosen": GOOD, "rejected": BAD},
        {"chosen": [*talk, therapist(GOOD)], "rejected": [*talk, therapist(BAD)]},
        {"prompt": talk, "chosen": [*talk, therapist(GOOD)], "rejected": [therapist(BAD)]},
    ):
        assert parse_row(row, "f row 1").prompt == talk
    assert parse_row({"messages": [*talk, therapist(GOOD)]}, "f row 1").prompt == talk


def test_a_pair_may_be_of_whole_sessions() -> None:
    """The prompt ends on the last turn of the client that both sides share."""
    first, better, worse = TALK[:2], [user("The baby."), therapist(GOOD)], [user("No."), therapist(BAD)]
    sides = [first[1:] + better, first[1:] + worse]
    for row in (
        {"prompt": first[:1], "chosen": sides[0], "rejected": sides[1]},
        {"prompt": first[:1], "chosen": first[:1] + sides[0], "rejected": sides[1]},
        {"chosen": first[:1] + sides[0], "rejected": first[:1] + sides[1]},
    ):
        example = parse_row(row, "f row 1")
        assert (example.prompt, example.turns) == (first[:1], sides)
        assert example.replies == [f"{first[1]['content']}\n\n{said}" for said in (GOOD, BAD)]
    for wrong in (better, sides[0][:2], [*sides[0], therapist(GOOD)]):
        with pytest.raises(
            UserError, match=r"f row 1: chosen must be one turn of the assistant, or turns of assistant"
        ):
            parse_row({"prompt": first[:1], "chosen": wrong, "rejected": sides[1]}, "f row 1")


def test_pairs_of_sessions_are_trained_and_refused_where_single_replies_are_read(tmp_path: Path) -> None:
    rows = [
        {"chosen": [user(f"Day {day}"), *TALK[1:3], therapist(GOOD)], "rejected": [user(f"Day {day}"), therapist(BAD)]}
        for day in range(20)
    ]
    file = write_jsonl(tmp_path / "sessions.jsonl", rows)
    train, _ = api.load_groups(api.compose(["algo=dpo", f"data.path={file}"]))
    chosen, rejected = train[0].completions
    assert chosen.trained_tokens < len(chosen.ids) and rejected.trained is None
    with pytest.raises(UserError, match=r"line \d+: a reply has several turns, and data.controls reads single"):
        api.load_groups(api.compose(["algo=dpo", f"data.path={file}", "data.controls=[echo]"]))


def test_single_and_rated_replies_may_be_whole_sessions(tmp_path: Path) -> None:
    """They have the tokens of a pair's side; ratings, votes and labels stay those of the whole reply."""
    first, session = TALK[:1], [*TALK[1:3], therapist(GOOD)]
    rated = [{"text": session, "ratings": ratings(5)}, {"text": BAD, "ratings": ratings(2)}]
    forms: dict[str, list[dict[str, Any]]] = {
        "pairs": [{"prompt": first, "chosen": session, "rejected": BAD}],
        "rated": [{"prompt": first, "replies": rated}],
        "votes": [{"prompt": first, "completion": reply, "reply_score": n} for n, reply in enumerate((BAD, session))],
        "labelled": [
            {"prompt": first, "completion": session, "label": True},
            {"prompt": SPEECH, "completion": [therapist(BAD)], "label": False},
        ],
        "every": [{"prompt": first, "completion": session}],
        "talk": [{"messages": [*first, *session]}],
    }
    groups = dict[str, list[Group]]()
    for name, rows in forms.items():
        file = write_jsonl(tmp_path / f"{name}.jsonl", rows)
        algo = {"labelled": "kto", "every": "sft", "talk": "sft"}.get(name, "dpo")
        more = ["data.train_on=every"] if algo == "sft" else []
        given = [f"algo={algo}", f"data.path={file}", "data.dev_fraction=0", "eval.every=0", *more]
        groups[name], _ = api.load_groups(api.compose(given))
    wanted = groups["pairs"][0].completions
    assert wanted[0].trained is not None and wanted[1].trained is None
    for name in ("rated", "votes", "labelled"):
        replies = [completion for group in groups[name] for completion in group.completions]
        for made, completion in zip(replies, wanted, strict=True):
            np.testing.assert_array_equal(made.ids, completion.ids)
            np.testing.assert_array_equal(made.trained_ids, completion.trained_ids)
    (one,), (other,) = groups["every"], groups["talk"]
    np.testing.assert_array_equal(one.completions[0].ids, other.completions[0].ids)
    np.testing.assert_array_equal(one.completions[0].trained_ids, wanted[0].trained_ids)


def test_an_empty_system_message_is_left_out() -> None:
    row = {"prompt": [{"role": "system", "content": " "}, user(SPEECH)], "completion": GOOD}
    assert parse_row(row, "f row 1").prompt == [user(SPEECH)]


def test_rated_replies_keep_their_order_and_ratings() -> None:
    row = {
        "id": "a1",
        "prompt": SPEECH,
        "replies": [{"text": BAD, "ratings": ratings(2)}, {"text": GOOD, "ratings": ratings(5)}],
    }
    example = parse_row(row, "f row 1")
    assert example.rated
    assert example.replies == [BAD, GOOD]
    assert example.ratings == [ratings(2.0), ratings(5.0)]


def test_released_rating_columns_are_kept_and_incomplete_ones_are_none() -> None:
    columns = {
        f"{side}_{name}_rating": value for side, value in (("chosen", 5), ("rejected", 2)) for name in PRINCIPLES
    }
    row = {"prefID": 0, "ID": "q7", "question": SPEECH, "chosen": GOOD, "rejected": BAD, **columns}
    example = parse_row(row, "f row 1")
    assert example.ratings == [ratings(5.0), ratings(2.0)]
    assert example.id == "0"
    assert parse_row({**row, "rejected_safety_rating": None}, "f row 1").ratings is None


@pytest.mark.parametrize(
    ("row", "expected"), [({"id": 0}, "0"), ({"ID": "x"}, "x"), ({"prefID": 3, "ID": "x"}, "3"), ({}, "f row 1")]
)
def test_the_id_of_a_row(row: dict[str, Any], expected: str) -> None:
    assert parse_row({**PAIRS["strings"], **row}, "f row 1").id == expected


def bad(**changes: Any) -> dict[str, Any]:
    return {**PAIRS["strings"], **changes}


def rated(*replies: Any) -> dict[str, Any]:
    return {"prompt": SPEECH, "replies": list(replies)}


RELEASED = {f"{side}_{name}_rating": 3 for side in ("chosen", "rejected") for name in PRINCIPLES}
BAD_ROWS: dict[str, tuple[dict[str, Any], str]] = {
    "empty reply": (bad(chosen=""), "chosen is empty"),
    "reply of spaces": (bad(rejected=" \n\t "), "rejected is empty"),
    "empty message": (bad(rejected=[therapist(" ")]), "rejected is empty"),
    "empty prompt": (bad(prompt="  "), "prompt is empty"),
    "empty last turn": (bad(prompt=[user("Hi"), therapist("Hello"), user("")]), "prompt is empty"),
    "same replies": (bad(rejected=GOOD), "are the same text"),
    "same but for spaces": (bad(rejected=f" {GOOD}\n"), "are the same text"),
    "no rejected": ({"prompt": SPEECH, "chosen": GOOD}, "has no rejected"),
    "null chosen": (bad(chosen=None), "has no chosen"),
    "null prompt": (bad(prompt=None), "needs prompt or question"),
    "no prompt": ({"chosen": GOOD, "rejected": BAD}, "needs prompt or question"),
    "no known column": (
        {"title": SPEECH, "body": GOOD},
        "needs prompt or question or messages; its non-empty columns are body, title",
    ),
    "reply that shows nothing": (bad(chosen="\u200b\ufeff "), "chosen is empty"),
    "unknown label": ({"prompt": SPEECH, "completion": GOOD, "label": SECRET}, "label must be true or false"),
    "label between": ({"prompt": SPEECH, "completion": GOOD, "label": 0.7}, "label must be true or false"),
    "tool calls": (
        {"messages": [user(SPEECH), {**therapist(GOOD), "tool_calls": [{"name": SECRET}]}]},
        "tool_calls of a message cannot be passed to the chat template",
    ),
    "tools": (bad(tools=[{"name": SECRET}]), "tools cannot be passed to the chat template"),
    "an image": (bad(prompt=[{"role": "user", "content": [{"type": "image", "url": SECRET}]}]), "not text"),
    "thinking client": (
        bad(prompt=[{**user(SPEECH), "reasoning_content": SECRET}]),
        "only messages of the role assistant may have reasoning_content",
    ),
    "two system messages": (
        {"messages": [{"role": "system", "content": "Hello"}, user(SPEECH), therapist(GOOD)], "system": SECRET},
        "the column system and the prompt have different system messages",
    ),
    "half a list in a cell": (bad(prompt='[{"role": "user", "content": "Hello'), "looks like a list of messages"),
    "a numpy array in a cell": (
        bad(prompt="[{'role': 'user', 'content': 'Hello'}\n {'role': 'assistant', 'content': 'Hello'}]"),
        "looks like a list of messages",
    ),
    "everything null": ({"prompt": None, "chosen": None}, "are none"),
    "number for a reply": (bad(chosen=float("nan")), "chosen must be a string or a list"),
    "number for content": (bad(prompt=[{"role": "user", "content": 3}]), "not text"),
    "number for a system message": (bad(prompt=[{"role": "system", "content": 3}, user(SPEECH)]), "not text"),
    "null content": (bad(prompt=[{"role": "user", "content": None}]), "not text"),
    "message without role": (
        bad(prompt=[{"content": SPEECH}]),
        "a message has no role that is known; call it client or counsellor",
    ),
    "unknown role": (
        bad(prompt=[{"role": "narrator", "content": SPEECH}]),
        "a message has no role that is known; call it client or counsellor",
    ),
    "prompt ends on the therapist": (bad(prompt=[user(SPEECH), therapist("And then?")]), "client's turn"),
    "demonstration without client": (
        {"messages": [{"role": "system", "content": SPEECH}, therapist(GOOD)]},
        "client's turn",
    ),
    "demonstration of a client alone": ({"messages": [user(SPEECH)]}, "messages has no turn of the therapist"),
    "empty conversation": ({"messages": []}, "empty conversation"),
    "single messages beside a conversation": (
        {"conversations": [user(SPEECH)], "chosen": therapist(GOOD), "rejected": therapist(BAD)},
        "chosen and rejected must begin with the same turn of the client",
    ),
    "implicit, different prompts": (
        {"chosen": [user(SPEECH), therapist(GOOD)], "rejected": [user("Hi"), therapist(BAD)]},
        "must begin with the same turn of the client",
    ),
    "reply repeats another prompt": (bad(chosen=[user("Hi"), therapist(GOOD)]), "follow the prompt or stand alone"),
    "half a character": (bad(chosen=f"{GOOD} \ud83d"), "half a character"),
    "rating missing": (
        rated({"text": GOOD, "ratings": {"empathy": 3}}),
        "reply 1: its ratings lack relevance, clarity",
    ),
    "harmful as text": (
        rated({"text": GOOD, "ratings": ratings(), "harmful": "yes"}),
        "reply 1: harmful must be true or false",
    ),
    "rating as text": (rated({"text": GOOD, "ratings": ratings(safety="five")}), "ratings.safety must be a number"),
    "rating true": (rated({"text": GOOD, "ratings": ratings(safety=True)}), "ratings.safety must be a number"),
    "rating null": (
        rated({"text": GOOD, "ratings": ratings(clarity=None)}),
        "reply 1: its ratings lack clarity; a reply",
    ),
    "rating NaN": (rated({"text": GOOD, "ratings": ratings(clarity=float("nan"))}), "ratings.clarity must be a number"),
    "no ratings": (rated({"text": GOOD, "ratings": ratings()}, {"text": BAD}), "reply 2: has no ratings"),
    "rated reply empty": (rated({"text": "", "ratings": ratings()}), "reply 1 is empty"),
    "rated reply null": (rated({"text": None, "ratings": ratings()}), "reply 1 holds something that is not text"),
    "rated reply as string": (rated(GOOD), "must be a list of {text, ratings}"),
    "no replies": (rated(), "must be a list of {text, ratings}"),
    "released rating as text": (bad(**{**RELEASED, "chosen_empathy_rating": SECRET}), "chosen_empathy_rating must be"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_is_named_and_not_quoted(name: str, tmp_path: Path) -> None:
    row, message = BAD_ROWS[name]
    file = write_jsonl(tmp_path / "rows.jsonl", [PAIRS["strings"], row])
    with pytest.raises(UserError) as caught:
        load_examples(str(file), "train", None)
    assert str(caught.value).startswith("rows.jsonl line 2: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    for text in (SECRET, "Wilhelmina", "Hello"):
        assert text not in str(caught.value)


def test_invalid_json_is_named_by_its_line(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(PAIRS["strings"]) + "\n\n" + '{"prompt": "' + SECRET + '"\n')
    with pytest.raises(UserError, match=r"^rows.jsonl line 3: is not valid JSON") as caught:
        load_examples(str(file), "train", None)
    assert SECRET not in str(caught.value)


def test_a_line_that_is_no_object_is_named(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(PAIRS["strings"]) + "\n" + json.dumps([SPEECH]) + "\n")
    with pytest.raises(UserError, match=r"^rows.jsonl line 2: must be a JSON object"):
        load_examples(str(file), "train", None)
    file.write_text(json.dumps([PAIRS["strings"]], indent=1))
    with pytest.raises(UserError, match=r"rows.jsonl: holds a list, and not one JSON object a line; name it .json$"):
        load_examples(str(file), "train", None)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([True, 1, 1.0, "true", "True", "1", "1.0", "yes", " good", "desirable"], True),
        ([False, 0, 0.0, "false", "FALSE", "0", "0.0", "no", "bad", "undesirable"], False),
    ],
)
def test_every_spelling_of_a_label_is_read(labels: list[Any], expected: bool) -> None:
    for label in labels:
        assert parse_row({"prompt": SPEECH, "completion": GOOD, "label": label}, "f row 1").label is expected
        assert parse_row({"messages": [user(SPEECH), therapist(GOOD)], "label": label}, "f row 1").label is expected
    assert parse_row({"prompt": SPEECH, "completion": GOOD, "label": None}, "f row 1").label is None


@pytest.mark.parametrize("spelt", [json.dumps, repr], ids=["json", "python"])
def test_lists_in_cells_of_a_table_are_read(spelt: Any) -> None:
    talk = [user("Hello"), therapist('You said: "I can\'t".'), user(SPEECH)]
    example = parse_row({"prompt": spelt(talk), "chosen": spelt([therapist(GOOD)]), "rejected": BAD}, "f row 1")
    assert (example.prompt, example.replies) == (talk, [GOOD, BAD])
    assert parse_row({"messages": spelt([*talk, therapist(GOOD)])}, "f row 1").prompt == talk
    both = [{"text": GOOD, "ratings": ratings(5)}, {"text": BAD, "ratings": ratings(2)}]
    assert parse_row({"prompt": SPEECH, "replies": spelt(both)}, "f row 1").replies == [GOOD, BAD]
    numbered = [{"turn": 1, **user(SPEECH)}]
    assert parse_row({"prompt": spelt(numbered), "completion": spelt(therapist(GOOD))}, "f row 1").replies == [GOOD]
    notes = "[{'text': 'x', 'score': nan}]"
    assert parse_row({"prompt": SPEECH, "completion": GOOD, "documents": "Notes.", "entities": notes}, "f").replies == [
        GOOD
    ]
    odd = "[{I am} not sure.]"
    assert parse_row({"prompt": odd, "completion": GOOD}, "f row 1").prompt == [user(odd)]


def test_reasoning_and_parts_of_text_stand_in_the_reply() -> None:
    thinking = {**therapist(GOOD), "reasoning_content": "They grieve.\n"}
    parts = {"role": "assistant", "content": [{"type": "text", "text": "You "}, {"type": "text", "text": "grieve."}]}
    example = parse_row({"prompt": SPEECH, "chosen": [thinking], "rejected": [therapist(GOOD)]}, "f row 1")
    assert example.replies == [f"<think>\nThey grieve.\n</think>\n\n{GOOD}", GOOD]
    assert parse_row({"messages": [user(SPEECH), parts]}, "f row 1").replies == ["You grieve."]
    valued = [{"role": "developer", "content": [{"type": "text", "value": "Be kind."}]}, user(SPEECH), therapist(GOOD)]
    assert parse_row({"messages": valued}, "f row 1").prompt[0] == {"role": "system", "content": "Be kind."}


@pytest.mark.parametrize("name", ["strings", "implicit prompt", "reply repeats the prompt"])
def test_the_column_system_is_the_system_message(name: str) -> None:
    example = parse_row({**PAIRS[name], "system": "Be brief."}, "f row 1")
    assert (example.prompt, example.replies) == (
        [{"role": "system", "content": "Be brief."}, user(SPEECH)],
        [GOOD, BAD],
    )
    assert parse_row({**PAIRS[name], "system": " "}, "f row 1").prompt == [user(SPEECH)]


def test_speeches_alone_are_prompts(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": f"Day {number}."} for number in range(12)])
    cli_dry("algo=rloo", f"data.path={file}", "reward=tiny")
    for algo in ("sft", "dpo", "kto"):
        with pytest.raises(UserError, match=r"rows.jsonl line \d+: has a prompt and no reply"):
            cli_dry(f"algo={algo}", f"data.path={file}")


def cli_dry(*overrides: str) -> None:
    """Tokenise the rows of a run as a dry run does."""
    api.load_groups(api.compose(list(overrides)))


def test_columns_that_are_not_read_are_named(tmp_path: Path) -> None:
    scored = [{"question": f"Day {number}.", "response": "Why?", "scores": "4", "empty": None} for number in range(12)]
    assert said_of(write_jsonl(tmp_path / "rows.jsonl", scored))[1] == [
        f"{tmp_path / 'rows.jsonl'}: columns that are not read: scores"
    ]
    labelled = [{**PAIR, "label": "a", "question": "Why?", "prompt": f"Day {number}."} for number in range(12)]
    assert said_of(write_jsonl(tmp_path / "pairs.jsonl", labelled))[1][0].endswith("not read: label, question")
    released = dict.fromkeys(RELEASED, 3) | {"chosen_model": "a", "topic": "sleep", "ID": 3}
    assert said_of(write_jsonl(tmp_path / "good.jsonl", [{**row, **released} for row in rows(12)]))[1] == []


@pytest.mark.parametrize("kind", WRITERS)
def test_writers_and_the_topic_are_kept(kind: str) -> None:
    row, expected = WRITERS[kind]
    found = parse_row({"prompt": SPEECH, **row, "topic": "sleep"}, "row 1")
    assert (found.writers, found.topic) == (expected, "sleep")
    assert parse_row({"prompt": SPEECH, **row, "topic": 3}, "row 1").topic is None


# Bad rows are dropped and listed, odd rows get warnings, and every kind of file gives the same rows.

PAIR = {"prompt": "I can't sleep.", "chosen": "What keeps you awake?", "rejected": "Just relax."}


def rows(count: int) -> list[dict[str, Any]]:
    return [{**PAIR, "prompt": f"Day {number}."} for number in range(count)]


def said_of(file: Path, *overrides: str) -> tuple[int, list[str]]:
    """Return the number of rows, and the reported lines."""
    lines: list[str] = []
    config = check(compose(["data=local", f"data.path={file}", "data.dev_fraction=0", *overrides]))
    return sum(map(len, load_split(config.data, lines.append))), lines


def test_bad_rows_are_dropped_counted_and_listed(tmp_path: Path) -> None:
    bad = [{**PAIR, "chosen": " "}] * 25
    file = write_jsonl(tmp_path / "rows.jsonl", [*rows(10), *bad])
    with pytest.raises(UserError, match=r"rows.jsonl line 11: chosen is empty"):
        said_of(file)
    count, lines = said_of(file, "data.bad_rows=drop")
    assert count == 10
    assert "25 bad rows dropped (data.bad_rows=drop)" in lines[0]
    assert lines[1] == "  rows.jsonl line 11: chosen is empty"
    assert lines[-1] == "  and 5 more" and len(lines) == 22


def test_lines_that_are_no_json_are_dropped_too(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n{\n" for row in rows(4)))
    assert said_of(file, "data.bad_rows=drop")[0] == 4


def test_rows_that_the_algorithm_cannot_use_are_dropped_when_asked() -> None:
    from psychocounsel.model.tokenizer import load_chat_format

    _, chat = load_chat_format(check(compose([])).model)
    (first,) = load_split(check(compose(["data.limit=1", "data.dev_fraction=0"])).data, print)[0]
    single = first.__class__(**{**vars(first), "replies": first.replies[:1], "where": "row 9"})
    lines: list[str] = []
    found = tokenise([first, single], chat, "pairs", 1024, report=lines.append, drop_bad=True)
    assert len(found) == 1
    assert lines == [
        "warning: chat template: 1 bad row dropped (data.bad_rows=drop)",
        "  row 9: has only one reply, not a pair; use algo=sft, or data with chosen and rejected",
    ]


@pytest.mark.parametrize(
    ("odd", "warning"),
    [
        ({}, "1 of 12 rows are the same as an earlier one"),
        ({"chosen": "a\0b"}, "1 of 12 rows hold NUL bytes"),
        ({"rejected": "nan"}, "1 of 12 rows hold nan as a text, which pandas writes for a missing one"),
        (
            {"prompt": None, "chosen": None, "rejected": None, "messages": [*TALK, user("Bye.")]},
            "1 of 12 rows end on turns of the client, which are left out",
        ),
        (
            {"chosen": PAIR["rejected"], "rejected": PAIR["chosen"]},
            "2 of 12 rows prefer the reply that another row rejects",
        ),
        (
            {"prompt": [{"role": "user", "content": "One."}, {"role": "user", "content": "Two."}]},
            "1 of 12 rows hold two client turns in a row",
        ),
    ],
)
def test_odd_rows_are_warned_of_and_kept(odd: dict[str, Any], warning: str, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [*rows(11), {**rows(11)[3], **odd}])
    count, lines = said_of(file)
    assert count == 12
    assert [line for line in lines if line.startswith("warning: ") and line.endswith(warning)], lines
    assert len(lines) == 1


def test_one_row_is_warned_of_and_the_sample_is_not(tmp_path: Path) -> None:
    lines: list[str] = []
    load_split(check(compose(["data.limit=1"])).data, lines.append)
    assert "warning: only one training row is left" in lines
    lines.clear()
    load_split(check(compose([])).data, lines.append)
    assert not [line for line in lines if line.startswith("warning")]


def test_a_table_and_a_gzip_file_hold_the_same_rows_as_the_lines(tmp_path: Path) -> None:
    plain = write_jsonl(tmp_path / "rows.jsonl", rows(5))
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    (tmp_path / "rows.json.gz").write_bytes(gzip.compress(json.dumps(rows(5)).encode()))
    for name, mark in (("rows.csv", ","), ("rows.tsv", "\t")):
        table = [list(PAIR), *([row[key] for key in PAIR] for row in rows(5))]
        (tmp_path / name).write_text("".join(mark.join(f'"{text}"' for text in line) + "\n" for line in table))
    expected = [(example.prompt, example.replies) for example in load_examples(str(plain), "train", None)]
    for name in ("rows.jsonl.gz", "rows.json.gz", "rows.csv", "rows.tsv"):
        found = load_examples(str(tmp_path / name), "train", None)
        assert [(example.prompt, example.replies) for example in found] == expected, name


def test_ratings_of_another_scale_are_read_when_it_is_given(tmp_path: Path) -> None:
    from psychocounsel.counsel.principles import PRINCIPLES

    rated = {
        f"{side}_{name}_rating": 10 if side == "chosen" else 0 for side in ("chosen", "rejected") for name in PRINCIPLES
    }
    file = write_jsonl(tmp_path / "rows.jsonl", [{**row, **rated} for row in rows(4)])
    with pytest.raises(UserError, match=r"line 1: chosen_empathy_rating must be from 1 to 5 \(data.rating_range\)"):
        said_of(file)
    assert said_of(file, "data.rating_range=[0,10]")[0] == 4


@pytest.mark.parametrize(
    ("prompt", "roles"),
    [
        ("Client: I lie awake.\nTherapist: Since when?\nClient: May.", ["user", "assistant", "user"]),
        ("Client: I lie awake.\nClient: Since May.", ["user"]),
        ("I told him.\nTherapist: that is what he calls himself.", ["user"]),
    ],
)
def test_a_prompt_in_which_both_speak_is_a_conversation(prompt: str, roles: list[str]) -> None:
    example = parse_row({"prompt": prompt, "chosen": GOOD, "rejected": BAD}, "row 1")
    assert [message["role"] for message in example.prompt] == roles
    with pytest.raises(UserError, match="row 1: the prompt must end on the client's turn"):
        parse_row({"prompt": "Client: Hm.\nTherapist: Yes?", "chosen": GOOD, "rejected": BAD}, "row 1")
