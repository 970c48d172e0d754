"""Models and data that jobs need from the hub and that are not in the cache."""

import shlex
import sys
from collections.abc import Sequence

from psychocounsel.cluster.job import Job
from psychocounsel.remote import hub
from psychocounsel.settings import config as configs


def unfetched(jobs: Sequence[Job], why: str = "") -> str:
    """Return the first model or data set missing in its job's cache, with the command that fetches it; "" if none is missing.

    `why` is appended to the name of the cache.
    """
    for job in jobs:
        if missing := next((source for source, folder in hub.folders(job.config) if folder is None), None):
            given = shlex.join(text for text in sys.argv[1:] if not text.startswith("dry_run="))
            command = configs.command_of(job.config)
            given = given if command == "train" else f"--config-name {command} {given}"
            where = f"{missing.key}={missing.id} is not in {job.config.paths.cache}"
            return f"{where}{why}: first run `python -m psychocounsel.prepare {given}`"
    return ""
