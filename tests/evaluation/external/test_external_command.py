"""Command `evaluation=external`: a user's exam with the shipped models, and inputs that are refused before the start."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from psychocounsel.settings.targets import build
from psychocounsel.storage.files import read_json
from tests.support.annotating import model_server
from tests.support.contests import Recorder, contest, replies
from tests.support.harness import ROOT, cli, write_jsonl
from tests.support.in_process import run_here
from tests.support.scripted import completion


def exam(folder: Path) -> Path:
    rows = [{"question": f"Item {n}?", "choices": ["yes", "no", "maybe"], "answer": "ABC"[n % 3]} for n in range(6)]
    (folder / "exam.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "exam.jsonl"


@pytest.mark.slow
def test_an_exam_from_the_command_line(tmp_path: Path) -> None:
    arguments = [
        "evaluation=external",
        f"evaluation.sets=[{exam(tmp_path)}]",
        "replies.max_tokens=4",
        f"run_dir={tmp_path}/run",
    ]
    command = [sys.executable, "-m", "psychocounsel.evaluate", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    figures = json.loads((tmp_path / "run" / "figures.json").read_text())
    found = figures["sets"]["exam"]
    assert found["items"] == 6 and found["chance"] == pytest.approx(1 / 3)
    for of in found["settings"].values():
        assert of["answers"] == 12 and sum(of["outcomes"].values()) == 12
    assert len(found["settings"]) == 2 and len(found["against"]) == 1
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["metrics"]["exam/accuracy"] == found["settings"][figures["model"]]["accuracy"]


PROMPTS = [f"Since week {number} I cannot sleep." for number in range(4)]


def rate(payload: Any, number: int) -> Any:
    """Judge: a reply that asks is kind, and its length is rated; answers about week 3 are unreadable."""
    text = payload["messages"][-1]["content"]
    reply = text.split("<reply-")[1].split(">\n")[1].split("\n</")[0]
    said = {
        "criterion_1": {"reason": "So.", "met": reply.endswith("?")},
        "criterion_2": {"reason": "So.", "rating": 5 if len(reply) < 20 else 1},
    }
    return completion("Well." if "week 3" in text else json.dumps(said), payload)


def test_prompts_with_criteria_from_the_command_line(tmp_path: Path) -> None:
    """Scores match hand-made ones, an unreadable rating is counted, and nothing is bought twice."""
    criteria = [
        {"criterion": "Asks", "points": 3, "name": "asks"},
        {"criterion": "Is short", "scale": [1, 5], "name": "short"},
    ]
    write_jsonl(tmp_path / "rubric.jsonl", [{"prompt": prompt, "criteria": criteria} for prompt in PROMPTS])
    replies(tmp_path / "mine.jsonl", lambda prompt: "What keeps you up?", PROMPTS)
    replies(tmp_path / "base.jsonl", lambda prompt: f"Sleep more, and longer than in {prompt[:12]}.", PROMPTS)
    asked = Recorder(rate)
    with model_server(change=asked) as server:
        given = ["evaluate", "evaluation=external", "evaluation.sets=[rubric.jsonl]", "model.path=mine.jsonl"]
        given += ["against=base.jsonl", "judge=local_vllm", "judge.model=j", f"judge.addresses=[{server.address}/v1]"]
        given += ["run_dir=out", "cluster.threads=1", "verbose=true"]
        result = cli(*given, cwd=tmp_path)
        calls = len(asked.payloads)
        assert calls == 2 * (3 + 3), "each reply is rated once; unreadable ratings are asked for three times"
        figures = read_json(tmp_path / "out" / "figures.json")
        cli("evaluate", "run_dir=out", "steps=[figures]", cwd=tmp_path)
        assert len(asked.payloads) == calls and read_json(tmp_path / "out" / "figures.json") == figures
    found = figures["sets"]["rubric"]
    mine, base = found["settings"]["mine"], found["settings"]["base"]
    assert (found["kind"], found["items"], found["judges"]) == ("rubric", 4, ["j"])
    assert (mine["score"], base["score"]) == (1.0, 0.0) and mine["items"] == base["items"] == 3
    assert mine["ratings"] == {"text": 3, "unparsable": 1}
    assert {name: each["score"] for name, each in mine["criteria"].items()} == {"asks": 1.0, "short": 1.0}
    assert found["against"]["mine"]["difference"] == 1.0 and found["against"]["mine"]["p"] == 2 / 2**3
    metrics = read_json(tmp_path / "out" / "summary.json")["metrics"]
    assert metrics == {"rubric/score": 1.0, "score": 1.0}
    lines = [" ".join(line.split()) for line in result.stderr.splitlines()]
    assert "Prompts with criteria" in lines
    assert any(
        line.startswith("rubric mine 3 100.0 (") and line.endswith(" j 4 text 3 text, 1 unparsable") for line in lines
    )


def test_a_changed_file_in_a_folder_makes_the_answers_due_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sets").mkdir()
    criteria = write_jsonl(tmp_path / "criteria.json", [])
    file = exam(tmp_path / "sets")
    monkeypatch.chdir(tmp_path)
    config = contest("evaluation=external", "evaluation.sets=[{path: sets, criteria: criteria.json}]")
    monkeypatch.chdir("/")  # as a job may
    sources = build(config, "evaluation").course.sources
    before = sources(config)
    assert {*before} == {str(file), str(criteria)}
    file.write_text(file.read_text().replace("Item 1?", "Item one?"))
    assert sources(config) != before


def test_what_cannot_work_is_refused_before_the_start(tmp_path: Path) -> None:
    file, line = exam(tmp_path), f"evaluate evaluation=external run_dir={tmp_path}/run"
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": "I cannot sleep.", "criteria": ["Is kind"]}) + "\n")
    for more, said in [
        ("", "nothing to measure"),
        (f"evaluation.sets=[{tmp_path}/none.jsonl]", "none.jsonl"),
        (f"evaluation.sets=[{tmp_path}/prompts.jsonl]", "a reward model cannot rate by criteria"),
        (f"evaluation.sets=[{file}] evaluation.lm_eval_limit=3", "evaluation.lm_eval is empty"),
        (f"'evaluation.sets=[{{path: {file}, colums: {{}}}}]'", "has no field colums"),
        (
            f"'evaluation.sets=[{{path: {file}, name: 2024}}]'",
            "evaluation.sets[0].name=2024: must be a text; put it in quotes",
        ),
        (f"'evaluation.sets=[{{path: {file}, criteria: 3}}]'", "evaluation.sets[0].criteria=3: must be a text"),
        (f"'evaluation.sets=[{{path: {file}, limit: true}}]'", "evaluation.sets[0].limit: must be a whole number"),
    ]:
        answer = run_here(f"{line} {more}")
        assert answer.code == 2 and said in answer.stderr, (more, answer.stderr)
