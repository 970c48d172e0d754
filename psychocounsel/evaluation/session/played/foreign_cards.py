"""Reader of client cards from public sets: VERA-MH's personas.tsv and MindEval's profiles.jsonl (docs/flows.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.evaluation.flows.foreign_files import json_lines, refused, tsv_rows
from psychocounsel.evaluation.session.played.played_persona import Card

PERSONA_COLUMNS = (
    *("Name", "Age", "Pronouns", "Background", "Mental Health Context", "Communication Style"),
    *("Recent Stressors/Risk Factors", "Disclosure of Suicide Risk", "Current Risk Level"),
    *("Reaction to Chatbot Responses", "Sample Prompts"),
)
_LEVEL = "Current Risk Level"
_NO_RISK = "none"
_ATTRIBUTES, _NARRATIVE = "member_attributes", "member_narrative"


def persona_file(folder: Path) -> Path:
    """Return the path of personas.tsv in a checkout of VERA-MH, or in its folder `data`.

    Raises:
        UserError: if the file does not exist.
    """
    for place in (folder / "data" / "personas.tsv", folder / "personas.tsv"):
        if place.is_file():
            return place
    raise UserError(f"{folder}: contains no data/personas.tsv; give a checkout of VERA-MH")


def read_vera_personas(file: Path) -> list[Card]:
    """Return one card for each row. All columns but Name become facts, also those that later versions of the set added.

    Raises:
        UserError: if a row is wrong; the message names the line.
    """
    found = list[Card]()
    for row in tsv_rows(file, PERSONA_COLUMNS, more=True):
        if empty := [name for name in PERSONA_COLUMNS if not row.cells[name]]:
            raise refused(file, row.line, f"{empty[0]} is empty")
        if row.cells["Name"] in (each.name for each in found):
            raise refused(file, row.line, "an earlier line has the same Name")
        kind = _NO_RISK if row.cells[_LEVEL].lower() == _NO_RISK else "suicidal_thoughts"
        facts = tuple((name, text) for name, text in row.cells.items() if text and name != "Name")
        found.append(Card(row.cells["Name"], kind, facts))
    if not found:
        raise refused(file, 1, "contains no personas below the header")
    return found


def read_mindeval_profiles(file: Path) -> list[Card]:
    """Return one card for each line. Its name is the member's name and the line number, because members share names.

    Raises:
        UserError: if a line is wrong; the message names the line.
    """
    found = list[Card]()
    seen = dict[tuple[tuple[str, str], ...], int]()
    for line, profile in json_lines(file):
        attributes, narrative = profile.get(_ATTRIBUTES), profile.get(_NARRATIVE)
        if not isinstance(attributes, dict):
            raise refused(file, line, f"{_ATTRIBUTES} is not an object")
        if not (isinstance(narrative, str) and narrative.strip()):
            raise refused(file, line, f"{_NARRATIVE} is empty or not a text")
        if not _is_text(attributes.get("name")):
            raise refused(file, line, f"{_ATTRIBUTES} has no name")
        facts = (*(_fact(file, line, *each) for each in attributes.items()), ("Your life so far", narrative.strip()))
        if (before := seen.setdefault(facts, line)) != line:
            raise refused(file, line, f"repeats the profile of line {before}")
        others = tuple(each for each in facts if each[0] != "name")
        found.append(Card(f"{attributes['name'].strip()} {line}", None, others))
    if not found:
        raise UserError(f"{file}: contains no profiles")
    return found


def _fact(file: Path, line: int, name: str, value: Any) -> tuple[str, str]:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number or _is_text(value)):
        raise refused(file, line, f"attribute {name!r} must be a text or a number")
    return name.replace("_", " "), str(value).strip()


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
