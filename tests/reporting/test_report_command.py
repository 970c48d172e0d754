"""Tests of `psychocounsel report` from the command line: files, printed lines, refusals, and no leaked text."""

import shlex
from pathlib import Path

import pytest

from psychocounsel.errors import DONE, USER_ERROR
from psychocounsel.storage.locks import Lock
from tests.support.harness import cli
from tests.support.in_process import Answer, run_here
from tests.support.report_folders import study, sweep, training_run, winrate_run

SPEECH = "Zqx7 <script>alert('speech')</script> nobody listens"
REPLY = "Zqx8 What would it be like to be heard?"
OPEN_CHART = b"%PDF"


def report(*arguments: str, code: int = DONE) -> Answer:
    """Run the command in this process, because a new one would import matplotlib again."""
    answer = run_here(shlex.join(["report", *arguments]))
    assert answer.code == code, answer.stderr
    return answer


def everything(folder: Path) -> bytes:
    return b"\n".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


@pytest.mark.slow
def test_a_report_of_several_folders_is_written_here(tmp_path: Path) -> None:
    sweep(tmp_path / "beta", [["algo.beta=0.1"], ["algo.beta=0.2"]])
    training_run(tmp_path / "late", "algo=simpo", status="failed")
    study(tmp_path / "mine", {"sft": [["algo=sft"]]})
    winrate_run(tmp_path / "winrate")
    said = cli("report", "beta", "late", "mine", "winrate", cwd=tmp_path).stdout.splitlines()
    out = tmp_path / "report"
    assert said[:3] == [str(out / name) for name in ("report.html", "report.csv", "reproducibility.md")]
    tables, figures = ([*out.glob(f"{kind}/*.{ending}")] for kind, ending in (("tables", "tex"), ("figures", "pdf")))
    assert said[3] == f"{out}/tables/*.tex ({len(tables)}; for a paper: answer.tex)"
    assert said[4] == f"{out}/figures/*.pdf ({len(figures)}; for a talk: answer.pdf)"
    assert tables and figures and all(path.read_bytes().startswith(OPEN_CHART) for path in figures)
    assert said[5:] == ["1 of 5 runs have not finished: 1 failed (algo=simpo, algo.beta=2.5)"]
    names = {path.name for path in out.iterdir()}
    assert names == {"report.html", "report.csv", "reproducibility.md", "tables", "figures"}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")], "nothing half-written stays"


def test_a_report_replaces_the_earlier_one_and_nothing_else(tmp_path: Path) -> None:
    run = winrate_run(tmp_path / "run")
    report(str(run))
    table = next((run / "report" / "tables").iterdir())
    table.rename(table.with_name("of-an-earlier-section.tex"))
    report(str(run))
    assert table.exists() and not table.with_name("of-an-earlier-section.tex").exists()
    notes = run / "report" / "notes.txt"
    notes.write_text("mine")
    for out, why in (
        (run / "report", f"{notes}: not part of the report"),
        (run, "this folder holds other files"),
        (notes, "this is a file"),
    ):
        result = report(str(run), f"--out={out}", code=USER_ERROR)
        [line] = result.stderr.splitlines()
        assert line.startswith("error: ") and why in line and not result.stdout
    assert notes.read_text() == "mine" and (run / "summary.json").exists()


@pytest.mark.parametrize("arguments", [["none"], ["empty"], [], ["run", "--watc"], ["run", "--watch", "--out=x"]])
def test_what_cannot_be_reported_is_refused_in_one_line(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    training_run(tmp_path / "run")
    result = report(*arguments, code=USER_ERROR)
    assert len(result.stderr.splitlines()) == 1 and "Traceback" not in result.stderr
    assert not (tmp_path / "report").exists() and not (tmp_path / "empty" / "report").exists()


def test_texts_are_shown_unless_they_are_confidential_or_unwanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    winrate_run(tmp_path / "winrate", speech=SPEECH, reply=REPLY)
    report("winrate")
    shown = everything(tmp_path / "winrate" / "report")
    assert b"Zqx7" in shown and b"Zqx8" in shown and b"<script>alert('speech')" not in shown
    report("winrate", "--no-text")
    assert not any(mark in everything(tmp_path / "winrate" / "report") for mark in (b"Zqx7", b"Zqx8"))
    winrate_run(tmp_path / "private", "data.confidential=true", speech=SPEECH, reply=REPLY)
    report("winrate", "private", "--out=both")
    assert not any(mark in everything(tmp_path / "both") for mark in (b"Zqx7", b"Zqx8"))


def test_a_report_is_as_private_as_its_runs(tmp_path: Path) -> None:
    run = winrate_run(tmp_path / "run")
    (run / "config.yaml").chmod(0o600)
    report(str(run))
    assert {path.stat().st_mode & 0o077 for path in (run / "report").rglob("*")} == {0}


def test_a_run_that_goes_on_is_said_to(tmp_path: Path) -> None:
    lock = Lock(training_run(tmp_path / "live", status=None) / "owner.json")
    assert lock.take()
    try:
        said = report(str(tmp_path / "live")).stdout.splitlines()
    finally:
        lock.release()
    assert said[-1] == "1 of 1 runs has not finished: 1 running (live)"
