"""Division of a study's jobs into arrays, and the dependency of each array; nothing here calls SLURM.

SLURM gives an array one dependency. It can wait for whole arrays and single tasks, or index by index for an array of the
same length (aftercorr). Jobs are divided so that none waits for more than it needs.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field


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

    found = []
    for alike in _alike(range(len(needs)), lambda job: frozenset(batch for batch, _ in needs[job])):
        jobs = sorted(alike, key=sorted_needs)
        tasks = [jobs[start : start + group] for start in range(0, len(jobs), group)]
        asked = [frozenset(place for job in task for place in needs[job]) for task in tasks]
        found += [
            Part([tasks[number] for number in members], links) for members, links in _linked(asked, order, after_any)
        ]
    return found


def _linked(
    asked: list[frozenset[Place]], order: dict[TaskBatch, int], after_any: bool
) -> list[tuple[list[int], list[Link]]]:
    """Divide tasks that wait for the same batches: index by index in as few arrays as possible, otherwise by equal needs."""
    kind = "afterany" if after_any else "afterok"
    equal = _alike(range(len(asked)), lambda number: asked[number])
    if not after_any:
        layers = [[row[depth] for row in equal if depth < len(row)] for depth in range(max(map(len, equal)))]
        linked = [(layer, _index_by_index([asked[number] for number in layer], order)) for layer in layers]
        if len(layers) < len(equal) and all(links for _, links in linked):
            return [(layer, links or []) for layer, links in linked]
    return [(row, _links(kind, asked[row[0]], order)) for row in equal]


def _index_by_index(asked: list[frozenset[Place]], order: dict[TaskBatch, int]) -> list[Link] | None:
    """Return the links of one dependency for all of these tasks, or None if none matches every task's needs."""
    links = []
    for batch in sorted({batch for batch, _ in asked[0]}, key=lambda batch: order[batch]):
        each = [sorted(task for other, task in need if other is batch) for need in asked]
        if all(tasks == each[0] for tasks in each):
            links.append(_link("afterok", batch, each[0]))
        elif each == [[task] for task in range(batch.size)]:
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
    found: dict[Hashable, list[int]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return list(found.values())
