"""Tests of time, speed and cost against sums over metric lines and step records."""

from pathlib import Path

import pytest

from psychocounsel.reporting.material import ANNOTATION, RunMaterial
from psychocounsel.reporting.sections.training.cost_section import section
from tests.reporting.sections.evaluations.shown import rows, tables
from tests.reporting.sections.hand_made import material_of, trained

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
    assert "total: 7.2 device-hours, 3 of them in attempts that failed, stopped or were killed" in table.notes


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


def test_answers_and_their_cost_are_added_up_over_steps() -> None:
    steps = {
        "replies": {"seconds": 60.0, "figures": {"bought": 20, "spent": 1.25}},
        "scores": {"seconds": 30.0, "figures": {"bought": 5, "spent": 0.5}},
        "card": {"seconds": 6.0, "figures": {}},
    }
    made = RunMaterial(Path("/a"), "a", ANNOTATION, "", "finished", extra={"steps": steps})
    [row] = rows(section(material_of(made)), "cost-calls")
    assert (
        row["answers bought"] == "25"
        and row["cost"].value == 1.75
        and row["minutes of steps"].value == pytest.approx(1.6)
    )


def test_a_run_without_lines_or_attempts_is_left_out() -> None:
    assert tables(section(material_of(trained({})))) == []
