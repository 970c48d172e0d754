"""`python -m psychocounsel.worker RUN_DIR`: one rank of a job. It reads the run's configuration and never composes one."""

import os
import sys
import time
from pathlib import Path

from psychocounsel.cluster.rank import main, stop_before_the_start
from psychocounsel.rundir.run import BEGAN, LAUNCHED

if __name__ == "__main__":
    stop_before_the_start()
    # Both times count from here, not from the start of the command, because a job waits in a queue.
    os.environ[BEGAN] = os.environ[LAUNCHED] = str(time.time())
    main(Path(sys.argv[1]))
