"""One rank of a job: it reads the run's configuration and never composes."""

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import threading
from pathlib import Path

from psychocounsel.errors import CONTINUE_LATER, USER_ERROR, GoOnLater, UserError, is_disk_full, print_failure
from psychocounsel.storage.files import PACKAGE, remove_unfinished
from psychocounsel.storage.modes import let_nobody_else_write


def run_rank(run_dir: str, environment: dict[str, str], output: str | None) -> None:
    """One rank that the launcher on this machine has started by `multiprocessing`; it does not return.

    `environment` is set first; standard output and errors go to the file `output` if there is one.
    """
    stop_before_the_start()
    with contextlib.suppress(OSError):
        os.setsid()  # Ctrl-C reaches the ranks once, as the request that the launcher passes on
    multiprocessing.set_start_method(None, force=True)  # for libraries, what it is in any other program
    os.environ.update(environment)
    if output:
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(file, 1)
        os.dup2(file, 2)
    _end_with_launcher()
    main(Path(run_dir))


def main(run_dir: Path) -> None:
    """Run the job's module and leave without interpreter shutdown, whose destructors can abort a finished job."""
    let_nobody_else_write()
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
            print(f"stopped: no space left for {run_dir}; free some, and the same command goes on", file=sys.stderr)
        else:
            print_failure(error)
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(code)


def _work(run_dir: Path) -> int:
    from psychocounsel.cluster.memory.start_check import fitted_work
    from psychocounsel.data.privacy import protect
    from psychocounsel.rundir.run import Run
    from psychocounsel.rundir.run_config import read_run
    from psychocounsel.rundir.trust import refuse_untrusted_run
    from psychocounsel.search.settling import settled_work

    _check_code()
    refuse_untrusted_run(run_dir, whole=os.environ.get("RANK", "0") == "0")  # of many ranks one walks the checkpoints
    job, config = read_run(run_dir)
    protect(config, run_dir)
    with Run.open(run_dir, config) as run:
        run.begin_environment()
        work = importlib.import_module(job["module"]).work
        return int(settled_work(run, lambda settled: fitted_work(settled, work)))


def _check_code() -> None:
    """Refuse to run other code than the copy that was made when the job was submitted."""
    expected, found = os.environ.get("PSYCHOCOUNSEL_CODE"), PACKAGE.parent
    if expected and found.resolve() != Path(expected).resolve():
        raise UserError(
            f"this job is to run the code in {expected}, and Python found that in {found}: unset PYTHONPATH"
        )


def stop_before_the_start() -> None:
    """A stop request while loading: there is nothing to save yet."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, lambda *_: os._exit(CONTINUE_LATER))


def _end_with_launcher() -> None:
    """Ask for a stop when the launcher dies, so that a killed launcher leaves no rank behind."""
    launcher = multiprocessing.parent_process()

    def wait() -> None:
        if launcher:
            launcher.join()
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()
