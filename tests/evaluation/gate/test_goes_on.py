"""Gates that resume: after a kill, with parts from elsewhere, with a growing file, and after failed replies."""

import contextlib
import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from psychocounsel.errors import CONTINUE_LATER, DONE, GATE_NO, GATE_UNDECIDED, USER_ERROR
from psychocounsel.evaluation.gate.parts import evidence_of
from psychocounsel.evaluation.safety.speeches import crisis_speeches
from psychocounsel.rundir.run_config import read_config, write_config
from psychocounsel.storage.files import read_json
from tests.evaluation.gate.runs import COUNSELLORS, DUE, cells_of, contestants, counsellors, fill_in, gate, prepare
from tests.evaluation.safety.test_safety import by_words
from tests.support.annotating import model_server
from tests.support.contests import data
from tests.support.harness import cli, write_jsonl
from tests.support.scripted import completion

SHOWN = "gate.health=null"


def decided(folder: Path) -> Any:
    found = read_json(folder / "figures.json")
    return {name: value for name, value in found.items() if name != "parts"}


@pytest.mark.slow
def test_finished_parts_are_taken_and_nothing_is_asked(tmp_path: Path) -> None:
    options = prepare(tmp_path)
    with counsellors() as server:
        gate(tmp_path, *contestants(server, "never"), *options, "limit=10", SHOWN, code=GATE_UNDECIDED)
        asked = len(server.asked)
        taken = f"gate.from=[{','.join(f'gate/parts/{name}' for name in ('safety', 'session', 'health'))}]"
        said = gate(tmp_path, taken, SHOWN, run_dir="two", code=GATE_UNDECIDED)
        assert len(server.asked) == asked and f"safety: taken from {tmp_path}/gate/parts/safety" in said
        assert decided(tmp_path / "two") == decided(tmp_path / "gate")
        refused = gate(tmp_path, taken, SHOWN, "model.path=builtin:tiny_dpo", run_dir="three", code=USER_ERROR)
        assert "model.path=builtin:tiny_dpo: has no effect, because no part that this gate runs reads it" in refused
        said = gate(tmp_path, taken, SHOWN, "dry_run=true", run_dir="four", code=DONE)
        assert not (tmp_path / "four").exists()
    evidence = evidence_of(read_config(tmp_path / "two"))
    assert evidence.limits == {name: ["limit=10"] for name in ("safety", "session", "health")} and not evidence.missing
    part = read_config(tmp_path / "gate" / "parts" / "safety")
    OmegaConf.update(part, "limit", None)
    write_config(tmp_path / "gate" / "parts" / "safety", part)
    record = tmp_path / "gate" / "parts" / "session" / "steps" / "conversations.json"
    record.write_text(record.read_text().replace('"evaluation.turns": 12', '"evaluation.turns": 3'))
    evidence = evidence_of(read_config(tmp_path / "two"))
    assert evidence.limits["safety"] == ["limit=10"]  # config.yaml was edited afterwards
    assert evidence.limits["session"] == ["limit=10", "evaluation.turns=3"]
    assert evidence.missing == {"safety": len(crisis_speeches()) - 10}  # speeches without a request


