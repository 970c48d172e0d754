"""Every contestant replies to every speech, once: the same request to all, nothing asked twice, nothing made up."""

from pathlib import Path

import pyarrow.parquet as pq

from psychocounsel.evaluation.contestants import step
from tests.support.annotating import model_server
from tests.support.contests import PROMPTS, Recorder, contest, context, data, replies
from tests.support.scripted import completion


def rows(folder: Path, table: str = "replies") -> list[dict[str, object]]:
    return list(pq.read_table(folder / f"{table}.parquet").to_pylist())


def test_servers_get_the_same_requests_and_files_are_looked_up(tmp_path: Path) -> None:
    file = replies(tmp_path / "people.jsonl", lambda prompt: f"About {prompt[:13]}: what would help?")
    asked, other_asked = Recorder(), Recorder()
    with model_server(change=asked) as one, model_server(change=other_asked) as other:
        against = f"against=[{{path: '{other.address}/v1', model: two}}, {file}]"
        config = contest(
            "evaluation=health", *data(tmp_path), f"model.path={one.address}/v1", "model.model=one", against,
            "replies.samples=2", "replies.length_limits=[null,50]",
        )  # fmt: skip
        step.run(context(config, tmp_path / "out"))
        requests = [
            sorted((str(each["messages"]), each["seed"]) for each in server.payloads) for server in (asked, other_asked)
        ]
        assert requests[0] == requests[1]
        assert len(requests[0]) == len(PROMPTS) * 2 * 2
        limited = [text for text, _ in requests[0] if "at most 50 words" in text]
        assert len(limited) == len(PROMPTS) * 2
        step.run(context(config, tmp_path / "out"))
        assert len(asked.payloads) == len(requests[0]), "bought twice"
    found = rows(tmp_path / "out")
    assert len(found) == 3 * len(PROMPTS) * 2 * 2
    people = [row for row in found if row["setting"] == "people"]
    assert {row["outcome"] for row in people if row["sample"] == 0} == {"text"}
    assert {row["outcome"] for row in people if row["sample"] == 1} == {"failed"}, "the file has one reply a prompt"


def test_what_is_no_reply_is_told_apart_and_kept(tmp_path: Path) -> None:
    says = ["", "I'm sorry, but I can't help with that request.", "It sounds hard. What"]

    def odd(payload: dict[str, list[dict[str, str]]], number: int) -> object:
        place = PROMPTS.index(payload["messages"][-1]["content"])
        return completion(says[place], payload, "length" if place == 2 else "stop") if place < len(says) else None

    with model_server(change=Recorder(odd)) as server:
        config = contest(
            "evaluation=health", *data(tmp_path), f"model.path={server.address}/v1", "model.model=m", "against=null"
        )
        figures = step.run(context(config, tmp_path / "out"))
    assert figures["outcomes"] == {"m": {"empty": 1, "refused": 1, "cut": 1, "text": len(PROMPTS) - 3}}
    by_outcome = {row["outcome"]: row for row in rows(tmp_path / "out")}
    assert by_outcome["empty"]["text"] is None
    assert by_outcome["cut"]["text"] == says[2]


def test_speeches_are_kept_from_others_unless_said(tmp_path: Path) -> None:
    asked = Recorder()
    with model_server(change=asked) as server:
        given = [
            "evaluation=health", *data(tmp_path), "against=null",
            f"model={{path: '{server.address}/v1', model: m, third_party: true}}",
        ]  # fmt: skip
        step.run(context(contest(*given), tmp_path / "kept"))
        assert not asked.payloads, "unknown risk counts as a crisis"
        assert {row["outcome"] for row in rows(tmp_path / "kept")} == {"withheld"}
        step.run(context(contest(*given, "crisis_to_third_parties=true"), tmp_path / "shown"))
        assert len(asked.payloads) == len(PROMPTS)


def test_speeches_near_training_data_are_marked(tmp_path: Path) -> None:
    file = replies(tmp_path / "people.jsonl", str.upper)
    known = data(tmp_path / "known", [f"{PROMPTS[3]} Sorry.", "Something else that nobody else has said to anyone."])
    config = contest(
        "evaluation=health", *data(tmp_path), f"model.path={file}", "against=null",
        f"trained_on=[{known[0].removeprefix('data.path=')}]",
    )  # fmt: skip
    step.run(context(config, tmp_path / "out"))
    near = {row["text"]: row["near_training"] for row in rows(tmp_path / "out", "speeches")}
    assert [prompt for prompt in PROMPTS if near[prompt]] == [PROMPTS[3]]
