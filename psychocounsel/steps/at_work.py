"""The worker of a command with steps: handles stop requests and the budget, and ends the run."""

from collections.abc import Callable
from typing import Any

from psychocounsel.asking.budget import BudgetSpent
from psychocounsel.errors import CONTINUE_LATER, DONE, GATE_NO
from psychocounsel.rundir.paths import StepsDir
from psychocounsel.rundir.run import Run
from psychocounsel.rundir.summary import BUDGET_SPENT, FINISHED, write_summary
from psychocounsel.steps.stopping import grace_of, stoppable


def work_in_steps(
    run: Run,
    files: StepsDir,
    do: Callable[[], dict[str, Any]],
    ending: Callable[[], tuple[int, str]] = lambda: (DONE, FINISHED),
) -> int:
    """Run the steps by calling `do`, which returns the run's metrics; returns the exit code.

    The code is 75 after a stop request and 3 if the budget is spent; the same command then continues. `ending` gives the exit
    code and the status in summary.json once all steps are done, for commands such as gates whose code depends on the result.
    """

    def stopped() -> None:
        run.write_state("stopped", 0, None)
        run.say(f"stopped; every answer so far is in {files.answers}, and the same command continues")

    try:
        with stoppable(run.dir, grace_of(run.config), stopped):
            figures = do()
        code, status = ending()
        write_summary(run.dir, status, metrics=figures)
        return code
    except BudgetSpent as spent:
        return end_without_budget(run, spent)
    except KeyboardInterrupt:
        stopped()
        return CONTINUE_LATER


def end_without_budget(run: Run, spent: BudgetSpent) -> int:
    """Print that the budget is spent and write it to the summary; returns the exit code."""
    run.say(f"{spent}. The same command with a larger budget continues")
    if run.is_main:
        write_summary(run.dir, BUDGET_SPENT, metrics={})
    return GATE_NO
