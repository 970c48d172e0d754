"""`psychocounsel annotate` as a user runs it, with a server: kills, resumption, budgets, stop requests, privacy."""

import contextlib
import json
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from psychocounsel.errors import CONTINUE_LATER, DONE, GATE_NO, USER_ERROR
from psychocounsel.storage.files import read_json
from tests.support.annotating import calls, model_server, models, speeches, tables
from tests.support.answering import Server
from tests.support.harness import cli

COUNT, PER_SPEECH = 24, 2
ALL = COUNT * PER_SPEECH * 2  # calls: one reply and one rating each


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("annotate")
    speeches(folder / "speeches.jsonl", COUNT)
    return folder


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with model_server() as found:
        yield found


def command(server: Server, out: str, *more: str) -> list[str]:
    given = ["annotate", "speeches=speeches.jsonl", "speeches.license=cc0-1.0", *models(server), f"out={out}"]
    return [
        *given,
        f"replies.per_speech={PER_SPEECH}",
        "pairs.test_fraction=0.2",
        "annotator.temperature=0.7",
        "cluster.threads=1",
        *more,
    ]


@pytest.fixture(scope="module")
def made(home: Path, server: Server) -> Path:
    """A dataset made without interruption."""
    result = cli(*command(server, "made"), cwd=home)
    assert len(calls(server)) == len(set(calls(server))) == ALL
    assert f"train on it: psychocounsel train data=local data.path={home}/made/dataset" in result.stderr
    return home / "made"


def kill_worker(out: Path) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(read_json(out / "owner.json")["pid"], signal.SIGKILL)


