"""Trainings whose rewards a language model gives: nothing is bought twice, budgets end them, and crises are withheld."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from psychocounsel.counsel.traits import read_risk_rules
from psychocounsel.data.group import Completion, Group, read_groups
from psychocounsel.data.selection import load_split
from psychocounsel.engine.judge import judge_forecast
from psychocounsel.engine.rounds.scoring import Scoring, _crises
from psychocounsel.errors import CONTINUE_LATER, USER_ERROR
from psychocounsel.grading.rewards import JudgeScorer, RubricReward
from psychocounsel.rundir.paths import RunDir
from psychocounsel.storage.files import read_json
from tests.support.answering import Reply, no_proxy, serving
from tests.support.asking import member
from tests.support.composed import checked
from tests.support.harness import cli, metrics_of, world
from tests.support.rewarding import NO_JSON, answering, is_check, judged, shown

__all__ = ["no_proxy"]


def line(model: Path, address: str, *more: str) -> list[str]:
    """Return the overrides of a short training in `run` whose judge answers at `address`."""
    given = ["algo=grpo", "algo.samples=3", f"model.path={model}", "rollout.max_tokens=12", "rollout.shard_prompts=2"]
    given += ["max_steps=2", "global_batch_size=4", "data.limit=60", "eval.limit=4", "cluster.threads=1", "run_dir=run"]
    given += ["reward=rubric", "reward.judge=local_vllm", "reward.judge.model=judge"]
    return [*given, f"reward.judge.addresses=[{address}/v1]", *more]


def contents(payloads: list[Any]) -> list[str]:
    return [payload["messages"][-1]["content"] for payload in payloads if not is_check(payload)]


def unreadable_for_some(content: str) -> str:
    return NO_JSON if sum(map(ord, shown("reply", content) or "")) % 3 == 0 else judged(content)


@pytest.mark.slow
def test_a_budget_ends_the_run_and_a_larger_one_continues_it(small_model: Path, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    with serving(answering(unreadable_for_some)) as server:
        cli("train", *line(small_model, server.address), cwd=tmp_path / "whole")
        whole = contents(server.answered)
    with serving(answering(unreadable_for_some)) as server:
        calls = len(whole) // 2
        given = line(small_model, server.address)
        ended = cli("train", *given, f"budget.calls={calls}", cwd=tmp_path / "parts", check_code=CONTINUE_LATER)
        assert f"budget.calls={calls} ({calls} made): the next call would exceed this limit" in ended.stderr
        assert len(contents(server.answered)) == calls
        cli("train", *given, cwd=tmp_path / "parts")
        assert Counter(contents(server.answered)) == Counter(whole), "nothing is bought twice"
    lines = metrics_of(tmp_path / "parts" / "run")
    assert lines == metrics_of(tmp_path / "whole" / "run")
    files = RunDir(tmp_path / "whole" / "run").round(0)
    replies = [
        reply for file in files.path.glob("shard-*") for group in read_groups(file) for reply in group.completions
    ]
    without = [reply for reply in replies if reply.reward != reply.reward]
    assert 0 < len(without) < len(replies) == 12
    assert lines[1]["rollout/left_out"] >= len(without) / len(replies)
    assert all(reply.reward_parts for reply in replies if reply.reward == reply.reward)
    trained = [group.completions for group in read_groups(files.groups)]
    assert all(len(group) >= 2 and all(reply.reward == reply.reward for reply in group) for group in trained)


def test_a_judge_on_servers_answers_while_other_shards_are_written(tmp_path: Path) -> None:
    group = Group("g", np.array([1], np.int32), messages=[{"role": "user", "content": "I am tired."}])
    group.completions = [Completion(np.array([2], np.int32), text) for text in ("Why?", "Since when?", "Why?")]
    with serving(answering()) as server:
        scorer = JudgeScorer(RubricReward(name="rubric", judge=member(f"{server.address}/v1")))
        scorer.begin(tmp_path, OmegaConf.create({"cost": None, "calls": None}), [group.messages or []])
        scoring = Scoring(scorer, world(), False, None)
        scoring.ahead([group])
        assert until(lambda: len(contents(server.answered)) == 2)
        scoring([group], lambda: None)
        assert len(contents([payload for _, payload in server.asked])) == 2
    first, second, third = (reply.reward for reply in group.completions)
    assert first == third != second


def until(holds: Callable[[], bool], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)
    return holds()


@pytest.mark.parametrize(
    "processes", [pytest.param(1, marks=pytest.mark.proof), pytest.param(2, marks=pytest.mark.slow)]
)
def test_a_killed_run_buys_nothing_twice(small_model: Path, tmp_path: Path, processes: int) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    more = ["reward.judge.concurrency=1", f"cluster.processes={processes}"]
    with serving(answering()) as server:
        cli("train", *line(small_model, server.address, *more), cwd=tmp_path / "whole")
        whole = contents(server.answered)
    reached, respond = threading.Event(), answering()

    def stalls(payload: Any, number: int) -> Any:
        if number == len(whole) // 2 and not reached.is_set():
            reached.set()
            return Reply(hang=600)
        return respond(payload, number)

    with serving(stalls) as server:
        given = line(small_model, server.address, *more)
        command = [sys.executable, "-m", "psychocounsel.train", *given]
        started = subprocess.Popen(command, cwd=tmp_path / "parts", start_new_session=True, stdout=subprocess.DEVNULL)
        assert reached.wait(120)
        time.sleep(1)  # the answers before it are on disk
        owner = read_json(RunDir(tmp_path / "parts" / "run").owner)
        os.kill(owner["pid"], signal.SIGKILL)
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()
        cli("train", *given, cwd=tmp_path / "parts")
        assert Counter(contents(server.answered)) == Counter(whole)
        assert len(contents([payload for _, payload in server.asked])) == len(whole) + 1, (
            "the stalled call alone is repeated"
        )
    lines = [[{**row, "attempt": 0} for row in metrics_of(tmp_path / place / "run")] for place in ("whole", "parts")]
    assert lines[0] == lines[1]


@pytest.mark.slow
def test_a_third_party_sees_no_crisis_and_an_unusable_judge_ends_the_run(small_model: Path, tmp_path: Path) -> None:
    given = line(small_model, "http://127.0.0.1:1", "reward.judge.third_party=true")
    config = checked(*given)
    rules = read_risk_rules()
    texts = [row.prompt[-1]["content"] for row in load_split(config.data, print)[0]]
    risks = [row.risk for row in load_split(config.data, print)[0]]
    speeches = [(text, rules.of(text, risk).crisis) for text, risk in zip(texts, risks, strict=True)]
    assert {crisis for _, crisis in speeches} == {False, True}
    with serving(answering()) as server:
        cli(
            "train",
            *line(small_model, server.address, "reward.judge.third_party=true", "global_batch_size=8"),
            cwd=tmp_path,
        )
        sent = "\n".join(contents([payload for _, payload in server.asked]))
    assert any(text in sent for text, crisis in speeches if not crisis)
    assert not any(text in sent for text, crisis in speeches if crisis)
    with serving(answering(lambda content: NO_JSON)) as server:
        given = line(small_model, server.address, "run_dir=another", "reward.retries=0")
        refused = cli("train", *given, cwd=tmp_path, check_code=USER_ERROR).stderr
    assert (
        "4 of 4 replies to held-out prompts at step 0 got no reward (4 answers unreadable: is not valid JSON)"
        in refused
    )
    assert json.loads((tmp_path / "another" / "state.json").read_text())["phase"] == "failed"


@pytest.mark.slow
def test_rounds_without_answers_train_nothing_and_three_end_the_run_until_it_is_repeated(
    small_model: Path, tmp_path: Path
) -> None:
    """The judge answers about the held-out replies before training, and then no more, until the run is repeated."""
    given, works = ["reward.retries=0", "max_steps=5", "global_batch_size=2", "eval.every=2", "eval.limit=2"], [True]
    seen = list[str]()

    def respond(content: str) -> str:
        seen.append(content)
        return judged(content) if works[0] or len(seen) <= 2 else NO_JSON

    with serving(answering(respond)) as server:
        works[0] = False
        more = line(small_model, server.address, *given)
        ended = cli("train", *more, cwd=tmp_path, check_code=CONTINUE_LATER)
        said = ended.stdout + ended.stderr
        assert "round 0 trains nothing" in said and "round 1 trains nothing" in said
        assert "round 2 is number 3 in a row without enough rewards to train on" in said and "saving step 2" in said
        rows = metrics_of(tmp_path / "run")
        assert [(row["step"], row.get("rollout/left_out"), row.get("groups")) for row in rows[1:]] == [
            (1, 1, 0),
            (2, 1, 0),
        ]
        assert "loss" not in rows[1] and rows[1]["rollout/length"] > 0
        assert rows[2]["eval/reward"] == rows[0]["eval/reward"], "the same replies, whose answers are kept"
        works[0] = True
        cli("train", *more, cwd=tmp_path)
    rows = metrics_of(tmp_path / "run")
    assert [row.get("groups", 1) for row in rows[1:]] == [0, 0, 0, 1, 1], "the third round's replies keep no reward"
    assert not np.isnan(rows[5]["eval/reward"]) and rows[5]["loss"] is not None


def test_a_speech_that_one_row_labels_as_a_crisis_is_withheld_with_every_row_of_its_prompt(tmp_path: Path) -> None:
    rows = [
        {"prompt": "I took the boxes down.", "chosen": "Tell me.", "rejected": "No.", "risk": risk}
        for risk in ("none", "self_harm")
    ]
    rows.append({**rows[0], "prompt": "My cat is old."})
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = checked("algo=grpo", "reward=rubric", "reward.judge=openai", "reward.judge.model=x", f"data.path={file}")
    assert _crises(config) == {"rows.jsonl line 1", "rows.jsonl line 2"}


@pytest.mark.parametrize(
    ("given", "calls"),
    [
        (
            ["algo=dapo", "algo.resample=0", "algo.prompts_per_round=8", "max_steps=3", "global_batch_size=4"],
            "130 calls",
        ),
        (
            ["algo=dapo", "algo.resample=2", "algo.prompts_per_round=8", "max_steps=3", "global_batch_size=4"],
            "386 calls",
        ),
    ],
    ids=["whole rounds", "resampled"],
)
def test_the_forecast_counts_the_replies_of_whole_rounds(given: list[str], calls: str) -> None:
    """A run that ends within its second round still writes that round whole: 2 x 8 prompts x 8 replies, and two evaluations."""
    judge = ["reward=rubric", "reward.judge=openai", "reward.judge.model=x", "eval.limit=1", "algo.samples=8"]
    without = judge_forecast(checked("data.limit=60", "eval.every=0", *judge, *given))
    assert calls in without[0]
