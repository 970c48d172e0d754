"""Base class of all algorithms, with the types of their requirements, loss terms and model outputs.

An algorithm is a dataclass of hyperparameters. It declares the models and data that it needs (`Needs`), prepares groups
for training (`collect`) and computes a loss (`loss`).

Files in this folder import torch inside functions only, because the dataclass is also the schema of the algorithm's
YAML, which is checked on login nodes without torch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from psychocounsel.errors import UserError
from psychocounsel.settings.schema import option
from psychocounsel.settings.targets import GroupSettings, kind_of, place_of, wrong_return

if TYPE_CHECKING:
    import numpy as np
    import torch
    from omegaconf import DictConfig

    from psychocounsel.data.batch import Batch
    from psychocounsel.data.group import Group


@dataclass(frozen=True)
class Needs:
    """Models, data and features that an algorithm needs; a run that cannot provide them is rejected before any job starts.

    `data`: what each Group must hold: "pairs" (chosen reply first), "completions" (one or more), "labelled"
    (completions with a `label`) or "prompts" (no completions yet).

    `models`: "policy" is trained. "critic" is trained too; terms of its loss carry `engine="critic"`, and
    `Algorithm.critic_kind` says where it lives. "reference" is frozen (see `Algorithm.reference_kind`). "reward_model"
    is trained instead of the policy.

    `rollouts`: the policy writes replies during training (`Algorithm.round` gives their number). `reward`: a reward
    model scores these replies.

    `weights`: every term of the loss multiplies a pair's share by `Batch.pair_weights`, so `data.balance` can be used.
    `soft_labels`: the loss reads `Batch.pair_probabilities`, so `data.soft_labels` can be used.
    """

    models: frozenset[str] = frozenset({"policy"})
    data: str = "completions"
    rollouts: bool = False
    reward: bool = False
    weights: bool = False
    soft_labels: bool = False

    @property
    def main(self) -> str:
        """Name of the trained model that the run exports: "reward_model" or "policy"."""
        return "reward_model" if "reward_model" in self.models else "policy"


@dataclass(frozen=True)
class RoundPlan:
    """Size of a round of rollouts.

    The policy writes `samples` replies to each of `prompts` prompts (None: one step's prompts). It then trains `passes`
    times over the groups that the algorithm collects from these replies. Each collected group has `trained` replies
    (None: all of them). A prompt needs `fewest` replies with a reward; it is left out if a judge rated fewer. With
    `resample`, groups of no use (`Algorithm.is_useful`) are left out, and the policy replies to as many new prompts
    instead, at most `resample` times.
    """

    samples: int = 1
    prompts: int | None = None
    passes: int = 1
    trained: int | None = None
    fewest: int = 1
    resample: int = 0


@dataclass
class Term:
    """Summand of the loss, or a metric (`weight=0`).

    `sum` is a scalar tensor: the sum over this micro-batch. The engine divides it by the number of `unit`s in the
    global batch ("pairs", "groups", "completions", "tokens" or "chosen_tokens") and adds `weight` times the result to
    the loss of `engine`. The gradient is therefore the same for any split of the batch into ranks and micro-batches.

    `summands`: what `sum` adds up, in the batch's order, float[P] of pairs or float[C] of completions; None if they are
    not known. The intervals of held-out figures are computed from them.
    """

    sum: torch.Tensor
    unit: str
    weight: float = 1.0
    engine: str = "policy"
    summands: torch.Tensor | None = None


@dataclass
class Outputs:
    """Model outputs for a Batch of N trained tokens in C completions; None if no engine computes them.

    `logprobs`: float32[N], log-probabilities of `Batch.target_ids` under the policy.
    `entropy`: float32[N], entropy of the policy's distribution at each token (nats); only with
    `Algorithm.reads_entropy`.
    `values`: float32[N], values of the critic, or of the policy's value head if the critic shares the policy's trunk.
    `scores`: float32[C], scores of the reward model, or float32[C, S] with several `Algorithm.score_names`.
    """

    logprobs: torch.Tensor | None = None
    entropy: torch.Tensor | None = None
    values: torch.Tensor | None = None
    scores: torch.Tensor | None = None


class Context(Protocol):
    """Services of the engine that `collect` and `batch_groups` may use.

    `max_tokens`: largest number of tokens in a reply. `turns`: largest number of the policy's turns in a completion, 1 without
    sessions. `round`: number of the round, from 0. `notes`: values noted in this round. `peaks`: highest value so far of each
    metric in this round's steps. All of them are the same on every rank, and the same after a resume.
    """

    rng: np.random.Generator
    max_tokens: int
    turns: int
    round: int
    notes: dict[str, float]
    peaks: dict[str, float]

    def earlier(self, name: str) -> float | None:
        """Return the value noted by `name` in the previous round; None in the first round."""

    def count(self, name: str, number: float) -> None:
        """Add `number` to a count of this round, logged per prompt as the metric `rollout/<name>`."""

    def note(self, name: str, value: float) -> None:
        """Log `value` as the metric `rollout/<name>` of this round."""

    def values(self, groups: list[Group]) -> list[list[np.ndarray]]:
        """Return the critic's present values, float32[trained tokens] for each completion of each group."""

    def logprobs(self, model: str, groups: list[Group]) -> list[list[np.ndarray]]:
        """Return log-probabilities under "policy" or "reference", float32[trained tokens] for each completion of each group."""


@dataclass
class Algorithm(GroupSettings):
    """Base of all algorithms. Its fields configure the optimizer; a subclass adds its own, and must define `loss`.

    `algo.lr` rises linearly over `warmup` (a fraction of all steps) and then follows `schedule` to `min_lr_ratio * lr`.
    """

    config_group: ClassVar[str] = "algo"

    lr: float = option(1e-6, above=0)
    schedule: str = option("cosine", choices=("cosine", "linear", "constant"))
    warmup: float = option(0.1, at_least=0, below=1)
    min_lr_ratio: float = option(0.0, at_least=0, at_most=1)
    weight_decay: float = option(0.0, at_least=0)
    adam_beta1: float = option(0.9, at_least=0, below=1)
    adam_beta2: float = option(0.999, at_least=0, below=1)
    adam_eps: float = option(1e-8, above=0)
    max_grad_norm: float | None = option(1.0, above=0)

    needs: ClassVar[Needs] = Needs()

    @property
    def round(self) -> RoundPlan | None:
        """Size of a round of rollouts; None without rollouts. `algo.online.Online` builds it from its fields."""
        return None

    @property
    def reference_kind(self) -> Literal["none", "initial", "round", "model"]:
        """Kind of reference: "none", the policy before training ("initial") or at the start of the round ("round"), or "model".

        The last is another model, which the section `algo.teacher` names by its `path`.
        """
        return "initial" if "reference" in self.needs.models else "none"

    @property
    def critic_kind(self) -> Literal["none", "own", "shared"]:
        """Kind of critic: a model of its own ("own"), a value head on the policy's trunk ("shared"), or "none".

        With "shared" the policy computes `Outputs.values`, and terms of the critic's loss carry `engine="policy"`.
        """
        return "own" if "critic" in self.needs.models else "none"

    @property
    def critic_start(self) -> Literal["reward", "policy"]:
        """Initial weights of an own critic: those of the reward model, or of the policy with a new head."""
        return "policy"

    @property
    def score_names(self) -> tuple[str, ...]:
        """Names of the scores that the reward model gives to a reply; empty for a single score."""
        return ()

    @property
    def unrated(self) -> tuple[str, ...]:
        """Names among `score_names` that no training row teaches, once `check` has seen the rows: their scores stay constant."""
        return ()

    @property
    def reads_entropy(self) -> bool:
        """True if `loss` reads `Outputs.entropy`, which takes extra time to compute."""
        return False

    @property
    def tolerates_stale_rollouts(self) -> bool:
        """True if the loss is still correct for replies written with the weights of the previous round."""
        return True

    def check_settings(self, config: DictConfig) -> None:
        """Reject settings that cannot work together. It runs before any job starts, so it must not import torch.

        Raises:
            UserError: naming the keys and what to type instead.
        """

    def unused(self, config: DictConfig) -> dict[str, str]:
        """Return fields that have no effect with these settings, each with the reason. It must not import torch.

        Setting such a field is an error.
        """
        if self.schedule == "constant":
            return {"min_lr_ratio": "algo.schedule=constant keeps the learning rate as it is"}
        return {}

    def check_rounds(self, rounds: int) -> None:
        """Reject a run of `rounds` rounds of rollouts. Called before the first round, once their number is known.

        Raises:
            UserError: naming the keys and what to type instead.
        """

    def lr_factor(self, engine: str) -> float:
        """Return an engine's learning rate as a multiple of the policy's. A value head uses the factor of "critic"."""
        return 1.0

    def gets_gradients(self, engine: str, ctx: Context) -> bool:
        """Return True if the next step computes gradients for `engine`. Called before the step.

        An engine without gradients keeps its weights and its optimizer state.
        """
        return True

    def moves_weights(self, engine: str, ctx: Context) -> bool:
        """Return True if the gradients of this step may change the weights of `engine`.

        Called only for engines with gradients, once the step's metrics are in `ctx.peaks`. If the answer is False, the
        gradients still enter the optimizer's averages, but the weights stay the same.
        """
        return True

    def is_useful(self, group: Group, ctx: Context) -> bool:
        """Return False for a group of scored replies that teaches nothing; only called with `RoundPlan.resample`."""
        return True

    def collect(self, groups: list[Group], ctx: Context) -> list[Group]:
        """Turn the round's groups into groups to train on; their number may change.

        Offline data is a single round. With `needs.rollouts` each group holds this round's replies and their rewards.
        """
        return groups

    def offline_groups(self, batch: int) -> int:
        """Return the number of groups in a global batch that are pairs of the dataset instead of this round's groups."""
        return 0

    def collect_reference(self, groups: list[Group], ctx: Context) -> list[Group]:
        """Fill `ref_logprobs` of every completion, if the algorithm has a reference."""
        if self.reference_kind == "none":
            return groups
        for group, logprobs in zip(groups, ctx.logprobs("reference", groups), strict=True):
            for completion, values in zip(group.completions, logprobs, strict=True):
                completion.ref_logprobs = values
        return groups

    def collect_offline(self, groups: list[Group], ctx: Context) -> list[Group]:
        """Prepare groups of the dataset, as `collect` does for rollouts, before the first step; their number stays the same."""
        return self.collect(groups, ctx)

    def check_tokenizer(self, tokenizer: Any) -> None:
        """Reject a tokenizer of the trained model that the algorithm cannot work with. Called before a model is loaded.

        Raises:
            UserError: saying why, and what to type instead.
        """

    def check(self, train: list[Group], held_out: list[Group]) -> None:
        """Reject data that the algorithm cannot train on. Called before a model is loaded, and by `prepare`.

        Raises:
            UserError: saying what is missing.
        """

    def batch_groups(self, groups: list[Group], ctx: Context) -> list[Group]:
        """Return the groups of a global batch for the loss, possibly changed by what the present policy computes for them."""
        return groups

    def evaluation(self, groups: list[Group], scores: list[np.ndarray]) -> dict[str, float]:
        """Return held-out metrics that are not sums, such as AUC.

        `scores`: for each of the held-out `groups` float32[completions], or float32[completions, S] of several scores.
        """
        return {}

    def figure_names(self) -> tuple[str, ...] | None:
        """Return the names, without prefixes, of the metrics on held-out data; None if they are not known.

        A subclass with its own `loss` or `evaluation` must list its own names, otherwise they are unknown. Not called
        for algorithms with rollouts.
        """
        return None

    @abstractmethod
    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Term]:
        """Return the loss terms and metrics of one micro-batch by name; the names in `TAKEN` belong to the engine.

        Two threads may call it at once, so it must not change `self`. `batch_groups`, which runs once per step, may.
        """


