"""`python -m psychocounsel.train`: trains a model on demonstrations, preferences or rewards."""

import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psychocounsel.rundir.run import Run


def work(run: "Run") -> int:
    """Train in the run directory of a worker process; return its exit code."""
    from psychocounsel.engine.run_training import train

    return train(run)


if __name__ == "__main__":
    from psychocounsel.settings.typed.early_stop import until_imported

    until_imported()
    from psychocounsel.rundir.attempts import BEGAN

    os.environ[BEGAN] = str(time.time())
    from psychocounsel.cluster.application import main
    from psychocounsel.reporting.terminal.sweep_ending import show_sweep

    main("psychocounsel.train", "train", ended=show_sweep)
