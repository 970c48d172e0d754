"""Running the steps of `annotate` in its directory: what is done is skipped, and what was bought is never bought again."""

import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

from psychocounsel import __version__
from psychocounsel.annotation.plan import Planned, planned
from psychocounsel.annotation.removal.step import finish
from psychocounsel.settings.typed.annotate_keys import STEPS
from psychocounsel.steps.context import StepContext
from psychocounsel.storage.files import read_mapping, write_json

Figures = dict[str, Any]


def run_steps(context: StepContext, begin: Callable[[str], None]) -> dict[str, Figures]:
    """Do the steps that are due, in order; returns the figures of all steps that are done. `begin` hears of each.

    Raises:
        UserError: if a step lacks what it needs.
    """
    context.files.steps.mkdir(parents=True, exist_ok=True)
    finish(context)  # a removal that was killed
    for each in planned(context.config, context.files):
        if not each.due:
            context.say(f"{each.step}: done before")
            continue
        begin(each.step)
        _do(each, context)
    return figures_of(context)


def _do(each: Planned, context: StepContext) -> None:
    stale = STEPS[STEPS.index(each.step) :]  # until the step is done again, its table may be of either settings
    for step in reversed(stale):  # the last first: a kill leaves no record of a step whose earlier one is gone
        context.files.step(step).unlink(missing_ok=True)
    started = time.monotonic()
    figures = import_module(f"psychocounsel.annotation.{each.step}.step").run(context)
    write_record(context, each, figures, time.monotonic() - started)


def write_record(context: StepContext, each: Planned, figures: Figures, seconds: float) -> None:
    """Say that a step is done: from what, and with what figures."""
    about: Figures = {"step": each.step, "fingerprint": each.fingerprint}
    about |= {"settings": each.settings, "sources": each.sources}
    about |= {"version": __version__, "seconds": round(seconds, 1)}
    write_json(context.files.step(each.step), {**about, "figures": figures})


def figures_of(context: StepContext) -> dict[str, Figures]:
    """The figures of each step that is done."""
    records = {step: read_mapping(context.files.step(step)) for step in STEPS}
    return {step: record["figures"] for step, record in records.items() if record}
