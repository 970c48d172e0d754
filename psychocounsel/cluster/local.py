"""`cluster=local`: the jobs run here, one after another, each in processes of its own."""

import os
import sys
import tempfile
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from psychocounsel.cluster.job import Job, Submission, is_run_finished, objective
from psychocounsel.cluster.ranks import run_ranks
from psychocounsel.cluster.slurm.allocation import around
from psychocounsel.cluster.status import runs_of
from psychocounsel.errors import CONTINUE_LATER, GATE_NO, USER_ERROR, UserError
from psychocounsel.remote.hub import cache_directories
from psychocounsel.rundir.attempts import next_number
from psychocounsel.rundir.owner import refuse_if_owned
from psychocounsel.settings.schema import option


@dataclass
class Local:
    processes: int | None = option(None, at_least=1)
    device: str = option("auto", choices=("auto", "cpu", "cuda"))
    threads: int | None = option(None, at_least=1)

    def gpus(self) -> int:
        """GPUs that a job may use: those the driver shows, limited by CUDA_VISIBLE_DEVICES, or those of an allocation."""
        if self.device == "cpu":
            return 0
        if allocation := around():
            return allocation.gpus * len(allocation.nodes)
        found = len(list(Path("/dev").glob("nvidia[0-9]*")))
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is None:
            return found
        listed = takewhile(lambda part: part and not part.startswith("-"), map(str.strip, visible.split(",")))
        return min(found, len(list(listed)))

    def check(self) -> None:
        """Refuse what this machine does not have.

        Raises:
            UserError: if GPUs are asked for that are not here.
        """
        gpus = self.gpus()
        if self.device == "cuda" and not gpus:
            raise UserError("cluster.device=cuda: there is no GPU here; use cluster.device=cpu")
        if gpus and self.processes and self.processes > gpus:
            raise UserError(
                f"cluster.processes={self.processes}: there are {gpus} GPUs here, and each takes one process"
            )
        if allocation := around():
            allocation.nodes_for(self.process_count())

    def process_count(self) -> int:
        allocation = around()
        return self.processes or max(len(allocation.nodes) if allocation else 1, self.gpus())

    def describe(self, jobs: list[Job]) -> str:
        """What a dry run says of the jobs."""
        return "\n".join(
            f"would run {job.module} with {self._where(job)}: {' '.join(job.overrides) or 'defaults'}" for job in jobs
        )

    def select(self, jobs: list[Job]) -> None:
        """Say of every job why it is not to be started.

        Raises:
            UserError: if a live process owns a job's directory, or what it is to come after is not finished.
        """
        for job in jobs:
            for parent in map(Path, job.after):
                if not all(map(is_run_finished, [run for _, run, _ in runs_of(parent)])):
                    raise UserError(
                        f"after={parent}: has not finished, and cluster=local waits for nothing: run it first"
                    )
            refuse_if_owned(job.run_dir)
            job.skip = "finished" if job.finished else ""

    def _where(self, job: Job) -> str:
        processes = "1 process" if job.processes == 1 else f"{job.processes} processes"
        allocation = around()
        where = f" of allocation {allocation.job} ({' '.join(allocation.nodes)})" if allocation else ""
        return f"{processes} on {'GPU' if self.gpus() else 'CPU'}{where} in {job.run_dir}"

    def submit(self, jobs: list[Job]) -> Submission:
        """Run the jobs one after another; a failed one does not stop the next, a stop request does."""
        codes: list[int] = []
        for number, job in enumerate(jobs, 1):
            if len(jobs) > 1:
                print(f"[{number}/{len(jobs)}] {' '.join(job.overrides)}", flush=True)
            codes.append(self._run(job))
            if codes[-1] == CONTINUE_LATER:
                break
        objectives = [objective(job) for job in jobs]
        if len(jobs) > 1:
            _print_table(jobs, codes, objectives)
        return Submission(max(codes), objectives)

    def _run(self, job: Job) -> int:
        if job.finished:
            print(f"{job.run_dir} is already finished: see summary.json and model/ in it")
            return 0
        attempt = next_number(job.run_dir)
        logs = job.run_dir / "logs" / f"{attempt:02d}"
        logs.mkdir(parents=True)
        print(f"starting {self._where(job)}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="psychocounsel-") as rendezvous:
            environment = self._environment(job, attempt, rendezvous)
            if allocation := around():
                environment |= allocation.rendezvous(attempt)
                code, rank = allocation.run(job.run_dir, job.processes, environment, logs)
            else:
                code, rank = run_ranks(job.run_dir, job.processes, environment, logs, self.gpus() > 0)
        if code not in (0, USER_ERROR, GATE_NO, CONTINUE_LATER):
            print(
                f"error: {job.run_dir} failed (rank {rank}, exit code {code}); its logs are in {logs}", file=sys.stderr
            )
        if code not in (0, GATE_NO, CONTINUE_LATER) and rank:  # rank 0 has said it on the terminal
            print(
                "".join((logs / f"rank-{rank}.out").read_text(errors="replace").splitlines(True)[-20:]), file=sys.stderr
            )
        return code

    def _environment(self, job: Job, attempt: int, rendezvous: str) -> dict[str, str]:
        """What the ranks need to know; each one's number is added when it starts."""
        allocation = around()
        cores = allocation.cpus * len(allocation.nodes) if allocation else len(os.sched_getaffinity(0))
        threads = self.threads or os.environ.get("OMP_NUM_THREADS") or max(1, cores // job.processes)
        code_path = os.pathsep.join([*job.config.code_path, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        return {
            **cache_directories(job.config.paths.cache),
            "PYTHONPATH": code_path,
            "OMP_NUM_THREADS": str(threads),
            # Threads that wait sleep: spinning, they would slow whatever else runs on these cores.
            "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive"),
            "PSYCHOCOUNSEL_ATTEMPT": str(attempt),
            "PSYCHOCOUNSEL_RENDEZVOUS": f"file://{rendezvous}/store",
            "PSYCHOCOUNSEL_DEVICE": "cuda" if self.gpus() else "cpu",
        }


def _print_table(jobs: list[Job], codes: list[int], objectives: list[float | None]) -> None:
    print(f"\n{'result':<10}{jobs[0].metric:>14}  overrides")
    for index, (job, value) in enumerate(zip(jobs, objectives, strict=True)):
        code = codes[index] if index < len(codes) else None
        word = {None: "not run", 0: "done", GATE_NO: "guarded", CONTINUE_LATER: "stopped"}.get(code, f"failed {code}")
        print(f"{word:<10}{'' if value is None else format(value, '14.4f'):>14}  {' '.join(job.overrides)}")
