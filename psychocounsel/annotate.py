"""`python -m psychocounsel.annotate`: makes a preference dataset from client speeches."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psychocounsel.rundir.run import Run


def work(run: "Run") -> int:
    """Run a worker of `annotate` in the dataset's directory; returns its exit code. Imports torch only for local models."""
    import os

    from psychocounsel.annotation.working import annotate
    from psychocounsel.remote.hub import set_cache_directories

    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # the libraries' bars; steps show their own
    set_cache_directories(run.config.paths.cache)
    return annotate(run)


if __name__ == "__main__":
    from psychocounsel.settings.typed.early_stop import until_imported

    until_imported()
    from psychocounsel.cluster.application import main
    from psychocounsel.reporting.terminal.sweep_ending import show_sweep

    main("psychocounsel.annotate", "annotate", ended=show_sweep)
