"""`speeches.turns=all`: conversations are cleaned, continued by writers, rated, paired and trained on."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from psychocounsel.annotation.pairs import question_of
from psychocounsel.annotation.speeches.cleaning import CleanSpeech, SpeechRow, cleaned, read_speeches
from psychocounsel.annotation.speeches.settings import Speeches, SpeechSource
from psychocounsel.data.messages import Message
from psychocounsel.data.rows import parse_row
from psychocounsel.errors import USER_ERROR
from psychocounsel.experts.items.pairs import candidates_of
from psychocounsel.grading.rating import conversation_of, conversation_text
from tests.annotation.speeches.speech_files import jsonl, made, table
from tests.support.annotating import model_server, models
from tests.support.harness import cli, write_jsonl
from tests.support.preferences import text as words
from tests.support.rewarding import shown

TALK: list[Message] = [
    {
        "role": "user",
        "content": "My name is Ellen Marlow. I have thought about killing myself since my brother moved out.",
    },
    {"role": "assistant", "content": "Thank you for telling me, Ellen. What happened in the spring?"},
    {
        "role": "user",
        "content": "He left, and to them I am Marlow, nobody else. Ask for Ellen Marlow if you want to know.",
    },
]
SHORT: list[Message] = [
    {"role": "user", "content": "The trams are loud and I have not slept for weeks, and no doctor listens to me."}
]
ODD = "Yes.\r\n\r\nClient: he said.\n\n\nCounsellor: I did.\n\nClient:\n\nBye"


def cleaned_text(value: Any, folder: Path, **settings: Any) -> CleanSpeech:
    chosen = Speeches(name="local", turns="all", languages=None, presidio="never", **settings)
    source = SpeechSource(path=str(write_jsonl(folder / "one.jsonl", [{"messages": value}])))
    (row,) = read_speeches(source, "all", folder)
    assert isinstance(row, SpeechRow)
    speech = cleaned(row, chosen)
    assert isinstance(speech, CleanSpeech), speech
    return speech


def test_a_conversation_is_cleaned_as_one_text_and_found_again(tmp_path: Path) -> None:
    speech = cleaned_text(
        [{"role": "system", "content": "Be kind."}, *TALK, {"role": "assistant", "content": "I see."}], tmp_path
    )
    said = conversation_of(speech.columns["text"])
    assert [message["role"] for message in said] == ["user", "assistant", "user"]
    assert "[NAME_1]" in said[0]["content"] and "[NAME_1]" in said[1]["content"] and "[NAME_1]" in said[2]["content"]
    assert not {"Ellen", "Marlow"} & {*re.findall(r"\w+", speech.columns["text"])}, (
        "a name that the first turn introduces"
    )
    assert speech.columns["risk"] == "suicidal_thoughts" and speech.columns["crisis"], (
        "of an earlier turn of the client"
    )
    asked = [*SHORT, {"role": "assistant", "content": "Do you think about killing yourself?"}, *SHORT]
    assert cleaned_text(asked, tmp_path).columns["risk"] == "unknown", (
        "the counsellor's words are no risk of the client"
    )


@pytest.mark.parametrize(
    "turns",
    [[ODD], [ODD, ODD, ODD], ["Client: Hello.", "Counsellor: Hello.", "Client: And now to all that I have to say."]],
)
def test_turns_that_look_like_others_stay_what_they_are(turns: list[str], tmp_path: Path) -> None:
    roles = ("user", "assistant")
    talk: list[Message] = [{"role": roles[place % 2], "content": text} for place, text in enumerate(turns)]
    least = {"default": 1}
    text = cleaned_text(talk, tmp_path, min_characters=least, identifiers=False).columns["text"]
    if len(turns) > 1:
        wanted = [" ".join(said.split()) for said in turns]
        assert [" ".join(message["content"].split()) for message in conversation_of(text)] == wanted
        assert conversation_text(conversation_of(text)) == text
        assert parse_row({"question": question_of(text)}, "row").prompt == conversation_of(text)
    else:
        assert conversation_of(text) == [{"role": "user", "content": text}] and question_of(text) == text


@pytest.mark.slow
def test_writers_continue_conversations_and_their_pairs_train(tmp_path: Path) -> None:
    words = ["river", "garden", "winter", "letter", "kitchen", "station", "uncle", "morning"]
    talks = [
        [
            {"role": "user", "content": f"Since the {word} I cannot sleep, {' '.join(words[place:] + words[:place])}."},
            {"role": "assistant", "content": f"What about the {word}?"},
            {"role": "user", "content": f"I could never tell anybody about the {word} and the {words[place - 1]}."},
        ]
        for place, word in enumerate(words)
    ]
    rows: list[Any] = [
        {"messages": [*talk, {"role": "assistant", "content": "Left out."}], "risk": "none"} for talk in talks
    ]
    write_jsonl(tmp_path / "talks.jsonl", [*rows, {"text": SHORT[0]["content"], "risk": "none"}])
    given = [
        "speeches=talks.jsonl",
        "speeches.license=cc0-1.0",
        "speeches.turns=all",
        "speeches.min_characters={default: 50}",
    ]
    given += [
        "speeches.near=1",
        "replies.per_speech=4",
        "pairs.test_fraction=0.3",
        "pairs.min_gap=0",
        "cluster.threads=1",
    ]
    with model_server() as server:
        cli("annotate", *given, *models(server), "out=made", cwd=tmp_path)
        asked = [payload["messages"][1:] for _, payload in server.asked]
    written = [messages for messages in asked if len(messages) == 3]
    assert sorted(map(json.dumps, written)) == sorted(json.dumps(talk) for talk in talks for _ in range(4))
    rated = [shown("client", messages[-1]["content"]) for messages in asked if len(messages) == 1]
    turns = {tuple(re.findall(r"<(turn-\d-\w+-\w{8})>\n(.+)\n</\1>", text or "")) for text in rated}
    said = {tuple(spoken for _, spoken in found) for found in turns}
    assert {tuple(message["content"] for message in talk) for talk in talks} <= said
    prompts = {json.dumps(candidate.prompt) for candidate in candidates_of(tmp_path / "made")}
    assert prompts <= {json.dumps(talk) for talk in [*talks, SHORT]} and len(prompts) > 4
    assert "suggestion" not in (tmp_path / "made" / "dataset" / "README.md").read_text()
    train = [
        "algo=dpo",
        "data=local",
        "data.path=made/dataset",
        "max_steps=1",
        "global_batch_size=2",
        "cluster.threads=1",
    ]
    cli("train", *train, "run_dir=run", "eval.every=0", cwd=tmp_path)


def test_every_turn_of_the_client_is_a_speech_and_a_conversation_stays_in_one_split(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    talks = [
        [
            {"role": ("user", "assistant")[turn % 2], "content": words(rng, 30 if turn % 2 == 0 else 2) + "."}
            for turn in range(9)
        ]
        for _ in range(20)
    ]
    path = jsonl(tmp_path / "talks.jsonl", [{"id": str(n), "messages": talk} for n, talk in enumerate(talks)])
    limits = {"default": 8000}
    _, files, _ = made(tmp_path / "out", path=str(path), turns="every", max_characters=limits, languages=None, near=0.6)
    rows = table(files.speeches)
    assert len(rows) == 100, "prefixes of a conversation are no near duplicates of each other"
    said = sorted(json.dumps(conversation_of(row["text"])) for row in rows)
    assert said == sorted(json.dumps(talk[: turn + 1]) for talk in talks for turn in range(0, 9, 2))
    sides = {row["row"]: {other["split"] for other in rows if other["row"] == row["row"]} for row in rows}
    assert all(len(split) == 1 for split in sides.values())
    assert {"train"} in sides.values() and {"test"} in sides.values()


def test_a_conversation_without_the_client_is_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "talks.jsonl", [{"messages": [{"role": "assistant", "content": "Welcome."}]}])
    given = ["speeches=talks.jsonl", "speeches.license=cc0-1.0", "speeches.turns=all", "out=made", "steps=[speeches]"]
    error = cli("annotate", *given, cwd=tmp_path, check_code=USER_ERROR).stderr
    assert "messages has no turn of the client (role user)" in error
