"""Ten million votes become pairs in less than 2 GB, because no table is ever in memory as a whole."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from psychocounsel.annotation.scores.votes import VOTES
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.rundir.paths import AnnotationDir
from tests.support.annotation_tables import REPLIES, SPEECHES, reply, speech, vote
from tests.support.harness import ROOT

_SPEECHES, _REPLIES, _VOTES = 25_000, 4, 2  # per block: 200,000 votes

_RUN = """
import re, sys
from pathlib import Path
from psychocounsel.annotation.pairs import run
from psychocounsel.rundir.paths import AnnotationDir
from tests.support.annotation_tables import context
figures = run(context(AnnotationDir(Path(sys.argv[1]))))
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())  # rusage would count the parent's
print(figures["train"]["pairs"], int(peak[1]) // 1024)
"""


def repeated(row: dict[str, object], schema: pa.Schema, count: int, **columns: list[object]) -> pa.Table:
    """Return `count` copies of a row with these columns replaced."""
    arrays = [
        pa.array(columns.get(name) or [row.get(name)] * count, kind)
        for name, kind in zip(schema.names, schema.types, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def write_tables(files: AnnotationDir, blocks: int) -> None:
    words, rng = "One word after another, and so on. " * 12, np.random.default_rng(0)
    of_speech, of_reply = speech("s", words), reply("s", 0, words)
    of_vote = vote("s", "r", [3] * 7) | {
        f"{name}_{part}": words[:90] for name in PRINCIPLES for part in ("reason", "quote")
    }
    with (
        pq.ParquetWriter(files.speeches, SPEECHES) as speeches,
        pq.ParquetWriter(files.replies, REPLIES) as replies,
        pq.ParquetWriter(files.votes, VOTES) as votes,
    ):
        for block in range(blocks):
            ids = [f"{block * _SPEECHES + number:016x}" for number in range(_SPEECHES)]
            each = [name for name in ids for _ in range(_REPLIES)]
            numbers = [*range(_REPLIES)] * _SPEECHES
            names = [f"{name}-{number}" for name, number in zip(each, numbers, strict=True)]
            twice = [name for name in names for _ in range(_VOTES)]
            ratings = {f"{name}_rating": rng.integers(1, 6, len(twice)).tolist() for name in PRINCIPLES}
            about = {"speech": [name for name in each for _ in range(_VOTES)], "reply": twice}
            speeches.write_table(repeated(of_speech, SPEECHES, len(ids), speech=ids), 4096)
            replies.write_table(
                repeated(of_reply, REPLIES, len(each), speech=each, reply=names, number=numbers, text=names), 4096
            )
            counted = {"vote": [*range(_VOTES)] * len(names)}
            votes.write_table(repeated(of_vote, VOTES, len(twice), **about, **counted, **ratings), 4096)


@pytest.mark.proof
@pytest.mark.parametrize("blocks", [50])
def test_ten_million_votes_become_pairs_in_two_gigabytes(tmp_path: Path, blocks: int) -> None:
    files = AnnotationDir(tmp_path)
    write_tables(files, blocks)
    assert pq.read_metadata(files.votes).num_rows == blocks * 200_000
    done = subprocess.run([sys.executable, "-c", _RUN, tmp_path], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    pairs, megabytes = map(int, done.stdout.split())
    print(f"{pairs} pairs, {megabytes} MB")
    assert megabytes < 2048
    assert pairs == pq.read_metadata(files.dataset / "train.parquet").num_rows > 100 * blocks
