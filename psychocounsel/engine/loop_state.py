"""State of the training loop: everything that `loop.json` keeps in addition to the models."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig

from psychocounsel.errors import UserError
from psychocounsel.rundir.summary import smaller_is_better

OUT_OF_PATIENCE = "checkpoint.patience"  # start of the reason in `ended_early`


@dataclass
class LoopState:
    """State of the loop after `step` optimizer steps.

    `line`: the metrics of step `step` until they are written, then None.
    `before`, `last`: the evaluation before training and the newest one.
    `best`: the evaluation of the model in `model/`, with its step.
    `round`, `minibatch`: the current round, and the number of steps taken in it.
    `peaks`: the highest value of each metric in this round.
    `skipped`: steps that left the main model unchanged because the algorithm asked for it.
    `unimproved`: evaluations since the best one.
    `ended_early`: the reason, once a callback or `checkpoint.patience` has ended the run.
    """

    step: int = 0
    line: dict[str, Any] | None = None
    before: dict[str, float] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    round: int = 0
    minibatch: int = 0
    peaks: dict[str, float] = field(default_factory=dict)
    skipped: int = 0
    unimproved: int = 0
    ended_early: str = ""

    def enter(self, number: int) -> None:
        """Begin a step of round `number`; a new round starts without peaks."""
        if number != self.round:
            self.round, self.minibatch, self.peaks = number, 0, {}

    def advance(self) -> None:
        """Count one finished step."""
        self.step, self.minibatch = self.step + 1, self.minibatch + 1

    def see(self, metrics: dict[str, float]) -> None:
        """Update the round's peaks with a step's metrics."""
        for name, value in metrics.items():
            self.peaks[name] = max(value, self.peaks.get(name, value))

    @property
    def written(self) -> int:
        """The last step with written metrics; -1 before the first."""
        return self.step if self.line is None else self.step - 1

    def note(self, evaluation: dict[str, float], metric: str, mode: str, eligible: bool = True) -> bool:
        """Record an evaluation; return True if it is `eligible` and the best after step 0 by `metric` (`mode` min, max or auto).

        Raises:
            UserError: if the evaluation has no such metric.
        """
        if metric not in evaluation:
            raise UserError(f"checkpoint.metric={metric}: the evaluation has only {', '.join(sorted(evaluation))}")
        self.last = evaluation
        if self.step == 0:
            self.before = evaluation
            return False
        # A run killed between export and checkpoint repeats the steps up to the exported one, which ended a wait anew.
        self.unimproved = self.unimproved + 1 if self.step > self.best.get("step", 0) else 0
        if not eligible:
            return False
        smaller = smaller_is_better(metric, mode)
        if self.best and not (
            evaluation[metric] < self.best[metric] if smaller else evaluation[metric] > self.best[metric]
        ):
            return False
        self.best, self.unimproved = {"step": self.step, **evaluation}, 0
        return True

    def out_of_patience(self, checkpoint: DictConfig) -> str:
        """Return the reason to end early if the last `checkpoint.patience` evaluations brought no improvement; otherwise ""."""
        if checkpoint.patience is None or self.unimproved < checkpoint.patience:
            return ""
        best = self.best.get("step", 0)
        return f"{OUT_OF_PATIENCE}={checkpoint.patience}: {checkpoint.metric} has not improved since step {best}"
