"""Forward, loss and backward of one global batch, the same for every split into micro-batches and ranks."""

import itertools
import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch

from psychocounsel.algo.base import Algorithm, Outputs, Term, checked_terms
from psychocounsel.data.batch import Batch, build_batch, one_ahead
from psychocounsel.data.group import Group, reference_of
from psychocounsel.data.packing import MicroBatch, global_counts, plan_step
from psychocounsel.distributed.world import World
from psychocounsel.engine.zero import Engine
from psychocounsel.model.cpu import Queues
from psychocounsel.model.packed import PackedModel


class NonFiniteBatch(Exception):
    """The loss or gradient of a batch is not finite.

    `groups`: the rows of this rank's micro-batches without a finite loss. For a gradient, the whole batch on rank 0.
    """

    def __init__(self, reason: str, groups: Sequence[Group]) -> None:
        super().__init__(reason)
        self.groups = groups


@dataclass
class Tallied:
    """A term's sum over the groups seen so far, the count of its unit in them, and its weight in the loss.

    In an evaluation `by_group` holds the sum and the count of each group, for terms that give their summands (`Term.summands`).
    """

    sum: float
    count: int
    weight: float
    by_group: list[tuple[float, int]] = field(default_factory=list)

    def __add__(self, other: "Tallied") -> "Tallied":
        return Tallied(self.sum + other.sum, self.count + other.count, self.weight, [*self.by_group, *other.by_group])


@dataclass
class _Part:
    """Result of one micro-batch: name, unit and weight of each term, and their sums float64[terms].

    In an evaluation, `scores` and `by_group` (the sums of terms with `Term.summands`) are keyed by group number.
    """

    groups: list[Group]
    terms: list[tuple[str, str, float]]
    sums: torch.Tensor
    scores: dict[int, np.ndarray]
    by_group: dict[int, dict[str, float]]


T = TypeVar("T")
Tally = dict[str, Tallied]
Scores = list[np.ndarray]


def metrics_of(tally: Tally) -> dict[str, float]:
    """Return each term divided by its count, and "loss", their weighted sum.

    If only one term has a weight, it is listed only as "loss".
    """
    metrics = {name: term.sum / max(1, term.count) for name, term in tally.items()}
    weighted = [name for name, term in tally.items() if term.weight]
    metrics["loss"] = sum(tally[name].weight * metrics[name] for name in weighted)
    if len(weighted) == 1:
        del metrics[weighted[0]]
    return metrics


