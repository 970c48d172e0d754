"""`python -m psychocounsel.prepare`: fetch on a login node what jobs need, and check their data as they will.

With `--config-name evaluate` for an evaluation's jobs, else for those of a training.
"""

from psychocounsel.cluster.application import main
from psychocounsel.cluster.preparing import prepare

if __name__ == "__main__":
    main("psychocounsel.train", "train", prepare)
