"""Parts of the training loop: its state, the optimizer step, evaluations and early ends."""

import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from omegaconf import DictConfig

from psychocounsel.data.dataset import Dataset
from psychocounsel.data.group import Group
from psychocounsel.data.shared_text import components_of_groups
from psychocounsel.engine.feed import Collector, Feed
from psychocounsel.engine.schedule import learning_rate, step_seed
from psychocounsel.engine.step import NonFiniteBatch, Scores, Stepper, Tally, metrics_of
from psychocounsel.engine.telemetry.speed import Speed
from psychocounsel.errors import CONTINUE_LATER, UserError
from psychocounsel.metrics.intervals import FEWEST, ratio_intervals
from psychocounsel.metrics.limits import Exceeded, exceeded, set_limits
from psychocounsel.rundir.paths import RunDir
from psychocounsel.rundir.results import smaller_is_better
from psychocounsel.rundir.run import Run

# State of the loop: everything that `loop.json` keeps in addition to the models

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
    `empty`: steps that trained nothing because their round left no group to train on.
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
    empty: int = 0
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

    @property
    def has_learned(self) -> bool:
        """False until a step changed the main model, as in a critic's warm-up: its evaluation cannot be better."""
        return self.step > self.skipped + self.empty

    def note(self, evaluation: dict[str, float], metric: str, mode: str, eligible: bool = True) -> bool:
        """Record an evaluation; return True if it is `eligible` and the best after step 0 by `metric` (`mode` min, max or auto).

        An evaluation before the main model has learned is never the best, nor one whose metric is NaN or missing although the
        evaluation before training had it, such as a judge's score that no reply got.

        Raises:
            UserError: if neither evaluation has such a metric.
        """
        if metric not in evaluation and metric not in self.before:
            figure, _, end = metric.rpartition("_")
            if end in ("low", "high") and figure in evaluation:
                raise UserError(
                    f"checkpoint.metric={metric}: too few held-out prompts for an interval; use checkpoint.metric={figure}, or "
                    "more held-out prompts (eval.limit, data.dev_fraction)"
                )
            raise UserError(f"checkpoint.metric={metric}: the evaluation has only {', '.join(sorted(evaluation))}")
        self.last = evaluation
        if self.step == 0:
            self.before = evaluation
            return False
        # A run killed between export and checkpoint repeats the steps up to the exported one, which ended a wait anew.
        waits = self.step > self.best.get("step", 0) and self.has_learned
        self.unimproved = self.unimproved + 1 if waits else 0
        value = evaluation.get(metric, np.nan)
        if not (eligible and self.has_learned) or np.isnan(value):
            return False
        best = self.best.get(metric, np.nan)  # earlier versions kept a NaN as the best
        smaller = smaller_is_better(metric, mode)
        if not np.isnan(best) and not (value < best if smaller else value > best):
            return False
        self.best, self.unimproved = {"step": self.step, **evaluation}, 0
        return True

    def out_of_patience(self, checkpoint: DictConfig) -> str:
        """Return the reason to end early if the last `checkpoint.patience` evaluations brought no improvement; otherwise ""."""
        if checkpoint.patience is None or self.unimproved < checkpoint.patience:
            return ""
        best = self.best.get("step", 0)
        return f"{OUT_OF_PATIENCE}={checkpoint.patience}: {checkpoint.metric} has not improved since step {best}"


# The optimizer step


