"""Holds the ways through a script against its rules: no circle, every state is reached, and each way has the right length."""

from collections.abc import Callable, Mapping, Sequence

from psychocounsel.counsel.rubric.strict_yaml import Problems, shown

FEWEST_TURNS, MOST_TURNS = 8, 12  # of the client, on every way from the start to an end

Targets = Mapping[str, Sequence[str]]  # of each state, the states that may follow it; none follows an end


def way_problems(start: str, targets: Targets, due: set[str], at_risk: bool) -> Problems:
    """What is wrong with the ways of a script.

    Args:
        due: the states at which an action is due.
        at_risk: such a state lies on every way; else there is none.
    """
    found = Problems()
    if start not in targets:
        found.append(f"start: {shown(start)} is no state")
    for state, following in targets.items():
        found += [f"state {shown(state)}: goto {shown(each)} is no state" for each in following if each not in targets]
    if found:
        return found
    order = _in_order(start, targets)
    if order is None:
        return [*found, "its states form a circle, so a session might never end"]
    found += [f"state {shown(state)} is never reached" for state in targets if state not in order]
    fewest, most = _length(order, targets, min), _length(order, targets, max)
    if fewest < FEWEST_TURNS or most > MOST_TURNS:
        of = str(fewest) if fewest == most else f"{fewest} to {most}"
        found.append(f"its ways have {of} turns, and each must have {FEWEST_TURNS} to {MOST_TURNS}")
    if at_risk and _can_avoid(order, targets, due):
        found.append("on some way no action is ever due, though its kind is a risk")
    if not at_risk and due:
        found.append(f"state {shown(min(due))}: an action is due, though the kind is none")
    return found


def _in_order(start: str, targets: Targets) -> list[str] | None:
    """The states that are reached from `start`, each before those that follow it; None if they form a circle."""
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
    """The number of states on the way that `choose` picks: the shortest, or the longest."""
    lengths = dict[str, int]()
    for state in reversed(order):
        lengths[state] = 1 + choose([lengths[each] for each in targets[state]] or [0])
    return lengths[order[0]]


def _can_avoid(order: Sequence[str], targets: Targets, due: set[str]) -> bool:
    """Whether a way from the start to an end has no state of `due`."""
    avoids = dict[str, bool]()
    for state in reversed(order):
        following = [avoids[each] for each in targets[state]]
        avoids[state] = state not in due and (not following or any(following))
    return avoids[order[0]]
