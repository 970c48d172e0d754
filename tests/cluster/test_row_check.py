"""Rows are checked before jobs start: at dry_run, at submission, and before the first run of a sweep."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from psychocounsel.cluster.job import Job, make_job
from psychocounsel.cluster.job_rows import count_rows
from psychocounsel.cluster.row_process import check_rows, unfetched
from psychocounsel.errors import USER_ERROR, UserError
from psychocounsel.settings.command import command_of
from tests.support.composed import check, checked, compose
from tests.support.harness import ROOT, cli, write_jsonl

PAIR = {"prompt": "I can't sleep.", "chosen": "What keeps you awake?", "rejected": "Just relax."}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def good(tmp_path: Path) -> Path:
    rows = [{**PAIR, "prompt": f"Day {number}.", "note": number} for number in range(40)]
    return write_jsonl(tmp_path / "good.jsonl", rows)


def job(*overrides: str) -> Job:
    return make_job(command_of("psychocounsel.train"), check(compose([*overrides])), list(overrides))


def test_dry_run_prints_groups_prompts_and_steps_and_the_run_reads_what_it_made(good: Path, tmp_path: Path) -> None:
    work, cache = tmp_path / "work", tmp_path / "cache"
    work.mkdir()
    given = [f"data.path={good}", "global_batch_size=4", f"paths.cache={cache}", "cluster.threads=1"]
    plan = cli("train", *given, "dry_run=true", cwd=work)
    assert "tiny with data=good: 36 training groups, 4 held-out groups of 4 prompts, 9 steps" in plan.stdout
    warning = "warning: 4 held-out prompts: below 30"
    assert warning in plan.stdout and "columns that are not read: note" in plan.stdout
    assert not list(work.iterdir()), "a dry run makes nothing where it is typed"
    (entry,) = (cache / "tokenised").glob("*.groups")
    made = entry.stat().st_ctime_ns, entry.stat().st_ino
    cli("train", *given, "max_steps=1", "eval.limit=2", "run_dir=run", cwd=work)
    (again,) = (cache / "tokenised").glob("*.groups")
    assert again == entry and again.stat().st_ino == made[1], "the run tokenised nothing"


def test_rows_that_no_run_can_use_are_refused_before_anything_is_said_or_made(tmp_path: Path) -> None:
    long = write_jsonl(tmp_path / "long.jsonl", [{**PAIR, "prompt": "sleep " * 3000}])
    work = tmp_path / "work"
    work.mkdir()
    refused = cli("train", f"data.path={long}", "dry_run=true", cwd=work, check_code=USER_ERROR)
    assert refused.stdout == ""
    (line,) = refused.stderr.splitlines()
    assert line.startswith(
        "error: no training row is left (1 of 1 rows dropped (prompt too long)) with max_length=1024"
    )
    sweep = cli("train", "-m", f"data.path=builtin:sample,{long}", "max_steps=1", cwd=work, check_code=USER_ERROR)
    (line,) = sweep.stderr.splitlines()
    assert f"data.path={long} " in line and ": no training row is left" in line and sweep.stdout == ""
    assert not list(work.iterdir()), "the first run of the sweep did not begin"
    alone = cli("train", f"data.path={long}", cwd=work, check_code=USER_ERROR)
    assert alone.stderr.splitlines()[-1].startswith("error: no training row is left")
    assert not list(work.iterdir()), "a run that was refused before its first step leaves nothing"


@pytest.mark.parametrize(
    "algorithm", ["dpo", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ppo", "reward"))]
)
def test_rows_tokenised_without_torch_equal_those_tokenised_with_it(algorithm: str, good: Path, tmp_path: Path) -> None:
    broken = tmp_path / "path" / "torch"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise RuntimeError('torch is imported')\n")
    given = [f"algo={algorithm}", f"data.path={good}", *(["reward=tiny"] if algorithm == "ppo" else [])]
    apart, here = tmp_path / "apart", tmp_path / "here"
    said = cli("train", *given, f"paths.cache={apart}", "dry_run=true", cold=True, PYTHONPATH=str(broken.parent)).stdout
    assert "with data=good: 36 training groups" in said and "torch" not in said
    import torch  # noqa: F401

    (line,) = count_rows([job(*given, f"paths.cache={here}")], print)
    assert line in said
    (one,), (other,) = ((*(cache / "tokenised").glob("*.groups"),) for cache in (apart, here))
    assert one.name == other.name and one.read_bytes() == other.read_bytes()


@pytest.mark.slow
def test_each_distinct_tokenisation_is_counted_once(good: Path, cache: Path) -> None:
    given = [f"data.path={good}", f"paths.cache={cache}"]
    jobs = [job(*given, *more) for more in (["seed=1"], ["seed=2"], ["global_batch_size=8"], ["algo=sft"])]
    lines = check_rows(jobs)
    assert [line for line in lines if "training groups" in line] == [
        "tiny with data=good: 36 training groups, 4 held-out groups of 4 prompts, 2 steps",
        "tiny with data=good: 36 training groups, 4 held-out groups of 4 prompts, 2 to 5 steps",
    ]
    assert sum("columns that are not read: note" in line for line in lines) == 1, (
        "two ways to read a file find the same"
    )
    assert len(list((cache / "tokenised").glob("*.groups"))) == 2


@pytest.mark.slow
def test_unprepared_hub_data_stays_unchecked_and_bad_rows_are_refused(cache: Path, tmp_path: Path) -> None:
    (line,) = check_rows([job("data=psychocounsel", f"paths.cache={cache}")])
    assert line.startswith("rows unchecked: data.path=Psychotherapy-LLM/PsychoCounsel-Preference is not in ")
    assert "`psychocounsel prepare`" in line
    bad = write_jsonl(tmp_path / "bad.jsonl", [{"prompt": "Hello."}])
    with pytest.raises(UserError, match="bad.jsonl line 1: has a prompt and no reply"):
        check_rows([job(f"data.path={bad}", f"paths.cache={cache}")])


def test_rows_with_replies_of_an_evaluation_stay_unchecked_until_it_has_ended(good: Path, tmp_path: Path) -> None:
    """`launch study=real` trains reward models to reject replies of SFT, which an earlier stage of the study writes."""
    replies = tmp_path / "own" / "run"
    given = ["data.controls=[own]", f"data.own_replies={replies}", f"after=[{replies}]"]
    for begun in (False, True):
        if begun:
            replies.mkdir(parents=True)
        (line,) = check_rows([job(f"data.path={good}", *given)])
        assert line.startswith(f"rows unchecked: {replies}") and line.endswith(" does not exist yet")


_INTERRUPTED = """
import os, pathlib, signal, time
from psychocounsel.cluster.local_ranks import prepare_forks

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    prepare_forks(dict(os.environ), ["slow_import"])
    while not pathlib.Path("begun").exists():
        time.sleep(0.02)
    try:
        os.killpg(0, signal.SIGINT)  # as a terminal does
        time.sleep(5)
    except KeyboardInterrupt:
        time.sleep(1)  # the other process ends its import
"""


def test_ctrl_c_while_the_process_that_reads_rows_imports_prints_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "slow_import.py").write_text("import time\nopen('begun', 'w').close()\ntime.sleep(0.5)\n")
    (tmp_path / "interrupted.py").write_text(_INTERRUPTED)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    command = [sys.executable, "interrupted.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, start_new_session=True
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("typed", "given"),
    [
        (["model.path=nobody/nothing", "dry_run=true"], "model.path=nobody/nothing"),
        (["-m", "model.path=nobody/nothing,nobody/other"], "-m model.path=nobody/nothing,nobody/other"),
        (["study=paper", "cluster=slurm"], "model.path=nobody/nothing"),
        (["resubmit", "DIR"], "model.path=nobody/nothing"),
    ],
)
def test_the_command_that_fetches_has_overrides_of_the_run(
    typed: list[str], given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = checked("model.path=nobody/nothing", f"paths.cache={tmp_path}")
    job = Job(command_of("psychocounsel.train"), config, tmp_path, overrides=["model.path=nobody/nothing"])
    monkeypatch.setattr(sys, "argv", ["psychocounsel", *typed])
    assert unfetched([job]).endswith(f": first run `psychocounsel prepare {given}`")
