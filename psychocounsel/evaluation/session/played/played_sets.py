"""`personas=played`, `vera_mh` and `mindeval`: sets of clients that the model of the group `client` plays."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from omegaconf import MISSING

from psychocounsel.errors import UserError
from psychocounsel.evaluation.session.persona import Persona
from psychocounsel.evaluation.session.persona_set import PersonaSet
from psychocounsel.evaluation.session.played.card_files import read_cards
from psychocounsel.evaluation.session.played.foreign_cards import (
    persona_file,
    read_mindeval_profiles,
    read_vera_personas,
)
from psychocounsel.evaluation.session.played.played_persona import Card, PlayedPersona

SHIPPED = Path(__file__).parent / "clients.yaml"
BUILTIN = "builtin"
_A_MODEL_PLAYS = "a language model plays the clients: what it says is no client's, and changes with the model"


@dataclass(kw_only=True)
class CardSet(PersonaSet):
    """Clients by cards. A subclass reads the cards."""

    asks_client: ClassVar[bool] = True

    @abstractmethod
    def cards(self) -> list[Card]:
        """Of each client one.

        Raises:
            UserError: for what is wrong with the files that hold them.
        """

    def personas(self) -> list[Persona]:
        return [PlayedPersona(self.name, card) for card in self.cards()]


@dataclass(kw_only=True)
class PlayedPersonas(CardSet):
    """Cards in our own format; conf/personas/played.yaml explains the fields."""

    file: str = BUILTIN

    def cards(self) -> list[Card]:
        return read_cards(SHIPPED if self.file == BUILTIN else Path(self.file))

    def notes(self) -> list[str]:
        wrote = "a machine wrote their cards, and no clinician has reviewed them"
        return [_A_MODEL_PLAYS, wrote if self.file == BUILTIN else f"their cards are those of {self.file}"]

    def check(self, key: str) -> None:
        """Refuse a file that is none, and cards with problems."""
        if self.file != BUILTIN and not Path(self.file).is_file():
            raise UserError(f"{key}.file={self.file}: is no file; give {BUILTIN}, or a YAML or JSONL file of cards")
        super().check(key)


@dataclass(kw_only=True)
class VeraMhPersonas(CardSet):
    """The personas of VERA-MH; conf/personas/vera_mh.yaml explains the fields."""

    folder: str = MISSING

    def cards(self) -> list[Card]:
        return read_vera_personas(persona_file(Path(self.folder)))

    def notes(self) -> list[str]:
        return [
            _A_MODEL_PLAYS,
            f"personas of VERA-MH from {self.folder}, played by a prompt of our own: figures are not those of its own simulator; "
            "its licence asks that its disclaimer goes with its material",
        ]

    def check(self, key: str) -> None:
        """Refuse a folder that is none, and files with problems."""
        if not Path(self.folder).is_dir():
            raise UserError(f"{key}.folder={self.folder}: is no folder; give a checkout of VERA-MH")
        super().check(key)


@dataclass(kw_only=True)
class MindEvalPersonas(CardSet):
    """The member profiles of MindEval; conf/personas/mindeval.yaml explains the fields."""

    file: str = MISSING

    def cards(self) -> list[Card]:
        return read_mindeval_profiles(Path(self.file))

    def notes(self) -> list[str]:
        return [
            _A_MODEL_PLAYS,
            f"profiles of MindEval from {self.file}, played by a prompt of our own: figures are not those of its own simulator; "
            "we have seen no licence of this set",
        ]

    def check(self, key: str) -> None:
        """Refuse a file that is none, and profiles with problems."""
        if not Path(self.file).is_file():
            raise UserError(f"{key}.file={self.file}: is no file; give MindEval's profiles.jsonl")
        super().check(key)
