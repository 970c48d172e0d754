"""Held-out data: the figures of an evaluation, and whether it keeps the limits of `guard`."""

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
from psychocounsel.metrics.stats import ratio_intervals
from psychocounsel.rundir.run import Run


@dataclass
class HeldOutEvaluation:
    """Its metrics by name, and the limits of `guard` that it does not keep."""

    metrics: dict[str, float] = field(default_factory=dict)
    exceeded: list[Exceeded] = field(default_factory=list)


class Evaluator:
    """`tally` runs a global batch without learning from it; `alive` is called on all ranks between batches."""

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
        """Evaluate the model as it is after `state.step` steps; without held-out data there is nothing to say."""
        if not self.data.held_out:
            return HeldOutEvaluation()
        for engine in self.collector.stepper.engines.values():
            engine.train(False)
        metrics = (self._rows() if self.feed.holds_rows else {}) | self.feed.evaluate(state.step)
        if not state.step:  # what the policy is to begin with, no limit can change
            return HeldOutEvaluation(metrics)
        over = exceeded(metrics, state.before, self.run.config.guard)
        names = {each.name for each in over}
        marks = {f"guard/{name}": float(name in names) for name in set_limits(self.run.config.guard)}
        for each in over:
            self.run.say(f"guard: after step {state.step} {each}")
        return HeldOutEvaluation(metrics | marks, over)

    def _rows(self) -> dict[str, float]:
        """The loss and its metrics over the held-out rows."""
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
    """`<name>_low` and `<name>_high` of each metric of `tally` whose summands are known: its 95 % interval.

    The bootstrap draws whole sets of groups that share a prompt or a reply. One set alone has no spread, and no interval.
    """
    clusters = components_of_groups(groups)
    known = {name: term for name, term in tally.items() if len(term.by_group) == len(groups)}
    weighted = [name for name, term in tally.items() if term.weight]
    if not known or len({*clusters.tolist()}) < 2:
        return {}
    sums, counts = np.array([term.by_group for term in known.values()], np.float64).transpose(2, 1, 0)
    shares = np.array([name.endswith("accuracy") for name in known])
    weights = np.array([term.weight for term in known.values()])
    rows = ratio_intervals(sums, counts, clusters, weights, shares)
    ends = dict(zip([*known, "loss"], rows.tolist(), strict=True))
    left_out = weighted if len(weighted) == 1 else []  # the loss of one term does not name it twice
    left_out = [*left_out, *([] if {*weighted} <= known.keys() else ["loss"])]
    return {
        f"{name}_{end}": value
        for name, pair in ends.items()
        if name not in left_out
        for end, value in zip(("low", "high"), pair, strict=True)
    }
