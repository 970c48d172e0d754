"""A study on SLURM: all its jobs are queued at once, each with a dependency on the jobs that it needs."""

import os
import sys
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

from omegaconf import OmegaConf

from psychocounsel.cluster.job import Job, Submission, write_run_directory
from psychocounsel.cluster.slurm import queue, sharing
from psychocounsel.cluster.slurm.array_request import (
    ArrayRequest,
    announce,
    cluster_of,
    code_home,
    copied,
    home,
    send,
    undone,
)
from psychocounsel.cluster.slurm.queue import QueuedRun, queued_runs
from psychocounsel.cluster.slurm.submitting import note_live, refuse_beyond_limits, refuse_unfetched, wait
from psychocounsel.errors import DONE, UserError
from psychocounsel.rundir import submissions
from psychocounsel.rundir.owner import refuse_if_owned
from psychocounsel.rundir.results import is_finished
from psychocounsel.settings.keys import refuse_control_characters
from psychocounsel.settings.parallel import in_parallel

# Division of a study's jobs into arrays, without calling SLURM.
#
# SLURM gives an array one dependency. It can wait for whole arrays and single tasks, or index by index for an array of the
# same length (aftercorr). Jobs are divided so that none waits for more than it needs.


@dataclass(eq=False)
class TaskBatch:
    """Tasks of one sbatch call. `ids` are the jobs of its segments; an array that is not submitted yet has none.

    `is_new` is False for an earlier command's batch, whose unneeded tasks may have failed.
    """

    size: int
    ids: list[str] = field(default_factory=list)
    is_new: bool = True

    def name(self, index: int) -> str:
        return f"{self.ids[-1]}_{index}" if self.size > 1 else self.ids[-1]


Place = tuple[TaskBatch, int]  # a task of a batch


@dataclass(frozen=True)
class Link:
    """Dependency of an array: `kind` in sbatch's terms, and tasks of a batch (empty: all its tasks)."""

    kind: str
    batch: TaskBatch
    tasks: tuple[int, ...] = ()

    def text(self) -> str:
        """Return the part of --dependency, after the batch is submitted."""
        names = [self.batch.name(task) for task in self.tasks] or [self.batch.ids[-1]]
        return ":".join([self.kind, *names])


@dataclass
class Part:
    """An array: the positions of its jobs in the argument `needs` of `parts`, task by task, and its dependencies."""

    tasks: list[list[int]]
    links: list[Link]


def parts(needs: Sequence[set[Place]], group: int = 1, after_any: bool = False) -> list[Part]:
    """Divide jobs with equal resources into arrays.

    Args:
        needs: for each job, the tasks that must end before it.
        group: number of jobs in one task, which waits for the needs of all its jobs.
        after_any: True if the jobs start when the needed tasks end in any way, not only if they succeed.
    """
    order: dict[TaskBatch, int] = {}
    for need in needs:
        for batch, _ in sorted(need, key=lambda place: place[1]):
            order.setdefault(batch, len(order))

    def sorted_needs(job: int) -> list[tuple[int, int]]:
        return sorted((order[batch], task) for batch, task in needs[job])

    divided = []
    for alike in _alike(range(len(needs)), lambda job: frozenset(batch for batch, _ in needs[job])):
        jobs = sorted(alike, key=sorted_needs)
        tasks = [jobs[start : start + group] for start in range(0, len(jobs), group)]
        task_needs = [frozenset(place for job in task for place in needs[job]) for task in tasks]
        divided += [
            Part([tasks[number] for number in members], links)
            for members, links in _linked(task_needs, order, after_any)
        ]
    return divided


def _linked(
    needs: list[frozenset[Place]], order: dict[TaskBatch, int], after_any: bool
) -> list[tuple[list[int], list[Link]]]:
    """Divide tasks that wait for the same batches: index by index in as few arrays as possible, otherwise by equal needs."""
    kind = "afterany" if after_any else "afterok"
    equal = _alike(range(len(needs)), lambda number: needs[number])
    if not after_any:
        layers = [[row[depth] for row in equal if depth < len(row)] for depth in range(max(map(len, equal)))]
        linked = [(layer, _index_by_index([needs[number] for number in layer], order)) for layer in layers]
        if len(layers) < len(equal) and all(links for _, links in linked):
            return [(layer, links or []) for layer, links in linked]
    return [(row, _links(kind, needs[row[0]], order)) for row in equal]


