"""`evaluation=external` as a command: an exam of the user's, the shipped models, and what is refused before a start."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.harness import ROOT
from tests.support.in_process import run_here


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


def test_what_cannot_work_is_refused_before_the_start(tmp_path: Path) -> None:
    file, line = exam(tmp_path), f"evaluate evaluation=external run_dir={tmp_path}/run"
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": "I cannot sleep.", "criteria": ["Is kind"]}) + "\n")
    for more, said in [
        ("", "nothing to measure"),
        (f"evaluation.sets=[{tmp_path}/none.jsonl]", "none.jsonl"),
        (f"evaluation.sets=[{tmp_path}/prompts.jsonl]", "a reward model cannot rate by criteria"),
        (f"evaluation.sets=[{file}] evaluation.lm_eval_limit=3", "evaluation.lm_eval is empty"),
        (f"'evaluation.sets=[{{path: {file}, colums: {{}}}}]'", "knows no colums"),
    ]:
        answer = run_here(f"{line} {more}")
        assert answer.code == 2 and said in answer.stderr, (more, answer.stderr)
