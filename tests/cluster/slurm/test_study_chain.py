"""A study on a real SLURM is one chain of jobs, even if its launcher is killed or a stage fails."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from psychocounsel.rundir.paths import StudyDir, SubmissionHome
from tests.support.slurm_cluster import Cluster, start

_STUDY = """
about: Two stages over seeds, the best of the first, and one that needs nothing.
values: {{seeds: [1, 2]}}
stages:
  sft: train algo=sft {run}
  dpo:
    run: train algo=dpo model.path=${{stage.sft.model}} seed=${{study.seeds}} {later}
    best: eval/accuracy
  again:
    run: train algo=dpo model.path=${{each.model}} {later}
    for_each: dpo
  final: train algo=dpo model.path=${{stage.dpo.best.model}} {later}
  other: train algo=dpo {run}
"""


@pytest.fixture(scope="module")
def slurm(small_model: Path) -> Iterator[Cluster]:
    yield from start(small_model)


class Study:
    """Study with a file and a folder, and the command that launches it."""

    def __init__(self, slurm: Cluster, folder: Path, **more: Any) -> None:
        self.slurm, self.folder, self.files = slurm, folder, StudyDir(folder / "study")
        given = slurm.overrides(1, **more)
        later = [text for text in given if not text.startswith(("model", "cluster"))]
        run = [text for text in given if not text.startswith("cluster")]
        text = _STUDY.format(run=" ".join(run), later=" ".join(["model=local", *later]))
        (folder / "mine.yaml").write_text(text)
        self.cluster = [text for text in given if text.startswith("cluster")]
        no_torch = folder / "no-torch"  # a login node without torch, whose import to check rows takes the most time
        no_torch.mkdir(exist_ok=True)
        (no_torch / "torch.py").write_text("raise ImportError('no torch on the login node')")
        self.environment = {**os.environ, **slurm.environment}
        self.environment["PYTHONPATH"] = f"{no_torch}:{slurm.environment['PYTHONPATH']}"

    def begin(self, *more: str, tools: Path | None = None) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "psychocounsel.launch", f"study={self.folder}/mine.yaml"]
        command += [f"study_dir={self.files.path}", *self.cluster, *more]
        environment = {**self.environment, **({"PATH": f"{tools}:{os.environ['PATH']}"} if tools else {})}
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def launch(self, *more: str, tools: Path | None = None, code: int = 0) -> str:
        with self.begin(*more, tools=tools) as process:
            said = process.communicate(timeout=300)[0]
        assert process.returncode == code, said
        return said

    def in_queue(self) -> Counter[str]:
        """Return the number of tasks of this study that wait or run, by their script."""
        listed = self.slurm.call("squeue", "-h", "-r", "-o", "%o").splitlines()
        return Counter(line for line in listed if line.startswith(f"{self.files.path}/"))

    def recorded(self) -> Counter[str]:
        """Return the number of recorded submissions of each run, after checking that each record names its jobs."""
        found: Counter[str] = Counter()
        for home in [self.files.path, *(path for path in self.files.path.iterdir() if path.is_dir())]:
            for each in SubmissionHome(home).submission_dirs():
                record = json.loads(each.record.read_text())
                assert record["jobs"], each.path
                found.update(_plain(f"{home.name}/{run}") for task in record["tasks"] for run in task)
        return found

    def states(self) -> dict[str, str]:
        """Return the state of each run that `jobs status` shows."""
        lines = self.slurm.jobs("status", str(self.files.path)).split("\n\n")[1].splitlines()[1:]
        return {_plain(line.split()[0]): line.split()[1] for line in lines}

    def ended(self, seconds: float = 300) -> dict[str, str]:
        self.slurm.until(
            lambda: not {"running", "pending", "requeued"} & set(self.states().values()), seconds, self.files.path
        )
        return self.states()


def _plain(run: str) -> str:
    """Return a run's name without the fingerprint at the end of a selection's folder: `dpo/select`."""
    return re.sub(r"/select-\w{8}$", "/select", run)


_RUNS = ["sft/run", "dpo/seed-1", "dpo/seed-2", "dpo/select", "again/seed-1", "again/seed-2", "final/run", "other/run"]
_ALL = [*_RUNS, "table/."]
_DYING = """#!/bin/sh
echo call >> {log}
if [ $(wc -l < {log}) = {call} ] && [ {moment} = before ]; then kill -KILL $PPID; exit 1; fi
{sbatch} "$@" > {log}.said
code=$?
if [ $(wc -l < {log}) = {call} ]; then kill -KILL $PPID; exit 1; fi
cat {log}.said
exit $code
"""


def dying(folder: Path, call: int, moment: str) -> Path:
    """Return a folder with an sbatch that kills its caller at call number `call`, `before` or `after` it submits the job."""
    folder.mkdir()
    text = _DYING.format(log=folder / "calls", call=call, moment=moment, sbatch=shutil.which("sbatch"))
    (folder / "sbatch").write_text(text)
    (folder / "sbatch").chmod(0o755)
    return folder


@pytest.mark.slow
def test_a_launcher_killed_at_any_sbatch_goes_on_and_no_job_is_twice_in_the_queue(
    slurm: Cluster, tmp_path: Path
) -> None:
    """Jobs are held, so that the jobs of one command are still in the queue when the next command runs."""
    study = Study(slurm, tmp_path)
    hold = "+cluster.sbatch.hold=true"
    for number, (call, moment) in enumerate([(1, "before"), (1, "after"), (1, "before"), (2, "after"), (1, "after")]):
        tools = dying(tmp_path / f"tools-{number}", call, moment)
        study.launch(hold, tools=tools, code=-signal.SIGKILL)
        assert max(study.in_queue().values(), default=0) <= 2, "an array of two at most"
    assert "final: submitted job" in study.launch(hold)
    assert study.in_queue() == {
        f"{study.files.path}/{place}/submissions/{number}/job.sbatch": tasks
        for place, number, tasks in (
            ("sft", "0001", 1), ("dpo", "0001", 2), ("dpo", "0002", 1), ("again", "0001", 2), ("final", "0001", 1),
            ("other", "0001", 1), ("table", "0001", 1),
        )
    }  # fmt: skip
    assert study.recorded() == Counter(_ALL)
    chain = slurm.call("squeue", "-h", "-o", "%j %E")
    assert "study-again aftercorr:" in chain and "study-other (null)" in chain
    said = study.launch(hold)
    assert "not submitted: 9 in the queue before" in said and "submitted job" not in said
    shown = slurm.jobs("status", str(study.files.path))
    assert "dpo    0/3       3 pending" in shown and re.search(r"dpo/select-\w{8} +pending", shown)
    assert "is a study: repeat its command" in slurm.jobs("resubmit", str(study.files.path), check_code=2)
    assert "logs " in slurm.jobs("logs", str(study.files.path), check_code=2)
    assert "cancelled 9 runs" in slurm.jobs("cancel", str(study.files.path))
    assert not study.in_queue() and set(study.states().values()) == {"cancelled"}


@pytest.mark.slow
def test_two_launchers_at_once_submit_each_job_once_and_a_refusal_leaves_no_job(slurm: Cluster, tmp_path: Path) -> None:
    study = Study(slurm, tmp_path)
    hold = "+cluster.sbatch.hold=true"
    # The last stage is refused when the others are in the queue.
    said = study.launch(hold, "other.cluster.constraint=gold", code=2)
    assert "sbatch refused" in said and not study.in_queue()
    assert not list(study.files.path.glob("*/submissions/*")), "nothing says that it was submitted"
    both = [study.begin(hold), study.begin(hold)]
    codes = sorted(process.wait(300) for process in both)
    assert codes in ([0, 0], [0, 2])
    assert study.recorded() == Counter(_ALL) and sum(study.in_queue().values()) == 9
    for process in both:
        process.communicate()
    slurm.jobs("cancel", str(study.files.path))


_QUICK = """#!/bin/sh
for last; do :; done
case "$*" in
*psychocounsel.worker*/select-*|*psychocounsel.worker*/table) exec {python} "$@" ;;
*psychocounsel.worker*) ;;
*) exec {python} "$@" ;;
esac
if [ -e "$last/summary.json" ]; then exit 0; fi
case "$last" in */dpo/seed-2) if [ -e {broken} ]; then exit 2; fi ;; esac
ln -sfn {model} "$last/model"
echo '{{"status": "finished", "metrics": {{"best": {{"eval/accuracy": 0.5}}}}}}' > "$last/summary.json"
"""


def quick(folder: Path, broken: Path, model: Path) -> Path:
    """Return a fake Python interpreter whose trainings end at once; dpo/seed-2 fails while the file `broken` exists."""
    file = folder / "python"
    file.write_text(_QUICK.format(python=sys.executable, broken=broken, model=model))
    file.chmod(0o755)
    return file


@pytest.mark.slow
@pytest.mark.parametrize("segments", [1, 2])
def test_a_failing_stage_stops_what_needs_it_and_nothing_else_and_the_same_command_goes_on(
    segments: int, slurm: Cluster, tmp_path: Path
) -> None:
    file = tmp_path / "broken"
    file.touch()
    more = {"cluster.requeue": "false", "cluster.segments": segments}
    study = Study(slurm, tmp_path, **more, **{"cluster.python": quick(tmp_path, file, slurm.model)})
    study.launch()
    found = study.ended()
    assert found == {
        "sft/0": "finished", "dpo/0": "finished", "dpo/1": "failed", "dpo/select": "cancelled", "again/0": "finished",
        "again/1": "cancelled", "final/0": "cancelled", "other/0": "finished", "table": "finished",
    }  # fmt: skip
    before = {path: path.stat().st_mtime_ns for path in study.files.path.glob("*/*/summary.json")}
    file.unlink()
    said = study.launch()
    assert "not submitted: 4 finished" in said and "sft: submitted" not in said
    assert set(study.ended().values()) == {"finished"}
    assert {path: path.stat().st_mtime_ns for path in before if "seed-2" not in str(path)} == {
        path: when for path, when in before.items() if "seed-2" not in str(path)
    }, "what had finished was not done again"
    assert (study.files.path / "dpo" / "best" / "model").is_dir()


@pytest.mark.proof
@pytest.mark.parametrize("seed", range(3))
def test_a_launcher_killed_at_random_moments_finishes_the_study_with_no_stage_twice(
    seed: int, slurm: Cluster, tmp_path: Path
) -> None:
    import random

    python = quick(tmp_path, tmp_path / "nothing", slurm.model)
    study, draw = Study(slurm, tmp_path, **{"cluster.python": python}), random.Random(seed)
    for _ in range(3):
        process = study.begin()
        time.sleep(draw.uniform(2, 8))
        process.kill()
        process.communicate()
    study.launch()
    assert set(study.ended().values()) == {"finished"}
    began = Counter(
        _plain(str(logs.parents[1].relative_to(study.files.path))) for logs in study.files.path.glob("*/*/logs/[0-9]*")
    )
    assert {run: began[run] for run in _RUNS} == dict.fromkeys(_RUNS, 1)
    assert max(study.recorded().values()) == 1


@pytest.mark.slow
def test_a_sweeps_command_that_is_killed_before_its_record_is_found_again(slurm: Cluster, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    given = ["-m", *slurm.overrides(1, sweep_dir=sweep), "+cluster.sbatch.hold=true", "seed=1,2"]
    environment = {"PATH": f"{dying(tmp_path / 'tools', 1, 'after')}:{os.environ['PATH']}"}
    slurm.train(*given, check_code=-signal.SIGKILL, **environment)
    record = SubmissionHome(sweep).submission(1).record
    assert json.loads(record.read_text())["jobs"] == []
    assert slurm.states(sweep) == ["pending"] * 2, "`jobs status` has found the array"
    assert len(json.loads(record.read_text())["jobs"]) == 1
    assert "not submitted: 2 submitted before" in slurm.train(*given).stdout
    slurm.jobs("cancel", str(sweep))
    environment = {"PATH": f"{dying(tmp_path / 'more', 1, 'before')}:{os.environ['PATH']}"}
    slurm.jobs("resubmit", str(sweep), check_code=None, **environment)
    assert slurm.states(sweep) == ["cancelled"] * 2
    assert not SubmissionHome(sweep).submission(2).path.exists(), "it never reached the queue"
