"""Gates in a report: in its answer, and in the line that says what is unfinished."""

from pathlib import Path

import pytest

from psychocounsel.reporting.maker import unfinished
from psychocounsel.reporting.material import EVALUATION
from psychocounsel.reporting.sections.answer import section as answer
from tests.reporting.sections.shown import material, run_of
from tests.support.shown_blocks import said


def test_the_answer_has_the_decision() -> None:
    figures = {"decision": "refused", "code": 3, "model": "model", "base": "base"}
    gate = run_of(Path("/runs/gate"), EVALUATION, "gate", figures=figures, status="refused")
    assert said(answer(material(gate)), "bad") == [
        "Gate gate: refused (exit code 3), model against base. It holds for these speeches and simulated clients, not for "
        "real clients."
    ]


@pytest.mark.parametrize("verdict", ["refused", "undecided"])
def test_gates_are_neither_missing_nor_finished_in_the_studys_words(verdict: str) -> None:
    gate = run_of(Path("/runs/gate"), EVALUATION, "gate", status=verdict)
    assert unfinished(material(gate)) == f"the run has ended; gates: 1 {verdict}"
