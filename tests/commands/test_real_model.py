"""SmolLM2-135M in evaluate, report, annotate and chat: its greedy replies equal those of plain transformers."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from psychocounsel.counsel.rubric import rubric_folder
from psychocounsel.counsel.system_prompt import SHORT
from tests.support.chats import converse, rows
from tests.support.harness import cli
from tests.support.real_model import smollm2

pytestmark = pytest.mark.slow

TOKENS = 16
WRITING = [f"replies.max_tokens={TOKENS}", "replies.temperature=0", "limit=2"]
JUDGED = ["against=builtin:tiny", "judge=reward", "judge.reward=tiny"]


@pytest.fixture(scope="module")
def greedy() -> Any:
    """Return a function from the messages of a conversation to the greedy reply, computed without our code."""
    tokenizer, lm = AutoTokenizer.from_pretrained(smollm2()), AutoModelForCausalLM.from_pretrained(smollm2())

    def reply(messages: list[dict[str, str]]) -> str:
        prompt = [{"role": "system", "content": SHORT}, *messages]
        given = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            made = lm.float().generate(given, do_sample=False, max_new_tokens=TOKENS)
        return tokenizer.decode(made[0, given.shape[1] :], skip_special_tokens=True).strip()

    return reply


@pytest.mark.parametrize(
    ("evaluation", "overrides", "code"),
    [
        ("winrate", [*WRITING, *JUDGED], 0),
        ("best_of", [f"replies.max_tokens={TOKENS}", "limit=2", "reward=tiny", "judge=tiny", "evaluation.n=[2]"], 0),
        ("gate", [*WRITING, "against=builtin:tiny"], 3),
    ],
)
def test_evaluations_measure_what_transformers_writes(
    evaluation: str, overrides: list[str], code: int, greedy: Any, tmp_path: Path
) -> None:
    """The gate runs safety, session and health, and refuses replies that are all cut. Best of n samples, so it is only run."""
    given = [f"evaluation={evaluation}", f"model.path={smollm2()}", *overrides, "run_dir=run"]
    cli("evaluate", *given, cwd=tmp_path, check_code=code)
    run = tmp_path / "run"
    assert json.loads((run / "summary.json").read_text())["metrics"]
    cli("report", "run", cwd=tmp_path)
    assert "smollm2-135m" in (run / "report" / "report.html").read_text()
    for folder in {"winrate": [run], "gate": [run / "parts" / "health"]}.get(evaluation, []):
        speeches = {row["speech"]: row for row in pq.read_table(folder / "speeches.parquet").to_pylist()}
        replies = [row for row in pq.read_table(folder / "replies.parquet").to_pylist() if row["setting"] != "tiny"]
        assert len(replies) == 2
        for row in replies:
            assert row["text"].strip() == greedy(json.loads(speeches[row["speech"]]["messages"]))


def test_a_dataset_is_made_of_its_replies(tmp_path: Path) -> None:
    writer = ["writers=transformers", f"writers.model={smollm2()}", "writers.terms=apache-2.0"]
    small = ["speeches.limit=2", "replies.per_speech=1", f"writers.max_tokens={TOKENS}"]
    done = cli("annotate", *writer, *small, "annotator=rules", "out=dataset", cwd=tmp_path)
    said = done.stdout + done.stderr
    assert "2 replies: 2 cut" in said and "dropped replies that were cut, refused or failed: 1" in said


def shortened(content: Any) -> Any:
    """Return a rubric whose texts have four words each. Cases and examples stay whole, because the loader checks their words."""
    if isinstance(content, dict):
        return {key: value if key in ("cases", "examples") else shortened(value) for key, value in content.items()}
    if isinstance(content, list):
        return [shortened(value) for value in content]
    return " ".join(content.split()[:4]) if isinstance(content, str) else content


def test_an_annotator_that_answers_garbage_rates_nothing(tmp_path: Path) -> None:
    """SmolLM2 reads 8,192 tokens, fewer than the rubric has. It answers a shorter rubric, but without a rating."""
    writer = [
        "writers=transformers",
        "writers.model=builtin:tiny",
        "writers.terms=apache-2.0",
        "writers.max_tokens=200",
    ]
    annotator = [
        "annotator=transformers",
        f"annotator.model={smollm2()}",
        "annotator.dtype=bf16",
        "annotator.max_tokens=16",
        "annotator.terms=apache-2.0",
    ]
    given = [*writer, *annotator, "speeches.limit=1", "replies.per_speech=1", "scores.retries=0"]
    done = cli("annotate", *given, "out=short", cwd=tmp_path, check_code=2)
    assert "reads 8,192 tokens, too few for 1 prompt of 1" in done.stderr and "Traceback" not in done.stderr
    (tmp_path / "rubric").mkdir()
    for file in rubric_folder("builtin:en").glob("*.yaml"):
        (tmp_path / "rubric" / file.name).write_text(yaml.safe_dump(shortened(yaml.safe_load(file.read_text()))))
    done = cli("annotate", *given, "scores.rubric=rubric", "out=long", cwd=tmp_path)
    said = done.stdout + done.stderr
    assert "no training pairs" in said and "dropped replies without a rating: 1" in said and "Traceback" not in said
    votes = pq.read_table(tmp_path / "long" / "votes.parquet").to_pylist()
    assert {row["outcome"] for row in votes} <= {"cut", "unparsable"} and len(votes) == 1


def test_it_talks(greedy: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    turns = ["I cannot sleep since my father died.", "My sister says that I should be over it."]
    given = [f"model.path={smollm2()}", f"replies.max_tokens={TOKENS}", "replies.temperature=0", "reward=tiny"]
    assert converse(monkeypatch, "\n".join([*turns, "/save talk.jsonl", ""]), *given) == 0
    messages = list[dict[str, str]]()
    for turn, row in zip(turns, rows(tmp_path / "talk.jsonl"), strict=True):
        messages.append({"role": "user", "content": turn})
        reply = greedy(messages)
        assert row["replies"][0]["text"] == reply
        messages.append({"role": "assistant", "content": reply})
