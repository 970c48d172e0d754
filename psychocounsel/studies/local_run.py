"""A study on this machine: jobs run one after another or in parallel; a failure stops only the jobs that need them."""

import ctypes
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import IO, Any

from psychocounsel.cluster.job import Job, write_run_directory
from psychocounsel.cluster.local import Local, word_of
from psychocounsel.cluster.local_ranks import passed_on
from psychocounsel.cluster.starting import submit
from psychocounsel.errors import (
    CONTINUE_LATER,
    DONE,
    USER_ERROR,
    GoOnLater,
    UserError,
    is_disk_full,
    print_failure,
    worst,
)
from psychocounsel.rundir.owner import PATIENCE_SECONDS, live_owner
from psychocounsel.rundir.results import gate_verdict, is_finished
from psychocounsel.rundir.run import Run
from psychocounsel.rundir.trained_runs import is_up_to_date
from psychocounsel.storage.files import with_noun
from psychocounsel.studies.own_jobs import COMMAND
from psychocounsel.studies.plan import StudyPlan, write_record

# Processes that run jobs in parallel. Each is forked once, so that the ranks' modules are imported once.

_DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl
_SHOWN_LINES = 12  # printed lines of a failed job
_CRASHED = 1


class Slots:
    """Pool of `count` processes, each running `run(place)` for one job at a time; they share this machine's cores and GPUs.

    Create it before this process starts others; killed processes are replaced. The output of jobs is stored, and
    shown for failed ones.

    Raises:
        UserError: if there are fewer GPUs than slots.
    """

    def __init__(self, count: int, gpus: int, run: Callable[[int], int]) -> None:
        if gpus and count > gpus:
            raise UserError(
                f"parallel={count}: this machine has {with_noun(gpus, 'GPU')}, and each run takes one or more"
            )
        self.make = lambda number: _Slot(number, count, gpus, run)
        self.slots = [self.make(number) for number in range(count)]
        self.stack = ExitStack()

    def __enter__(self) -> "Slots":
        self.requests = self.stack.enter_context(passed_on(self._send, "stopping: running jobs save"))
        return self

    def __exit__(self, *_: object) -> None:
        for slot in self.slots:
            slot.pipe.close()
        for slot in self.slots:
            slot.process.join()
        self.stack.close()

    def is_free(self) -> bool:
        """Return True if a process has no job; a killed process is replaced first."""
        for number, slot in enumerate(self.slots):
            if slot.place is None and not slot.process.is_alive():
                slot.pipe.close()
                self.slots[number] = self.make(number)
        return any(slot.place is None for slot in self.slots)

    def busy(self) -> bool:
        return any(slot.place is not None for slot in self.slots)

    def start(self, place: int) -> None:
        """Start a job in a free process."""
        slot = next(slot for slot in self.slots if slot.place is None)
        slot.place = place
        slot.begins_at = slot.output.seek(0, os.SEEK_END)
        with suppress(OSError):  # just killed; `ended` will notice it
            slot.pipe.send(place)

    def ended(self) -> Iterator[tuple[int, int, str]]:
        """Yield index, exit code and last printed lines of each ended job; waits a moment for one."""
        working = {slot.pipe: slot for slot in self.slots if slot.place is not None}
        for pipe in wait([*working], timeout=0.5):
            assert isinstance(pipe, Connection)
            slot = working[pipe]
            assert slot.place is not None
            try:
                code = pipe.recv()
            except (EOFError, ConnectionError):
                slot.process.join()
                code = _code_of(slot.process.exitcode)
            place, slot.place = slot.place, None
            yield place, code, slot.last_lines()

    def _send(self, number: int) -> None:
        for slot in self.slots:
            if slot.place is not None and slot.process.pid:
                with suppress(ProcessLookupError):
                    os.kill(slot.process.pid, signal.SIGTERM)  # the second signal kills the ranks


