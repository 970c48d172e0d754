"""The page of replies `RUN/samples.md` shows the right turns, and texts on it do not act as markup."""

from pathlib import Path
from typing import Any

from psychocounsel.asking.language_model import FILTERED, TEXT
from psychocounsel.evaluation.session.dialogue import SCHEMA
from psychocounsel.evaluation.showing import write_samples
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.steps.tables import written


def turn(**columns: Any) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(SCHEMA.names)
    row |= {"speech": "1", "persona": "ann", "pattern": "calm", "kind": "none", "setting": "s", "contestant": "mine"}
    row |= {"seed": 0, "sample": 0, "turn": 0, "ends": False, "outcome": TEXT, "text": "Go on.", "client": "Hello."}
    return row | columns


def parts_of(folder: Path, turns: list[dict[str, Any]]) -> list[str]:
    files = EvaluationDir(folder)
    with written(files.session_turns, SCHEMA) as add:
        for row in turns:
            add(row)
    (line,) = write_samples(folder)
    heading, *parts = files.samples.read_text().split("\n\n---\n\n")
    clients = len({row["speech"] for row in turns})
    assert line == f"read before you believe a figure: {files.samples} ({clients} of {clients} clients)"
    assert heading == f"# {clients} of {clients} clients, with the first session of each contestant"
    return parts


def test_only_the_first_session_of_a_contestant_is_shown(tmp_path: Path) -> None:
    sessions = [turn(contestant=name, sample=sample, turn=number, text=f"{name} {sample} {number}")
                for name in ("base", "mine") for sample in (0, 1) for number in (0, 1)]  # fmt: skip
    (part,) = parts_of(tmp_path, sessions)
    replies = [line.partition(": ")[2] for line in part.splitlines() if line.startswith("> **assistant")]
    assert replies == ["base 0 0", "base 0 1", "mine 0 0", "mine 0 1"]


def test_the_failure_of_the_clients_model_is_the_clients(tmp_path: Path) -> None:
    (part,) = parts_of(tmp_path, [turn(), turn(turn=1, client=None, text=None, outcome=FILTERED)])
    assert part.splitlines()[-1] == "> **user (filtered)**: "
    assert part.count("**assistant") == 1, "the contestant was not asked again"


def test_names_links_diagrams_and_formulas_stay_text(tmp_path: Path) -> None:
    name = "![x](https://e.org/y.png)"
    drawn = 'Look:\n```mermaid\nflowchart TD\n  click A href "https://e.org"\n```\n~~~\n$\\href{https://e.org}{x}$'
    (part,) = parts_of(tmp_path, [turn(contestant=name, text=drawn)])
    assert part.startswith("## !\\[x\\](")
    assert "> \\`\\`\\`mermaid" in part and "> \\~\\~\\~" in part and "> \\$\\\\href" in part
