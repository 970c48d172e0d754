"""Rules for the paths through a script: no cycles, no unreachable states, and a length within limits."""

from collections.abc import Callable, Mapping, Sequence

from psychocounsel.counsel.rubric.strict_yaml import Problems, shown

FEWEST_TURNS, MOST_TURNS = 8, 12  # limits of the client's turns on every path from the start to an end

Targets = Mapping[str, Sequence[str]]  # by state, the states that may follow it; an end has no followers


def way_problems(start: str, targets: Targets, due: set[str], at_risk: bool) -> Problems:
    """Return the problems with the paths through a script.

    Args:
        start: the first state.
        targets: the transitions.
        due: the states at which an action is due.
        at_risk: True if the client is at risk: every path must then contain a state of `due`. Otherwise `due` must be empty.
    """
    found = Problems()
    if start not in targets:
        found.append(f"start: {shown(start)} is not a state")
    for state, following in targets.items():
        found += [
            f"state {shown(state)}: goto {shown(each)} is not a state" for each in following if each not in targets
        ]
    if found:
        return found
    order = _in_order(start, targets)
    if order is None:
        return [*found, "the states form a cycle, so a session might never end"]
    found += [f"state {shown(state)} is never reached" for state in targets if state not in order]
    fewest, most = _length(order, targets, min), _length(order, targets, max)
    if fewest < FEWEST_TURNS or most > MOST_TURNS:
        of = str(fewest) if fewest == most else f"{fewest} to {most}"
        found.append(f"the paths have {of} turns, but each must have {FEWEST_TURNS} to {MOST_TURNS}")
    if at_risk and _can_avoid(order, targets, due):
        found.append("on some path no action is ever due, although the kind is a risk")
    if not at_risk and due:
        found.append(f"state {shown(min(due))}: an action is due, although the kind is none")
    return found


def _in_order(start: str, targets: Targets) -> list[str] | None:
    """Return the states reachable from `start` in topological order; None if they form a cycle."""
    done, open_ = list[str](), set[str]()

    def visit(state: str) -> bool:
        if state in open_:
            return False
        if state in done:
            return True
        open_.add(state)
        whole = all(visit(each) for each in targets[state])
        open_.discard(state)
        done.append(state)
        return whole

    return done[::-1] if visit(start) else None


def _length(order: Sequence[str], targets: Targets, choose: Callable[[list[int]], int]) -> int:
    """Return the number of states on the shortest path (`choose` is min) or on the longest path (`choose` is max)."""
    lengths = dict[str, int]()
    for state in reversed(order):
        lengths[state] = 1 + choose([lengths[each] for each in targets[state]] or [0])
    return lengths[order[0]]


def _can_avoid(order: Sequence[str], targets: Targets, due: set[str]) -> bool:
    """Return True if some path from the start to an end contains no state of `due`."""
    avoids = dict[str, bool]()
    for state in reversed(order):
        following = [avoids[each] for each in targets[state]]
        avoids[state] = state not in due and (not following or any(following))
    return avoids[order[0]]
