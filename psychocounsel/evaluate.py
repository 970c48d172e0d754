"""`python -m psychocounsel.evaluate`: measures reward models and counsellors; `evaluation=` chooses the measurement."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psychocounsel.rundir.run import Run


def work(run: "Run") -> int:
    """Run the evaluation in the run directory as a worker process; return the exit code."""
    from psychocounsel.engine.telemetry.progress import Progress, quiet_libraries
    from psychocounsel.remote.hub import set_cache_directories
    from psychocounsel.settings.targets import build

    set_cache_directories(run.config.paths.cache)
    quiet_libraries()
    exit_code: int = build(run.config, "evaluation").work(run, Progress(run.is_main).bar)
    return exit_code


if __name__ == "__main__":
    from psychocounsel.settings.typed.early_stop import until_imported

    until_imported()
    from psychocounsel.cluster.application import main
    from psychocounsel.reporting.terminal.sweep_ending import show_sweep

    main("psychocounsel.evaluate", "evaluate", ended=show_sweep)
