"""The processes of one job on this machine: started, passed stop requests, waited for, ended when one of them fails."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from psychocounsel.cluster.rank import run_rank
from psychocounsel.cluster.signals import passed_on
from psychocounsel.errors import CONTINUE_LATER
from psychocounsel.rundir.paths import AttemptDir

_GRACE_SECONDS = 20.0  # how long the other ranks may take to end in good order once one has failed
_GRACE_AFTER_KILL = 3.0  # likewise, where it was killed: the others can only fail
PRELOAD = ("psychocounsel.engine.preload", "psychocounsel.cluster.application")  # what ranks import
WITHOUT_TORCH = (
    "psychocounsel.evaluation.audit.auditing",
    "psychocounsel.cluster.application",
)  # those that load no model
ANNOTATION = (
    *(f"psychocounsel.annotation.{step}.step" for step in ("speeches", "replies", "scores", "pairs")),
    *("psychocounsel.annotation.working", "psychocounsel.cluster.application"),
)  # those of an annotation
_forked_with: list[dict[str, str]] = []  # the environment of the process that ranks are forked from, if there is one


def run_ranks(
    run_dir: Path,
    count: int,
    environment: dict[str, str],
    attempt: AttemptDir,
    gpus: bool,
    when_stopped: str,
    preload: Sequence[str] = PRELOAD,
) -> tuple[int, int]:
    """Run `count` processes, whose environment is this process's with `environment` and their rank.

    Rank 0 writes to the terminal and the others to files of `attempt`. Signals are passed on as stop requests, and the first
    prints `when_stopped`. Returns the exit code of the rank that failed first, and its number (0, 0 if none did).
    """
    context, ranks = _context(environment, gpus, preload), list[BaseProcess]()

    def send(number: int) -> None:
        if not ranks:
            raise _NothingBegan
        _send(ranks, number)

    try:
        with passed_on(send, when_stopped) as requests:
            for rank in range(count):
                ranked = {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
                output = str(attempt.output(rank)) if rank else None
                process = context.Process(target=run_rank, args=(str(run_dir), ranked, output))
                with _set(ranked):
                    process.start()
                ranks.append(process)
            if requests:  # some ranks were not there yet
                _send(ranks, signal.SIGTERM)
            code, rank = _wait(ranks)
    except _NothingBegan:
        return CONTINUE_LATER, 0
    asked_early = requests and code == 128 + signal.SIGTERM  # it died of the request, which it could not hear yet
    return (CONTINUE_LATER, 0) if asked_early else (code, rank)


class _NothingBegan(Exception):
    pass


def forked(
    work: Callable[..., None], given: tuple[Any, ...], environment: dict[str, str], preload: Sequence[str] = PRELOAD
) -> tuple[BaseProcess, Connection]:
    """A process that does `work(pipe, environment, *given)` on CPU, and the pipe's other end; it imports as ranks do.

    `preload` is what the process imports that it is forked from, if this is the first of them.
    """
    context = _context(environment, False, preload)
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(theirs, environment, *given))
    with _set(environment):
        process.start()
    theirs.close()
    return process, ours


def _context(environment: dict[str, str], gpus: bool, preload: Sequence[str] = PRELOAD) -> Any:
    """How processes begin: forked from one that has imported what a rank needs, so that only the first waits for that.

    A fresh interpreter, where a rank uses a GPU (which forked processes cannot), or where the libraries in that process
    have read other variables.
    """
    read = {name: value for name, value in environment.items() if not name.startswith("PSYCHOCOUNSEL_")}
    if gpus or (_forked_with and _forked_with != [read]):
        return multiprocessing.get_context("spawn")
    if not _forked_with:
        _forked_with.append(read)
        multiprocessing.set_forkserver_preload(list(preload))
    return multiprocessing.get_context("forkserver")


@contextmanager
def _set(environment: dict[str, str]) -> Iterator[None]:
    """Give a process that is started now its environment before its libraries read it; Ctrl-C waits as long."""
    before = dict(os.environ)
    os.environ.update(environment)
    signals = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)
        os.environ.clear()
        os.environ.update(before)


def _send(ranks: list[BaseProcess], number: int) -> None:
    for rank in ranks:
        if rank.exitcode is None and rank.pid:
            with suppress(ProcessLookupError):
                os.kill(rank.pid, number)


def _wait(ranks: list[BaseProcess]) -> tuple[int, int]:
    failed, deadline = (0, 0), float("inf")
    while any(rank.exitcode is None for rank in ranks):
        if failed == (0, 0) and (failed := _first_failure(ranks)) != (0, 0):
            deadline = time.monotonic() + (_GRACE_SECONDS if failed[0] < 128 else _GRACE_AFTER_KILL)
        if time.monotonic() >= deadline:
            _send(ranks, signal.SIGKILL)
        time.sleep(0.05)
    return failed if failed != (0, 0) else _first_failure(ranks)


def _first_failure(ranks: list[BaseProcess]) -> tuple[int, int]:
    """Exit code and number of a failed rank: one that a signal ended before those that failed for lack of it."""
    codes = [(rank.exitcode, number) for number, rank in enumerate(ranks) if rank.exitcode]
    code, number = min(codes, default=(0, 0))
    return (128 - code if code < 0 else code), number
