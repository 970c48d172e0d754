"""Tests of `psychocounsel cache`: it lists all entries and removes only the ones that it may remove."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from psychocounsel.cache import main
from psychocounsel.data.group import Completion, Group
from psychocounsel.errors import UserError
from psychocounsel.storage.locks import Lock
from tests.data.test_tokenised_cache import make, write_jsonl
from tests.data.test_tokenised_cache import rows as pairs
from tests.engine.test_references import fill
from tests.support.harness import cli

DAY = 86400


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Return a cache with two reference entries and a tokenised dataset, last used 40, 3 and 0 days ago."""
    folder = tmp_path / "cache"
    groups = [Group("a", np.array([1], np.int32), [Completion(np.array([n], np.int32)) for n in range(5)])]
    for name, days in {"old": 40, "new": 3}.items():
        fill(folder, groups, identity={"weights": name})
        (about,) = (path for path in folder.glob("reference/*/about.json") if f'"{name}"' in path.read_text())
        os.utime(about, (time.time() - days * DAY,) * 2)
    write_jsonl(tmp_path / "data.jsonl", pairs())
    make(tmp_path)
    return folder


def said(capsys: pytest.CaptureFixture[str], cache: Path, *arguments: str) -> list[str]:
    assert main([*arguments, "--cache", str(cache)]) == 0
    return capsys.readouterr().out.splitlines()


def test_list_says_kind_rows_size_use_and_what_of(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenised, new, old, total = said(capsys, cache, "list")
    assert tokenised.startswith("tokenised         12 rows") and tokenised.endswith(
        "data.jsonl: pairs for builtin:tiny"
    )
    assert new.startswith("reference          5 rows") and new.endswith("  test")
    assert time.strftime("%Y-%m-%d", time.localtime(time.time() - 40 * DAY)) in old
    assert total.startswith("3 entries, ") and total.endswith(f" in {cache}")
    assert len(said(capsys, cache, "list", "--kind", "tokenised")) == 2


def test_prune_removes_what_is_old_of_one_kind_or_all(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = said(capsys, cache, "prune", "--older-than", "30d", "--dry-run")
    assert plan[0].startswith("would remove reference") and plan[-1].startswith("would free ")
    assert len(said(capsys, cache, "list")) == 4
    done = said(capsys, cache, "prune", "--older-than", "30d")
    assert done[0] == plan[0].replace("would remove", "removed") and len(done) == 2
    assert len(list(cache.glob("reference/*"))) == 1
    assert len(said(capsys, cache, "prune", "--all", "--kind", "tokenised")) == 2
    assert not list(cache.glob("tokenised/*"))
    said(capsys, cache, "prune", "--older-than", "12h")
    assert not list(cache.glob("reference/*"))
    assert said(capsys, cache, "prune", "--all") == [f"freed 0 B in 0 entries of {cache}"]


def test_what_is_not_ours_or_in_use_stays(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = sorted(cache.glob("reference/*"), key=lambda folder: (folder / "about.json").stat().st_mtime)
    (old / "notes.txt").write_text("mine")
    (old / f"{'0' * 16}-{'0' * 32}.logprobs").write_text("mine, too")
    (cache / "tokenised" / "notes.groups").write_text("mine")
    (cache / "tokenised" / f"{'0' * 32}.groups").write_text("mine")
    (cache / "reference" / "mine").mkdir()
    (cache / "reference" / ("0" * 32)).symlink_to(tmp_path)
    (cache / "hub").mkdir()
    lock = Lock(new / "bucket-00.lock")
    assert lock.take()
    lines = said(capsys, cache, "prune", "--all")
    assert sum(line.startswith("removed") for line in lines) == 2
    assert any(line.startswith(f"kept, in use by process {os.getpid()} on") for line in lines)
    assert f"kept the folder {old}: it also holds files that are not ours" in lines
    assert sorted(path.name for path in old.iterdir()) == [f"{'0' * 16}-{'0' * 32}.logprobs", "notes.txt"]
    assert len(list(new.glob("*.logprobs"))) == 1
    assert len(list((cache / "tokenised").iterdir())) == 2
    assert {path.name for path in (cache / "reference").iterdir()} == {"mine", "0" * 32, old.name, new.name}
    assert (tmp_path / "data.jsonl").exists() and (cache / "hub").exists()
    lock.release()
    said(capsys, cache, "prune", "--all")
    assert not new.exists()


def test_what_killed_writers_left_goes(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept, gone = (cache / "tokenised" / f".{'1' * 32}.groups.{digit * 32}.tmp" for digit in "23")
    for file in (kept, gone):
        file.write_text("half")
    os.utime(gone, (time.time() - 2 * 3600,) * 2)
    (cache / "tokenised" / ".notes.tmp").write_text("mine")
    os.utime(cache / "tokenised" / ".notes.tmp", (0, 0))
    folder = next(cache.glob("reference/*"))
    (folder / "bucket-07.lock").write_text('{"host": "elsewhere", "pid": 1, "started": "1", "id": "x"}')
    os.utime(folder / "bucket-07.lock", (0, 0))
    said(capsys, cache, "prune", "--all", "--kind", "reference")
    assert not folder.exists()
    assert kept.exists() and not gone.exists() and (cache / "tokenised" / ".notes.tmp").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: command"),
        (["prune"], "one of the arguments --older-than --all is required"),
        (["prune", "--older-than", "30"], "'30' is not an age: give hours, days or weeks, such as 12h, 30d or 2w"),
        (["prune", "--al"], "required"),
        (["prune", "--all", "--older-than", "1d"], "not allowed with"),
        (["list", "--kind", "hub"], "choose from"),
        (["list", "--cache", "nowhere"], "--cache nowhere: this folder does not exist"),
        (["list", "--dry-run"], "unrecognized arguments: --dry-run"),
    ],
)
def test_wrong_arguments_are_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        main(arguments)
    assert "\n" not in str(raised.value)


def test_the_command_says_so_too_and_knows_where_the_cache_is(cache: Path, tmp_path: Path) -> None:
    wrong = cli("cache", "prune", cwd=tmp_path, check_code=2)
    assert wrong.stderr.startswith("error: ") and len(wrong.stderr.splitlines()) == 1 and not wrong.stdout
    found = cli("cache", "list", cwd=tmp_path, PSYCHOCOUNSEL_CACHE=str(cache))
    assert found.stdout.splitlines()[-1].endswith(f"in {cache}")
    empty = cli("cache", "list", cwd=tmp_path, PSYCHOCOUNSEL_CACHE=str(tmp_path / "none"))
    assert empty.stdout == f"0 entries, 0 B in {tmp_path / 'none'}\n"
    code = "import sys, psychocounsel.cache; print({'torch', 'transformers'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"
