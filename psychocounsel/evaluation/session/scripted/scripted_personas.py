"""`personas=scripted`: clients whose words, and the ways between them, stand in files; no model is asked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from psychocounsel.errors import UserError
from psychocounsel.evaluation.safety.word_checks import check_reply
from psychocounsel.evaluation.session.persona import ClientTurn, Exchange, Persona
from psychocounsel.evaluation.session.persona_set import PersonaSet
from psychocounsel.evaluation.session.scripted.script_files import Script, read_scripts

SHIPPED = Path(__file__).parents[1] / "scripts"
BUILTIN = "builtin"


class ScriptedPersona(Persona):
    """A client that follows a script. `id`: 16 hexadecimal digits that change with the pattern and all of the script."""

    def __init__(self, pattern: str, script: Script) -> None:
        self.pattern, self.script = pattern, script
        self.name, self.kind = script.name, script.kind
        content = json.dumps([pattern, asdict(script)], sort_keys=True)
        self.id = hashlib.sha256(content.encode()).hexdigest()[:16]

    def next(self, session: Sequence[Exchange], seed: int) -> ClientTurn | None:
        """The turn of the state that the last reply leads to, by `check_reply`; `seed` changes nothing."""
        if not session:
            return self._turn(self.script.start)
        last = session[-1]
        if last.client.ends:
            return None
        answers = check_reply(last.reply)
        for each in self.script.states[str(last.client.state)].then:
            if all(answers[question].answer in given for question, given in each.if_.items()):
                return self._turn(each.goto)
        raise AssertionError("the last entry of then fits every reply")

    def _turn(self, name: str) -> ClientTurn:
        state = self.script.states[name]
        return ClientTurn(state.says, name, state.expected_action, state.disclosure, state.ends)


@dataclass(kw_only=True)
class ScriptedPersonas(PersonaSet):
    """Each field is a key of `personas.*`; conf/personas/scripted.yaml explains them."""

    follows_checks: ClassVar[bool] = True

    folder: str = BUILTIN
    patterns: list[str] | None = None

    def personas(self) -> list[Persona]:
        scripts = read_scripts(SHIPPED if self.folder == BUILTIN else Path(self.folder))
        chosen = list(scripts) if self.patterns is None else self.patterns
        if unknown := [pattern for pattern in chosen if pattern not in scripts]:
            raise UserError(f"personas.patterns: there is no {unknown[0]}; there are {', '.join(sorted(scripts))}")
        return [ScriptedPersona(pattern, script) for pattern in chosen for script in scripts[pattern]]

    def notes(self) -> list[str]:
        reviewed = "a machine wrote the scripts, and no clinician has reviewed them"
        if self.folder != BUILTIN:
            reviewed = f"the scripts are those of {self.folder}"
        return [
            f"{reviewed}; a scripted client is no client",
            "checks of words in the counsellor's replies steer the scripts, so their errors change what clients say",
        ]

    def check(self, key: str) -> None:
        """Refuse a folder that is none, and files with problems."""
        if self.folder != BUILTIN and not Path(self.folder).is_dir():
            raise UserError(f"{key}.folder={self.folder}: is no folder; give {BUILTIN}, or a folder of script files")
        if self.patterns is not None and not self.patterns:
            raise UserError(f"{key}.patterns=[]: give one pattern or more, or null for all")
        super().check(key)
