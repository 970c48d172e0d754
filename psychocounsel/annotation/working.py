"""What the worker of `annotate` does: its steps or a removal, with what the user sees and reads afterwards."""

from pathlib import Path
from typing import Any

from psychocounsel.annotation.context import Context
from psychocounsel.annotation.showing import Showing
from psychocounsel.annotation.steps import Figures, run_steps
from psychocounsel.annotation.stopping import stoppable
from psychocounsel.errors import CONTINUE_LATER, DONE, GATE_NO
from psychocounsel.rundir.paths import AnnotationDir
from psychocounsel.rundir.run import Run
from psychocounsel.rundir.summary import FINISHED, write_summary


def annotate(run: Run) -> int:
    """Work in the run's directory; returns the exit code: 75 after a stop request, 3 where the budget is spent."""
    showing = Showing(run.write_state, run.say)
    files = AnnotationDir(Path(run.config.out))
    context = Context(run.config, files, run.say, showing.bar)
    try:
        with stoppable(run.dir):
            return _remove(context) if run.config.remove else _make(context, showing)
    except KeyboardInterrupt:
        run.write_state("stopped", 0, None)
        run.say(f"stopped; every answer so far is in {files.answers}, and the same command goes on")
        return CONTINUE_LATER


def _make(context: Context, showing: Showing) -> int:
    figures = run_steps(context, showing.begin)
    for each in lines(context, figures):
        context.say(each)
    return DONE


def _remove(context: Context) -> int:
    raise NotImplementedError


def lines(context: Context, figures: dict[str, Figures]) -> list[str]:
    return []
