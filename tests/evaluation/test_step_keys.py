"""Each key of an evaluation in steps says at its declaration which steps depend on it, and another value makes these due."""

from dataclasses import fields, make_dataclass
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf, open_dict

from psychocounsel.evaluation.stepped import SteppedEvaluation
from psychocounsel.settings.schema import marked, option
from psychocounsel.settings.targets import build, target_class
from psychocounsel.steps.plan import step_settings
from tests.support.composed import checked

GIVEN = {
    "winrate": ["model.path=builtin:tiny_dpo"],
    "best_of": ["model.path=builtin:tiny", "replies.samples=16"],
    "health": ["model.path=builtin:tiny"],
    "safety": ["model.path=builtin:tiny"],
    "session": ["model.path=builtin:tiny"],
    "external": ["model.path=builtin:tiny", "evaluation.lm_eval=[arc_easy]"],
}


def evaluated(name: str) -> DictConfig:
    return checked(f"evaluation={name}", *GIVEN[name], name="evaluate")


def with_a_key(kind: type[SteppedEvaluation], step: str) -> str:
    """Return the dotted name of a class like `kind` with one more key, `extra`, that `step` depends on."""
    name = f"{kind.__name__}_{step}"
    added = [("extra", int, option(1, step=step))]
    globals()[name] = make_dataclass(name, added, bases=(kind,), kw_only=True)
    return f"{__name__}.{name}"


@pytest.mark.parametrize("name", GIVEN)
def test_every_key_names_the_steps_that_depend_on_it(name: str) -> None:
    kind = target_class(evaluated(name), "evaluation")
    steps = marked(kind, "step")
    assert {item.name for item in fields(kind)} - {"name"} == steps.keys()
    named = {step for given in steps.values() for step in ([given] if isinstance(given, str) else given)}
    assert named <= {*kind.course.steps}


@pytest.mark.parametrize(
    ("name", "step"),
    [(name, step) for name in GIVEN for step in target_class(evaluated(name), "evaluation").course.steps],
)
def test_another_value_of_an_added_key_makes_its_step_due_and_no_other(name: str, step: str) -> None:
    config = evaluated(name)
    with open_dict(config):
        more = {"_target_": with_a_key(target_class(config, "evaluation"), step), "extra": 1}
        config.evaluation = OmegaConf.create({**OmegaConf.to_container(config.evaluation), **more})
    course = build(config, "evaluation").course
    before = {each: step_settings(course, config, each) for each in course.steps}
    config.evaluation.extra = 2
    assert [each for each in course.steps if step_settings(course, config, each) != before[each]] == [step]


def test_the_content_of_a_file_counts_where_its_key_says_so(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("prompt,reply_a,reply_b,better,expert\n")
    config = checked("evaluation=winrate", *GIVEN["winrate"], f"evaluation.experts=[{file}]", name="evaluate")
    course = build(config, "evaluation").course
    before = step_settings(course, config, "statistics")
    file.write_text("prompt,reply_a,reply_b,better,expert\na,b,c,a,x\n")
    assert step_settings(course, config, "statistics") != before
