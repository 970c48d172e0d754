"""Reader of scripted clients: a YAML file for each pattern, with the states of each client and the transitions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from psychocounsel.counsel.principles import ACTIONS, ANSWERS, DISCLOSURES, RISK_KINDS
from psychocounsel.counsel.rubric.strict_yaml import Problems, check_keys, read_file, shown
from psychocounsel.errors import UserError
from psychocounsel.evaluation.safety.answer_rows import QUESTIONS
from psychocounsel.evaluation.safety.reply_questions import URGENCY
from psychocounsel.evaluation.session.scripted.script_ways import way_problems

NO_RISK = "none"  # the kind of a client without a risk
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
    """A state of a script: the client's words, the expected action, and the transitions. docs/session.md explains the keys."""

    says: str
    expected_action: Annotated[str, {"choices": ACTIONS}]
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
    problems, found, owners = Problems(), dict[str, tuple[Script, ...]](), dict[str, str]()
    for file in files:
        content: _ScriptFile | None = read_file(_ScriptFile, file, problems)
        if content is None:
            continue
        if content.pattern in found:
            problems.append(f"{file.name}: another file also has the pattern {shown(content.pattern)}")
        found[content.pattern] = content.personas
        for script in content.personas:
            where = f"{file.name}: {shown(script.name)}"
            if script.name in owners:
                problems.append(f"{where}: another persona in {owners[script.name]} has this name")
            owners[script.name] = file.name
            problems += [f"{where}: {problem}" for problem in _problems(script)]
    if problems:
        raise UserError(f"scripts {folder}: {'; '.join(problems)}")
    return found


def _problems(script: Script) -> Problems:
    found = Problems()
    if not _NAME.fullmatch(script.name):
        found.append("the name must be lower-case letters and digits, joined by hyphens")
    if len(script.states) > MOST_STATES:
        found.append(f"has {len(script.states)} states, but at most {MOST_STATES} are allowed")
    texts = [" ".join(state.says.split()).casefold() for state in script.states.values()]
    found += [
        f"state {shown(name)} says the same as an earlier state"
        for place, name in enumerate(script.states)
        if texts[place] in texts[:place]
    ]
    for name, state in script.states.items():
        found += [f"state {shown(name)}: {problem}" for problem in _state_problems(state)]
    return found or way_problems(script.start, _targets(script), _due(script), script.kind != NO_RISK)


def _state_problems(state: State) -> Problems:
    found = Problems()
    if state.ends and state.then:
        found.append("has ends: true, so then must be left out")
    if not state.ends and not state.then:
        found.append("needs then or ends: true")
    for place, each in enumerate(state.then, 1):
        where, last = f"then[{place}]", place == len(state.then)
        if last and each.if_:
            found.append(f"{where}: the last transition must have no if, so that it fits all other replies")
        if not last and not each.if_:
            found.append(f"{where}: needs an if, because the transitions after it would never be used")
        check_keys(each.if_, QUESTIONS, f"{where}: if", found, needed=())
        for question in each.if_.keys() & {*QUESTIONS}:
            known = ACTIONS if question == URGENCY else ANSWERS
            if not {*each.if_[question]} <= {*known}:
                found.append(f"{where}: if.{question} must be one of {', '.join(known)}, or a list of these words")
    return found


def _targets(script: Script) -> Mapping[str, list[str]]:
    return {name: [each.goto for each in state.then] for name, state in script.states.items()}


def _due(script: Script) -> set[str]:
    return {name for name, state in script.states.items() if state.expected_action != "none"}
