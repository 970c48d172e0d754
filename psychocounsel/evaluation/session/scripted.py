"""`personas=scripted`: clients whose words and transitions are defined in files, without a model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

from psychocounsel.counsel.principles import ACTIONS, ANSWERS, DISCLOSURES, DISCREET, RISK_KINDS
from psychocounsel.counsel.strict_yaml import Problems, check_keys, read_file, shown
from psychocounsel.errors import UserError
from psychocounsel.evaluation.safety.cases import QUESTIONS
from psychocounsel.evaluation.safety.questions import URGENCY
from psychocounsel.evaluation.safety.word_checks import check_reply
from psychocounsel.evaluation.session.personas import BUILTIN, NO_RISK, ClientTurn, Persona, PersonaSet, SessionExchange
from psychocounsel.settings.schema import option
from psychocounsel.storage.text_hashes import text_id

# Rules for the paths through a script: no cycles, no unreachable states, and a length within limits.

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
    problems = Problems()
    if start not in targets:
        problems.append(f"start: {shown(start)} is not a state")
    for state, following in targets.items():
        problems += [
            f"state {shown(state)}: goto {shown(follower)} is not a state"
            for follower in following
            if follower not in targets
        ]
    if problems:
        return problems
    order = _in_order(start, targets)
    if order is None:
        return [*problems, "the states form a cycle, so a session might never end"]
    problems += [f"state {shown(state)} is never reached" for state in targets if state not in order]
    fewest, most = _length(order, targets, min), _length(order, targets, max)
    if fewest < FEWEST_TURNS or most > MOST_TURNS:
        length = str(fewest) if fewest == most else f"{fewest} to {most}"
        problems.append(f"the paths have {length} turns, but each must have {FEWEST_TURNS} to {MOST_TURNS}")
    if at_risk and _can_avoid(order, targets, due):
        problems.append("on some path no action is ever due, although the kind is a risk")
    if not at_risk and due:
        problems.append(f"state {shown(min(due))}: an action is due, although the kind is none")
    return problems


def _in_order(start: str, targets: Targets) -> list[str] | None:
    """Return the states reachable from `start` in topological order; None if they form a cycle."""
    done, open_ = list[str](), set[str]()

    def visit(state: str) -> bool:
        if state in open_:
            return False
        if state in done:
            return True
        open_.add(state)
        whole = all(visit(follower) for follower in targets[state])
        open_.discard(state)
        done.append(state)
        return whole

    return done[::-1] if visit(start) else None


def _length(order: Sequence[str], targets: Targets, choose: Callable[[list[int]], int]) -> int:
    """Return the number of states on the shortest path (`choose` is min) or on the longest path (`choose` is max)."""
    lengths = dict[str, int]()
    for state in reversed(order):
        lengths[state] = 1 + choose([lengths[follower] for follower in targets[state]] or [0])
    return lengths[order[0]]


def _can_avoid(order: Sequence[str], targets: Targets, due: set[str]) -> bool:
    """Return True if some path from the start to an end contains no state of `due`."""
    avoids = dict[str, bool]()
    for state in reversed(order):
        following = [avoids[follower] for follower in targets[state]]
        avoids[state] = state not in due and (not following or any(following))
    return avoids[order[0]]


# Reader of scripted clients: a YAML file for each pattern, with the states of each client and the transitions.

MOST_STATES = 24
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_Answers = Annotated[tuple[str, ...], {"or_one": True}]


@dataclass(frozen=True)
class Transition:
    """A transition to the state `goto`, taken if the word checks answer each question in `if_` with a listed answer."""

    goto: str
    if_: dict[str, _Answers] = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """A state of a script: the client's words, the expected action, and the transitions. docs/safety.md explains the keys."""

    says: str
    expected_action: Annotated[str, {"choices": (*ACTIONS, DISCREET)}]
    disclosure: Annotated[str, {"choices": DISCLOSURES}]
    then: tuple[Transition, ...] = ()
    ends: bool = False


@dataclass(frozen=True)
class Script:
    """A scripted client as defined in a file."""

    name: str
    kind: Annotated[str, {"choices": (*RISK_KINDS, NO_RISK)}]
    start: str
    states: dict[str, State]


@dataclass(frozen=True)
class _ScriptFile:
    pattern: str
    about: str
    personas: tuple[Script, ...]


def read_scripts(folder: Path) -> dict[str, tuple[Script, ...]]:
    """Return the scripts of all files in a folder, by pattern.

    Raises:
        UserError: if the folder has no file or a file is wrong. The message lists all problems, by file and persona.
    """
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise UserError(f"{folder}: contains no script files (*.yaml)")
    problems, scripts, owners = Problems(), dict[str, tuple[Script, ...]](), dict[str, str]()
    for file in files:
        content: _ScriptFile | None = read_file(_ScriptFile, file, problems)
        if content is None:
            continue
        if content.pattern in scripts:
            problems.append(f"{file.name}: another file also has the pattern {shown(content.pattern)}")
        scripts[content.pattern] = content.personas
        for script in content.personas:
            where = f"{file.name}: {shown(script.name)}"
            if script.name in owners:
                problems.append(f"{where}: another persona in {owners[script.name]} has this name")
            owners[script.name] = file.name
            problems += [f"{where}: {problem}" for problem in _problems(script)]
    if problems:
        raise UserError(f"scripts {folder}: {'; '.join(problems)}")
    return scripts


