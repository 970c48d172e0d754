"""`dry_run=true` on confidential speeches prints none of their words, although the command reads them itself."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from psychocounsel.errors import USER_ERROR
from psychocounsel.storage.files import remove_unfinished
from tests.support.harness import ROOT, cli

_KILLED = """
import os, signal, sys
from pathlib import Path
from psychocounsel.rundir.paths import AnnotationDir
from psychocounsel.steps.running import draft_of
try:
    with draft_of(AnnotationDir(Path(sys.argv[1]))) as draft:
        draft.speeches.write_text("speech")
        print(draft.path, flush=True)
        os.kill(os.getpid(), int(sys.argv[2]))
        signal.pause()
except KeyboardInterrupt:
    pass
"""

MARK = "zugzwangerl"


def headless(path: Path, rows: int) -> Path:
    """A CSV file without a header, so its first row is taken for the column names."""
    lines = [f"I cannot sleep {MARK} since my brother left in week {number}." for number in range(rows)]
    path.write_text("".join(f'"{line}"\n' for line in lines))
    return path


def test_a_dry_run_quotes_no_confidential_speech_and_converts_them_in_the_cache_it_was_given(tmp_path: Path) -> None:
    headless(tmp_path / "speeches.csv", 4).chmod(0o600)
    given = ["annotate", "speeches=speeches.csv", "speeches.license=cc0-1.0", "out=out", "dry_run=true"]
    cache = {"PSYCHOCOUNSEL_CACHE": str(tmp_path / "cache")}
    shown = cli(*given, cwd=tmp_path, check_code=None, **cache)
    assert MARK in shown.stdout + shown.stderr, "without protection, a message would name the columns"
    hidden = cli(*given, "speeches.confidential=true", cwd=tmp_path, check_code=USER_ERROR, **cache)
    assert "needs a column" in hidden.stderr and "Traceback" not in hidden.stderr
    assert MARK not in hidden.stdout + hidden.stderr
    holding = {path for path in tmp_path.rglob("*") if path.is_file() and MARK.encode() in path.read_bytes()}
    kept = holding - {tmp_path / "speeches.csv"}
    assert all(path.is_relative_to(tmp_path / "cache") and not path.stat().st_mode & 0o077 for path in kept), kept


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_dry_run_leaves_speeches_nowhere_but_in_the_directory_of_the_data_set(
    tmp_path: Path, number: int
) -> None:
    def folder(out: Path) -> Path:
        command = [sys.executable, "-c", _KILLED, str(out), str(int(number))]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
        done = subprocess.run(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        return Path(done.stdout.strip())

    (tmp_path / "out").mkdir()
    draft = folder(tmp_path / "out")
    assert draft.parent == tmp_path / "out"
    assert draft.exists() == (number == signal.SIGKILL)
    remove_unfinished(tmp_path / "out")  # like a removal
    assert not draft.exists()
    if number == signal.SIGTERM:
        assert not folder(tmp_path / "new").exists()


def test_a_dry_run_says_what_would_be_asked_and_who_would_see_texts(tmp_path: Path) -> None:
    given = ["annotate", "speeches.limit=3", "replies.per_speech=2", "annotator=local_vllm", "annotator.model=m"]
    said = cli(*given, "out=out", "dry_run=true", cwd=tmp_path).stdout
    assert "speeches: 3 of 356 rows (dropped: 353 limit)\n" in said
    assert "replies: 6 calls" in said
    assert "scores: 6 calls" in said
    assert "writers: texts go to no host: the models run here" in said
    assert "annotator: texts go to 127.0.0.1" in said
    assert not (tmp_path / "out").exists()


def test_a_dry_run_counts_the_rows_that_cleaning_drops(tmp_path: Path) -> None:
    long = "I cannot sleep since my mother died and nobody asks me how I am doing. " * 2
    (tmp_path / "speeches.csv").write_text(f"text\nToo short.\n{long}\n")
    given = [
        "annotate",
        "speeches=speeches.csv",
        "speeches.license=cc0-1.0",
        "annotator=rules",
        "out=out",
        "dry_run=true",
    ]
    assert "speeches: 1 of 2 rows (dropped: 1 too short)\n" in cli(*given, cwd=tmp_path).stdout
