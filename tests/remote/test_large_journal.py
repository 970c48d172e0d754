"""The journal at scale: memory for places only, and tables merged by streaming, measured in separate processes."""

import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from psychocounsel.errors import UserError
from psychocounsel.remote.journal import Journal, forget
from psychocounsel.remote.journal_lines import Line, Places
from tests.support.harness import ROOT
from tests.support.merging import make, merge


def key_of(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def answer(journal: Journal, key: str) -> Any:
    line = journal.get(key)
    return None if line is None else line.answer


def test_answers_of_many_processes_are_found_with_what_they_cost(tmp_path: Path) -> None:
    journals = [Journal(tmp_path) for _ in range(3)]
    for number in range(300):
        journals[number % 3].add(key_of(number), {"text": f"Odd \u2028 {number}\ud800"}, f"s{number % 7}", 0.25)
    for journal in (Journal(tmp_path), *journals[:1]):
        journal.add_all([Line(key_of(1000 + number), number, None, 0.0) for number in range(50)])
        own = range(0, 300, 3) if journal is journals[0] else range(300)
        assert all(answer(journal, key_of(number))["text"] == f"Odd \u2028 {number}\ud800" for number in own)
        assert [answer(journal, key_of(1000 + number)) for number in range(50)] == [*range(50)]
        assert journal.get(key_of(5000)) is None
    fresh = Journal(tmp_path)
    assert (fresh.total.calls, fresh.total.cost) == (400, pytest.approx(75.0))
    assert forget(tmp_path, {"s3"}.__contains__) == sum(number % 7 == 3 for number in range(300))
    fresh = Journal(tmp_path)
    assert all((fresh.get(key_of(number)) is not None) == (number % 7 != 3) for number in range(300))
    assert all(fresh.get(key_of(1000 + number)) for number in range(50))


def test_a_damaged_middle_is_refused_by_name_at_once_or_when_it_is_read(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for number in range(5):
        journal.add(key_of(number), {"text": "a long enough answer"})
    (file,) = tmp_path.glob("*.jsonl")
    content = file.read_bytes()
    lines = content.split(b"\n")
    file.write_bytes(b"\n".join([*lines[:2], lines[2][:40], *lines[3:]]))
    with pytest.raises(UserError, match=f"{file.name}: line 3 is damaged"):
        Journal(tmp_path)
    file.write_bytes(b"\n".join([*lines[:2], lines[2].replace(b"long", b'l"ng'), *lines[3:]]))
    damaged = Journal(tmp_path)
    assert answer(damaged, key_of(1)) == {"text": "a long enough answer"}
    with pytest.raises(
        UserError, match=f"{file.name}: the line at byte {sum(len(line) + 1 for line in lines[:2])} is damaged"
    ):
        damaged.get(key_of(2))


def test_places_take_16_bytes_and_keys_that_begin_alike_are_told_apart(tmp_path: Path) -> None:
    rng, places = random.Random(0), Places()
    keys = [f"{rng.getrandbits(256):064x}" for _ in range(50_000)]
    keys += [keys[0][:16] + "0" * 48, keys[1][:16] + "1" * 48]
    places.extend(keys[:20_000], 3, range(20_000))
    places.settle()
    for number, key in enumerate(keys[20_000:], 20_000):
        places.add(key, 900_000, number * 1000)
    for number in rng.sample(range(2, 50_000), 2000):
        expected = (3, number) if number < 20_000 else (900_000, number * 1000)
        assert [*places.find(keys[number])] == [expected]
    assert {*places.find(keys[0])} == {(3, 0), (900_000, 50_000 * 1000)}
    places._merge()
    assert places._heads.nbytes + places._where.nbytes == 16 * len(keys) and np.all(
        np.diff(places._heads.astype(float)) >= 0
    )
    alike = keys[7][:16] + "2" * 48
    with_lines = Journal(tmp_path)
    with_lines.add(keys[7], "seven")
    with_lines.add(alike, "alike")
    assert (answer(with_lines, keys[7]), answer(with_lines, alike)) == ("seven", "alike")
    again = Journal(tmp_path)
    assert (answer(again, keys[7]), answer(again, alike)) == ("seven", "alike")
    assert again.get(keys[7][:16] + "3" * 48) is None


def test_a_table_is_merged_from_a_journal(tmp_path: Path) -> None:
    make(tmp_path, 6000)
    figures = merge(tmp_path)
    assert (figures["replies"], figures["outcomes"]) == (6000, {"text": 6000})
    texts = pq.read_table(tmp_path / "replies.parquet").column("text").to_pylist()
    assert texts == [f"Reply {number}. {40 * 'word '}".strip() for number in range(1, 6001)]


@pytest.mark.proof
def test_ten_million_answers_are_merged_in_2_gb(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for what in ("make", "merge"):
        command = [sys.executable, "-m", "tests.support.merging", str(tmp_path), "10000000", what]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["outcomes"] == {"text": 10_000_000}
    assert figures["peak"] < 2 << 30