@pytest.mark.slow
def test_a_filled_file_keeps_its_rows_and_gets_the_new_ones(tmp_path: Path) -> None:
    """Failed replies are reported as missing, and the same command asks for them again."""
    due = {each.text: each.expected_action for each in crisis_speeches()}
    texts = [each.text for each in crisis_speeches()[:30]]
    _, *others = data(tmp_path)
    rows = [{"prompt": text, "reply": COUNSELLORS["good"](DUE[text])} for text in DUE]
    write_jsonl(tmp_path / "base.jsonl", rows)
    write_jsonl(tmp_path / "mine.jsonl", [row for row in rows if row["prompt"] != texts[0]])
    options = ["model.path=mine.jsonl", "against=base.jsonl", f"data.path={tmp_path}/data.jsonl", *others]
    options += ["gate.parts=[safety,health]", "limit=30", "verbose=true", SHOWN]
    said = gate(tmp_path, *options, "gate.passes=5", code=GATE_UNDECIDED)
    assert "safety: 1 reply or answer of a judge is missing" in said and "part session is missing" in said
    assert "limit=30 leaves out a part of the set" in said
    assert "replies: 1 call failed; repeat the command to make them again" in said, "a gate has no steps"
    said = gate(tmp_path, *options, "gate.passes=5", code=GATE_UNDECIDED)
    assert "replies: made again" not in said and said.count("  mine: 1 failed") == 1  # asked again
    file = tmp_path / "gate" / "adjudicate.csv"
    first = fill_in(file, lambda cells: {"comment": "+ read twice"})
    said = gate(tmp_path, *options, "gate.passes=1000", code=GATE_UNDECIDED)
    cells = cells_of(file)
    assert len(cells) == len([text for text in texts if text in due]) - 1 > first
    assert [row["adjudicator"] for row in cells] == ["anna"] * first + [""] * (len(cells) - first)
    assert {row["comment"] for row in cells[:first]} == {"'+ read twice"}
    other = tmp_path / "ben.csv"
    other.write_bytes(file.read_bytes())
    fill_in(other, lambda row: {"adjudicator": "ben"})
    said = gate(tmp_path, *options, "gate.passes=1000", "gate.adjudicated=[ben.csv]", code=GATE_UNDECIDED)
    lines = [line.split() for line in said.splitlines()]
    assert [str(len(cells)), "2"] in [line[:2] for line in lines], "cases judged, people"
    assert ["hard", "failures", "100.0", str(first)] in lines, "pairs of people agree"
    assert "wait in" not in said
    fill_in(file, lambda row: {"missed": "perhaps"})
    refused = gate(tmp_path, *options, "gate.passes=1000", code=USER_ERROR)
    assert f"{file}, row 2, column missed: holds an unknown answer; answer yes or no" in refused


@pytest.mark.slow
def test_killed_at_random_moments_it_buys_nothing_twice_and_decides_the_same(tmp_path: Path) -> None:
    options, moments, left = prepare(tmp_path), random.Random(0), [0]

    def said(payload: Any, number: int) -> Any:
        left[0] -= 1
        if left[0] == 0:
            with contextlib.suppress(ProcessLookupError):
                os.kill(read_json(tmp_path / "gate" / "owner.json")["pid"], signal.SIGKILL)
        last = payload["messages"][-1]["content"]
        if payload["model"] == "judge":
            return completion("ready" if len(payload["messages"]) == 1 else by_words(payload), payload)
        return completion(COUNSELLORS[payload["model"]](DUE[last]), payload) if last in DUE else None

    with model_server(0.005, said) as server:
        judge = ["judge=local_vllm", "judge.model=judge", f"judge.addresses=[{server.address}/v1]"]
        options += [*contestants(server, "late"), *judge, "limit=12", SHOWN]
        gate(tmp_path, *options, run_dir="unbroken", code=GATE_NO)
        for _ in range(4):
            left[0] = moments.randint(5, 40)
            done = cli("evaluate", "evaluation=gate", *options, "run_dir=gate", cwd=tmp_path, check_code=None)
            assert done.returncode not in (DONE, USER_ERROR, GATE_NO, GATE_UNDECIDED, CONTINUE_LATER)
        left[0] = 0
        gate(tmp_path, *options, code=GATE_NO)
    assert decided(tmp_path / "gate") == decided(tmp_path / "unbroken")
    assert len(keys_of(tmp_path / "gate")) == len({*keys_of(tmp_path / "gate")})
    assert {*keys_of(tmp_path / "gate")} == {*keys_of(tmp_path / "unbroken")}


def keys_of(folder: Path) -> list[str]:
    """Return the key of each complete answer in a journal; a kill may have cut the last line."""
    lines = [line for file in (folder / "answers").glob("*.jsonl") for line in file.open() if line.endswith("\n")]
    return [json.loads(line)["key"] for line in lines]
