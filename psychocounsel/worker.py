"""`python -m psychocounsel.worker RUN_DIR`: one rank of a job. Reads the run's configuration and never composes."""

import contextlib
import ctypes
import importlib
import os
import signal
import sys
from pathlib import Path

from psychocounsel.errors import CONTINUE_LATER, USER_ERROR, UserError


def main() -> None:
    """Run the job's module and leave without interpreter shutdown, whose destructors can abort a finished job."""
    code = 1
    try:
        _stop_before_the_start()
        _end_with_launcher()
        code = _work(Path(sys.argv[1]))
    except UserError as error:
        code = USER_ERROR
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(code)


def _work(run_dir: Path) -> int:
    from psychocounsel.cluster.job import read_run
    from psychocounsel.engine.run import Run

    _check_code()
    job, config = read_run(run_dir)
    with Run.open(run_dir, config) as run:
        return int(importlib.import_module(job["module"]).work(run))


def _check_code() -> None:
    """Refuse to run other code than the copy that was made when the job was submitted."""
    expected, found = os.environ.get("PSYCHOCOUNSEL_CODE"), Path(__file__).parent.parent
    if expected and found.resolve() != Path(expected).resolve():
        raise UserError(
            f"this job is to run the code in {expected}, and Python found that in {found}: unset PYTHONPATH"
        )


def _stop_before_the_start() -> None:
    """A stop request while loading: there is nothing to save yet."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, lambda *_: os._exit(CONTINUE_LATER))


def _end_with_launcher() -> None:
    """Ask the kernel for SIGTERM when the launcher dies, so that a killed launcher leaves no rank behind."""
    launcher = os.environ.get("PSYCHOCOUNSEL_LAUNCHER")
    if launcher:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGTERM)
        if os.getppid() != int(launcher):
            os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