class OptimizerStep:
    """Takes the optimizer steps of a run of `feed.steps` steps. All ranks call it together."""

    def __init__(self, run: Run, stepper: Stepper, collector: Collector, feed: Feed, speed: Speed) -> None:
        self.run, self.stepper, self.collector, self.feed, self.speed = run, stepper, collector, feed, speed
        self.algorithm, self.engines, self.main = stepper.algorithm, stepper.engines, stepper.algorithm.needs.main

    def __call__(self, state: LoopState) -> None:
        """Take the step after `state.step`, and put its metrics into `state.line`.

        Without groups, or if no engine gets gradients, the step is counted but nothing is trained.

        Raises:
            NonFiniteBatch: on every rank, for a NaN or infinite loss or gradient.
        """
        started, self.stepper.data_seconds = time.perf_counter(), 0.0
        groups = self.feed.groups(state.step)
        line = {"lr": learning_rate(self.algorithm, state.step, self.feed.steps)}
        of_round = self.feed.metrics(state.step)
        state.enter(self.collector.round)
        self.collector.peaks = state.peaks
        idle = {name for name in self.engines if not self.algorithm.gets_gradients(name, self.collector)}
        if groups and len(idle) < len(self.engines):
            groups = self.collector.batch_groups(groups)
            metrics, rested = self._learn(groups, state, line["lr"], idle)
            seconds = time.perf_counter() - started
            speed = self.speed.of(groups, seconds) | {"data_seconds": self.stepper.data_seconds}
            line = {"loss": metrics.pop("loss"), **line, **speed, **metrics}
        else:
            line["groups"], rested = 0, self.main in idle
            line["step_seconds"] = time.perf_counter() - started  # includes the time of writing a round's replies
        state.advance()
        state.skipped += rested and bool(groups)
        state.empty += not groups
        if not groups and state.empty == 1:
            self.run.say(
                f"step {state.step}: trains nothing, because its round left no group to train on; the rollout/ figures of its "
                "line in metrics.jsonl may say why"
            )
        skipped = {"skipped_steps": state.skipped} if state.skipped else {}
        state.line = {"step": state.step, "attempt": self.run.attempt, **line, **of_round, **skipped}

    def _learn(
        self, groups: list[Group], state: LoopState, lr: float, idle: Collection[str]
    ) -> tuple[dict[str, float], bool]:
        """Update the weights of engines not in `idle`; return metrics, and True if the main model's weights did not change."""
        torch.manual_seed(step_seed(self.run.config.seed, state.step, self.stepper.world.rank))
        for name, engine in self.engines.items():
            engine.train(name not in idle)
        metrics = metrics_of(self.stepper.accumulate(groups, True, idle)[0])
        state.see(metrics)
        norms, rested = {}, True
        for name, engine in self.engines.items():
            if name not in idle:
                moves = self.algorithm.moves_weights(name, self.collector)
                norms[name] = engine.step(lr * self.algorithm.lr_factor(name) if moves else 0.0)
                rested = rested and not (moves and name == self.main)
        if not all(np.isfinite(norm) for norm in norms.values()):
            raise NonFiniteBatch(f"the gradient norms are {norms}", groups if self.run.is_main else [])
        self.stepper.untrained = False
        return metrics | ({"grad_norm": norms[self.main]} if self.main in norms else {}), rested


# Evaluation on held-out data, and the limits of `guard`


@dataclass
class HeldOutEvaluation:
    """The metrics of an evaluation by name, and the limits of `guard` that it exceeds."""

    metrics: dict[str, float] = field(default_factory=dict)
    exceeded: list[Exceeded] = field(default_factory=list)


class Evaluator:
    """Evaluates the model on held-out data.

    `tally` runs a global batch without training on it; `alive` is called on all ranks before each batch.
    """

    def __init__(
        self,
        run: Run,
        data: Dataset,
        feed: Feed,
        collector: Collector,
        tally: Callable[[list[Group]], tuple[Tally, Scores]],
        alive: Callable[[], None],
    ) -> None:
        self.run, self.data, self.feed, self.collector = run, data, feed, collector
        self.tally, self.alive = tally, alive

    def __call__(self, state: LoopState) -> HeldOutEvaluation:
        """Return the evaluation of the model after `state.step` steps; empty without held-out data."""
        if not self.data.held_out:
            return HeldOutEvaluation()
        for engine in self.collector.stepper.engines.values():
            engine.train(False)
        metrics = (self._rows() if self.feed.holds_rows else {}) | self.feed.evaluate(state.step)
        if not state.step:  # `guard` limits the change by training, so it does not apply before the first step
            return HeldOutEvaluation(metrics)
        over = exceeded(metrics, state.before, self.run.config.guard)
        names = {figure.name for figure in over}
        marks = {f"guard/{name}": float(name in names) for name in set_limits(self.run.config.guard)}
        for figure in over:
            self.run.say(f"guard: after step {state.step} {figure}")
        return HeldOutEvaluation(metrics | marks, over)

    def _rows(self) -> dict[str, float]:
        """Return the loss and the algorithm's metrics over the held-out rows."""
        size, held_out = self.run.config.global_batch_size, self.data.held_out
        algorithm = self.collector.algorithm
        tally: Tally = {}
        scores: Scores = []
        evaluated: list[Group] = []
        for start in range(0, len(held_out), size):
            self.alive()
            groups = self.collector.batch_groups(held_out[start : start + size])
            part, batch_scores = self.tally(groups)
            evaluated, scores = evaluated + groups, scores + batch_scores
            tally = {name: tally[name] + term if name in tally else term for name, term in part.items()}
        metrics = metrics_of(tally) | intervals_of(tally, evaluated)
        metrics |= algorithm.evaluation(held_out, scores) if scores else {}
        return {f"eval/{name.removeprefix('rewards/')}": value for name, value in metrics.items()}


