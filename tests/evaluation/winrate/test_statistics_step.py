"""Figures from tables: nobody drops out without a word, equal replies say nothing of a judge, risk has its own slices."""

from pathlib import Path
from typing import Any

from psychocounsel.evaluation.contestants import step as replies_step
from psychocounsel.evaluation.winrate import statistics_step, verdicts_step
from psychocounsel.storage.files import read_json
from tests.support.annotating import model_server
from tests.support.contests import PROMPTS, Recorder, contest, context, data, replies, verdict
from tests.support.scripted import completion


def figures(folder: Path, against: str, answer: Any) -> tuple[dict[str, Any], str]:
    said: list[str] = []
    with model_server(change=Recorder(answer)) as server:
        config = contest(
            "evaluation=winrate", *data(folder), f"model.path={folder}/mine.jsonl", f"against={against}",
            "judge=local_vllm", "judge.model=j", f"judge.addresses=[{server.address}/v1]",
        )  # fmt: skip
        made = context(config, folder / "out", said)
        for step in (replies_step, verdicts_step, statistics_step):
            step.run(made)
    [variant] = read_json(folder / "out" / "figures.json")["variants"]
    return variant, "\n".join(said)


def test_a_contestant_that_does_not_reply_is_listed_and_said(tmp_path: Path) -> None:
    replies(tmp_path / "mine.jsonl", lambda prompt: f"What about {prompt[:13]}?")
    replies(tmp_path / "part.jsonl", lambda prompt: "No.", PROMPTS[:5])
    replies(tmp_path / "none.jsonl", lambda prompt: "No.", ["Something else."])
    against = f"[{tmp_path}/part.jsonl,{tmp_path}/none.jsonl]"
    found, said = figures(tmp_path, against, lambda payload, _: completion(verdict("tie"), payload))
    assert {name: each["overall"]["prompts"] for name, each in found["opponents"].items()} == {"part": 5, "none": 0}
    assert found["contestants"]["part"] == {"wanted": 12, "without_text": {"failed": 7}, "over_limit": 0}
    assert "part: 7 of 12 replies have no text (7 failed); their speeches are not compared" in said
    assert "none: 12 of 12 replies have no text" in said


def test_equal_replies_say_nothing_of_a_judge(tmp_path: Path) -> None:
    replies(tmp_path / "mine.jsonl", lambda prompt: "Tell me more." if prompt in PROMPTS[:6] else f"Hm, {prompt[:13]}?")
    replies(tmp_path / "base.jsonl", lambda prompt: "Tell me more.")
    found, _ = figures(tmp_path, f"{tmp_path}/base.jsonl", lambda payload, _: completion(verdict("first"), payload))
    assert found["opponents"]["base"]["overall"]["rows"] == 12
    assert found["judges"]["j"]["rows"] == 6
    assert found["judges"]["j"]["inconsistent"]["value"] == 1.0
    assert found["opponents"]["base"]["risk"].keys() == {"risk unknown"}
