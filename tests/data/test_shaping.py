"""Rows as people have them: chosen by their values, of other columns, marked turns, HTML, and conversations of many forms."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from psychocounsel import api
from psychocounsel.data.html_text import has_html, without_html
from psychocounsel.data.messages import MARKS
from psychocounsel.data.rows import Example, every_turn, parse_row
from psychocounsel.data.selection import load_split
from psychocounsel.errors import UserError
from tests.support.composed import check, compose
from tests.support.harness import write_jsonl

Row = dict[str, Any]


def read(path: Path, *overrides: str, said: list[str] | None = None, name: str = "local") -> list[Example]:
    given = ["algo=sft", f"data={name}", f"data.path={path}", "data.dev_fraction=0", *overrides]
    return load_split(check(compose(given)).data, (said if said is not None else []).append)[0]


def texts(rows: list[Example]) -> list[tuple[str, ...]]:
    return [(*(message["content"] for message in row.prompt), *row.replies) for row in rows]


def user(text: str) -> Row:
    return {"role": "user", "content": text}


def therapist(text: str, **marks: Any) -> Row:
    return {"role": "assistant", "content": text, **marks}


# Turns that are marked as not to be learned


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize(("off", "on"), [(0, 1), (False, True), (0.0, 1.0), ("0", "1"), ("false", "true")])
def test_a_marked_turn_is_read_and_not_learned(mark: str, off: Any, on: Any) -> None:
    talk = [user("c1"), therapist("r1", **{mark: off}), user("c2"), therapist("r2", **{mark: on})]
    row = parse_row({"messages": talk}, "row 1")
    assert [(len(turn.prompt), turn.replies) for turn in every_turn(row)] == [(3, ["r2"])]
    assert row.unlearned == 1
    last = parse_row({"conversations": [*talk, user("c3"), therapist("r3", **{mark: off}), user("c4")]}, "row 1")
    assert (last.prompt, last.replies, last.unlearned) == ([*talk[:1], therapist("r1"), user("c2")], ["r2"], 2)
    assert all({*message} == {"role", "content"} for message in last.prompt)


HALF, NONE = (
    "must be 0 (it is not learned) or 1",
    "has no turn of the therapist (role assistant), which is not marked by",
)
PAIR_MARK = "a message is marked as not to be learned (weight, loss_weight, loss, train: 0 or false)"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [user("c"), therapist("r", weight=0.5)]}, f"messages: weight of a message {HALF}"),
        ({"messages": [user("c"), therapist("r", train="no idea")]}, f"messages: train of a message {HALF}"),
        ({"messages": [user("c"), therapist("r", train=False)]}, f"messages {NONE}"),
        ({"prompt": "c", "chosen": [therapist("r", weight=0)], "rejected": "s"}, f"chosen: {PAIR_MARK}"),
        ({"prompt": "c", "completion": [therapist("r", train=False)]}, f"completion: {PAIR_MARK}"),
        (
            {side: [user("c"), therapist(side, loss_weight=0)] for side in ("chosen", "rejected")},
            f"chosen: {PAIR_MARK}",
        ),
    ],
)
def test_marks_that_cannot_be_followed_are_refused(row: Row, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"row 1: {message}")):
        parse_row(row, "row 1")


def test_marks_of_clients_are_ignored_and_joined_turns_keep_theirs() -> None:
    talk = [user("c1") | {"weight": 0.3}, therapist("r1"), therapist("r1b", weight=0), user("c2"), therapist("r2")]
    assert [turn.replies for turn in every_turn(parse_row({"messages": talk}, "row 1"))] == [["r2"]]


def test_tokens_of_marked_turns_are_not_trained_and_the_rows_are_counted(tmp_path: Path) -> None:
    def talk(day: int, **marks: Any) -> Row:
        turns = [user(f"Day {day}."), therapist("Stop it.", **marks), user("Why?"), therapist("Tell me more.")]
        return {"messages": turns}

    lines: list[str] = []
    file = write_jsonl(tmp_path / "rows.jsonl", [talk(day, weight=0) for day in range(10)])
    plain = write_jsonl(tmp_path / "plain.jsonl", [talk(day) for day in range(10)])
    assert len(read(file, said=lines)) == 10
    assert [line for line in lines if "10 of 10 rows have turns marked by weight, " in line]
    counts = {}
    for path in (file, plain):
        given = ["algo=sft", f"data.path={path}", "data.train_on=every", "data.dev_fraction=0", "eval.every=0"]
        groups, _ = api.load_groups(api.compose(given))
        counts[path] = {completion.text for group in groups for completion in group.completions}
    assert counts == {file: {"Tell me more."}, plain: {"Stop it.\n\nTell me more."}}


def test_rows_of_one_turn_each_keep_their_marks(tmp_path: Path) -> None:
    lines = ["talk,who,said,weight", "1,client,c1,", "1,therapist,r1,0", "1,client,c2,", "1,therapist,r2,1"]
    (tmp_path / "turns.csv").write_text("\n".join(lines))
    (row,) = read(tmp_path / "turns.csv", "data.group_by=talk", "data.columns={role: who, content: said}")
    assert [turn.replies for turn in every_turn(row)] == [["r2"]]


# Rows chosen by the values of their columns


RATED = [
    {"prompt": f"Day {n}.", "completion": "Why?", "quality": quality, "stars": n, "kept": n % 2 == 0}
    for n, quality in enumerate(("high", "low", "High ", None, "low", "medium", "high", "low", "high", "low"))
]


@pytest.mark.parametrize(
    ("where", "days"),
    [
        ("{quality: high}", (0, 2, 6, 8)),
        ("{quality: [high, medium]}", (0, 2, 5, 6, 8)),
        ("{quality: null}", (3,)),
        ("{stars: [1, 3.0]}", (1, 3)),
        ("{kept: true}", (0, 2, 4, 6, 8)),
        ("{quality: low, kept: false}", (1, 7, 9)),
        ("{prompt: Day 4.}", (4,)),
    ],
)
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_rows_are_chosen_by_their_values(where: str, days: tuple[int, ...], kind: str, tmp_path: Path) -> None:
    file, said = tmp_path / f"rows.{kind}", list[str]()
    if kind == "jsonl":
        write_jsonl(file, RATED)
    else:
        cells = [["" if value is None else str(value) for value in row.values()] for row in RATED]
        file.write_text("\n".join(",".join(line) for line in ([*RATED[0]], *cells)))
    assert [row.prompt[0]["content"] for row in read(file, f"data.where={where}", said=said)] == [
        f"Day {day}." for day in days
    ]
    assert sum(f"{10 - len(days)} rows left out by data.where={{" in line for line in said) == 1
    unread = next(line for line in said if "not read" in line) if "stars" not in where else ""
    assert not {"quality", "kept"} & {*re.findall(r"\w+", unread)} & {*re.findall(r"\w+", where)}


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (
            "{qualty: high}",
            "rows.jsonl: no row has a column qualty (data.where); the columns are completion, kept, prompt",
        ),
        ("{quality: hgh}", "rows.jsonl: no row has data.where={quality: hgh}"),
        ("{quality: {a: b}}", "data.where.quality: must be a value, or a list of values"),
        ("{quality: []}", "data.where.quality: must be a value, or a list of values"),
    ],
)
def test_a_choice_that_cannot_be_made_is_refused(where: str, message: str, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", RATED)
    with pytest.raises(UserError, match=re.escape(message)):
        read(file, f"data.where={where}")


def test_rows_of_a_mixture_are_chosen_too(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", RATED)
    mix = "data.mix=[{path: %s, rows: %d}]"
    assert len(read(file, "data.where={quality: high}", mix % (file, 4))) == 4
    with pytest.raises(UserError, match=r"data.mix: .* has 4 rows, not the 5 asked for"):
        read(file, "data.where={quality: high}", mix % (file, 5))


def test_bad_rows_that_are_not_chosen_are_not_read(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [*RATED, {"q": None, "quality": "low"}, {"q": "x", "quality": "low"}])
    assert len(read(file, "data.where={quality: high}")) == 4


ANNOMI = ["mi_quality,transcript_id,utterance_id,interlocutor,utterance_text"] + [
    f"{'high' if talk % 3 else 'low'},{talk},{turn},{who},{who} {talk}-{turn}"
    for talk in range(6)
    for turn, who in enumerate(("client", "therapist", "client", "therapist"))
]


def test_transcripts_of_low_quality_are_left_out_by_the_preset(tmp_path: Path) -> None:
    file, said = tmp_path / "AnnoMI.csv", list[str]()
    file.write_text("\n".join(ANNOMI))
    assert [row.id for row in read(file, name="annomi", said=said)] == ["1", "2", "4", "5"]
    assert f"{file}: 2 conversations left out by data.where={{mi_quality: high}}" in said
    assert len(read(file, "data.where=null", name="annomi")) == 6
    named = "data.columns={label: mi_quality}"
    labels = [row.label for row in read(file, "data.where=null", named, name="annomi")]
    assert labels == [False, True, True, False, True, True]
    with pytest.raises(UserError, match=r"row 6: data.where=.*takes some turns of its conversation and not the others"):
        read(file, "data.where={interlocutor: client}", name="annomi")


# Columns of other names, and of several


def alpaca_rows() -> list[Row]:
    return [
        {
            "instruction": f"I have been awake for {number} nights.",
            "input": f"My sister left on day {number}." if number % 2 else "",
            "output": f"What of night {number}?",
        }
        for number in range(10)
    ]


def with_all(rows: list[Row], **changes: Any) -> list[Row]:
    return [row | changes for row in rows]


ASKED: list[Row] = [
    {
        "question": f"Night {number}",
        "description": f"I have been awake for {number} nights now.",
        "answers": [{"answer_text": f"What of night {number}?"}, {"answer_text": "Since when?"}],
    }
    for number in range(10)
]
TURNS: list[Row] = [
    {"conversation_id": number // 2, "speaker": ("client", "therapist")[number % 2], "text": f"said {number}"}
    for number in range(10)
]
SHAPES: dict[str, tuple[list[Row], str | None]] = {
    "alpaca, the first input empty": (
        alpaca_rows(),
        "'data.columns={prompt: [instruction, input], completion: output}'",
    ),
    "alpaca, one instruction": (
        with_all(alpaca_rows()[1::2], instruction="Answer as a counsellor would."),
        "'data.columns={system: instruction, prompt: input, completion: output}'",
    ),
    "title and text": (
        [
            {"questionTitle": f"I lie awake {n}", "questionText": "All night, every night.", "answerText": "Why?"}
            for n in range(10)
        ],
        "'data.columns={prompt: [questionTitle, questionText], completion: answerText}'",
    ),
    "one column": (
        [{"Context": f"Day {n}.", "Response": "Why?"} for n in range(10)],
        "'data.columns={prompt: Context, completion: Response}'",
    ),
    "capital letters": (
        [{"Prompt": f"Day {n}.", "Chosen": "Why?", "Rejected": "Stop."} for n in range(10)],
        "'data.columns={prompt: Prompt, chosen: Chosen, rejected: Rejected}'",
    ),
    "some rows lack a prompt": (
        [{"Context": "" if n == 3 else f"Day {n}.", "Response": "Why?"} for n in range(10)],
        "'data.columns={prompt: Context, completion: Response}' data.bad_rows=drop",
    ),
    "odd names": (
        [{"Größe": f"Day {n}.", "client": f"Day {n}.", "Ant wort": "a", "answer_text": "Why?"} for n in range(10)],
        "'data.columns={prompt: client, completion: answer_text}'",
    ),
    "nothing known": ([{"client speech": f"Day {n}.", "a": "Why?"} for n in range(10)], None),
    "half a pair": ([{"User": f"Day {n}.", "good reply": "Why?", "bad": "Stop."} for n in range(10)], None),
    "a turn a row": (TURNS, "data.group_by=conversation_id 'data.columns={role: speaker, content: text}'"),
    "speeches": ([{"text": f"Day {n}."} for n in range(10)], "'data.columns={prompt: text}'"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_advice_is_tried_on_all_rows_and_loses_no_text(name: str, tmp_path: Path) -> None:
    rows, keys = SHAPES[name]
    file = write_jsonl(tmp_path / "rows.jsonl", rows)
    with pytest.raises(UserError) as caught:
        read(file)
    advice = str(caught.value).partition("; try ")[2].partition(", which reads")[0]
    assert (advice or None) == keys
    if keys:
        found = read(file, *shlex.split(keys))
        given = " ".join(str(value) for row in rows for value in row.values())
        said = " ".join(text for row in found for text in (*(m["content"] for m in row.prompt), *row.replies))
        assert {*re.findall(r"night|sister|awake|Day \d", given)} - {"Day 3" * ("drop" in keys)} <= {
            *re.findall(r"night|sister|awake|Day \d|", said)
        }


def test_pasted_advice_keeps_each_row_of_an_alpaca_file(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", alpaca_rows())
    found = texts(read(file, "data.columns={prompt: [instruction, input], completion: output}"))
    assert found[0] == ("I have been awake for 0 nights.", "What of night 0?")
    assert found[1] == ("I have been awake for 1 nights.\n\nMy sister left on day 1.", "What of night 1?")
    said: list[str] = []
    read(file, "data.columns={prompt: instruction, completion: output}", said=said)
    assert said == [
        f"{file}: columns that are not read: input; try 'data.columns={{prompt: [instruction, input], completion: output}}'"
    ]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            "{prompt: [a, number]}",
            "line 1: its column number is not text, so it cannot be joined (data.columns.prompt)",
        ),
        ("{prompt: [a, c]}", "no row has a column c (data.columns.prompt); the columns are a, empty, nil, number"),
        ("{prompt: [empty, nil]}", "line 1: its column empty and nil is empty (data.columns.prompt)"),
        ("{prompt: []}", "data.columns.prompt: must be a column, or a list of columns whose texts are joined"),
        ("{prompt: {a: b}}", "data.columns.prompt: must be a column, or a list of columns whose texts are joined"),
        ("{label: [a, b]}", "data.columns.label: names one column; only prompt, system"),
        ("{prompt: [a, a]}", "gives one column two names"),
    ],
)
def test_columns_that_cannot_be_joined_are_refused(columns: str, message: str, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [{"a": "Day 1.", "number": 3, "empty": " ", "nil": None}])
    with pytest.raises(UserError, match=re.escape(message)):
        read(file, f"data.columns={columns}")


def test_titles_with_a_text_and_several_answers_say_what_to_type(tmp_path: Path) -> None:
    file, said = write_jsonl(tmp_path / "rows.jsonl", ASKED), list[str]()
    keys = "data.columns={prompt: [question, description], completion: answers}"
    assert len(read(file, said=said)) == 10
    assert said == [f"{file}: columns that are not read: answers, description; try '{keys}'"]
    with pytest.raises(UserError, match=rf"has a prompt and no reply; .*; try '{re.escape(keys)}'$"):
        api.load_groups(api.compose(["algo=sft", f"data.path={file}"]))
    found = read(file, keys)
    assert len(found) == 20
    assert texts(found)[0] == ("Night 0\n\nI have been awake for 0 nights now.", "What of night 0?")
    assert (found[1].where, found[1].replies) == ("rows.jsonl line 1, answer 2", ["Since when?"])
    whole = write_jsonl(tmp_path / "whole.jsonl", [{"prompt": "Day 1.", "completion": "Why?", "notes": "x"}])
    read(whole, said=(lines := []))
    assert lines[0] == f"{whole}: columns that are not read: notes"


@pytest.mark.parametrize(
    ("answers", "replies"),
    [
        (["Why?", "Since when?"], [["Why?"], ["Since when?"]]),
        ([{"text": "Why?", "votes": 3}], [["Why?"]]),
        ([therapist("Why?")], [["Why?"]]),
        ([], [[]]),
    ],
)
def test_a_list_of_replies_is_a_row_for_each(answers: Any, replies: Any, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [{"id": "a", "prompt": "Day 1.", "answer": answers}])
    assert [row.replies for row in read(file)] == replies


@pytest.mark.parametrize("answer", [[{"role": "narrator", "text": "Why?"}], [{"content": "Why?"}], ["Why?", 3]])
def test_a_list_that_is_no_list_of_replies_is_refused(answer: Any, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "Day 1.", "answer": answer}])
    with pytest.raises(UserError, match=r"line 1: answer"):
        read(file)


# HTML


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("<p>You miss her.</p><p>Since&nbsp;when?</p>", "You miss her.\n\nSince when?"),
        ("I can&#39;t say &#34;no&#34; &amp; leave.", 'I can\'t say "no" & leave.'),
        ("One<br>two<br/>three", "One\ntwo\nthree"),
        ('See <a href="x">this</a>, <B>now</B>.<!-- x --><script>y()</script>', "See this, now."),
        ("<ul><li>Rest</li><li>Walk</li></ul>", "Rest\n\nWalk"),
        ("<p>One  <br> \n <br> two</p>", "One\n\ntwo"),
        ("<p>You <!-- <script> --><style>p {}</style>miss <STYLE>b {}</style >her. <!-- and", "You miss her. <!-- and"),
        ("<think>She grieves.</think> I <3 that, 2 < 3 > 1 & AT&T; <s>", None),
        ("Step 1: &nope; <name>", None),
    ],
)
def test_html_becomes_text_and_nothing_else_changes(text: str, plain: str | None) -> None:
    assert has_html(text) == (plain is not None)
    assert without_html({"a": [text, 3]}) == {"a": [without_html(text), 3]}
    assert without_html(text).strip() == (plain or text)
    assert not has_html(without_html(text))


def test_html_is_counted_and_made_text_if_asked(tmp_path: Path) -> None:
    rows: list[Row] = [{"prompt": f"Day {n}.", "completion": "<p>Why?</p>" if n < 7 else "Why?"} for n in range(10)]
    file, said = write_jsonl(tmp_path / "rows.jsonl", rows), list[str]()
    assert read(file, said=said)[0].replies == ["<p>Why?</p>"]
    assert said == [f"warning: {file}: 7 of 10 rows hold HTML, such as <p> or &nbsp;; data.html=text makes text of it"]
    assert read(file, "data.html=text", said=(lines := []))[0].replies == ["Why?"] and lines == []
    talk = json.dumps([user("&lt;sighs&gt; Day 1."), therapist("Since <i>when</i>?")])
    assert texts(read(write_jsonl(file, [{"messages": talk}]), "data.html=text")) == [("<sighs> Day 1.", "Since when?")]
    with pytest.raises(UserError, match="line 1: completion is empty"):
        read(write_jsonl(file, [{"prompt": "Day 1.", "completion": "<p>&nbsp;</p>"}]), "data.html=text")


# Labels that some rows lack, and empty thoughts


def test_a_row_without_a_label_among_labelled_ones_is_refused_or_dropped(tmp_path: Path) -> None:
    rows = [{"prompt": f"Day {n}.", "completion": "Why?", "label": n % 2} for n in range(10)]
    del rows[4]["label"]
    file, said = write_jsonl(tmp_path / "rows.jsonl", rows), list[str]()
    with pytest.raises(
        UserError, match=r"rows.jsonl line 5: has a reply and no label, and other rows have one: add it"
    ):
        read(file)
    assert len(read(file, "data.bad_rows=drop", said=said)) == 9
    assert said[0] == f"warning: {file}: 1 bad row dropped (data.bad_rows=drop)"
    pairs = [{"prompt": f"Night {n}.", "chosen": "Why?", "rejected": "Stop."} for n in range(3)]
    assert len(read(write_jsonl(file, [*pairs, rows[0]]))) == 4, "a pair needs no label"


def test_empty_thoughts_are_counted(tmp_path: Path) -> None:
    replies = ["<think>\n\n</think>\n\nWhy?", "<think>Hm.</think>Why?", "Why?"]
    rows = [{"prompt": f"Day {n}.", "completion": reply} for n, reply in enumerate(replies)]
    file, said = write_jsonl(tmp_path / "rows.jsonl", rows), list[str]()
    read(file, said=said)
    (line,) = said
    assert line.startswith(f"warning: {file}: 1 of 3 rows begin a reply with an empty <think></think>")


# Conversations as tools and people write them


TALK = [user("I lie awake."), therapist("Since when?"), user("Since May."), therapist("What happened then?")]
CHINESE = "来访者：我失眠。\n咨询师：多久了？\n来访者：五月开始。\n咨询师：那时发生了什么？"  # noqa: RUF001
ENGLISH = "Client: I lie awake.\nCounselor: Since when?\nClient: Since May.\nCounselor: What happened then?\n"


def langchain(message: Row) -> Row:
    kind = {"user": "human", "assistant": "ai"}[message["role"]]
    return {"type": kind, "data": {"content": message["content"], "type": kind, "tool_calls": []}}


FILES: dict[str, dict[str, Any]] = {
    "conversations in a list": {"talks.json": [TALK, TALK]},
    "conversations in lines": {"talks.jsonl": [TALK, TALK]},
    "one conversation": {"talk.json": TALK},
    "one conversation under a name": {"talk.json": {"id": 3, "messages": TALK}},
    "a conversation a file": {"talks/1.json": TALK, "talks/2.json": {"messages": TALK}},
    "a transcript": {"talk.txt": ENGLISH},
    "a transcript a file": {"talks/1.txt": ENGLISH, "talks/2.txt": ENGLISH},
    "LangChain": {"talk.json": [langchain(message) for message in TALK]},
    "LangChain, without data": {"talk.json": [langchain(message)["data"] | {"tool_calls": None} for message in TALK]},
    "roles ai and human": {"talks.jsonl": [{"messages": [m | {"role": langchain(m)["type"]} for m in TALK]}]},
    "a Chinese transcript": {"talks.jsonl": [{"messages": CHINESE}]},
    "a Chinese file": {"talk.txt": CHINESE},
}


@pytest.mark.parametrize("name", FILES)
def test_conversations_of_every_form_are_read(name: str, tmp_path: Path) -> None:
    for file, content in FILES[name].items():
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True)
        if file.endswith(".jsonl"):
            write_jsonl(path, content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
    first = tmp_path / next(iter(FILES[name]))
    found = read(first if first.parent == tmp_path else first.parent)
    expected = tuple(message["content"] for message in TALK)
    if "Chinese" in name:
        expected = ("我失眠。", "多久了？", "五月开始。", "那时发生了什么？")  # noqa: RUF001
    assert {*texts(found)} == {expected}
    assert len(found) == max(len(FILES[name]), 2 if name.startswith("conversations") else 1)


def test_files_that_are_no_conversation_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "talk.txt").write_text("I lie awake.")
    with pytest.raises(UserError, match=r"talk.txt: is a text without speakers; each turn begins on a line of its own"):
        read(tmp_path / "talk.txt")
    bare = write_jsonl(tmp_path / "turns.jsonl", TALK)
    with pytest.raises(UserError, match=r'put the turns of a conversation into one row, {"messages": \[...\]}'):
        read(bare)