@pytest.mark.slow
def test_killed_at_five_random_moments_it_is_the_data_set_of_an_unbroken_run(home: Path, made: Path) -> None:
    moments = random.Random(0)
    left = [0]

    def kill(payload: Any, number: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            kill_worker(home / "killed")

    with model_server(0.005, kill) as server:
        for _ in range(5):
            left[0] = moments.randint(4, ALL // 6)
            assert cli(*command(server, "killed"), cwd=home, check_code=None).returncode not in (DONE, USER_ERROR)
        left[0] = 0
        cli(*command(server, "killed"), cwd=home)
        bought = calls(server)
    assert tables(home / "killed") == tables(made)
    under_way = 3 * 64  # calls of all models, at each kill
    assert set(bought) and len(set(bought)) == ALL and len(bought) <= ALL + 5 * under_way
    whole = [
        line for file in (home / "killed" / "answers").glob("*.jsonl") for line in file.open() if line.endswith("\n")
    ]
    keys = [json.loads(line)["key"] for line in whole]
    assert len(keys) == len(set(keys)) == ALL, "each answer exactly once"


def test_done_again_it_asks_nobody(home: Path, made: Path, server: Server) -> None:
    before, records = len(server.asked), {path.name: path.read_bytes() for path in (made / "steps").iterdir()}
    assert "is already finished" in cli("annotate", "out=made", cwd=home).stdout
    result = cli("annotate", "out=made", "pairs.min_gap=0.5", cwd=home)
    assert len(server.asked) == before
    for step in ("speeches", "replies", "scores"):
        assert f"{step}: done before" in result.stderr
    changed = {name for name, content in records.items() if (made / "steps" / name).read_bytes() != content}
    assert changed == {"pairs.json", "card.json"}
    cli("annotate", "out=made", "pairs.min_gap=1.0", cwd=home)


def test_an_earlier_step_that_changed_is_refused_with_what_to_type(home: Path, made: Path) -> None:
    refused = cli("annotate", "out=made", "steps=[pairs,card]", "scores.votes=2", cwd=home, check_code=USER_ERROR)
    assert refused.stderr == (
        f"error: scores.votes=2: {made} has scores made with scores.votes=1; add scores to steps, steps=[scores,pairs,card], "
        "or restore the earlier value\n"
    )


def test_more_votes_buy_only_what_is_missing(home: Path, made: Path, server: Server) -> None:
    before, votes = len(calls(server)), tables(made)["votes"]
    cli("annotate", "out=made", "steps=[scores,pairs]", "scores.votes=2", cwd=home)
    assert len(calls(server)) - before == COUNT * PER_SPEECH
    now = tables(made)["votes"]
    assert [row for row in now if row["vote"] == 0] == votes and len(now) == 2 * len(votes)
    cli("annotate", "out=made", "scores.votes=1", cwd=home)
    assert tables(made)["votes"] == votes and len(calls(server)) - before == COUNT * PER_SPEECH


@pytest.mark.slow
def test_a_budget_stops_cleanly_and_a_larger_one_goes_on(home: Path, made: Path) -> None:
    with model_server() as server:
        stopped = cli(*command(server, "budget", "budget.calls=10"), cwd=home, check_code=GATE_NO)
        assert "budget.calls=10 (10 made)" in stopped.stderr and "Traceback" not in stopped.stderr
        assert len(calls(server)) == 10
        assert read_json(home / "budget" / "summary.json")["status"] == "budget spent"
        cli("annotate", "out=budget", f"budget.calls={ALL}", cwd=home)
        assert len(calls(server)) == len(set(calls(server))) == ALL
    assert tables(home / "budget") == tables(made)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["signal", "file"])
def test_a_stop_request_ends_it_with_code_75(home: Path, made: Path, how: str) -> None:
    def stop(payload: Any, number: int) -> None:
        if number == ALL // 3 and how == "signal":
            os.kill(read_json(home / how / "owner.json")["pid"], signal.SIGTERM)
        if number == ALL // 3 and how == "file":
            (home / how / "stop").touch()

    with model_server(0.1, stop) as server:
        one_by_one = [f"annotator.concurrency={2}", f"out={how}"]
        result = cli(*command(server, how, *one_by_one), cwd=home, check_code=CONTINUE_LATER)
        assert "the same command continues" in result.stderr and "Traceback" not in result.stderr
        asked = len(server.asked)
    assert asked < ALL
    with model_server() as server:
        cli(*command(server, how), cwd=home)
        assert len(calls(server)) < ALL
    assert tables(home / how) == tables(made)


def test_confidential_speeches_reach_nothing_but_allowed_hosts(tmp_path: Path) -> None:
    mark = "zugzwangerl"
    speeches(tmp_path / "speeches.jsonl", 6, mark).chmod(0o600)
    with model_server() as server:
        given = command(server, "out", "speeches.confidential=true")
        refused = cli(*given, cwd=tmp_path, check_code=USER_ERROR)
        assert refused.stderr.startswith("error: writers.members[0].addresses: would send texts to 127.0.0.1")
        assert not server.asked
        result = cli(*given, "speeches.allowed_hosts=[127.0.0.1]", cwd=tmp_path)
        assert mark in json.dumps(server.asked)
    tables_and_sample = {"speeches.parquet", "train.parquet", "test.parquet", "identifier_sample.md", "votes.parquet"}
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            holds = mark.encode() in path.read_bytes()
            assert not holds or path.parent.name == "answers" or path.name in tables_and_sample, path
            assert path.stat().st_mode & 0o077 == 0 or path.name not in tables_and_sample, (
                f"{path} is less private than its source"
            )
    assert mark not in result.stdout + result.stderr


def test_a_server_that_says_words_of_a_speech_is_not_quoted(tmp_path: Path) -> None:
    mark = "zugzwangerl"
    speeches(tmp_path / "speeches.jsonl", 4, mark)
    from tests.support.answering import Reply

    def refuse(payload: Any, number: int) -> Any:
        said = payload["messages"][-1]["content"]
        return None if said == "Hello." else Reply(401, json.dumps({"error": {"message": said}}).encode())

    with model_server(0, refuse) as server:
        given = command(server, "out", "speeches.confidential=true", "speeches.allowed_hosts=[127.0.0.1]")
        result = cli(*given, cwd=tmp_path, check_code=USER_ERROR)
    assert mark not in result.stdout + result.stderr
    logs = [path.read_text() for path in (tmp_path / "out").rglob("*.log")]
    assert logs and not any(mark in text for text in logs)
