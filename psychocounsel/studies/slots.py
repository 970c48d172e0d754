"""Processes that run jobs in parallel. Each is forked once, so that the ranks' modules are imported once."""

import ctypes
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection, wait
from typing import IO, Any

from psychocounsel.cluster.signals import passed_on
from psychocounsel.errors import CONTINUE_LATER, UserError, print_failure

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
            raise UserError(f"parallel={count}: this machine has {gpus} GPUs, and each run takes one or more")
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

    def asked_to_stop(self) -> bool:
        return bool(self.requests)

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
            yield place, code, slot.said()

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

    def said(self) -> str:
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
