"""Advice that evaluations print can be typed."""

import pytest

from psychocounsel.evaluation.stepped import steps_from
from psychocounsel.settings.targets import build
from psychocounsel.steps.course import check_steps
from tests.support.contests import contest


@pytest.mark.parametrize(
    ("evaluation", "step", "advice"),
    [
        ("winrate", "verdicts", "steps=[verdicts,controls,statistics]"),
        ("best_of", "verdicts", "steps=[verdicts,figures]"),
        ("safety", "answers", "steps=[answers,figures]"),
        ("session", "answers", "steps=[answers,flows,figures]"),
    ],
)
def test_failed_calls_are_repeated_with_all_later_steps(evaluation: str, step: str, advice: str) -> None:
    """A step that is left out between two others would need the result of the first again, and is refused."""
    config = contest(f"evaluation={evaluation}", "model.path=builtin:tiny")
    assert steps_from(step, config) == advice
    course = build(config, "evaluation").course.steps
    typed = advice.removeprefix("steps=[").removesuffix("]").split(",")
    check_steps(typed, course)
    assert tuple(typed) == course[-len(typed) :]
