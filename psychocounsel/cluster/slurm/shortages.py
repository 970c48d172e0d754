"""Shortages that are visible at submission: a torch build without CUDA, too little disk."""

import re
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from psychocounsel.cluster.job import Job
from psychocounsel.cluster.memory import gpu
from psychocounsel.cluster.slurm.array_request import cluster_of
from psychocounsel.cluster.slurm.request import SlurmRequest
from psychocounsel.storage.files import readable_size, with_noun


def warnings_of(jobs: Sequence[Job]) -> list[str]:
    """Return a line that begins with `warning:` if jobs request GPUs but would run a torch without CUDA."""
    on_gpus = [
        job
        for job in jobs
        if job.command.loads_a_model(job.config) and (cluster := cluster_of(job)).gpus() and _runs_this(cluster)
    ]
    if on_gpus and is_cpu_build():
        return [
            "warning: torch of this environment is a CPU build, and the jobs ask for GPUs, which it cannot use: install a CUDA "
            "build (docs/install.md), or name another Python by cluster.python or cluster.container.image"
        ]
    return []


def _runs_this(cluster: SlurmRequest) -> bool:
    """Return True if jobs run the Python of this process."""
    return not cluster.python and not cluster.container.image


def is_cpu_build() -> bool:
    """Return True if torch is installed without CUDA; read from its files, because importing it takes a second."""
    spec = find_spec("torch")
    file = Path(spec.origin).with_name("version.py") if spec and spec.origin else None
    if file is None or not file.exists():
        return False
    return re.search(r"^cuda\b.*= None$", file.read_text(), re.MULTILINE) is not None


def disk_line(place: Path, jobs: Sequence[Job]) -> str:
    """Return a line with the size of all jobs' checkpoints and models, and the free space at `place`."""
    folder, free, needed = _disk(place, jobs)
    need = f"checkpoints and models of {with_noun(len(jobs), 'run')}: about {readable_size(needed)}; " if needed else ""
    return f"{need}free in {folder}: {readable_size(free)}" + (": NOT ENOUGH" if needed > free else "")


def disk_warning(place: Path, jobs: Sequence[Job]) -> list[str]:
    """Return `disk_line` as a warning if space is too small."""
    _, free, needed = _disk(place, jobs)
    return [f"warning: {disk_line(place, jobs)}"] if needed > free else []


def _disk(place: Path, jobs: Sequence[Job]) -> tuple[Path, float, float]:
    folder = next(path for path in (place, *place.parents) if path.exists())
    needed = 0.0
    for job in (job for job in jobs if job.command.trains):
        shape = gpu.trained_shape(job.config)
        if shape is not None:
            trained, kept = gpu.trained_parameters(shape, job.config), job.config.checkpoint.keep_last
            needed += 12 * trained * (kept + 1) + 2 * shape.parameters  # one more checkpoint exists while it is written
    return folder, shutil.disk_usage(folder).free, needed
