"""One rank of a job: it reads the run's configuration and does not compose one."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from psychocounsel.errors import (
    CONTINUE_LATER,
    USER_ERROR,
    GoOnLater,
    UserError,
    is_disk_full,
    print_failure,
    print_printable,
)
from psychocounsel.storage.files import PACKAGE, remove_unfinished
from psychocounsel.storage.modes import let_nobody_else_write

if TYPE_CHECKING:
    from psychocounsel.rundir.run import Run
    from psychocounsel.settings.command import Command


def run_rank(run_dir: str, environment: dict[str, str], output: str | None) -> None:
    """Run one rank that the local launcher started by `multiprocessing`; does not return.

    `environment` is set first. Standard output and errors go to the file `output`, if given.
    """
    stop_before_the_start()
    with contextlib.suppress(OSError):
        os.setsid()  # Ctrl-C reaches the ranks only once, as the launcher's forwarded request
    multiprocessing.set_start_method(None, force=True)  # restores the default for libraries
    os.environ.update(environment)
    if output:
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(file, 1)
        os.dup2(file, 2)
    _end_with_launcher()
    main(Path(run_dir))


def main(run_dir: Path) -> None:
    """Run the job's module and exit without interpreter shutdown, whose destructors can abort a finished job."""
    let_nobody_else_write()
    print_printable()
    code = 1
    try:
        code = _work(run_dir)
    except (UserError, GoOnLater) as error:
        code = CONTINUE_LATER if isinstance(error, GoOnLater) else USER_ERROR
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
    except BaseException as error:
        if is_disk_full(error):
            code = CONTINUE_LATER
            remove_unfinished(run_dir)
            print(f"stopped: no space left for {run_dir}; free some, and the same command resumes", file=sys.stderr)
        else:
            print_failure(error)
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(code)


def _work(run_dir: Path) -> int:
    from psychocounsel.cluster.memory.check import fitted_work
    from psychocounsel.data.privacy import protect
    from psychocounsel.rundir.results import put_back
    from psychocounsel.rundir.run import Run
    from psychocounsel.rundir.run_config import read_run
    from psychocounsel.rundir.trust import refuse_untrusted_run
    from psychocounsel.search.settling import settled_work
    from psychocounsel.settings.command import command_of

    _check_code()
    refuse_untrusted_run(run_dir, whole=os.environ.get("RANK", "0") == "0")  # only rank 0 checks all checkpoints
    job, config = read_run(run_dir)
    command = command_of(job["module"])
    protect(command, config, run_dir)
    with Run.open(run_dir, config) as run:
        run.begin_environment()
        try:
            return int(settled_work(run, command, lambda settled: _served(settled, command, fitted_work)))
        except UserError as error:
            if run.is_main and not isinstance(error, GoOnLater):
                put_back(run_dir)  # while this process still owns the directory
            raise


def _served(run: "Run", command: "Command", work: Callable[["Run", "Command"], int]) -> int:
    """Return the exit code of `work`.

    Raises:
        ServersLost: if no server answers a run with a checkpoint: an earlier attempt reached them, so its input is right.
    """
    from psychocounsel.remote.client import NoServerLeft, ServersLost
    from psychocounsel.rundir.manifest import latest_checkpoint

    try:
        return work(run, command)
    except NoServerLeft as error:
        if latest_checkpoint(run.dir) is None:
            raise
        raise ServersLost(str(error)) from error


def _check_code() -> None:
    """Refuse to run other code than the copy made at submission."""
    expected, actual = os.environ.get("PSYCHOCOUNSEL_CODE"), PACKAGE.parent
    if expected and actual.resolve() != Path(expected).resolve():
        raise UserError(
            f"this job must run the code in {expected}, but Python found the code in {actual}: unset PYTHONPATH"
        )


def stop_before_the_start() -> None:
    """Exit on a stop request while loading, because there is nothing to save yet."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, lambda *_: os._exit(CONTINUE_LATER))


def _end_with_launcher() -> None:
    """Request a stop when the launcher dies, so that a killed launcher leaves no rank behind."""
    launcher = multiprocessing.parent_process()

    def wait() -> None:
        if launcher:
            launcher.join()
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()