class _Slot:
    def __init__(self, number: int, count: int, gpus: int, run: Callable[[int], int]) -> None:
        self.place: int | None = None
        self.begins_at = 0
        self.output: IO[bytes] = tempfile.TemporaryFile()
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        environment = _environment(number, count, gpus)
        arguments: tuple[Any, ...] = (theirs, self.pipe, self.output.fileno(), environment, run, os.getpid())
        self.process = context.Process(target=_serve, args=arguments)
        self.process.start()
        theirs.close()

    def last_lines(self) -> str:
        """Return the last lines printed since the job started."""
        self.output.seek(self.begins_at)
        lines = self.output.read().decode(errors="replace").splitlines()[-_SHOWN_LINES:]
        return "".join(f"\n    {line}" for line in lines)


def _code_of(exitcode: int | None) -> int:
    """Return the exit code of a job whose process died: a stop request, otherwise a shell's code for the signal."""
    if exitcode in (CONTINUE_LATER, -signal.SIGTERM):
        return CONTINUE_LATER
    return 128 - exitcode if exitcode is not None and exitcode < 0 else _CRASHED


def _environment(number: int, count: int, gpus: int) -> dict[str, str]:
    """Return the share of cores and GPUs of one slot, as environment variables."""
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, len(os.sched_getaffinity(0)) // count))
    if not gpus:
        return {"OMP_NUM_THREADS": threads}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
    return {"OMP_NUM_THREADS": threads, "CUDA_VISIBLE_DEVICES": ",".join(visible.split(",")[number::count])}


def _serve(
    pipe: Connection,
    other_end: Connection,
    output: int,
    environment: dict[str, str],
    run: Callable[[int], int],
    parent: int,
) -> None:
    """Run the jobs named through `pipe` until it is closed or the launcher has died."""
    with suppress(OSError):
        os.setsid()  # Ctrl-C reaches only the launcher, which forwards it
    ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(CONTINUE_LATER)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    other_end.close()
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(environment)
    code = 0
    try:
        while True:
            place = pipe.recv()
            try:
                code = run(place)
            except Exception as error:
                print_failure(error)
                code = _CRASHED
            sys.stdout.flush()
            sys.stderr.flush()
            pipe.send(code)
    except (EOFError, ConnectionError):
        os._exit(0)
    except KeyboardInterrupt:
        os._exit(CONTINUE_LATER)


# The study.

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
                if progress.jobs[place].command is COMMAND:
                    progress.end(place, run_job(progress.plan, progress.jobs[place]))
                else:
                    slots.start(place)
            if not slots.busy():
                break
            for place, code, last_lines in slots.ended():
                progress.end(place, code)
                word = word_of(progress.jobs[place].run_dir, code)
                print(f"{progress.title(progress.jobs[place])}: {word}{last_lines if code != DONE else ''}", flush=True)
                stopped |= code == CONTINUE_LATER
            stopped |= bool(slots.requests)
        if stopped:
            raise KeyboardInterrupt


def run_job(plan: StudyPlan, job: Job) -> int:
    """Run a job to its end and return its exit code; errors are printed on the terminal."""
    try:
        if job is not plan.table and job.command is not COMMAND and is_up_to_date(job.run_dir):
            return DONE
        _wait_for_owner(job.run_dir)
        if job.command is COMMAND:
            return _work_here(job)
        cell = next(cell for planned in plan.stages for cell in planned.cells if cell.job is job)
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
        return COMMAND.work(run)


def _wait_for_owner(run_dir: Path) -> None:
    """Wait for processes that a killed launcher has left; they save and end by themselves."""
    end, announced = time.monotonic() + PATIENCE_SECONDS, False
    while (owner := live_owner(run_dir)) and time.monotonic() < end:
        if not announced:
            print(f"waiting for process {owner['pid']}, which still runs in {run_dir}", file=sys.stderr, flush=True)
            announced = True
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
