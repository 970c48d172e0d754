"""The step `replies` with scripted servers: drawing, outcomes, treatment of crisis speeches, and kills."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from psychocounsel.annotation.replies import SCHEMA, Drawing, drawing_of, estimate, reply_id, run
from psychocounsel.asking.budget import BudgetSpent
from psychocounsel.counsel.system_prompt import COUNSELLOR, prompt_text
from psychocounsel.errors import UserError
from psychocounsel.remote import client
from psychocounsel.rundir.paths import AnnotationDir
from tests.support.answering import Reply, no_proxy, serving
from tests.support.asking import chat, context, directory, member, speeches
from tests.support.harness import ROOT
from tests.support.scripted import Script, completion

# The step `replies` with scripted servers: drawing, outcomes, treatment of crisis speeches, and kills.

__all__ = ["no_proxy"]


def table(files: AnnotationDir) -> list[dict[str, Any]]:
    found = pq.read_table(files.replies)
    assert found.schema.equals(SCHEMA)
    return list(found.to_pylist())


def writers_of(rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    found = defaultdict(list)
    for row in rows:
        found[row["speech"]].append(row["writer"])
    return found


def test_replies_of_different_writers_in_the_order_of_speeches(tmp_path: Path) -> None:
    rows = speeches(40)
    with serving(Script()) as server:
        pool = [member(server.address, f"w{n}", terms="MIT") for n in range(5)]
        files = directory(tmp_path, rows)
        figures = run(context(files, pool, replies__per_speech=3))
        made = table(files)
        assert [(row["speech"], row["number"]) for row in made] == [
            (row["speech"], number) for row in rows for number in range(3)
        ]
        assert all(len(set(drawn)) == 3 for drawn in writers_of(made).values()), "different writers"
        assert set(Counter(row["writer"] for row in made)) == {f"w{n}" for n in range(5)}
        for row in made:
            assert row["outcome"] == "text" and row["model"] == f"{row['writer']}-2026" and row["terms"] == "MIT"
            assert row["reply"] == reply_id(row["speech"], row["text"])
            assert (row["prompt_tokens"], row["completion_tokens"]) == (50, 20)
        assert figures["outcomes"] == {"text": 120} and figures["bought"] == 120
        asked = [payload for _, payload in server.asked if payload["max_tokens"] > 16]
        by_text = {row["text"]: row["speech"] for row in rows}
        for payload in asked:
            system, user = payload["messages"]
            assert system["role"] == "system" and "counsellor" in system["content"] and user["content"] in by_text


def test_the_same_directory_buys_only_what_is_new(tmp_path: Path) -> None:
    rows = speeches(20)
    with serving(Script()) as server:
        pool = [member(server.address, f"w{n}") for n in range(3)]
        files = directory(tmp_path, rows)
        run(context(files, pool))
        first = table(files)
        before = len(server.asked)
        assert estimate(context(files, pool, replies__per_speech=3)).calls.total() == 40
        run(context(files, pool, replies__per_speech=3))
        assert len(server.asked) == before + 3 + 40, "three checks and the missing replies were sent"
        assert [row for row in table(files) if row["number"] == 0] == first
        before = len(server.asked)
        run(context(files, pool, replies__per_speech=3))
        assert len(server.asked) == before, "a server was asked although no reply was missing"


def test_what_is_no_reply_has_no_text_and_says_why(tmp_path: Path) -> None:
    def write(payload: Any) -> str:
        said = payload["messages"][-1]["content"]
        refused = "I'm sorry, but I can't help with that."
        return refused if "client 1" in said else "  " if "client 2" in said else f" {said[:20]}... \n"

    with serving(Script(write, filtered=0.2, refusal=0.2, cut=0.1)) as server:
        files = directory(tmp_path, speeches(60))
        figures = run(context(files, [member(server.address)]))
        made = table(files)
    assert set(figures["outcomes"]) == {"text", "refused", "filtered", "cut", "unparsable"}
    for row in made:
        assert (row["text"] is not None) == (row["outcome"] == "text") == (row["reply"] is not None)
        assert not row["text"] or row["text"] == row["text"].strip()
    assert Counter(row["outcome"] for row in made) == figures["outcomes"] == figures["writers"]["served"]


def test_crisis_speeches_go_to_no_third_party_unless_said(tmp_path: Path) -> None:
    rows = speeches(40, crisis_every=2)
    crisis = {row["speech"] for row in rows if row["crisis"]}
    texts = {row["text"]: row["speech"] for row in rows}
    with serving(Script()) as own, serving(Script()) as others:

        def seen(name: str, pool: list[Any], **changes: Any) -> tuple[set[str], list[dict[str, Any]]]:
            others.asked.clear()
            files = directory(tmp_path / name, rows)
            run(context(files, pool, **changes))
            asked = {payload["messages"][-1]["content"] for _, payload in others.asked} - {"Hello."}
            return {texts[text] for text in asked}, table(files)

        hosted = member(others.address, "hosted", third_party=True)
        ours = member(own.address, "ours")
        told, made = seen("both", [hosted, ours])
        assert told and not told & crisis
        assert all(row["writer"] == "ours" for row in made if row["speech"] in crisis)
        told, made = seen("none", [hosted])
        assert not told & crisis
        assert {row["outcome"] for row in made if row["speech"] in crisis} == {"withheld"}
        assert {row["outcome"] for row in made if row["speech"] not in crisis} == {"text"}
        told, made = seen("said", [hosted], crisis_to_third_parties=True)
        assert crisis <= told and {row["outcome"] for row in made} == {"text"}


def test_a_writer_of_one_language_is_drawn_for_its_speeches_alone(tmp_path: Path) -> None:
    rows = speeches(30)
    for number, row in enumerate(rows):
        row["language"] = ("en", "fi", "zh")[number % 3]
    with serving(Script()) as server:
        pool = [member(server.address, "english", language="en"), member(server.address, "finnish", language="fi")]
        files = directory(tmp_path, rows)
        run(context(files, pool, replies__per_speech=2))
        made = table(files)
    spoken = {row["speech"]: row["language"] for row in rows}
    expected = {"en": "english", "fi": "finnish", "zh": ""}
    assert all(row["writer"] == expected[spoken[row["speech"]]] for row in made)
    assert {row["outcome"] for row in made if not row["writer"]} == {"no_writer"}


def test_the_length_limit_is_asked_for_and_counted(tmp_path: Path) -> None:
    with serving(Script(lambda payload: "word " * (70 if payload["seed"] % 2 else 40))) as server:
        files = directory(tmp_path, speeches(20))
        figures = run(context(files, [member(server.address)], replies__length_limit=50))
        made = table(files)
        prompts = {payload["messages"][0]["content"] for _, payload in server.asked} - {"Hello."}
    (prompt,) = prompts
    assert prompt.endswith("Use at most 50 words.")
    assert figures["over_length_limit"] == sum(len(row["text"].split()) > 50 for row in made) > 0
    plain = context(directory(tmp_path / "plain", speeches(1)), [member(server.address)])
    assert drawing_of(plain).prompt_version(None) not in figures["prompt_versions"]


@pytest.mark.slow
def test_shards_share_the_speeches_and_the_journal(tmp_path: Path) -> None:
    rows = speeches(31)
    with serving(Script()) as server:
        pool = [member(server.address, f"w{n}") for n in range(3)]
        alone = directory(tmp_path / "alone", rows)
        run(context(alone, pool, replies__per_speech=2))
        files, parts = directory(tmp_path / "shared", rows), list[dict[str, Any]]()
        for index in range(3):
            run(context(files, pool, replies__per_speech=2, shard=(index, 3)))
            parts += table(files)
        before = len(server.asked)
        run(context(files, pool, replies__per_speech=2))
        assert len(server.asked) == before, "merging asked a server"
    assert table(files) == table(alone) == sorted(parts, key=lambda row: (row["speech"], row["number"]))


def test_a_budget_of_calls_is_shared_by_shards_and_counts_the_journal(tmp_path: Path) -> None:
    with serving(Script()) as server:
        files = directory(tmp_path, speeches(40))
        for shard, expected in (((0, 2), 10), ((1, 2), 20), ((0, 2), 20)):
            with pytest.raises(BudgetSpent, match=rf"budget.calls=10 \(10 made\) of share {shard[0]} of 2"):
                run(context(files, [member(server.address)], budget__calls=20, shard=shard))
            assert sum(payload["max_tokens"] > 16 for _, payload in server.asked) == expected
        assert not files.replies.exists()


_RUN = """
import json, sys
from pathlib import Path
from psychocounsel.annotation.replies import run
from psychocounsel.remote import client
from psychocounsel.remote import client
from psychocounsel.rundir.paths import AnnotationDir
from tests.support.asking import context
client._FIRST_PAUSE, client._LONGEST_PAUSE = 0.02, 0.3
run(context(AnnotationDir(Path(sys.argv[1])), json.loads(sys.argv[2]), replies__per_speech=2))
"""


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_FIRST_PAUSE", 0.02)
    monkeypatch.setattr(client, "_LONGEST_PAUSE", 0.3)


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.proof
def test_five_kills_leave_the_table_of_an_unbroken_run(tmp_path: Path) -> None:
    rows, environment = speeches(100), {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    moments = random.Random(4)
    script = Script(busy=0.05, error=0.1, drop=0.05, broken=0.1, refusal=0.05, filtered=0.05, cut=0.05, latency=0.03)
    with serving(script) as server:
        pool = [member(server.address, f"w{n}", concurrency=4, retries=20) for n in range(3)]
        whole, broken = directory(tmp_path / "whole", rows), directory(tmp_path / "broken", rows)
        run(context(whole, pool, replies__per_speech=2))
        command = [sys.executable, "-c", _RUN, str(broken.path), json.dumps(pool)]
        for _ in range(5):
            done, process = len(server.answered), subprocess.Popen(command, cwd=ROOT, env=environment)
            target = done + moments.randrange(5, 45)
            while len(server.answered) < target and process.poll() is None:
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert not broken.replies.exists()
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
    assert table(broken) == table(whole)
    lines = [json.loads(line) for file in broken.answers.glob("*.jsonl") for line in file.read_text().splitlines()]
    assert len({line["key"] for line in lines}) == len(lines) == 200
    assert len(list(broken.answers.glob("*.jsonl"))) >= 4


@pytest.mark.slow
@pytest.mark.usefixtures("short_pauses")
def test_with_30_percent_failing_2000_speeches_finish(tmp_path: Path) -> None:
    script = Script(busy=0.08, error=0.08, hang=0.02, drop=0.07, broken=0.05, refusal=0.05, seconds_of_a_hang=2.0)
    with serving(script) as server:
        files = directory(tmp_path, speeches(2000))
        pool = [member(server.address, f"w{n}", concurrency=32, retries=20, timeout_seconds=1.5) for n in range(2)]
        figures = run(context(files, pool))
        made = table(files)
        assert len(server.asked) > 2500
    assert set(figures["outcomes"]) == {"text", "refused"} and len({row["speech"] for row in made}) == len(made) == 2000


def test_keys_come_from_the_environment_and_are_nowhere_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    secret = "sk-test-0123456789abcdefghij"
    monkeypatch.setenv("MY_SERVER_KEY", secret)

    def echo(payload: Any, number: int) -> Any:
        said = json.dumps({"error": {"message": f"rate limit of {secret}"}}).encode()
        return Reply(429, said) if number % 4 == 3 else completion("Yes.", payload)

    with serving(echo) as server:
        files = directory(tmp_path, speeches(20))
        pool = [member(server.address, key_variable="MY_SERVER_KEY")]
        told: list[str] = []
        given = context(files, pool)
        given = type(given)(given.config, given.files, told.append, given.bar, given.shard)
        run(given)
        assert set(server.keys) == {f"Bearer {secret}"}
    printed = "".join(capfd.readouterr()) + "".join(told) + OmegaConf.to_yaml(given.config)
    assert secret not in printed
    assert not any(secret.encode() in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


def test_a_damaged_table_of_speeches_is_told(tmp_path: Path) -> None:
    files = directory(tmp_path, speeches(3))
    files.speeches.write_bytes(files.speeches.read_bytes()[:-40])
    with pytest.raises(UserError, match="speeches.parquet: is not a complete parquet file"):
        run(context(files, [member("http://127.0.0.1:1", "w")]))


# The drawn writers depend only on seed, speech and names.

SPEECHES = [
    {"speech": f"{number:016x}", "text": f"Speech {number}.", "language": "en", "crisis": False}
    for number in range(2000)
]


def drawn(names: list[str], speeches: list[dict[str, Any]], count: int = 2, seed: int = 0) -> dict[str, list[str]]:
    drawing = Drawing([chat("http://127.0.0.1:1", name) for name in names], count, seed, "Reply.", False)
    return {each["speech"]: [draw.writer.name for draw in drawing.of(each) if draw.writer] for each in speeches}


def test_the_draw_depends_on_seed_speech_and_names_alone() -> None:
    names = ["a", "b", "c", "d"]
    whole = drawn(names, SPEECHES)
    assert drawn(names, SPEECHES[::7]).items() <= whole.items(), "other speeches change nothing"
    assert drawn(names[::-1], SPEECHES) == whole, "the order of members changes nothing"
    assert drawn(names, SPEECHES, seed=1) != whole
    three = drawn(names, SPEECHES, 3)
    assert all(three[speech][:2] == found for speech, found in whole.items())
    more = drawn([*names, "e"], SPEECHES)
    for speech, found in whole.items():
        kept = [name for name in more[speech] if name != "e"]
        assert kept == found[: len(kept)], "a new writer takes only places that it wins"


def test_writers_have_equal_shares_and_differ_as_far_as_there_are_so_many() -> None:
    counts = Counter(name for found in drawn(["a", "b", "c", "d", "e"], SPEECHES).values() for name in found)
    assert all(abs(count - 800) < 4 * (4000 * 0.2 * 0.8) ** 0.5 for count in counts.values())
    assert {len(set(found)) for found in drawn(["a", "b", "c"], SPEECHES, 3).values()} == {3}
    assert {tuple(sorted(Counter(found).values())) for found in drawn(["a", "b"], SPEECHES, 5).values()} == {(2, 3)}


def test_equal_calls_of_a_speech_differ_in_part_and_seed() -> None:
    drawing = Drawing([chat("http://127.0.0.1:1")], 4, 0, "Reply.", False)
    asks = [draw.ask for draw in drawing.of(SPEECHES[0])]
    assert len({ask.part for ask in asks if ask}) == len({ask.seed for ask in asks if ask}) == 4


def test_a_writer_with_a_prompt_of_its_own_is_asked_by_it() -> None:
    writers = [chat("http://127.0.0.1:1", name) for name in ("a", "b")]
    plain = Drawing(writers, 2, 0, "Reply.", False)
    own = Drawing(writers, 2, 0, "Reply.", False, {"b": "Reply in verse."})
    shown = {
        draw.writer.name: draw.ask.messages[0]["content"] for draw in own.of(SPEECHES[0]) if draw.writer and draw.ask
    }
    assert shown == {"a": "Reply.", "b": "Reply in verse."}
    assert own.prompt_version(writers[0]) == plain.prompt_version(writers[0]) == own.prompt_version(None)
    assert own.prompt_version(writers[1]) != plain.prompt_version(writers[1])
    assert [draw.ask for draw in own.of(SPEECHES[0]) if draw.writer is writers[0]] == [
        draw.ask for draw in plain.of(SPEECHES[0]) if draw.writer is writers[0]
    ], "answers of the other writers are not asked for anew"


def test_the_system_prompt_is_ours_a_text_or_a_file(tmp_path: Path) -> None:
    def prompt(given: str, limit: int | None = None) -> str:
        return prompt_text(given, "replies.system_prompt", limit)

    assert prompt("builtin:counsellor") == COUNSELLOR
    assert prompt("Be kind.", 80) == "Be kind. Use at most 80 words."
    (tmp_path / "mine.txt").write_text("Ole ystävällinen.\n", encoding="utf-8")
    assert prompt(str(tmp_path / "mine.txt")) == "Ole ystävällinen."
    for wrong in ("builtin:counselor", str(tmp_path / "none.txt")):
        with pytest.raises(UserError, match="replies.system_prompt="):
            prompt(wrong)