# What the methods of an algorithm, which a user may have written, returned

TAKEN = (  # metrics of a step that the engine logs itself
    *("attempt", "data_seconds", "grad_norm", "groups", "loss", "lr", "mfu", "peak_memory_gb", "skipped_steps"),
    *("step", "step_seconds", "tokens", "tokens_per_second"),
)


def checked_terms(
    algorithm: Algorithm, terms: Any, units: Collection[str], engines: Collection[str]
) -> dict[str, Term]:
    """Return `terms`, which `algorithm.loss` returned, after checking them against the run's units and engines.

    Raises:
        UserError: naming the class and its file.
    """
    if not isinstance(terms, dict):
        raise wrong_return(algorithm, "loss", terms, 'Terms by name: {"nll": Term(-outputs.logprobs.sum(), "tokens")}')
    for name, term in terms.items():
        where = f"{place_of(algorithm, 'loss')}: Term {name}"
        if not isinstance(term, Term):
            raise UserError(f"{where} is {kind_of(term)}; it must be a Term: Term(its sum, its unit)")
        if getattr(term.sum, "shape", None) != ():
            raise UserError(
                f"{where} has a {kind_of(term.sum)}; it must be a scalar tensor, the sum over the micro-batch"
            )
        if name in TAKEN:
            raise UserError(f"{where} has the name of a metric that is always logged; rename it")
        if term.unit not in units:
            raise UserError(f"{where} has the unknown unit {term.unit!r}; choose from {', '.join(units)}")
        if term.weight and term.engine not in engines:
            raise UserError(f"{where} belongs to engine {term.engine!r}, but this run trains {', '.join(engines)}")
    if lacking := set(engines) - {term.engine for term in terms.values() if term.weight}:
        raise UserError(f"{place_of(algorithm, 'loss')} returned no Term with a weight for engine {min(lacking)}")
    return terms


def checked_groups(algorithm: Algorithm, method: str, groups: Any, count: int | None = None) -> list[Group]:
    """Return `groups`, which `method` of `algorithm` returned; with `count` there must be that many.

    Raises:
        UserError: naming the class and its file.
    """
    from psychocounsel.data.group import Group

    if not isinstance(groups, list) or not all(isinstance(group, Group) for group in groups):
        raise wrong_return(algorithm, method, groups, "a list of Groups")
    if count is not None and len(groups) != count:
        raise wrong_return(algorithm, method, groups, f"as many Groups as it got, {count}")
    return groups