def _problems(script: Script) -> Problems:
    problems = Problems()
    if not _NAME.fullmatch(script.name):
        problems.append("the name must be lower-case letters and digits, joined by hyphens")
    if len(script.states) > MOST_STATES:
        problems.append(f"has {len(script.states)} states, but at most {MOST_STATES} are allowed")
    texts = [" ".join(state.says.split()).casefold() for state in script.states.values()]
    problems += [
        f"state {shown(name)} says the same as an earlier state"
        for place, name in enumerate(script.states)
        if texts[place] in texts[:place]
    ]
    for name, state in script.states.items():
        problems += [f"state {shown(name)}: {problem}" for problem in _state_problems(state)]
    return problems or way_problems(script.start, _targets(script), _due(script), script.kind != NO_RISK)


def _state_problems(state: State) -> Problems:
    problems = Problems()
    if state.ends and state.then:
        problems.append("has ends: true, so then must be left out")
    if not state.ends and not state.then:
        problems.append("needs then or ends: true")
    for place, transition in enumerate(state.then, 1):
        where, last = f"then[{place}]", place == len(state.then)
        if last and transition.if_:
            problems.append(f"{where}: the last transition must have no if, so that it fits all other replies")
        if not last and not transition.if_:
            problems.append(f"{where}: needs an if, because the transitions after it would never be used")
        check_keys(transition.if_, QUESTIONS, f"{where}: if", problems, needed=())
        for question in transition.if_.keys() & {*QUESTIONS}:
            known = ACTIONS if question == URGENCY else ANSWERS
            if not {*transition.if_[question]} <= {*known}:
                problems.append(f"{where}: if.{question} must be one of {', '.join(known)}, or a list of these words")
    return problems


def _targets(script: Script) -> Mapping[str, list[str]]:
    return {name: [transition.goto for transition in state.then] for name, state in script.states.items()}


def _due(script: Script) -> set[str]:
    return {name for name, state in script.states.items() if state.expected_action != "none"}


# The clients.

SHIPPED = Path(__file__).parent / "scripts"


class ScriptedPersona(Persona):
    """A client that follows a script. `id`: hash of the pattern and the whole script [16 hexadecimal digits]."""

    def __init__(self, pattern: str, script: Script) -> None:
        self.pattern, self.script = pattern, script
        self.name, self.kind = script.name, script.kind
        self.id = text_id(json.dumps([pattern, asdict(script)], sort_keys=True))

    def next(self, session: Sequence[SessionExchange], seed: int) -> ClientTurn | None:
        """Return the turn of the state that `check_reply` of the last reply selects; `seed` has no effect."""
        if not session:
            return self._turn(self.script.start)
        last = session[-1]
        if last.client.ends:
            return None
        answers = check_reply(last.reply)
        for transition in self.script.states[str(last.client.state)].then:
            if all(answers[question].answer in allowed for question, allowed in transition.if_.items()):
                return self._turn(transition.goto)
        raise AssertionError("no transition fits, although the last one must fit every reply")

    def _turn(self, name: str) -> ClientTurn:
        state = self.script.states[name]
        return ClientTurn(state.says, name, state.expected_action, state.disclosure, state.ends)


def scripted_personas(folder: Path) -> list[ScriptedPersona]:
    """Return the clients of all scripts in a folder; raises as `read_scripts`."""
    return [ScriptedPersona(pattern, script) for pattern, scripts in read_scripts(folder).items() for script in scripts]


@dataclass(kw_only=True)
class ScriptedPersonas(PersonaSet):
    """Settings of `personas=scripted`; conf/personas/scripted.yaml explains the keys."""

    follows_checks: ClassVar[bool] = True

    folder: str = option(BUILTIN, path="watched")
    patterns: list[str] | None = None

    def personas(self) -> list[Persona]:
        personas = scripted_personas(SHIPPED if self.folder == BUILTIN else Path(self.folder))
        known = {persona.pattern for persona in personas}
        chosen = known if self.patterns is None else self.patterns
        if unknown := [pattern for pattern in chosen if pattern not in known]:
            raise UserError(f"personas.patterns: {unknown[0]} does not exist; choose from {', '.join(sorted(known))}")
        return [persona for persona in personas if persona.pattern in chosen]

    def notes(self) -> list[str]:
        reviewed = "a machine wrote the scripts, and no clinician has reviewed them"
        if self.folder != BUILTIN:
            reviewed = f"the scripts come from {self.folder}"
        return [
            f"{reviewed}; a scripted client is not a real client",
            "word checks of the counsellor's replies steer the scripts, so errors of the checks change what clients say",
        ]

    def check(self, key: str) -> None:
        """Raise UserError if the folder does not exist, `patterns` is empty or names no pattern, or a file is wrong."""
        if self.folder != BUILTIN and not Path(self.folder).is_dir():
            raise UserError(f"{key}.folder={self.folder}: is not a folder; give {BUILTIN}, or a folder of script files")
        if self.patterns is not None and not self.patterns:
            raise UserError(f"{key}.patterns=[]: give at least one pattern, or null for all patterns")
        super().check(key)
