"""A study on this machine: jobs run one after another or in parallel; a failure stops only the jobs that need the failed one."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from psychocounsel.cluster.job import Job, write_run_directory
from psychocounsel.cluster.local import Local
from psychocounsel.cluster.starting import submit
from psychocounsel.errors import (
    CONTINUE_LATER,
    DONE,
    GATE_NO,
    USER_ERROR,
    GoOnLater,
    UserError,
    is_disk_full,
    print_failure,
    worst,
)
from psychocounsel.rundir.owner import PATIENCE_SECONDS, live_owner
from psychocounsel.rundir.run import Run
from psychocounsel.rundir.summary import gate_verdict, is_finished, limit_reached
from psychocounsel.studies.folders import write_record
from psychocounsel.studies.own_jobs import MODULE
from psychocounsel.studies.own_work import work
from psychocounsel.studies.slots import Slots
from psychocounsel.studies.study_plan import StudyPlan

_POLL_SECONDS = 0.5
_FAILED = 1


class StudyProgress:
    """State of a study's jobs: those that may start, and those blocked because a job that they need has failed.

    `codes` contains the exit code of each ended job, by its index in `jobs`.
    """

    def __init__(self, plan: StudyPlan) -> None:
        self.plan = plan
        self.jobs = [job for group in plan.groups() for job in group if job is not plan.table]
        self.codes: dict[int, int] = {place: DONE for place, job in enumerate(self.jobs) if job.finished}
        self.left_out: set[int] = set()
        self.begun: set[int] = set()
        self.by_folder = {str(job.run_dir): place for place, job in enumerate(self.jobs)}
        self.count = len(self.jobs) - len(self.codes)

    def next(self) -> int | None:
        """Return the index of the first job that may start now, or None."""
        for place, job in enumerate(self.jobs):
            if place in self.codes or place in self.begun or place in self.left_out:
                continue
            parents = [self.by_folder[parent] for parent in job.after if parent in self.by_folder]
            bad = [parent for parent in parents if parent in self.left_out or self.codes.get(parent, DONE) != DONE]
            if bad and (not job.after_any or len(bad) == len(parents)):
                self.left_out.add(place)
            elif all(parent in self.codes or parent in bad for parent in parents):
                return place
        return None

    def begin(self, place: int) -> None:
        self.begun.add(place)
        job = self.jobs[place]
        print(f"[{len(self.begun)}/{self.count}] {self.title(job)}", flush=True)

    def end(self, place: int, code: int) -> None:
        self.codes[place] = code

    def title(self, job: Job) -> str:
        """Return the stage and the folder of a job."""
        return str(job.run_dir.relative_to(self.plan.files.path))

    def failed(self) -> set[Path]:
        """Return the run directories of failed jobs: not finished, not stopped to resume later, not ended by a gate."""
        ended = {self.jobs[place].run_dir for place, code in self.codes.items() if code not in (DONE, CONTINUE_LATER)}
        return {run_dir for run_dir in ended if not gate_verdict(run_dir)}

    def exit_code(self) -> int:
        return worst([self.codes[place] for place in self.begun if place in self.codes] or [DONE])


def run_here(plan: StudyPlan, cluster: Local, parallel: int, check: Callable[[], None]) -> tuple[int, set[Path]]:
    """Run unfinished jobs, up to `parallel` at a time; `check` is called before the first one.

    Return the exit code, including that of the table job, and the run directories of failed jobs.

    On a stop request (Ctrl-C, SIGTERM) running jobs save and the exit code is 75; the same command resumes.

    Raises:
        UserError: if `check` finds a mistake, or there are fewer GPUs than parallel jobs.
    """
    progress, table = StudyProgress(plan), DONE
    with _interruptible():
        try:
            if parallel == 1:
                if progress.count:
                    check()
                _one_after_another(progress)
            else:
                _side_by_side(progress, cluster, parallel, check)
            if plan.table is not None and not plan.table.finished and progress.next() is None:
                table = run_job(plan, plan.table)
        except KeyboardInterrupt:
            print("stopped; the same command resumes", file=sys.stderr, flush=True)
            return CONTINUE_LATER, progress.failed()
    return worst([progress.exit_code(), table]), progress.failed()


def _one_after_another(progress: StudyProgress) -> None:
    while (place := progress.next()) is not None:
        progress.begin(place)
        code = run_job(progress.plan, progress.jobs[place])
        progress.end(place, code)
        if code == CONTINUE_LATER:
            raise KeyboardInterrupt


def _side_by_side(progress: StudyProgress, cluster: Local, parallel: int, check: Callable[[], None]) -> None:
    def run(place: int) -> int:
        job = progress.jobs[place]
        job.processes = min(job.processes, cluster.process_count())
        return run_job(progress.plan, job)

    with Slots(parallel, cluster.gpus(), run) as slots:
        if progress.count:
            check()
        stopped = False
        while True:
            while not stopped and slots.is_free() and (place := progress.next()) is not None:
                progress.begin(place)
                if progress.jobs[place].module == MODULE:
                    progress.end(place, run_job(progress.plan, progress.jobs[place]))
                else:
                    slots.start(place)
            if not slots.busy():
                break
            for place, code, said in slots.ended():
                progress.end(place, code)
                word = _word(progress.jobs[place].run_dir, code)
                print(f"{progress.title(progress.jobs[place])}: {word}{said if code != DONE else ''}", flush=True)
                stopped |= code == CONTINUE_LATER
            if slots.asked_to_stop():
                stopped = True
        if stopped:
            raise KeyboardInterrupt


def _word(run_dir: Path, code: int) -> str:
    """Return the word for the end of a run with this exit code; for code 3, the limit that ended it."""
    if code == GATE_NO:
        return limit_reached(run_dir)
    return gate_verdict(run_dir) or {DONE: "done", CONTINUE_LATER: "stopped"}.get(code, f"failed ({code})")


def run_job(plan: StudyPlan, job: Job) -> int:
    """Run a job to its end and return its exit code; errors are printed on the terminal."""
    try:
        if job is not plan.table and job.module != MODULE and is_finished(job.run_dir):
            return DONE
        _wait_for_owner(job.run_dir)
        if job.module == MODULE:
            return _work_here(job)
        cell = next(cell for each in plan.stages for cell in each.cells if cell.job is job)
        write_record(job.run_dir, cell.stage, cell.fingerprint)
        code = submit([job], job.config).exit_code
        return _FAILED if code == DONE and not is_finished(job.run_dir) else code
    except GoOnLater as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return CONTINUE_LATER
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return CONTINUE_LATER if is_disk_full(error) else USER_ERROR
    except Exception as error:  # an error of one job; the others can continue
        print_failure(error)
        return _FAILED


def _work_here(job: Job) -> int:
    """Run a job of the study itself in this process, because it is short and only reads figures."""
    write_run_directory(job)
    with Run.open(job.run_dir, job.config) as run:
        return work(run)


def _wait_for_owner(run_dir: Path) -> None:
    """Wait for processes that a killed launcher has left; they save and end by themselves."""
    end, said = time.monotonic() + PATIENCE_SECONDS, False
    while (owner := live_owner(run_dir)) and time.monotonic() < end:
        if not said:
            print(f"waiting for process {owner['pid']}, which still runs in {run_dir}", file=sys.stderr, flush=True)
            said = True
        time.sleep(_POLL_SECONDS)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Treat SIGTERM and SIGUSR1 between two jobs like Ctrl-C."""
    numbers = (signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
