"""Runs the steps of a command that are due, and records each in the directory. A step that is already done is skipped."""

import time
from collections.abc import Callable
from typing import Any

from psychocounsel import __version__
from psychocounsel.steps.context import F, StepContext
from psychocounsel.steps.course import Course
from psychocounsel.steps.plan import Planned, planned
from psychocounsel.storage.files import read_mapping, write_json

Figures = dict[str, Any]


def run_steps(course: Course[F], context: StepContext[F], begin: Callable[[str], None]) -> dict[str, Figures]:
    """Run the steps that are due, in order; returns the figures of every finished step. `begin` is called with each step's name.

    Raises:
        UserError: if an earlier step is missing or was done with other settings, or if a step raises it.
    """
    context.files.steps.mkdir(parents=True, exist_ok=True)
    for each in planned(course, context.config, context.files):
        if not each.due:
            context.say(f"{each.step}: done before")
            continue
        _say_what_changed(each, context)
        begin(each.step)
        _do(course, each, context)
    return figures_of(course, context)


def _say_what_changed(each: Planned, context: StepContext[F]) -> None:
    """Print which settings have changed, because a table made with other settings is about to be replaced."""
    before = read_mapping(context.files.step(each.step)).get("settings")
    if before is not None:
        keys = before.keys() | each.settings.keys()
        changed = sorted(key for key in keys if before.get(key) != each.settings.get(key))
        if changed:
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            context.say(
                f"{each.step}: made again, because {', '.join(changed[:3])}{more} changed; bought answers are kept"
            )


def _do(course: Course[F], each: Planned, context: StepContext[F]) -> None:
    stale = course.steps[course.steps.index(each.step) :]  # while the step runs, its table may mix old and new settings
    for step in reversed(stale):  # last first: a kill must not leave a later record without an earlier one
        context.files.step(step).unlink(missing_ok=True)
    started = time.monotonic()
    figures = course.run(each.step, context)
    write_record(context, each, figures, time.monotonic() - started)


def write_record(context: StepContext[F], each: Planned, figures: Figures, seconds: float) -> None:
    """Record that a step is done, with its settings, its source files and its figures."""
    about: Figures = {"step": each.step, "fingerprint": each.fingerprint}
    about |= {"settings": each.settings, "sources": each.sources}
    about |= {"version": __version__, "seconds": round(seconds, 1)}
    write_json(context.files.step(each.step), {**about, "figures": figures})


def figures_of(course: Course[F], context: StepContext[F]) -> dict[str, Figures]:
    """Return the figures of every finished step, by step name."""
    records = {step: read_mapping(context.files.step(step)) for step in course.steps}
    return {step: record["figures"] for step, record in records.items() if record}
