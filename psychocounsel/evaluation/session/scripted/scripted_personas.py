"""`personas=scripted`: clients whose words and transitions are defined in files, without a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from psychocounsel.errors import UserError
from psychocounsel.evaluation.safety.word_checks import check_reply
from psychocounsel.evaluation.session.persona import ClientTurn, Persona, SessionExchange
from psychocounsel.evaluation.session.persona_set import PersonaSet
from psychocounsel.evaluation.session.scripted.script_files import Script, read_scripts

SHIPPED = Path(__file__).parents[1] / "scripts"
BUILTIN = "builtin"


class ScriptedPersona(Persona):
    """A client that follows a script. `id`: hash of the pattern and the whole script [16 hexadecimal digits]."""

    def __init__(self, pattern: str, script: Script) -> None:
        self.pattern, self.script = pattern, script
        self.name, self.kind = script.name, script.kind
        content = json.dumps([pattern, asdict(script)], sort_keys=True)
        self.id = hashlib.sha256(content.encode()).hexdigest()[:16]

    def next(self, session: Sequence[SessionExchange], seed: int) -> ClientTurn | None:
        """Return the turn of the state that `check_reply` of the last reply selects; `seed` has no effect."""
        if not session:
            return self._turn(self.script.start)
        last = session[-1]
        if last.client.ends:
            return None
        answers = check_reply(last.reply)
        for each in self.script.states[str(last.client.state)].then:
            if all(answers[question].answer in given for question, given in each.if_.items()):
                return self._turn(each.goto)
        raise AssertionError("no transition fits, although the last one must fit every reply")

    def _turn(self, name: str) -> ClientTurn:
        state = self.script.states[name]
        return ClientTurn(state.says, name, state.expected_action, state.disclosure, state.ends)


@dataclass(kw_only=True)
class ScriptedPersonas(PersonaSet):
    """Settings of `personas=scripted`; conf/personas/scripted.yaml explains the keys."""

    follows_checks: ClassVar[bool] = True

    folder: str = BUILTIN
    patterns: list[str] | None = None

    def personas(self) -> list[Persona]:
        scripts = read_scripts(SHIPPED if self.folder == BUILTIN else Path(self.folder))
        chosen = list(scripts) if self.patterns is None else self.patterns
        if unknown := [pattern for pattern in chosen if pattern not in scripts]:
            raise UserError(f"personas.patterns: {unknown[0]} does not exist; choose from {', '.join(sorted(scripts))}")
        return [ScriptedPersona(pattern, script) for pattern in chosen for script in scripts[pattern]]

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
