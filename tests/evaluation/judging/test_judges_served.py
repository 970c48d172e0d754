"""The step `verdicts` with judges on a server: biased, refusing, broken, down, renamed. Missing verdicts are never scored."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.errors import UserError
from psychocounsel.remote import client
from psychocounsel.rundir.paths import EvaluationDir
from tests.support.answering import Reply, no_proxy, serving
from tests.support.asking import member
from tests.support.harness import ROOT
from tests.support.judged import (
    Row,
    by_texts,
    evaluation_dir,
    judge_pairs,
    longer,
    reply,
    rows_of,
    shown,
    speech,
    verdict,
)
from tests.support.scripted import Script, completion

__all__ = ["no_proxy"]

SIDES = ("overall", *PRINCIPLES)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_FIRST_PAUSE", 0.02)
    monkeypatch.setattr(client, "_LONGEST_PAUSE", 0.2)


def judge(address: str, name: str = "judge", **settings: Any) -> Row:
    return member(address, name, **{"max_tokens": 2048, "temperature": 0.0, "retries": 20, **settings})


def directory(place: Path, count: int, opponents: tuple[str, ...] = ("base",)) -> EvaluationDir:
    """Write the tables of speeches and replies; `beta` has the longer reply to every second speech."""
    speeches = [speech(f"{number:03d}") for number in range(count)]
    replies = []
    for number, each in enumerate(speeches):
        beta, other = ("short", "much longer") if number % 2 else ("much longer", "short")
        replies.append(reply(each["speech"], "beta", f"{beta} {number}"))
        replies += [reply(each["speech"], name, f"{other} {number}{name[4:]}") for name in opponents]
    return evaluation_dir(place, speeches, replies)


def by_pair(rows: list[Row]) -> dict[str, dict[str, Row]]:
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        found.setdefault(row["speech"], {})[row["order"]] = row
    return found


def bought(files: EvaluationDir) -> list[str]:
    return [json.loads(line)["key"] for file in files.answers.glob("*.jsonl") for line in file.read_text().splitlines()]


def test_verdicts_are_written_from_the_side_of_the_evaluated_setting(tmp_path: Path) -> None:
    """A judge that prefers the longer reply gives the same verdict in both orders."""
    with serving(Script(by_texts(longer))) as server:
        figures, rows = judge_pairs(directory(tmp_path, 10), judge(server.address))
    assert figures["outcomes"] == {"judge": {"text": 20}} and figures["models"] == {"judge": {"judge-2026": 20}}
    for name, orders in by_pair(rows).items():
        won = 1 if int(name) % 2 == 0 else -1
        for row in orders.values():
            assert [row[side] for side in SIDES] == [won] * 8
            assert row["first_reply"].startswith("id-much longer" if won == 1 else "id-short")
            assert (row["first_setting"], row["second_setting"], row["model"]) == ("beta", "base", "judge-2026")


def test_a_judge_that_prefers_what_it_sees_first_contradicts_itself(tmp_path: Path) -> None:
    with serving(Script(by_texts(lambda first, second: "first"))) as server:
        _, rows = judge_pairs(directory(tmp_path, 6), judge(server.address))
    for orders in by_pair(rows).values():
        assert [orders["forward"][side] for side in SIDES] == [1] * 8
        assert [orders["backward"][side] for side in SIDES] == [-1] * 8


def test_what_is_no_verdict_is_never_scored(tmp_path: Path) -> None:
    """Return by number of the speech: truncated JSON, prose, a refusal in prose or by the API, a filter, a cut, a verdict."""

    def respond(payload: Any, number: int) -> Any:
        if len(payload["messages"]) == 1:
            return completion("ready", payload)
        kind = int(shown(payload)[0].split()[-1].rstrip(".")) % 7
        if kind == 4:
            return Reply(400, b'{"error": {"message": "Blocked by our policy", "code": "content_filter"}}')
        good = verdict("first")
        return {
            0: completion(good[:-1], payload),
            1: completion("The first reply is better.", payload),
            2: completion("I'm sorry, but I can't help with rating this.", payload),
            3: completion(None, payload, refusal="No."),
            5: completion(good, payload, "length"),
            6: completion(good, payload),
        }[kind]

    files = directory(tmp_path, 14)
    said: list[str] = []
    with serving(respond) as server:
        figures, rows = judge_pairs(files, judge(server.address), said, retries=1)
        asked = len(server.answered)
        assert judge_pairs(files, judge(server.address), retries=1)[1] == rows
        assert len(server.answered) == asked, "no answer is asked for again, usable or not"
    kinds = ["unparsable", "unparsable", "refused", "refused", "filtered", "cut", "text"]
    for row in rows:
        outcome = kinds[int(row["speech"]) % 7]
        assert (row["outcome"], row["attempts"]) == (outcome, 2 if outcome == "unparsable" else 1)
        assert all((row[side] is None) == (outcome != "text") for side in SIDES)
    assert figures["outcomes"]["judge"] == {name: 4 * kinds.count(name) for name in kinds}
    assert any("calls without a verdict: 4 cut, 4 filtered, 8 refused, 8 unparsable" in line for line in said)


def test_a_judge_under_two_names_is_told(tmp_path: Path) -> None:
    def respond(payload: Any, number: int) -> Any:
        found = completion(by_texts(longer)(payload), payload)
        return {**found, "model": f"judge-v{1 + (number > 5)}"}

    said: list[str] = []
    with serving(respond) as server:
        figures, rows = judge_pairs(directory(tmp_path, 6), judge(server.address, concurrency=1), said)
    assert Counter(row["model"] for row in rows) == figures["models"]["judge"]
    assert set(figures["models"]["judge"]) == {"judge-v1", "judge-v2"}
    assert any("judge judge gave answers of several models (" in line for line in said)


def test_a_judge_that_is_down_stops_the_step_and_leaves_no_table(tmp_path: Path, dead: str) -> None:
    files = directory(tmp_path, 3)
    with pytest.raises(UserError, match="judge"):
        judge_pairs(files, judge(dead, retries=1, timeout_seconds=0.5))
    assert not files.verdicts.exists()
    with serving(Script(by_texts(longer), busy=0.3, error=0.1, drop=0.1, broken=0.1)) as server:
        figures, _ = judge_pairs(files, judge(server.address))
    assert figures["outcomes"] == {"judge": {"text": 6}}, (
        "429, 500, breaks and half answers are asked again until they come"
    )


@pytest.fixture
def dead() -> str:
    with serving(lambda payload, number: {}) as server:
        address = server.address
    return address


def test_a_new_contestant_buys_only_its_own_pairs_and_a_new_name_none(tmp_path: Path) -> None:
    files = directory(tmp_path, 6)
    with serving(Script(by_texts(longer))) as server:
        judge_pairs(files, judge(server.address))
        assert len(bought(files)) == 12
        directory(tmp_path, 6, ("base", "base-b"))
        figures, rows = judge_pairs(files, judge(server.address))
        assert len(bought(files)) == len(set(bought(files))) == 24 and len(rows) == figures["verdicts"] == 24
        turned = []
        for number in range(6):
            mine, theirs = ("much longer", "short") if number % 2 else ("short", "much longer")
            turned.append(reply(f"{number:03d}", "beta", f"{mine} {number}"))
            turned.append(reply(f"{number:03d}", "renamed", f"{theirs} {number}"))
        evaluation_dir(tmp_path, [speech(f"{number:03d}") for number in range(6)], turned)
        _, rows = judge_pairs(files, judge(server.address))
        assert len(bought(files)) == 24, "the same texts in the other place, under another name"
    for row in rows:
        assert row["overall"] == (1 if int(row["speech"]) % 2 else -1)


def test_equal_empty_withheld_and_near_replies_cost_nothing(tmp_path: Path) -> None:
    speeches = [speech("1"), speech("2"), speech("3", crisis=True), speech("4", near_training=True)]
    replies = [
        reply("1", "beta", "same"),
        reply("1", "base", "same"),
        reply("2", "beta", "a reply"),
        reply("2", "base", None),
    ]
    for each in ("3", "4"):
        replies += [reply(each, "beta", f"mine {each}"), reply(each, "base", f"longer {each}")]
    files = evaluation_dir(tmp_path, speeches, replies)
    said: list[str] = []
    with serving(Script(by_texts(longer))) as server:
        theirs = judge(server.address, third_party=True)
        figures, rows = judge_pairs(files, theirs, said)
        assert not server.asked and bought(files) == []
        assert [(row["speech"], row["outcome"], row["overall"]) for row in rows] == [
            *[("1", "equal", 0)] * 2,
            *[("2", "empty", None)] * 2,
            *[("3", "withheld", None)] * 2,
        ]
        assert any("crisis_to_third_parties=true sends them" in line for line in said)
        figures, _ = judge_pairs(files, theirs, include_near=True, crisis_to_third_parties=True)
    assert figures["outcomes"] == {"judge": {"equal": 2, "empty": 2, "text": 4}}


_RUN = """
import json, sys
from pathlib import Path
from tests.support.judged import judge_pairs
from psychocounsel.rundir.paths import EvaluationDir
judge_pairs(EvaluationDir(Path(sys.argv[1])), json.loads(sys.argv[2]))
"""


@pytest.mark.slow
def test_after_a_kill_no_verdict_is_bought_twice(tmp_path: Path) -> None:
    files, whole = directory(tmp_path / "broken", 30), directory(tmp_path / "whole", 30)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with serving(Script(by_texts(longer), latency=0.02)) as server:
        settings = judge(server.address, concurrency=2)
        command = [sys.executable, "-c", _RUN, str(files.path), json.dumps(settings)]
        for answered in (10, 35):
            process = subprocess.Popen(command, cwd=ROOT, env=environment)
            while len(server.answered) < answered and process.poll() is None:
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert not files.verdicts.exists() and bought(files)
        judge_pairs(files, settings)
        calls = [payload for payload in server.answered if len(payload["messages"]) > 1]
        slots = (
            2 + 4
        )  # of `ChatServer`: a killed process loses calls under way, and answers on their way to a slow disk
        assert len(calls) <= 60 + 2 * slots, "beside those that the two kills may lose"
        judge_pairs(whole, settings)
    assert len(bought(files)) == len(set(bought(files))) == 60 and rows_of(files) == rows_of(whole)
