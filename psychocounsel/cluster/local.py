"""`cluster=local`: the jobs run on this machine, one after another, each in its own processes."""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, ClassVar

from psychocounsel.cluster.archive import SYNC_SECONDS, sync_where_asked
from psychocounsel.cluster.base import Cluster
from psychocounsel.cluster.job import Job, Submission, made_nothing
from psychocounsel.cluster.local_ranks import PRELOAD, run_ranks, worker_environment
from psychocounsel.cluster.memory.check import host_line, memory_line
from psychocounsel.cluster.memory.cpu import cpu_memory_line, machine_bytes
from psychocounsel.cluster.memory.host import UNKNOWN, Machines
from psychocounsel.cluster.row_process import check_rows, prepare_check
from psychocounsel.cluster.slurm.allocation import around
from psychocounsel.errors import CONTINUE_LATER, DONE, GATE_NO, GATE_UNDECIDED, USER_ERROR, UserError, worst
from psychocounsel.rundir.manifest import latest_checkpoint
from psychocounsel.rundir.paths import CheckpointDir, RunDir
from psychocounsel.rundir.results import UNDECIDED, is_finished, limit_reached, objective_interval, read_state
from psychocounsel.rundir.run import next_number, start_times
from psychocounsel.rundir.sweep import runs_of
from psychocounsel.settings.schema import option
from psychocounsel.storage.files import with_noun

_WORDS = {None: "not run", DONE: "done", GATE_UNDECIDED: UNDECIDED, CONTINUE_LATER: "stopped"}