class Stepper:
    """Runs global batches through the engines and an algorithm's loss, micro-batch by micro-batch.

    The micro-batches of a rank stand in a queue. With small models on CPU, a rank has two queues, which run at once.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        engines: dict[str, Engine],
        world: World,
        budget: int = 0,
        batch: int = 0,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        self.algorithm, self.engines, self.world = algorithm, engines, world
        self.main = engines[algorithm.needs.main]
        self.budget = budget  # tokens of a micro-batch; 0 until it is known
        self.batch = batch  # groups that `per_token` splits into micro-batches together; 0: all
        self.alive = alive  # called before each of these batches, because a large round takes long
        self.queues = Queues(self.main.at_once)
        self.on_gpu = world.device.type == "cuda"
        self.ahead = self.on_gpu  # on CPU, building batches would take cores from computing
        self.data_seconds = 0.0  # time spent so far waiting for micro-batches
        self.untrained = False  # the policy still equals the reference, so the groups may hold its log-probabilities

    def plan(self, lengths: Sequence[int], budget: int | None = None) -> list[list[MicroBatch]]:
        """Return the queues of micro-batches of all ranks, for a global batch of groups of `lengths` tokens.

        `budget`: tokens of a micro-batch (default: the run's).
        """
        at_once = self.queues.count  # micro-batches in memory at the same time, which share the budget of one
        tokens = (self.budget if budget is None else budget) // at_once
        return plan_step(lengths, at_once * self.world.size, max(1, tokens), self.main.module.attention.one_row)

    def micro_batches(self, groups: Sequence[Group], queue: int = 0) -> Iterator[tuple[list[int], Batch]]:
        """Yield the group numbers and the Batch of each micro-batch in a queue of this rank.

        A micro-batch without groups gives a filler of weight 0, because all ranks must run the models equally often.
        """
        started, built = time.perf_counter(), self._built(groups, queue)
        for members, batch in one_ahead(built, self._use_device) if self.ahead else built:
            batch = batch.to(self.world.device)
            if queue == 0:
                self.data_seconds += time.perf_counter() - started
            yield members, batch
            started = time.perf_counter()

    def _built(self, groups: Sequence[Group], queue: int) -> Iterator[tuple[list[int], Batch]]:
        """Yield the micro-batches in host memory."""
        multiple = self.main.module.attention.multiple
        filler = [[groups[0].shortened()]]
        plan = self.plan([group.tokens for group in groups])
        for micro in self.queues.of_rank(plan, self.world.rank)[queue]:
            rows = [[groups[index] for index in row] for row in micro]
            batch = build_batch(rows or filler, float(bool(rows)), multiple)
            yield [index for row in micro for index in row], batch.pinned() if self.on_gpu else batch

    def _use_device(self) -> None:
        """Select this rank's GPU in a new thread, which would otherwise pin memory through the first GPU."""
        if self.on_gpu:
            torch.cuda.set_device(self.world.device)

    def accumulate(self, groups: Sequence[Group], train: bool, idle: Collection[str] = ()) -> tuple[Tally, Scores]:
        """Return the sums and counts of a global batch's terms, and its scores if not `train`.

        With `train`, the gradients remain in the engines, except those in `idle`, which get none. The scores are
        float32[completions] per group on every rank, or [] for a model without scores.

        Raises:
            NonFiniteBatch: on every rank, if the loss of any rank is NaN or infinite.
            UserError: as in `checked_terms`.
        """
        counts = global_counts([group.trained_lengths for group in groups])
        known = self.untrained and not train and reference_of(groups) is not None and not self.algorithm.reads_entropy

        def work(members: list[int], batch: Batch) -> _Part:
            outputs = Outputs(logprobs=batch.ref_logprobs) if known else self._forward(batch, idle)
            terms = checked_terms(self.algorithm, self.algorithm.loss(outputs, batch), counts, self.engines)
            if train:
                self._backward(terms, counts, batch.weight, idle)
            part = self._part(members, batch, terms, None if train else outputs.scores)
            if not train:
                # Not strict, because a filler has a group but no members.
                part.by_group = dict(zip(members, _sums_by_group(terms, batch), strict=False))
            return part

        with torch.set_grad_enabled(train):
            parts = self._run(groups, work)
        totals = self.world.sum(torch.stack([part.sums for part in parts]).sum(0).tolist())
        tally = {
            name: Tallied(total, counts[unit], weight)
            for (name, unit, weight), total in zip(parts[0].terms, totals, strict=True)
        }
        if not math.isfinite(loss := metrics_of(tally)["loss"]):
            bad = [group for part in parts if not part.sums.isfinite().all() for group in part.groups]
            raise NonFiniteBatch(f"the loss is {loss}", bad)
        if train:
            return tally, []
        self._note_groups(tally, parts, groups)
        scores = {index: row for part in parts for index, row in part.scores.items()}
        return tally, self._gather(scores, len(groups))

    def _note_groups(self, tally: Tally, parts: Sequence[_Part], groups: Sequence[Group]) -> None:
        """Store in each term of `tally` the sum and the count of each of `groups`."""
        sums = self._gather({index: row for part in parts for index, row in part.by_group.items()}, len(groups))
        counts = [global_counts([group.trained_lengths]) for group in groups]
        units = {name: unit for name, unit, _ in parts[0].terms}
        for name in sums[0] if sums else ():
            tally[name].by_group = [(row[name], count[units[name]]) for row, count in zip(sums, counts, strict=True)]

    def rehearse(self, batches: Sequence[Batch]) -> None:
        """Run one batch per queue forward, backward and through all optimizers, to measure memory; no weights change."""
        for engine in self.engines.values():
            engine.train(True)
        self.queues.in_turn(self._rehearse, batches)
        for engine in self.engines.values():
            engine.rehearse_step()

    def _rehearse(self, batch: Batch) -> None:
        results = self._forward(batch, ())
        own = {"critic": [results.values]} if "critic" in self.engines else {}
        mine = [results.scores, results.logprobs, results.entropy, *([] if own else [results.values])]
        for name, outputs in {self.algorithm.needs.main: mine, **own}.items():
            loss = torch.stack([output.sum() for output in outputs if output is not None]).sum()
            self.engines[name].backward(loss * 0.0)

    def _run(self, groups: Sequence[Group], work: Callable[[list[int], Batch], T]) -> list[T]:
        """Return the result of `work` for each micro-batch of this rank; it gets the group numbers and the Batch."""

        def run_queue(number: int) -> list[T]:
            return [work(members, batch) for members, batch in self.micro_batches(groups, number)]

        return list(itertools.chain.from_iterable(self.queues.run(run_queue)))

    def _part(self, members: list[int], batch: Batch, terms: dict[str, Term], scores: torch.Tensor | None) -> _Part:
        names = sorted(terms)
        sums = torch.stack([terms[name].sum.detach().double() for name in names]) * batch.weight
        rows = [] if scores is None else map(np.concatenate, self.main.module.pieces(scores, batch))
        kinds = [(name, terms[name].unit, terms[name].weight) for name in names]
        return _Part(batch.groups, kinds, sums, dict(zip(members, rows, strict=False)), {})

    def _forward(self, batch: Batch, idle: Collection[str]) -> Outputs:
        is_policy = self.algorithm.needs.main == "policy"
        wanted = {"entropy": self.algorithm.reads_entropy, "values": self.algorithm.critic_kind == "shared"}
        extra = {name: True for name, is_wanted in wanted.items() if is_wanted}
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.algorithm.needs.main not in idle):
            output = self.main(batch, **extra)
        if not is_policy:
            return Outputs(scores=output)
        outputs = Outputs(**dict(zip(("logprobs", *extra), output if extra else (output,), strict=True)))
        if "critic" in self.engines:
            outputs.values = self.engines["critic"](batch)
        return outputs

    def _gather(self, mine: dict[int, Any], count: int) -> list[Any]:
        """Return the values of all ranks for each of `count` groups; [] if no rank has any."""
        everyone = {index: value for part in self.world.gather(mine) for index, value in part.items()}
        return [everyone[index] for index in range(count)] if everyone else []

    def _backward(self, terms: dict[str, Term], counts: dict[str, int], weight: float, idle: Collection[str]) -> None:
        for name, engine in self.engines.items():
            if name in idle:
                continue
            parts = [
                term.sum * (term.weight * weight / max(1, counts[term.unit]))
                for term in terms.values()
                if term.engine == name and term.weight
            ]
            engine.backward(torch.stack(parts).sum())

    @torch.no_grad()
    def per_token(
        self,
        groups: Sequence[Group],
        model: PackedModel | Engine | None = None,
        **outputs: bool,
    ) -> list[list[np.ndarray]]:
        """Return `model`'s output for each trained token, an array for each completion of each group, on every rank.

        `model`: default is the policy's engine, whose output is log-probabilities. `outputs`: keyword arguments of the
        policy's `forward`, for output other than log-probabilities.
        """

        def work(members: list[int], batch: Batch) -> dict[int, list[np.ndarray]]:
            pieces = batch.split_completions((model or self.main)(batch, **outputs))
            return dict(zip(members, pieces, strict=False))  # a filler has pieces, but no group numbers

        values: list[list[np.ndarray]] = []
        size = self.batch or len(groups) or 1
        for start in range(0, len(groups), size):
            self.alive()
            chunk = groups[start : start + size]
            mine = {index: pieces for part in self._run(chunk, work) for index, pieces in part.items()}
            values += self._gather(mine, len(chunk))
        return values


def _sums_by_group(terms: dict[str, Term], batch: Batch) -> Iterator[dict[str, float]]:
    """Yield the sums of the terms that give their summands, for each group of the batch."""
    known = {
        name: term.summands.detach().double().cpu().numpy() for name, term in terms.items() if term.summands is not None
    }
    ends = np.cumsum([0, *(len(group.completions) for group in batch.groups)])
    for number in range(len(batch.groups)):
        rows = {len(batch.groups): slice(number, number + 1), int(ends[-1]): slice(ends[number], ends[number + 1])}
        yield {name: float(values[rows[len(values)]].sum()) for name, values in known.items() if len(values) in rows}
