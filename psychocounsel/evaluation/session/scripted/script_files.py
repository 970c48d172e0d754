"""Reads files of scripted clients: a YAML file for each pattern, with the states of each client and the ways between them."""

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
    """To which state a reply leads: one for which the checks give each question of `if_` one of its answers."""

    goto: str
    if_: dict[str, _Answers] = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """What a client says, what is then due, and where replies lead; docs/session.md explains the keys of the file."""

    says: str
    expected_action: Annotated[str, {"choices": ACTIONS}]
    disclosure: Annotated[str, {"choices": DISCLOSURES}]
    then: tuple[Transition, ...] = ()
    ends: bool = False


@dataclass(frozen=True)
class Script:
    """A scripted client, as a file has it."""

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
    """The scripts of all files of a folder, by pattern.

    Raises:
        UserError: listing what is wrong, by file and persona; if the folder has no file.
    """
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise UserError(f"{folder}: has no script files (*.yaml)")
    problems, found, owners = Problems(), dict[str, tuple[Script, ...]](), dict[str, str]()
    for file in files:
        content: _ScriptFile | None = read_file(_ScriptFile, file, problems)
        if content is None:
            continue
        if content.pattern in found:
            problems.append(f"{file.name}: another file has the pattern {shown(content.pattern)}, too")
        found[content.pattern] = content.personas
        for script in content.personas:
            where = f"{file.name}: {shown(script.name)}"
            if script.name in owners:
                problems.append(f"{where}: another persona of {owners[script.name]} has this name")
            owners[script.name] = file.name
            problems += [f"{where}: {problem}" for problem in _problems(script)]
    if problems:
        raise UserError(f"scripts {folder}: {'; '.join(problems)}")
    return found


def _problems(script: Script) -> Problems:
    found = Problems()
    if not _NAME.fullmatch(script.name):
        found.append("its name must be lower-case letters and digits, joined by hyphens")
    if len(script.states) > MOST_STATES:
        found.append(f"has {len(script.states)} states, and {MOST_STATES} are the most")
    texts = [" ".join(state.says.split()).casefold() for state in script.states.values()]
    found += [
        f"state {shown(name)} says the same as an earlier one"
        for place, name in enumerate(script.states)
        if texts[place] in texts[:place]
    ]
    for name, state in script.states.items():
        found += [f"state {shown(name)}: {problem}" for problem in _state_problems(state)]
    return found or way_problems(script.start, _targets(script), _due(script), script.kind != NO_RISK)


def _state_problems(state: State) -> Problems:
    found = Problems()
    if state.ends and state.then:
        found.append("ends, so it has no then")
    if not state.ends and not state.then:
        found.append("needs then, or ends: true")
    for place, each in enumerate(state.then, 1):
        where, last = f"then[{place}]", place == len(state.then)
        if last and each.if_:
            found.append(f"{where}: the last one needs no if, or no state would follow other replies")
        if not last and not each.if_:
            found.append(f"{where}: needs an if, or those after it are never reached")
        check_keys(each.if_, QUESTIONS, f"{where}: if", found, needed=())
        for question in each.if_.keys() & {*QUESTIONS}:
            known = ACTIONS if question == URGENCY else ANSWERS
            if not {*each.if_[question]} <= {*known}:
                found.append(f"{where}: if.{question} must be one of {', '.join(known)}, or a list of them")
    return found


def _targets(script: Script) -> Mapping[str, list[str]]:
    return {name: [each.goto for each in state.then] for name, state in script.states.items()}


def _due(script: Script) -> set[str]:
    return {name for name, state in script.states.items() if state.expected_action != "none"}
