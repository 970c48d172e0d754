"""Helpers for tests of judges: the tables that judges read, answers computed from the shown texts, the step `verdicts`."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import OmegaConf

from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.evaluation.contestants.replies_step import SCHEMA as REPLIES
from psychocounsel.evaluation.contestants.speeches import SCHEMA as SPEECHES
from psychocounsel.evaluation.judging.pairs import SCHEMA as VERDICTS
from psychocounsel.evaluation.judging.verdicts_step import run
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.steps.course import StepContext

Row = dict[str, Any]
_SHOWN = re.compile(r"<(client|first-reply|second-reply)-([0-9a-f]{8})>\n(.*?)\n</\1-\2>", re.DOTALL)


def speech(identity: str, **more: Any) -> Row:
    text = f"I am client {identity}."
    about: Row = {"text": text, "messages": json.dumps([{"role": "user", "content": text}]), "language": "en"}
    about |= {"topic": None, "risk": "none", "risk_source": "rules", "crisis": False, "near_training": False}
    return {"speech": identity, **about, **more}


def reply(of: str, setting: str, text: str | None, seed: int = 0, **more: Any) -> Row:
    about: Row = {
        "contestant": f"{setting}-{seed}",
        "setting": setting,
        "seed": seed,
        "length_limit": None,
        "sample": 0,
    }
    about |= {"reply": text and f"id-{text}", "text": text, "outcome": "text" if text else "empty", "model": "m"}
    return {"speech": of, **about, "prompt_version": "p", **more}


def evaluation_dir(place: Path, speeches: Sequence[Row], replies: Sequence[Row]) -> EvaluationDir:
    files = EvaluationDir(place)
    place.mkdir(parents=True, exist_ok=True)
    for file, rows, schema in ((files.speeches, speeches, SPEECHES), (files.replies, replies, REPLIES)):
        pq.write_table(pa.Table.from_pylist(sorted(rows, key=lambda row: row["speech"]), schema), file)
    return files


def judge_pairs(
    files: EvaluationDir, judge: Row | list[Row], said: list[str] | None = None, **evaluation: Any
) -> tuple[Row, list[Row]]:
    """Run the step `verdicts` and return its figures and rows. The setting `beta` is evaluated against all others."""
    settings = list(dict.fromkeys(pq.read_table(files.replies, columns=["setting"]).column("setting").to_pylist()))
    settings.sort(key=lambda name: name != "beta")
    members = [{"_target_": "psychocounsel.asking.chat_server.ChatServer", "name": name} for name in settings]
    several = {"_target_": "psychocounsel.evaluation.judging.judges.Judges", "members": judge}
    config = {
        "contestants": {
            "_target_": "psychocounsel.evaluation.contestants.settings.Contestants",
            "members": members,
            "settings": settings,
        },
        "judge": several if isinstance(judge, list) else judge,
        "evaluation": {
            "rubric": "builtin:en",
            "examples": False,
            "retries": 2,
            "seed": 0,
            "include_near": False,
            **{key: value for key, value in evaluation.items() if key != "crisis_to_third_parties"},
        },
        "budget": {"cost": None, "calls": None},
        "crisis_to_third_parties": evaluation.get("crisis_to_third_parties", False),
    }
    lines = said if said is not None else []
    figures = run(StepContext(OmegaConf.create(config), files, lines.append, lambda items, what: items))
    return figures, rows_of(files)


def rows_of(files: EvaluationDir) -> list[Row]:
    table = pq.read_table(files.verdicts)
    assert table.schema.equals(VERDICTS)
    return table.to_pylist()


def shown(payload: Any) -> tuple[str, str, str]:
    """Return the client's text, the first reply and the second reply of a request, without the marks around them."""
    found = {name: text for name, _, text in _SHOWN.findall(payload["messages"][-1]["content"])}
    return found["client"], found["first-reply"], found["second-reply"]


def verdict(overall: str, principles: str | None = None) -> str:
    """Return a judge's answer. `overall` and `principles` are `first`, `second` or `tie`; default: `overall` for both."""
    sides = {name: {"reason": "So.", "better": principles or overall} for name in PRINCIPLES}
    return json.dumps({**sides, "overall": {"reason": "So.", "better": overall}})


def by_texts(better: Callable[[str, str], str]) -> Callable[[Any], str]:
    """Return a judge that compares only the two replies. To the first request, which checks the server, it says `ready`."""

    def write(payload: Any) -> str:
        return "ready" if len(payload["messages"]) == 1 else verdict(better(*shown(payload)[1:]))

    return write


def longer(first: str, second: str) -> str:
    return "tie" if len(first) == len(second) else "first" if len(first) > len(second) else "second"
