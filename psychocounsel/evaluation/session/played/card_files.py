"""Reader of client cards in our own format: a YAML file with the key `clients`, or a JSONL file with one card per line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from psychocounsel.counsel.principles import RISK_KINDS
from psychocounsel.counsel.rubric.strict_yaml import Problems, read_file, read_part
from psychocounsel.errors import UserError
from psychocounsel.evaluation.flows.foreign_files import json_lines
from psychocounsel.evaluation.session.played.played_persona import Card

NO_RISK = "none"


@dataclass(frozen=True)
class _FileCard:
    """A client card as defined in a file; docs/flows.md explains the keys."""

    name: str
    kind: Annotated[str, {"choices": (*RISK_KINDS, NO_RISK)}]
    about: str
    writes: str
    discloses: str
    reacts: str
    opening: str = ""


@dataclass(frozen=True)
class _CardFile:
    clients: tuple[_FileCard, ...]


def read_cards(file: Path) -> list[Card]:
    """Return the cards of a file; their names are unique.

    Raises:
        UserError: if the file is wrong. The message lists all problems, by card or line.
    """
    problems = Problems()
    given = list(_of_lines(file, problems) if file.suffix == ".jsonl" else _of_yaml(file, problems))
    names = [each.name for each in given]
    problems += [f"two clients have the name {name}" for name in dict.fromkeys(names) if names.count(name) > 1]
    if not given and not problems:
        problems.append("contains no card")
    if problems:
        raise UserError(f"{file}: {'; '.join(problems)}")
    return [_card(each) for each in given]


def _of_yaml(file: Path, problems: Problems) -> tuple[_FileCard, ...]:
    found = read_file(_CardFile, file, problems)
    return () if problems else found.clients


def _of_lines(file: Path, problems: Problems) -> list[_FileCard]:
    cards = [read_part(_FileCard, value, f"line {line}", problems) for line, value in json_lines(file)]
    return [] if problems else cards


def _card(given: _FileCard) -> Card:
    facts = (
        ("Who the client is", given.about),
        ("How the client writes", given.writes),
        ("How the client speaks of what is hard", given.discloses),
        ("How the client takes what the counsellor says", given.reacts),
    )
    return Card(given.name, given.kind, facts, given.opening)
