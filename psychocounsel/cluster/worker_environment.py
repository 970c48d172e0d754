"""What the processes of a job find in their environment."""

import os

from psychocounsel.cluster.job import Job
from psychocounsel.remote.hub import cache_directories


def worker_environment(job: Job, attempt: int, rendezvous: str, threads: str, gpu: bool) -> dict[str, str]:
    """The variables that all processes of a job share.

    Each one needs three more: RANK (0 to WORLD_SIZE - 1), LOCAL_RANK (the same on its node) and WORLD_SIZE.
    `rendezvous` is where they meet: `file:///FILE` on one machine, else `tcp://HOST:PORT` on the node of rank 0.
    """
    code_path = os.pathsep.join([*job.config.code_path, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return {
        **cache_directories(job.config.paths.cache),
        "PYTHONPATH": code_path,
        "OMP_NUM_THREADS": threads,
        # Threads that wait sleep: spinning, they would slow whatever else runs on these cores.
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive"),
        "PSYCHOCOUNSEL_ATTEMPT": str(attempt),
        "PSYCHOCOUNSEL_RENDEZVOUS": rendezvous,
        "PSYCHOCOUNSEL_DEVICE": "cuda" if gpu else "cpu",
    }