def _index_by_index(needs: list[frozenset[Place]], order: dict[TaskBatch, int]) -> list[Link] | None:
    """Return the links of one dependency for all of these tasks, or None if none matches every task's needs."""
    links = []
    for batch in sorted({batch for batch, _ in needs[0]}, key=lambda batch: order[batch]):
        needed_tasks = [sorted(task for other, task in need if other is batch) for need in needs]
        if all(tasks == needed_tasks[0] for tasks in needed_tasks):
            links.append(_link("afterok", batch, needed_tasks[0]))
        elif needed_tasks == [[task] for task in range(batch.size)]:
            links.append(Link("aftercorr", batch))
        else:
            return None
    return links


def _links(kind: str, need: Iterable[Place], order: dict[TaskBatch, int]) -> list[Link]:
    """Return a link for each batch with needed tasks."""
    by_batch: dict[TaskBatch, list[int]] = {}
    for batch, task in sorted(need, key=lambda place: (order[place[0]], place[1])):
        by_batch.setdefault(batch, []).append(task)
    return [_link(kind, batch, tasks) for batch, tasks in by_batch.items()]


def _link(kind: str, batch: TaskBatch, tasks: Sequence[int]) -> Link:
    whole = batch.is_new and len(tasks) == batch.size
    return Link(kind, batch, () if whole else tuple(tasks))


