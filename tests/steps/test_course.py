"""A step of a course is a function of a module, named in the course."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from psychocounsel.rundir.paths import StepsDir
from psychocounsel.steps.course import Course, StepContext

_STEPS = """
def run(context):
    return {"words": context.config.text.split()}

def letters(context):
    return {"letters": len(context.config.text)}
"""


def test_a_step_is_a_module_or_a_function_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_course_steps.py").write_text(_STEPS)
    monkeypatch.syspath_prepend(tmp_path)
    modules = {"words": "own_course_steps", "letters": "own_course_steps:letters"}
    course = Course(tuple(modules), modules, {}, output=StepsDir.step, models=lambda config, step: {})
    config = OmegaConf.create({"text": "I cannot sleep"})
    context = StepContext(config, StepsDir(tmp_path), print, lambda items, *_: items)
    assert course.run("words", context) == {"words": ["I", "cannot", "sleep"]}
    assert course.run("letters", context) == {"letters": 14}
