"""Tests of the whole command `evaluate evaluation=winrate` with servers: kills, budgets, new opponents, resumed directories."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from psychocounsel.errors import DONE, GATE_NO, USER_ERROR
from psychocounsel.storage.files import read_json
from tests.support.annotating import model_server
from tests.support.contests import PROMPTS, Recorder, data, replies, shown, verdict
from tests.support.harness import cli, write_jsonl
from tests.support.scripted import completion


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name, words in (("mine", "a long and patient reply"), ("base", "no"), ("other", "maybe")):
        replies(tmp_path / f"{name}.jsonl", lambda prompt, words=words: f"{words} to {prompt[:13]}")  # type: ignore[misc]
    return tmp_path


def by_length(payload: Any, number: int) -> Any:
    first, second = shown(payload)
    return completion(verdict("first" if len(first) > len(second) else "second"), payload)


def command(home: Path, address: str, *more: str) -> list[str]:
    given = ["evaluate", "evaluation=winrate", *data(home), "model.path=mine.jsonl", "against=base.jsonl"]
    judge = ["judge=local_vllm", "judge.model=j", f"judge.addresses=[{address}/v1]", "judge.concurrency=2"]
    return [*given, *judge, "evaluation.controls=0", "run_dir=out", "cluster.threads=1", *more]


def verdicts(folder: Path) -> list[Any]:
    return list(pq.read_table(folder / "verdicts.parquet").to_pylist())


def test_killed_in_the_middle_it_goes_on_and_buys_no_verdict_twice(home: Path) -> None:
    kills = [5, 14]

    def kill(payload: Any, number: int) -> Any:
        if kills and len(asked.payloads) >= kills[0]:
            kills.pop(0)
            with contextlib.suppress(ProcessLookupError):
                os.kill(read_json(home / "out" / "owner.json")["pid"], signal.SIGKILL)
        return by_length(payload, number)

    asked = Recorder(kill)
    with model_server(0.02, asked) as server:
        for _ in range(2):
            assert cli(*command(home, server.address), cwd=home, check_code=None).returncode not in (DONE, USER_ERROR)
        cli(*command(home, server.address), cwd=home)
        kept = [line for file in (home / "out/answers").glob("*.jsonl") for line in file.open() if line.endswith("\n")]
        keys = [json.loads(line)["key"] for line in kept if "key" in json.loads(line)]
        assert len(keys) == len(set(keys)) == 2 * len(PROMPTS) + 2 * len(PROMPTS)
        # Lost answers per kill, at most: two concurrent requests (judge.concurrency), four waiting for a thread or the disk.
        lost = 2 + 4
        assert len(asked.payloads) <= 2 * len(PROMPTS) + 2 * lost, "only requests in progress at a kill are repeated"
        cli(*command(home, server.address, "run_dir=whole"), cwd=home)
    assert verdicts(home / "out") == verdicts(home / "whole")
    metrics = read_json(home / "out" / "summary.json")["metrics"]
    assert metrics == read_json(home / "whole" / "summary.json")["metrics"]
    assert metrics["win_rate"] == 1.0


@pytest.mark.slow
def test_a_budget_stops_and_the_directory_remembers_what_it_was_made_with(home: Path) -> None:
    asked = Recorder(by_length)
    with model_server(change=asked) as server:
        stopped = cli(*command(home, server.address, "budget.calls=30"), cwd=home, check_code=GATE_NO)
        assert "The same command with a larger budget continues" in stopped.stderr
        cli("evaluate", "run_dir=out", "budget.calls=null", cwd=home)
        assert len(asked.payloads) == 2 * len(PROMPTS)
        again = cli("evaluate", "run_dir=out", cwd=home)
        assert "already finished" in again.stdout
        figures = cli("evaluate", "run_dir=out", "steps=[statistics]", "evaluation.samples=200", cwd=home)
        assert len(asked.payloads) == 2 * len(PROMPTS)
    assert "against base" in figures.stderr
    wrong = cli("evaluate", "run_dir=out", "steps=[verdict]", cwd=home, check_code=USER_ERROR)
    assert "there is no step verdict; did you mean verdicts?" in wrong.stderr


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["evaluation=winrate", "against=null"], "a win rate needs an opponent"),
        (["evaluation=health", "judge=openai", "judge.model=x"], "evaluation=health does not read it"),
        (["model.path=builtin:tiny"], "evaluation=reward does not read it"),
        (["evaluation=winrate", "reward.path=builtin:tiny_reward"], "evaluation=winrate does not read it"),
        (["evaluation=winrate", "judge=several"], "judge.members: "),
        (["evaluation=winrate", "judge=openai", "judge.model=x"], "OPENAI_API_KEY"),
        (["evaluation=winrate", "cluster.processes=2"], "runs one process per job"),
        (["evaluation=winrate", "evaluation.rubric=builtin:xx"], "has no effect, because no judge reads a prompt"),
        (["evaluation=winrat"], "did you mean"),
    ],
)
def test_what_cannot_work_is_one_line_before_anything_starts(tmp_path: Path, overrides: list[str], said: str) -> None:
    result = cli("evaluate", *overrides, "run_dir=out", cwd=tmp_path, check_code=USER_ERROR)
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_agreement_with_experts_stands_beside_the_figures(home: Path) -> None:
    prompts = PROMPTS[:8]
    said = [
        {
            "prompt": prompt,
            "reply_a": f"no to {prompt[:13]}",
            "reply_b": f"a long and patient reply to {prompt[:13]}",
            "better": "a" if place == 0 else "b",
            "expert": "e01",
        }
        for place, prompt in enumerate(prompts)
    ]
    write_jsonl(home / "experts.jsonl", said)
    with model_server(change=Recorder(by_length)) as server:
        result = cli(*command(home, server.address, "evaluation.experts=[experts.jsonl]", "verbose=true"), cwd=home)
    [variant] = read_json(home / "out" / "figures.json")["variants"]
    [found] = variant["experts"]
    assert (found["expert"], found["judge"], found["agreement"]["rows"]) == ("e01", "j", 8)
    assert found["agreement"]["raw"]["value"] == 7 / 8
    lines = [line.split() for line in result.stderr.splitlines()]
    agreement = next(line for line in lines if line[:3] == ["j", "expert", "e01"])
    assert agreement[3:6] == ["8", "8", "87.5"]
    assert "no expert has compared these replies" not in result.stderr
    beside = variant["opponents"]["base"]["experts"]
    assert (beside["together"]["rows"], beside["together"]["raw"]["value"]) == (8, 7 / 8)
    assert beside["by_judge"]["j"] == beside["together"]
    assert read_json(home / "out" / "summary.json")["metrics"]["experts_agree/base"] == 7 / 8
    headline = next(line for line in lines if line[:2] == ["mine", "base"])
    assert headline[-7:] == ["87.5", "(43.2", "to", "98.5)", "8", "few", "clients"]


@pytest.mark.slow
def test_a_directory_says_what_it_holds_and_what_is_made_anew(home: Path) -> None:
    with model_server(change=Recorder(by_length)) as server:
        cli(*command(home, server.address), cwd=home)
        done = cli("evaluate", "run_dir=out", cwd=home).stdout
        assert "already finished: see summary.json and figures.json in it" in done
        again = cli("evaluate", "run_dir=out", "steps=[statistics]", cwd=home)
        assert "against base" in again.stderr, "a step named in `steps` prints its figures again"
        dry = cli("evaluate", "run_dir=out", "against=other.jsonl", "dry_run=true", cwd=home).stdout
        assert f"verdicts: {2 * len(PROMPTS)} calls" in dry
        changed = cli("evaluate", "run_dir=out", "against=[base.jsonl,other.jsonl]", cwd=home)
        assert "replies: made again, because contestants." in changed.stderr
        dry = cli("evaluate", "run_dir=out", "against=other.jsonl", "dry_run=true", cwd=home).stdout
        assert f"verdicts: 0 calls, {2 * len(PROMPTS)} bought before" in dry
    other = cli("evaluate", "run_dir=out", "evaluation=health", cwd=home, check_code=USER_ERROR)
    assert "holds evaluation=winrate; choose another run_dir for evaluation=health" in other.stderr


@pytest.mark.slow
def test_a_sweep_of_several_measurements_names_the_figure_of_each(home: Path) -> None:
    given = [*data(home), "model.path=mine.jsonl", "against=base.jsonl", "judge=reward", "cluster.threads=1"]
    result = cli("evaluate", "-m", "evaluation=winrate,health", *given[:-2], "judge=tiny", "sweep_dir=out", cwd=home)
    table = [line.split() for line in result.stdout.split("\nresult")[1].split("\n\n")[0].splitlines()]
    assert table[0][:2] == ["figure", "of"]
    runs = {"winrate": "win_rate", "health": "limits_exceeded"}
    for row, (evaluation, metric) in zip(table[1:], runs.items(), strict=True):
        (folder,) = (home / "out").glob(f"*{evaluation}*")
        value = read_json(folder / "summary.json")["metrics"][metric]
        assert row[:3] == ["done", f"{value:.4f}", metric] and f"evaluation={evaluation}" in row


@pytest.mark.slow
def test_from_python_it_is_the_same(home: Path) -> None:
    """Run both evaluations in one process, as a notebook does."""
    lines = ["from psychocounsel import api"]
    for evaluation, more in {"winrate": ["judge=reward", "judge.reward=tiny"], "health": []}.items():
        overrides = [f"evaluation={evaluation}", *data(home), "model.path=mine.jsonl", "against=base.jsonl", *more]
        lines.append(f"print(api.evaluate({[*overrides, f'run_dir={evaluation}', 'cluster.threads=1']!r}))")
    script = "\n".join(lines)
    result = subprocess.run([sys.executable, "-c", script], cwd=home, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for evaluation in ("winrate", "health"):
        assert read_json(home / evaluation / "summary.json")["status"] == "finished"