def intervals_of(tally: Tally, groups: Sequence[Group]) -> dict[str, float]:
    """Return the 95 % interval of each metric of `tally` whose summands are known, as `<name>_low` and `<name>_high`.

    Sets of groups that share a prompt or a reply are the clusters. A single set gives no intervals. With fewer
    than `FEWEST` sets, only shares (accuracies) get an interval.
    """
    clusters = components_of_groups(groups)
    known = {name: term for name, term in tally.items() if len(term.by_group) == len(groups)}
    weighted = [name for name, term in tally.items() if term.weight]
    count = len({*clusters.tolist()})
    if not known or count < 2:
        return {}
    sums, counts = np.array([term.by_group for term in known.values()], np.float64).transpose(2, 1, 0)
    shares = np.array([name.endswith("accuracy") for name in known])
    weights = np.array([term.weight for term in known.values()])
    rows = ratio_intervals(sums, counts, clusters, weights, shares)
    ends = dict(zip([*known, "loss"], rows.tolist(), strict=True))
    left_out = weighted if len(weighted) == 1 else []  # as in `metrics_of`: the only term is called "loss"
    left_out = [*left_out, *([] if {*weighted} <= known.keys() else ["loss"])]
    if count < FEWEST:
        left_out += [name for name, share in zip([*known, "loss"], [*shares, False], strict=True) if not share]
    return {
        f"{name}_{end}": value
        for name, pair in ends.items()
        if name not in left_out
        for end, value in zip(("low", "high"), pair, strict=True)
    }


# Early ends: stop requests, and a watchdog for hangs


class StopRequest:
    """A request to stop: SIGTERM, SIGINT or SIGUSR1 to this process, or the file `RUN/stop`. The loop checks between steps.

    Only rank 0 looks for the file, because a shared file system may still show it to other nodes after rank 0 removed
    it.
    """

    def __init__(self, run_dir: Path, is_main: bool) -> None:
        self.file, self.is_main, self.signalled = RunDir(run_dir).stop, is_main, False
        if is_main:
            self.file.unlink(missing_ok=True)  # it was meant for the previous attempt
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        self.signalled = True

    def requested(self) -> bool:
        return self.signalled or (self.is_main and self.file.exists())


class Watchdog:
    """Ends the process with code 75 if `alive()` was not called for `minutes`; before that, it writes all stacks to `log`."""

    def __init__(self, minutes: float, log: IO[str]) -> None:
        self.seconds, self.log = minutes * 60, log
        self.last = time.monotonic()
        self.done = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def alive(self) -> None:
        self.last = time.monotonic()

    def stop(self) -> None:
        self.done.set()

    def _watch(self) -> None:
        while not self.done.wait(min(5.0, self.seconds / 4)):
            silent = time.monotonic() - self.last
            if silent > self.seconds:
                message = f"no progress for {silent / 60:.1f} minutes (engine.watchdog_minutes={self.seconds / 60:g}): giving up"
                print(message, file=self.log, flush=True)
                faulthandler.dump_traceback(self.log)
                self.log.flush()
                print(f"error: {message}; stacks are in {self.log.name}", file=sys.stderr, flush=True)
                os._exit(CONTINUE_LATER)
