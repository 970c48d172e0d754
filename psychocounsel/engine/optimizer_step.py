"""One optimizer step: takes the groups of a global batch, updates the weights and records the step's metrics."""

import time
from collections.abc import Collection

import numpy as np
import torch

from psychocounsel.data.group import Group
from psychocounsel.engine.collector import Collector
from psychocounsel.engine.feed import Feed
from psychocounsel.engine.loop_state import LoopState
from psychocounsel.engine.schedule import learning_rate, step_seed
from psychocounsel.engine.step import NonFiniteBatch, Stepper, metrics_of
from psychocounsel.engine.telemetry.speed import Speed
from psychocounsel.rundir.run import Run


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
            groups = self.algorithm.batch_groups(groups, self.collector)
            found, rested = self._learn(groups, state, line["lr"], idle)
            seconds = time.perf_counter() - started
            speed = self.speed.of(groups, seconds) | {"data_seconds": self.stepper.data_seconds}
            line = {"loss": found.pop("loss"), **line, **speed, **found}
        else:
            line["groups"], rested = 0, self.main in idle
            line["step_seconds"] = time.perf_counter() - started  # includes the time of writing a round's replies
        state.advance()
        state.skipped += rested
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
