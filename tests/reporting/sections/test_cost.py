"""Tests of time, speed and cost against sums over metric lines and step records."""

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from psychocounsel.annotation.steps import do_steps
from psychocounsel.reporting.maker import Options, make_report
from psychocounsel.reporting.material import EVALUATION, RunMaterial
from psychocounsel.reporting.reading.folders import read_material
from psychocounsel.reporting.sections.cost import section
from psychocounsel.rundir.paths import AnnotationDir
from psychocounsel.steps.course import StepContext
from tests.reporting.sections.shown import material_of, trained
from tests.support.annotating import model_server, speeches
from tests.support.composed import check, compose
from tests.support.report_folders import begin
from tests.support.shown_blocks import rows, tables

LINES = [
    {
        "step": step,
        "step_seconds": 10.0 + step,
        "rollout/write_seconds": 4.0,
        "rollout/score_seconds": 1.0,
        "data_seconds": 0.5,
        "tokens_per_second": 100.0 * step,
        "mfu": 0.1 * step,
        "peak_memory_gb": 5.0 - step,
    }
    for step in (1, 2, 3, 4)
]


def test_attempts_that_did_not_finish_are_apart() -> None:
    attempts = [
        {"number": 1, "seconds": 1800.0, "verdict": "crashed", "processes": 4, "gpus": 4},
        {"number": 2, "seconds": 900.0, "verdict": "", "processes": 4, "gpus": 4},
        {"number": 3, "seconds": 3600.0, "verdict": "finished", "processes": 4, "gpus": 4},
    ]
    on_cpu = [{"number": 1, "seconds": 360.0, "verdict": "", "processes": 2, "gpus": 0}]
    found = section(material_of(trained({"x": "1"}, attempts=attempts), trained({"x": "2"}, attempts=on_cpu)))
    first, second = rows(found, "cost-attempts")
    assert first["attempts"] == "3" and first["hours"].value == pytest.approx(1.75) and first["device"] == "GPU"
    assert first["device-hours"].value == pytest.approx(7.0)
    assert first["unfinished"] == "2" and first["their device-hours"].value == pytest.approx(3.0)
    assert second["device"] == "CPU process" and second["device-hours"].value == pytest.approx(0.2)
    assert second["unfinished"] == "0"
    [table] = [block.table for block in found.blocks if getattr(block, "name", "") == "cost-attempts"]  # type: ignore[union-attr]
    assert "total of device-hours: 7.2 h, 3.0 h of them in attempts that failed, stopped or were killed" in table.notes


def test_the_time_of_steps_is_divided_among_its_phases() -> None:
    environment = {"processes": 2, "gpus": ["a", "b"]}
    [row] = rows(section(material_of(trained({}, lines=LINES, environment=environment))), "cost-steps")
    total = 11 + 12 + 13 + 14
    assert row["step hours"].value == pytest.approx(total * 2 / 3600)
    assert row["writing"].value == pytest.approx(16 / total) and row["scoring"].value == pytest.approx(4 / total)
    assert row["data"].value == pytest.approx(2 / total)
    assert row["training"].value == pytest.approx((total - 22) / total)
    assert row["tokens/s"].value == 350.0 and row["MFU"].value == pytest.approx(0.35)  # the first two steps are skipped
    assert row["peak memory (GB)"].value == 4.0 and "weights" not in row


def test_answers_and_their_cost_are_counted_once_although_two_steps_ask(tmp_path: Path) -> None:
    with model_server() as server:
        address, out = f"[{server.address}/v1]", tmp_path / "out"
        file = speeches(tmp_path / "speeches.jsonl", 3)
        given = ["speeches=local", f"speeches.path={file}", "speeches.license=cc0-1.0", f"out={out}"]
        for group, prices in (("writers", (10, 20)), ("annotator", (100, 200))):
            given += [f"{group}=local_vllm", f"{group}.model={group}", f"{group}.addresses={address}"]
            given += [f"{group}.input_price={prices[0]}", f"{group}.output_price={prices[1]}"]
        given += ["writers.terms=apache-2.0", "replies.per_speech=2", "steps=[speeches,replies,scores]"]
        config = check(compose(given, "annotate"))
        begin(out, "psychocounsel.annotate", OmegaConf.to_container(config), given)
        do_steps(StepContext(config, AnnotationDir(out), lambda line: None, lambda items, *_: items), lambda step: None)
    [run] = read_material([out]).runs
    costs = [json.loads(line)["cost"] for file in (out / "answers").iterdir() for line in file.open()]
    assert len(costs) == 3 * 2 + 3, "two replies to each of three speeches, and one call that rates both"
    [row] = rows(section(material_of(run)), "cost-calls")
    assert row["answers bought"] == "9" and row["cost"].value == pytest.approx(sum(costs))
    made = make_report([out], Options()).files.reproducibility.read_text()
    assert f"9 answers, cost {sum(costs):.4g} in the currency" in made


def test_parts_of_a_gate_share_one_journal() -> None:
    def run(path: str, **records: tuple[int, float]) -> RunMaterial:
        steps = {
            name: {"seconds": 30.0, "figures": {"bought": answers, "spent": spent} if answers else {}}
            for name, (answers, spent) in records.items()
        }
        return RunMaterial(Path(path), path, EVALUATION, "", "finished", extra={"steps": steps})

    gate = run("/gate", safety=(0, 0.0), session=(0, 0.0), decision=(0, 0.0))
    parts = [
        run("/gate/parts/safety", replies=(20, 1.0), answers=(50, 1.5)),
        run("/gate/parts/session", conversations=(90, 4.0)),
    ]
    other = run("/other", replies=(7, 0.25), verdicts=(9, 0.25), statistics=(0, 0.0))
    first, second = rows(section(material_of(gate, *parts, other)), "cost-calls")
    assert (first["run"], first["answers bought"], first["cost"].value) == ("/gate", "90", 4.0)
    assert first["minutes of steps"].value == pytest.approx(1.5), "a step of the gate lasts as long as its part"
    assert (second["run"], second["answers bought"], second["cost"].value) == ("/other", "9", 0.25)
    [row] = rows(section(material_of(*parts)), "cost-calls")
    assert (row["run"], row["answers bought"]) == ("/gate/parts/safety", "90")


def test_a_run_without_lines_or_attempts_is_left_out() -> None:
    assert tables(section(material_of(trained({})))) == []