@dataclass
class Local(Cluster):
    has_queue: ClassVar[bool] = False

    processes: int | None = option(None, at_least=1)
    device: str = option("auto", choices=("auto", "cpu", "cuda"))
    threads: int | None = option(None, at_least=1)

    def gpus(self) -> int:
        """Return a job's number of GPUs: those of the allocation, or the driver's, limited by CUDA_VISIBLE_DEVICES."""
        if self.device == "cpu":
            return 0
        if allocation := around():
            return allocation.gpus * len(allocation.nodes)
        count = len(list(Path("/dev").glob("nvidia[0-9]*")))
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is None:
            return count
        listed = takewhile(lambda part: part and not part.startswith("-"), map(str.strip, visible.split(",")))
        return min(count, len(list(listed)))

    def check(self) -> None:
        """Refuse settings that this machine cannot satisfy.

        Raises:
            UserError: if this machine has fewer GPUs than requested, or the processes cannot be spread evenly over the
                nodes of an allocation.
        """
        gpus = self.gpus()
        if self.device == "cuda" and not gpus:
            raise UserError("cluster.device=cuda: this machine has no GPU; use cluster.device=cpu")
        if gpus and self.processes and self.processes > gpus:
            raise UserError(
                f"cluster.processes={self.processes}: this machine has {with_noun(gpus, 'GPU')}, and each takes one process"
            )
        if allocation := around():
            allocation.nodes_for(self.process_count())

    def process_count(self) -> int:
        allocation = around()
        return self.processes or max(len(allocation.nodes) if allocation else 1, self.gpus())

    def first_node(self, processes: int) -> tuple[int, int]:
        if allocation := around():
            return processes // allocation.nodes_for(processes), allocation.gpus
        return super().first_node(processes)

    def host_memory(self) -> float | None:
        return machine_bytes()

    def select(self, jobs: list[Job]) -> None:
        """Set `skip` of each job that must not be started.

        Raises:
            UserError: if a live process owns a job's directory, or a run in `after` is not finished.
        """
        for parent in (Path(parent) for job in jobs if not job.after_any for parent in job.after):
            if not all(is_finished(run.run_dir) for run in runs_of(parent)):
                raise UserError(f"after={parent}: has not finished, and cluster=local does not wait: run it first")
        super().select(jobs)

    def describe(self, jobs: list[Job]) -> str:
        """Return lines about the jobs and their memory: on this machine's GPUs, or on CPU and on eight GPUs elsewhere.

        Raises:
            UserError: if submitting would fail, or for dry_run=script.
        """
        if jobs[0].config.dry_run == "script":
            raise UserError("dry_run=script: cluster=local has no batch script; give dry_run=true")
        trained = [job for job in jobs if job.command.trains and not job.config.model.path.startswith("builtin:")]
        gpus = self.gpus()
        machines = Machines(self.machines(gpus), self.host_memory()) if gpus else UNKNOWN
        lines = []
        for config in (job.config for job in trained):
            lines += [memory_line(config, gpus or 8, None, machines), *host_line(config, gpus or 8, machines, None)]
        if not gpus:
            here = [cpu_memory_line(job.config, job.processes) for job in trained]
            lines = [*here, *(f"on a machine with 8 GPUs, {line}" for line in lines if line not in here)]
        return "\n".join([super().describe(jobs), *dict.fromkeys(lines)])

    def place(self, job: Job) -> str:
        allocation = around()
        where = f" of allocation {allocation.job} ({' '.join(allocation.nodes)})" if allocation else ""
        return f"{with_noun(job.processes, 'process')} on {'GPU' if self.gpus() else 'CPU'}{where} in {job.run_dir}"

    def check_rows(self, jobs: list[Job]) -> list[str]:
        """Check rows of several jobs. A single run's own process checks its rows before it loads a model."""
        return check_rows(jobs, PRELOAD, self._threads(jobs[0])) if len(jobs) > 1 else []

    def prepare_check(self, job: Job) -> None:
        prepare_check(job, PRELOAD, self._threads(job))

    def submit(self, jobs: list[Job]) -> Submission:
        """Run the jobs one after another. A failed job does not stop the next one; a stop request does."""
        codes: list[int] = []
        for number, job in enumerate(jobs, 1):
            if len(jobs) > 1:
                print(f"[{number}/{len(jobs)}] {' '.join(job.overrides)}", flush=True)
            is_new = not job.files.logs.exists()
            codes.append(self._run(job))
            if codes[-1] == USER_ERROR and is_new and len(jobs) == 1:
                _remove_unstarted(job)
            if codes[-1] == CONTINUE_LATER:
                break
        objectives = [job.objective for job in jobs]
        if len(jobs) > 1:
            _print_table(jobs, codes, objectives)
        return Submission(worst(codes), objectives)

    def light(self) -> dict[str, Any]:
        return {"processes": 1, "device": "cpu"}

    def cancel(self, runs: Sequence[Path]) -> None:
        files = " ".join(str(RunDir(run).stop) for run in runs)
        raise UserError(f"these runs are on one machine, not in a queue: `touch {files}` lets them save and stop")

    def resubmit(self, jobs: list[Job], code: str) -> None:
        raise UserError(
            f"{jobs[0].run_dir}: ran with cluster=local, which has no queue: give its command again to resume "
            f"(its overrides are in {jobs[0].files.overrides.name})"
        )

    def _run(self, job: Job) -> int:
        if job.finished:
            made = job.command.product(job.config, job.files)
            print(f"{job.run_dir} is already finished: see {job.files.summary.name} and {made} in it")
            return DONE
        number = next_number(job.run_dir)
        attempt = job.files.attempt(number)
        attempt.path.mkdir(parents=True)
        print(f"starting {self.place(job)}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="psychocounsel-") as folder:
            rendezvous, gpu = f"file://{folder}/store", self.gpus() > 0
            environment = worker_environment(job, number, rendezvous, self._threads(job), gpu) | start_times()
            if allocation := around():
                environment |= allocation.rendezvous()
                code, rank = allocation.run(job.run_dir, job.processes, environment, attempt, job.command.stopping)
            else:
                preload = PRELOAD if job.command.loads_a_model(job.config) else job.command.light_preloads
                code, rank = run_ranks(
                    job.run_dir, job.processes, environment, attempt, gpu, job.command.stopping, preload
                )
        if code == CONTINUE_LATER:
            _say_how_to_resume(job)
        else:
            sync_where_asked(job.run_dir, SYNC_SECONDS)
        if code not in (DONE, USER_ERROR, GATE_NO, GATE_UNDECIDED, CONTINUE_LATER):
            where = f"rank {rank}, exit code {code}"
            print(f"error: {job.run_dir} failed ({where}); its logs are in {attempt.path}", file=sys.stderr)
        if (
            code not in (DONE, GATE_NO, GATE_UNDECIDED, CONTINUE_LATER) and rank
        ):  # rank 0 has printed its own error on the terminal
            lines = attempt.output(rank).read_text(errors="replace").splitlines(True)
            print("".join(lines[-20:]), file=sys.stderr)
        return code

    def _threads(self, job: Job) -> str:
        """Return the number of CPU threads of each process, as a text."""
        allocation = around()
        cores = allocation.cpus * len(allocation.nodes) if allocation else len(os.sched_getaffinity(0))
        return str(self.threads or os.environ.get("OMP_NUM_THREADS") or max(1, cores // job.processes))


def _say_how_to_resume(job: Job) -> None:
    """Print how to resume a run that was killed by a repeated stop request, or stopped before its first step."""
    state = read_state(job.run_dir)
    if state.get("phase") == "stopped":
        return  # the run itself has printed how to resume
    saved = latest_checkpoint(job.run_dir)
    if saved:
        ending = f"stopped without saving; to resume from step {CheckpointDir(saved).step}"
    elif job.works_in_steps:
        ending = "stopped; answers so far are kept; to resume"
    elif state.get("step"):
        ending = "stopped before its first checkpoint; to start again"
    else:
        ending = "stopped before its first step; to resume"
    print(f"{ending}: the same command with {job.command.place}={job.run_dir}", file=sys.stderr)


def _remove_unstarted(job: Job) -> None:
    """Remove the directory of a run that was refused before its first step; the terminal shows the reason."""
    if made_nothing(job.run_dir):
        shutil.rmtree(job.run_dir)
        if job.run_dir.parent != Path.cwd():
            with contextlib.suppress(OSError):
                job.run_dir.parent.rmdir()  # succeeds only if the folder is empty


def word_of(run_dir: Path, code: int | None) -> str:
    """Return the word for the end of a run with this exit code (None: it has not begun); for code 3, the limit that ended it."""
    return limit_reached(run_dir) if code == GATE_NO else _WORDS.get(code, f"failed {code}")


def _print_table(jobs: list[Job], codes: list[int], objectives: list[float | None]) -> None:
    metrics = [job.metric for job in jobs]
    several = len(set(metrics)) > 1  # for instance evaluation=winrate,health
    width = max(map(len, metrics)) + 2 if several else 0
    title, names = ("figure", f"{'of':<{width}}") if several else (metrics[0], "")
    print(f"\n{'result':<14}{title:>14}  {names}{'95 % interval':<24}overrides")
    for index, (job, value) in enumerate(zip(jobs, objectives, strict=True)):
        code = codes[index] if index < len(codes) else None
        word = word_of(job.run_dir, code)
        shown = "" if value is None else format(value, "14.4f")
        name = f"{job.metric:<{width}}" if several else ""
        interval = objective_interval(job.run_dir, job.metric).strip(" ()") if shown else ""
        print(f"{word:<14}{shown:>14}  {name}{interval:<24}{' '.join(job.overrides)}")
