"""`personas=played`, `vera_mh` and `mindeval`: sets of clients played by the model of the group `client`."""

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
_A_MODEL_PLAYS = (
    "a language model plays the clients: its words are not those of real clients, and change with the model"
)


@dataclass(kw_only=True)
class CardSet(PersonaSet):
    """A set of clients played from cards. A subclass reads the cards."""

    asks_client: ClassVar[bool] = True

    @abstractmethod
    def cards(self) -> list[Card]:
        """Return one card for each client.

        Raises:
            UserError: if the files of the cards are wrong.
        """

    def personas(self) -> list[Persona]:
        return [PlayedPersona(self.name, card) for card in self.cards()]


@dataclass(kw_only=True)
class PlayedPersonas(CardSet):
    """Settings of `personas=played`: cards in our own format. conf/personas/played.yaml explains the keys."""

    file: str = BUILTIN

    def cards(self) -> list[Card]:
        return read_cards(SHIPPED if self.file == BUILTIN else Path(self.file))

    def notes(self) -> list[str]:
        wrote = "a machine wrote their cards, and no clinician has reviewed them"
        return [_A_MODEL_PLAYS, wrote if self.file == BUILTIN else f"their cards come from {self.file}"]

    def check(self, key: str) -> None:
        """Raise UserError if the file does not exist or its cards are wrong."""
        if self.file != BUILTIN and not Path(self.file).is_file():
            raise UserError(f"{key}.file={self.file}: is not a file; give {BUILTIN}, or a YAML or JSONL file of cards")
        super().check(key)


@dataclass(kw_only=True)
class VeraMhPersonas(CardSet):
    """Settings of `personas=vera_mh`: the personas of VERA-MH. conf/personas/vera_mh.yaml explains the keys."""

    folder: str = MISSING

    def cards(self) -> list[Card]:
        return read_vera_personas(persona_file(Path(self.folder)))

    def notes(self) -> list[str]:
        return [
            _A_MODEL_PLAYS,
            f"personas of VERA-MH from {self.folder}, played with our own prompt: figures are not comparable with those of "
            "VERA-MH's simulator; VERA-MH's licence requires its disclaimer beside its material",
        ]

    def check(self, key: str) -> None:
        """Raise UserError if the folder does not exist or its files are wrong."""
        if not Path(self.folder).is_dir():
            raise UserError(f"{key}.folder={self.folder}: is not a folder; give a checkout of VERA-MH")
        super().check(key)


@dataclass(kw_only=True)
class MindEvalPersonas(CardSet):
    """Settings of `personas=mindeval`: the member profiles of MindEval. conf/personas/mindeval.yaml explains the keys."""

    file: str = MISSING

    def cards(self) -> list[Card]:
        return read_mindeval_profiles(Path(self.file))

    def notes(self) -> list[str]:
        return [
            _A_MODEL_PLAYS,
            f"profiles of MindEval from {self.file}, played with our own prompt: figures are not comparable with those of "
            "MindEval's simulator; we have found no licence of this set",
        ]

    def check(self, key: str) -> None:
        """Raise UserError if the file does not exist or its profiles are wrong."""
        if not Path(self.file).is_file():
            raise UserError(f"{key}.file={self.file}: is not a file; give MindEval's profiles.jsonl")
        super().check(key)