def _alike(items: Iterable[int], key: Callable[[int], Hashable]) -> list[list[int]]:
    """Return groups of items with equal keys, in order of first occurrence."""
    groups: dict[Hashable, list[int]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


# Submission of the arrays.


@dataclass
class PlannedArray:
    """An array of a study, its dependency, and the batch that other arrays wait for."""

    request: ArrayRequest
    place: Path
    links: list[Link]
    batch: TaskBatch


def submit_study(groups: Sequence[Sequence[Job]]) -> Submission:
    """Submit every job that is neither finished nor queued, and return; with `cluster.wait`, after all have ended.

    An unfinished job is submitted again. A queued job that waits for a job submitted again is replaced.

    Raises:
        UserError: with SLURM's message if it refuses; then no job of this call is queued. Also if a job needs another job
            that is neither finished, queued, nor in `groups`, or if another process works in a run directory.
    """
    study = code_home(home(groups[0][0]))
    expanded = [group for given in groups for group in sharing.in_parts(given)]
    jobs = [job for group in expanded for job in group]
    refuse_control_characters([str(job.run_dir) for job in jobs], "run_dir")  # lines of tasks.txt
    places = list(dict.fromkeys(home(job) for job in jobs))
    with submissions.submitting(study):
        queued = queued_runs(*places)
        replaced = _select(expanded, queued)
        new = [[job for job in group if not job.skip] for group in expanded]
        if todo := [job for group in new for job in group]:
            _submit(study, new, todo, queued, replaced)
    _report(jobs, study)
    if cluster_of(jobs[0]).wait:
        return wait(jobs, *places)
    return Submission(DONE, [None] * len(jobs))


def _submit(
    study: Path,
    new: Sequence[Sequence[Job]],
    todo: Sequence[Job],
    queued: dict[Path, QueuedRun],
    replaced: Sequence[str],
) -> None:
    refuse_unfetched(todo)
    planned = plan(new, queued, queue.max_array_size())
    refuse_beyond_limits([array.request for array in planned])
    in_parallel(write_run_directory, [*todo])
    with undone([array.request for array in planned], study):
        code = copied(todo, study)
        queue.cancel(replaced)
        for array in planned:
            array.request.dependency = ",".join(link.text() for link in array.links)
            send(array.request, array.place, code)
            array.batch.ids = array.request.ids
            announce(array.request, f"{os.path.relpath(array.place, study)}: ")


def _select(groups: Sequence[Sequence[Job]], queued: dict[Path, QueuedRun]) -> list[str]:
    """Set `skip` of each job that must not be submitted; return queued tasks whose dependency can never succeed.

    Raises:
        UserError: if a process outside of the queue works in a run directory.
    """
    new, replaced = set[str](), list[str]()
    for group in groups:
        waiting = {
            queued_run.task.name for job in group if (queued_run := _waits_for(job, queued, new)) and queued_run.task
        }
        for job in group:
            queued_run = queued.get(job.run_dir)
            job.skip = "finished" if job.finished else ""
            if queued_run and queued_run.task and queued_run.task.name in waiting and not job.finished:
                replaced += queued_run.record.task_names(queued_run.index)
            elif not job.finished:
                note_live(job, queued_run)
                if not job.skip:
                    refuse_if_owned(job.run_dir)
            if not job.skip:
                new.add(str(job.run_dir))
    return list(dict.fromkeys(replaced))


def _waits_for(job: Job, queued: dict[Path, QueuedRun], new: set[str]) -> QueuedRun | None:
    """Return the queued run of the job if it waits for tasks that will be replaced."""
    queued_run = queued.get(job.run_dir)
    return queued_run if queued_run and queued_run.waits and not new.isdisjoint(job.after) else None


def plan(groups: Sequence[Sequence[Job]], queued: dict[Path, QueuedRun], largest_array: int) -> list[PlannedArray]:
    """Return the arrays of all jobs, each after the arrays that it waits for; SLURM is not called, no file is written.

    Raises:
        UserError: if a job needs another job that is neither finished, queued, nor in `groups`.
    """
    places, arrays = _places(queued), list[PlannedArray]()
    for job in (job for group in groups for job in group):
        places.pop(job.run_dir, None)  # the new job replaces an ended or waiting one
    for group in groups:
        by_request: dict[str, list[Job]] = {}
        for job in group:
            alike = OmegaConf.to_container(job.config.cluster), str(home(job)), job.after_any
            by_request.setdefault(repr(alike), []).append(job)
        made = [array for jobs in by_request.values() for array in _planned(jobs, places, largest_array)]
        arrays += made
        for array in made:
            places |= {
                job.run_dir: (array.batch, index) for index, task in enumerate(array.request.tasks) for job in task
            }
    return arrays


def _planned(jobs: Sequence[Job], places: dict[Path, Place], largest_array: int) -> list[PlannedArray]:
    """Return the arrays of jobs with equal requests."""
    cluster, arrays = cluster_of(jobs[0]), list[PlannedArray]()
    needs = [_needs(job, places) for job in jobs]
    for part in parts(needs, cluster.group, jobs[0].after_any):
        for start in range(0, len(part.tasks), largest_array):
            tasks = [[jobs[position] for position in task] for task in part.tasks[start : start + largest_array]]
            arrays.append(PlannedArray(ArrayRequest(cluster, tasks), home(jobs[0]), part.links, TaskBatch(len(tasks))))
    return arrays


def _places(queued: dict[Path, QueuedRun]) -> dict[Path, Place]:
    """Return the task of every run that waits or runs."""
    batches: dict[int, TaskBatch] = {}
    live = {run: queued_run for run, queued_run in queued.items() if queued_run.is_live}
    for queued_run in live.values():
        batches.setdefault(
            id(queued_run.record), TaskBatch(len(queued_run.record.tasks), queued_run.record.jobs, is_new=False)
        )
    return {run: (batches[id(queued_run.record)], queued_run.index) for run, queued_run in live.items()}


def _needs(job: Job, places: dict[Path, Place]) -> set[Place]:
    """Return the tasks that must end before the job; finished runs need no waiting.

    Raises:
        UserError: if it needs a run that no job will finish.
    """
    needed = set()
    for parent in map(Path, job.after):
        if parent in places:
            needed.add(places[parent])
        elif not job.after_any and not is_finished(parent):
            raise UserError(
                f"{job.run_dir}: needs {parent}, which is neither finished, waiting nor running: "
                "launch the study from that stage on"
            )
    return needed


def _report(jobs: Iterable[Job], study: Path) -> None:
    reasons = Counter("in the queue before" if job.skip.startswith("submitted") else job.skip for job in jobs)
    if summary := ", ".join(f"{count} {reason}" for reason, count in reasons.items() if reason):
        print(f"not submitted: {summary}", flush=True)
    print(f"status: psychocounsel jobs status {quote(str(study))}", file=sys.stderr)
