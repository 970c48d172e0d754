"""Graph of a study's stages: their order, cycles, and the stages that a command requests."""

from collections.abc import Iterable, Mapping, Sequence

from psychocounsel.errors import UserError
from psychocounsel.studies.study_file import near

Graph = Mapping[str, Sequence[str]]  # stage -> the stages that it needs


def in_order(graph: Graph) -> list[str]:
    """Return the stages, each after those that it needs (except in cycles), otherwise in the order of the file."""
    return _visited(graph)[0]


def circles(graph: Graph) -> list[list[str]]:
    """Return cycles of stages that need each other, as [a, b, a]."""
    return _visited(graph)[1]


def _visited(graph: Graph) -> tuple[list[str], list[list[str]]]:
    order, found, path = list[str](), list[list[str]](), list[str]()

    def visit(stage: str) -> None:
        if stage in path:
            found.append([*path[path.index(stage) :], stage])
        elif stage not in order and stage in graph:
            path.append(stage)
            for need in graph[stage]:
                visit(need)
            path.pop()
            order.append(stage)

    for stage in graph:
        visit(stage)
    return order, found


def following(graph: Graph, begin: Iterable[str]) -> set[str]:
    """Return the stages `begin` and all stages that need them, directly or indirectly."""
    found = set(begin)
    for stage in in_order(graph):
        if found & set(graph[stage]):
            found.add(stage)
    return found


def asked_stages(graph: Graph, only: Sequence[str], start_at: str | None) -> set[str]:
    """Return the requested stages: those of `only`, or `start_at` and all that follow it, or all.

    Raises:
        UserError: for a stage that does not exist.
    """
    refuse_unknown("only", only, graph)
    asked = set(only) if only else set(graph)
    if start_at:
        refuse_unknown("start_at", [start_at], graph)
        asked &= following(graph, [start_at])
    return asked


def refuse_unknown(key: str, stages: Iterable[str], graph: Graph) -> None:
    """Raise UserError if `key` names a stage that does not exist."""
    for stage in stages:
        if stage not in graph:
            said = near(stage, [*graph])
            raise UserError(f"{key}={stage}: the study has no such stage; {said}(it has {', '.join(graph)})")
