"""Recovery of submissions whose command was killed between SLURM's answer and the record of it.

A submission's folder is made before sbatch is called, with its script and a record of its runs that names no job. If the
record never names a job, the command died; SLURM then tells which jobs run the script, if any.
"""

from collections.abc import Sequence
from pathlib import Path

from psychocounsel.cluster.slurm.queue import scheduler
from psychocounsel.rundir import submissions


def find_lost(homes: Sequence[Path]) -> None:
    """Find submissions whose record names no job: record their jobs, or remove those that never reached the queue.

    Folders from which a live process submits are left alone.

    Raises:
        UserError: if a submission without recorded jobs exists and SLURM does not answer.
    """
    for home in homes:
        if submissions.unsubmitted(home) and not submissions.is_being_submitted(home):
            _find_lost(home)


def _find_lost(home: Path) -> None:
    with submissions.submitting(home):
        lost = submissions.unsubmitted(home)  # another command may have found them in the meantime
        known = scheduler.jobs_of_scripts() if lost else {}
        for each in lost:
            jobs = {*known.get(str(each.script), []), *each.begun_jobs()}
            if not jobs:
                submissions.remove(each)
            elif each.record.exists():
                submissions.adopt(each, sorted(jobs, key=int))
