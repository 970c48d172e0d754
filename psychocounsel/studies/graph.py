"""The order of a study's stages: what needs what, circles, and which stages a command asks for."""

from collections.abc import Iterable, Mapping, Sequence

from psychocounsel.errors import UserError
from psychocounsel.studies.study_file import near

Graph = Mapping[str, Sequence[str]]  # stage -> the stages that it needs


def in_order(graph: Graph) -> list[str]:
    """The stages, each behind those that it needs, unless they need each other; otherwise as the file has them."""
    return _visited(graph)[0]


def circles(graph: Graph) -> list[list[str]]:
    """Stages that need each other, as [a, b, a]."""
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
    """The stages `begin` and all that need them, directly or not."""
    found = set(begin)
    for stage in in_order(graph):
        if found & set(graph[stage]):
            found.add(stage)
    return found


def asked_stages(graph: Graph, only: Sequence[str], start_at: str | None) -> set[str]:
    """The stages that a command asks for: those of `only`, of `start_at` and what follows it, or all.

    Raises:
        UserError: for a stage that there is not.
    """
    refuse_unknown("only", only, graph)
    asked = set(only) if only else set(graph)
    if start_at:
        refuse_unknown("start_at", [start_at], graph)
        asked &= following(graph, [start_at])
    return asked


def refuse_unknown(key: str, stages: Iterable[str], graph: Graph) -> None:
    """Raises UserError for a stage that there is not, which `key` names."""
    for stage in stages:
        if stage not in graph:
            said = near(stage, [*graph])
            raise UserError(f"{key}={stage}: the study has no such stage; {said}(it has {', '.join(graph)})")
