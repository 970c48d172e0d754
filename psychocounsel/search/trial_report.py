"""Callback of a search's trials: reports evaluations, and ends a run that the search prunes."""

from dataclasses import dataclass

from psychocounsel.engine.callbacks import Callback
from psychocounsel.rundir.run import Run
from psychocounsel.search.trial_journal import journal_of


@dataclass
class TrialReport(Callback):
    """Compares `checkpoint.metric` with that of other trials by optuna's `pruner`: median, hyperband or none."""

    pruner: str

    def eval_end(self, metrics: dict[str, float], step: int, run: Run) -> str | None:
        if not run.is_main or not step:
            return None
        metric = run.config.checkpoint.metric
        gives_up = journal_of(run.dir, run.config).report(run.dir, metrics[metric], step, self.pruner)
        return f"pruned at step {step}: other trials were better by {metric}" if gives_up else None
