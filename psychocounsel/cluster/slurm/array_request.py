"""One call of sbatch: the runs of each array index, its dependency, and the record of its submission."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import OmegaConf

from psychocounsel.cluster.job import Job
from psychocounsel.cluster.slurm import code_copies, queue
from psychocounsel.cluster.slurm.request import SlurmRequest
from psychocounsel.cluster.slurm.script import render
from psychocounsel.data.privacy import paths_of
from psychocounsel.reward.sections import local_models
from psychocounsel.rundir import submissions
from psychocounsel.rundir.paths import StudyDir, SubmissionDir
from psychocounsel.settings import config as configs
from psychocounsel.settings.targets import target_names
from psychocounsel.storage.files import write_atomically


@dataclass
class ArrayRequest:
    """Request of one sbatch call: `tasks` are the runs of each array index; one task is a job without an array.

    `ids` are the jobs of its submitted segments.
    """

    cluster: SlurmRequest
    tasks: list[list[Job]]
    files: SubmissionDir | None = None
    dependency: str = ""
    ids: list[str] = field(default_factory=list)

    @property
    def syncs(self) -> bool:
        """True if a run's tracker uploads at the end of the job."""
        return any(OmegaConf.select(job.config, "tracker.sync") for task in self.tasks for job in task)


def home(job: Job) -> Path:
    """Return the folder of the submission records: the sweep's folder, or the single run's."""
    return Path(job.config.sweep_dir) if job.config.sweep_dir else submissions.home_of(job.run_dir)


def arrays(jobs: Sequence[Job], largest_array: int) -> list[ArrayRequest]:
    """Group jobs by their requests, and split groups at the site's largest array."""
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        request = OmegaConf.to_container(job.config.cluster), list(job.after)
        groups.setdefault(repr(request), []).append(job)
    result = []
    for members in groups.values():
        cluster = cluster_of(members[0])
        tasks = [members[start : start + cluster.group] for start in range(0, len(members), cluster.group)]
        result += [
            ArrayRequest(cluster, tasks[start : start + largest_array]) for start in range(0, len(tasks), largest_array)
        ]
    return result


def cluster_of(job: Job) -> SlurmRequest:
    cluster: SlurmRequest = configs.build(job.config, "cluster")
    return cluster


def send(array: ArrayRequest, place: Path, code: Sequence[Path]) -> None:
    """Submit an array whose run directories are written. Its record first names the runs, and after submission the jobs.

    Raises:
        UserError: with SLURM's message if SLURM refuses.
    """
    array.files = submissions.new_submission(place)
    runs = [[job.run_dir for job in task] for task in array.tasks]
    write_atomically(array.files.tasks, "".join("\t".join(map(str, task)) + "\n" for task in runs))
    write_atomically(array.files.script, script_of(array, place, code))
    submissions.write(array.files, place, [], runs, code)
    for _ in range(array.cluster.segments):
        array.ids.append(queue.submit(array.files.script, *segment_options(array)))
    submissions.write(array.files, place, array.ids, runs, code)


def segment_options(array: ArrayRequest) -> list[str]:
    """Return sbatch options of the next segment, which starts when the previous one has ended, even if it failed.

    They replace the script's own dependency and therefore repeat it, because a first segment that SLURM cancels after a
    failed dependency has ended too.
    """
    if not array.ids:
        return []
    links = ",".join(filter(None, (f"afterany:{array.ids[-1]}", array.dependency)))
    return [f"--dependency={links}", "--kill-on-invalid-dep=yes"]


def script_of(array: ArrayRequest, place: Path, code: Sequence[Path]) -> str:
    paths, study = array.tasks[0][0].config.paths, code_home(place)
    apart = [str(path) for path in code if not path.is_relative_to(study)]
    binds = list(dict.fromkeys([str(study), *apart, str(paths.output), str(paths.cache)]))
    binds += [path for path in _inputs(array) if not any(Path(path).is_relative_to(bind) for bind in binds)]
    assert array.files is not None
    name, folder = job_name(place), array.files.path
    return render(array.cluster, name, folder, len(array.tasks), code, binds, array.dependency, array.syncs)


def _inputs(array: ArrayRequest) -> list[str]:
    """Return local files and folders that the runs read: data, models and reward models."""
    configs_of = [job.config for task in array.tasks for job in task]
    paths = [path for config in configs_of if config.get("data") is not None for path in paths_of(config.data) if path]
    paths += [folder for config in configs_of for _, folder, _ in local_models(config)]
    return [path for path in dict.fromkeys(map(str, paths)) if Path(path).is_absolute()]


def job_name(place: Path) -> str:
    return place.name if code_home(place) == place else f"{place.parent.name}-{place.name}"


def code_home(place: Path) -> Path:
    """Return the study's folder if `place` is that of a stage, because stages share a copy of the code; otherwise `place`."""
    return place.parent if StudyDir(place.parent).study.exists() else place


def copied(jobs: Sequence[Job], place: Path) -> list[Path]:
    """Copy the code for jobs submitted from `place`; return folders for PYTHONPATH. Raises like `code_copies.take`."""
    config, limit = jobs[0].config, cluster_of(jobs[0]).snapshot_limit_mb
    study = code_home(place)
    store = code_copies.store_of(study, Path(config.paths.output))
    return code_copies.use_copy(
        store, study, config.code_path, {name for job in jobs for name in target_names(job.config)}, limit
    )


@contextmanager
def undone(todo: Sequence[ArrayRequest], place: Path) -> Iterator[None]:
    """Cancel the submissions and remove their folders if the block fails, so that all or none are submitted.

    A copy of the code made for these submissions is removed too.
    """
    try:
        yield
    except BaseException:
        queue.cancel([job for array in todo for job in array.ids])
        for array in todo:
            if array.files is not None:
                shutil.rmtree(array.files.path, ignore_errors=True)
        output = Path(todo[0].tasks[0][0].config.paths.output)
        code_copies.remove_unused(code_copies.store_of(code_home(place), output))
        raise


def announce(array: ArrayRequest, name: str = "") -> None:
    runs = sum(map(len, array.tasks))
    ids = " ".join(array.ids)
    throttle = f", at most {array.cluster.max_parallel} at a time" if array.cluster.max_parallel else ""
    what = f"array of {len(array.tasks)} as job {ids}{throttle}" if len(array.tasks) > 1 else f"job {ids}"
    counted = f"{runs} runs" if runs > 1 else str(array.tasks[0][0].run_dir)
    print(f"{name}submitted {what}: {counted}", flush=True)
