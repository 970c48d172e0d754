"""`python -m psychocounsel.worker RUN_DIR`: one rank of a job. Reads the run's configuration and never composes."""

import sys
from pathlib import Path

from psychocounsel.cluster.rank import main, stop_before_the_start

if __name__ == "__main__":
    stop_before_the_start()
    main(Path(sys.argv[1]))
