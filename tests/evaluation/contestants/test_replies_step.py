"""Every contestant replies once to every speech: all get the same requests, and no request is sent twice."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from psychocounsel.errors import UserError
from psychocounsel.evaluation.contestants import replies_step
from psychocounsel.evaluation.contestants.speeches import clients_of
from psychocounsel.rundir.run_config import write_config, write_job
from tests.support.annotating import model_server
from tests.support.composed import check, compose
from tests.support.contests import PROMPTS, Recorder, contest, context, data, replies
from tests.support.harness import TINY, write_jsonl
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
        replies_step.run(context(config, tmp_path / "out"))
        requests = [
            sorted((str(each["messages"]), each["seed"]) for each in server.payloads) for server in (asked, other_asked)
        ]
        assert requests[0] == requests[1]
        assert len(requests[0]) == len(PROMPTS) * 2 * 2
        limited = [text for text, _ in requests[0] if "at most 50 words" in text]
        assert len(limited) == len(PROMPTS) * 2
        replies_step.run(context(config, tmp_path / "out"))
        assert len(asked.payloads) == len(requests[0]), "a reply was bought twice"
    found = rows(tmp_path / "out")
    assert len(found) == 3 * len(PROMPTS) * 2 * 2
    people = [row for row in found if row["setting"] == "people"]
    assert {row["outcome"] for row in people if row["sample"] == 0} == {"text"}
    assert {row["outcome"] for row in people if row["sample"] == 1} == {"failed"}, (
        "the file has only one reply per prompt"
    )


def test_a_file_without_a_reply_to_any_speech_ends_the_evaluation(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "others.jsonl", [{"prompt": "Another speech.", "reply": "Yes."}])
    config = contest("evaluation=health", *data(tmp_path), "model.path=builtin:tiny", f"against={file}")
    with pytest.raises(UserError, match="others: gave no reply to any speech; .* A file of replies needs"):
        replies_step.run(context(config, tmp_path / "out"))


def test_the_turns_of_a_session_are_of_one_client() -> None:
    first = [
        {"role": "user", "content": "Since my father died in March I cannot sleep, and I do not know why that is."}
    ]
    later = [{"role": "assistant", "content": "What is it like?"}, {"role": "user", "content": "I lie awake."}]
    other = [{"role": "user", "content": "My exams begin on Monday, and I have not opened a single book for them yet."}]
    prompts = {"a": first, "b": other, "c": [{"role": "system", "content": "Listen."}, *first, *later]}
    found = clients_of({"speech": name, "messages": json.dumps(prompt)} for name, prompt in prompts.items())
    assert found["a"] == found["c"] != found["b"]


def test_what_is_no_reply_is_told_apart_and_kept(tmp_path: Path) -> None:
    says = ["", "I'm sorry, but I can't help with that request.", "It sounds hard. What"]

    def odd(payload: dict[str, list[dict[str, str]]], number: int) -> object:
        place = PROMPTS.index(payload["messages"][-1]["content"])
        if place == 3:
            return completion(None, payload, refusal="I will not talk about this.")
        return completion(says[place], payload, "length" if place == 2 else "stop") if place < len(says) else None

    with model_server(change=Recorder(odd)) as server:
        config = contest(
            "evaluation=health", *data(tmp_path), f"model.path={server.address}/v1", "model.model=m", "against=null"
        )
        figures = replies_step.run(context(config, tmp_path / "out"))
    assert figures["outcomes"] == {"m": {"empty": 1, "refused": 2, "cut": 1, "text": len(PROMPTS) - 4}}
    texts = {row["speech"]: row["text"] for row in rows(tmp_path / "out", "speeches")}
    refused = {texts[row["speech"]]: row["text"] for row in rows(tmp_path / "out") if row["outcome"] == "refused"}
    assert refused == {PROMPTS[1]: says[1], PROMPTS[3]: None}, (
        "a refusal in prose keeps its text; a refusal by the API has no reply"
    )
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
        replies_step.run(context(contest(*given), tmp_path / "kept"))
        assert not asked.payloads, "unknown risk counts as a crisis"
        assert {row["outcome"] for row in rows(tmp_path / "kept")} == {"withheld"}
        replies_step.run(context(contest(*given, "crisis_to_third_parties=true"), tmp_path / "shown"))
        assert len(asked.payloads) == len(PROMPTS)


def test_speeches_near_training_data_are_marked(tmp_path: Path) -> None:
    file = replies(tmp_path / "people.jsonl", str.upper)
    known = data(tmp_path / "known", [f"{PROMPTS[3]} Sorry.", "Something else that nobody else has said to anyone."])
    config = contest(
        "evaluation=health", *data(tmp_path), f"model.path={file}", "against=null",
        f"trained_on=[{known[0].removeprefix('data.path=')}]",
    )  # fmt: skip
    replies_step.run(context(config, tmp_path / "out"))
    near = {row["text"]: row["near_training"] for row in rows(tmp_path / "out", "speeches")}
    assert [prompt for prompt in PROMPTS if near[prompt]] == [PROMPTS[3]]


def test_another_seed_asks_anew_and_the_first_one_finds_its_own_again(tmp_path: Path) -> None:
    asked = Recorder()
    with model_server(change=asked) as server:
        given = [
            "evaluation=health",
            *data(tmp_path),
            f"model.path={server.address}/v1",
            "model.model=m",
            "against=null",
        ]
        for seed, calls in ((0, 1), (1, 2), (0, 2)):
            replies_step.run(context(contest(*given, f"replies.seed={seed}"), tmp_path / "out"))
            assert len(asked.payloads) == calls * len(PROMPTS)


def test_a_column_of_risk_decides_who_may_see_a_speech(tmp_path: Path) -> None:
    kinds = ["none", "suicidal_thoughts", "none"]
    rows_of_data = [
        {"prompt": prompt, "chosen": "What keeps you awake?", "rejected": "Sleep more.", "risk": kind}
        for prompt, kind in zip(PROMPTS, kinds, strict=False)
    ]
    file = write_jsonl(tmp_path / "data.jsonl", rows_of_data)
    asked = Recorder()
    with model_server(change=asked) as server:
        config = contest(
            "evaluation=health", "data=local", f"data.path={file}", "part=all", "against=null",
            f"model={{path: '{server.address}/v1', model: m, third_party: true}}",
        )  # fmt: skip
        replies_step.run(context(config, tmp_path / "out"))
    assert sorted(each["messages"][-1]["content"] for each in asked.payloads) == sorted([PROMPTS[0], PROMPTS[2]])


def test_speeches_of_the_runs_before_the_last_one_are_known_too(tmp_path: Path) -> None:
    """A DPO run that started from the model of an SFT run was trained on the data of both."""
    base = "builtin:tiny"
    for name, prompt in (("sft", PROMPTS[1]), ("dpo", PROMPTS[7])):
        shutil.copytree(TINY, tmp_path / name / "model")
        given = [
            *data(tmp_path / name, [prompt, "A text that nobody else has written here before."]),
            "data.dev_fraction=0",
        ]
        config = check(compose([*(each for each in given if each != "part=all"), f"model.path={base}"], "train"))
        write_config(tmp_path / name, config)
        write_job(tmp_path / name, "psychocounsel.train", 0, [])
        base = str(tmp_path / name / "model")
    config = contest("evaluation=health", *data(tmp_path), f"model.path={tmp_path}/dpo", "against=null")
    replies_step.write_speeches(context(config, tmp_path / "out"))
    near = {row["text"]: row["near_training"] for row in rows(tmp_path / "out", "speeches")}
    assert [prompt for prompt in PROMPTS if near[prompt]] == [PROMPTS[1], PROMPTS[7]]
