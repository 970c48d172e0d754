"""Environment variables of a job's processes."""

import os

from psychocounsel.cluster.job import Job
from psychocounsel.remote.hub import cache_directories


def worker_environment(job: Job, attempt: int, rendezvous: str, threads: str, gpu: bool) -> dict[str, str]:
    """Return the variables shared by all processes of a job.

    Each process needs three more: RANK (0 to WORLD_SIZE - 1), LOCAL_RANK (the same on its node) and WORLD_SIZE.
    `rendezvous` is `file:///FILE` on one machine, otherwise `tcp://HOST:PORT` on the node of rank 0.
    """
    code_path = os.pathsep.join([*job.config.code_path, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return {
        **cache_directories(job.config.paths.cache),
        "PYTHONPATH": code_path,
        "OMP_NUM_THREADS": threads,
        # Waiting threads sleep, because spinning threads would slow other work on the same cores.
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive"),
        "PSYCHOCOUNSEL_ATTEMPT": str(attempt),
        "PSYCHOCOUNSEL_RENDEZVOUS": rendezvous,
        "PSYCHOCOUNSEL_DEVICE": "cuda" if gpu else "cpu",
    }
