"""Evaluation on held-out data: its metrics, and the limits of `guard` that it exceeds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from psychocounsel.data.dataset import Dataset
from psychocounsel.data.group import Group
from psychocounsel.data.selection.shared_tokens import components_of_groups
from psychocounsel.engine.collector import Collector
from psychocounsel.engine.feed import Feed
from psychocounsel.engine.loop_state import LoopState
from psychocounsel.engine.step import Scores, Tally, metrics_of
from psychocounsel.metrics.limits import Exceeded, exceeded, set_limits
from psychocounsel.metrics.stats import FEWEST, ratio_intervals
from psychocounsel.rundir.run import Run


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
        names = {each.name for each in over}
        marks = {f"guard/{name}": float(name in names) for name in set_limits(self.run.config.guard)}
        for each in over:
            self.run.say(f"guard: after step {state.step} {each}")
        return HeldOutEvaluation(metrics | marks, over)

    def _rows(self) -> dict[str, float]:
        """Return the loss and the algorithm's metrics over the held-out rows."""
        size, held_out = self.run.config.global_batch_size, self.data.held_out
        algorithm = self.collector.algorithm
        tally: Tally = {}
        scores: Scores = []
        for start in range(0, len(held_out), size):
            self.alive()
            part, some = self.tally(algorithm.batch_groups(held_out[start : start + size], self.collector))
            scores += some
            tally = {name: tally[name] + term if name in tally else term for name, term in part.items()}
        metrics = metrics_of(tally) | intervals_of(tally, held_out)
        metrics |= algorithm.evaluation(held_out, scores) if scores else {}
        return {f"eval/{name.removeprefix('rewards/')}": value for name, value in metrics.items()}


def intervals_of(tally: Tally, groups: Sequence[Group]) -> dict[str, float]:
    """Return the 95 % interval of each metric of `tally` whose summands are known, as `<name>_low` and `<name>_high`.

    The bootstrap draws whole sets of groups that share a prompt or a reply. A single set gives no intervals. With fewer
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
