"""What an algorithm is: a dataclass of hyperparameters, what it needs, what it collects, and its loss.

Files in this folder import without torch (it is imported inside `loss` and `collect`), because the dataclass is also the
schema of the algorithm's YAML, and that is checked on login nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from psychocounsel.settings.schema import option

if TYPE_CHECKING:
    import numpy as np
    import torch
    from omegaconf import DictConfig

    from psychocounsel.data.batch import Batch
    from psychocounsel.data.group import Group


@dataclass(frozen=True)
class Needs:
    """What an algorithm asks of the engine; what it cannot give is refused before any job starts.

    `data` is what a Group must hold: "pairs" (chosen first), "completions" (one or more), "labelled" (completions with
    a `label`) or "prompts" (none yet). `models` are engines: "policy" is trained, a "critic" too (its terms carry
    `engine="critic"`; `Algorithm.critic_kind` says where it lives), "reference" is frozen (`Algorithm.reference_kind`);
    "reward_model" is trained in the policy's place. `rollouts` are replies of the policy itself (`Algorithm.round` says
    how many), and `reward` is what a reward model gives them. `weights`: every term of the loss multiplies a pair's
    share by `Batch.pair_weights`, so that `data.balance` can be used. `soft_labels`: the loss reads
    `Batch.pair_probabilities`, so that `data.soft_labels` can be used.
    """

    models: frozenset[str] = frozenset({"policy"})
    data: str = "completions"
    rollouts: bool = False
    reward: bool = False
    weights: bool = False
    soft_labels: bool = False

    @property
    def main(self) -> str:
        """The trained model that the run is about: what it exports."""
        return "reward_model" if "reward_model" in self.models else "policy"


@dataclass(frozen=True)
class RoundPlan:
    """The size of a round of rollouts.

    The policy writes `samples` replies to each of `prompts` prompts (None: as many prompts as a step has), and then trains
    `passes` times over the groups that the algorithm collects from them, each with `trained` replies (None: with all).
    """

    samples: int = 1
    prompts: int | None = None
    passes: int = 1
    trained: int | None = None


@dataclass
class Term:
    """One summand of the loss, or a metric (`weight=0`).

    `sum` is a scalar tensor: the sum over this micro-batch. The engine divides it by the number of `unit`s in the global
    batch ("pairs", "groups", "completions", "tokens" or "chosen_tokens"), so that any split of the batch into ranks and
    micro-batches gives the same gradient, and adds `weight` times the result to the loss of `engine`. `each` holds the
    summands, float[P] of pairs or float[C] of completions in the batch's order: held-out figures get their intervals from them.
    """

    sum: torch.Tensor
    unit: str
    weight: float = 1.0
    engine: str = "policy"
    each: torch.Tensor | None = None


@dataclass
class Outputs:
    """What the models computed for a Batch of N completion tokens in C completions.

    `logprobs`, `entropy`, `values`: float32[N], aligned with `Batch.target_ids`; `scores`: float32[C]. None
    where no engine computes them: the policy gives `logprobs` and, with `Algorithm.reads_entropy`, the entropy (nats) of
    the distribution of each token; the critic gives `values`, or the policy if it shares its trunk with the critic; the
    reward model gives `scores`.
    """

    logprobs: torch.Tensor | None = None
    entropy: torch.Tensor | None = None
    values: torch.Tensor | None = None
    scores: torch.Tensor | None = None


class Context(Protocol):
    """What `collect` may use.

    `round` is the number of the round, from 0; `notes` what was noted in it; `peaks` the highest value that each metric
    had in its steps so far. All of it is the same on every rank, and in a run that was killed and goes on.
    """

    rng: np.random.Generator
    round: int
    notes: dict[str, float]
    peaks: dict[str, float]

    def earlier(self, name: str) -> float | None:
        """What was noted by that name in the round before; None in the first round."""

    def count(self, name: str, number: float) -> None:
        """Add to a count of this round, a metric `rollout/<name>` per prompt."""

    def note(self, name: str, value: float) -> None:
        """A metric `rollout/<name>` of this round."""

    def values(self, groups: list[Group]) -> list[list[np.ndarray]]:
        """float32[len] values per completion of each group, as the critic is now."""

    def logprobs(self, model: str, groups: list[Group]) -> list[list[np.ndarray]]:
        """float32[len] log-probabilities per completion of each group under "policy" or "reference"."""


@dataclass
class Algorithm:
    """Base of all algorithms; these fields are the optimizer's, the subclass adds its own.

    `algo.lr` rises linearly over `warmup` (a fraction of all steps) and then follows `schedule` to `min_lr_ratio * lr`.
    """

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
        """The size of a round; None for an algorithm without rollouts. `algo.online.Online` builds it from its fields."""
        return None

    @property
    def reference_kind(self) -> Literal["none", "initial", "round"]:
        """Which policy the reference is: the one before training, or the one with which the round begins."""
        return "initial" if "reference" in self.needs.models else "none"

    @property
    def critic_kind(self) -> Literal["none", "own", "shared"]:
        """Whether the critic is a model of its own, or a value head on the policy's trunk.

        With "shared" the policy gives `Outputs.values`, and terms of the critic's loss carry `engine="policy"`.
        """
        return "own" if "critic" in self.needs.models else "none"

    @property
    def critic_start(self) -> Literal["reward", "policy"]:
        """The model that an own critic begins as: the reward model, or the policy with a new head."""
        return "policy"

    @property
    def reads_entropy(self) -> bool:
        """Whether `loss` reads `Outputs.entropy`, which costs time to compute."""
        return False

    @property
    def tolerates_stale_rollouts(self) -> bool:
        """Whether the loss stays right for replies that were written with the weights of a round ago."""
        return True

    def check_settings(self, config: DictConfig) -> None:
        """Refuse settings that cannot work together; called before any job starts, so without torch.

        Raises:
            UserError: naming the keys and what to type instead.
        """

    def unused(self, config: DictConfig) -> dict[str, str]:
        """Fields that nothing reads with these settings, each with the reason: typing one of them is refused. No torch."""
        if self.schedule == "constant":
            return {"min_lr_ratio": "algo.schedule=constant keeps the learning rate as it is"}
        return {}

    def check_rounds(self, rounds: int) -> None:
        """Refuse a run of so many rounds of rollouts; called once their number is known, before the first.

        Raises:
            UserError: naming the keys and what to type instead.
        """

    def lr_factor(self, engine: str) -> float:
        """The learning rate of an engine as a multiple of the policy's; a value head has the factor of the "critic"."""
        return 1.0

    def gets_gradients(self, engine: str, ctx: Context) -> bool:
        """Whether the next step computes gradients for an engine. Asked before the step.

        An engine without gradients keeps its weights and its optimizer state.
        """
        return True

    def moves_weights(self, engine: str, ctx: Context) -> bool:
        """Whether the gradients of this step change the weights of an engine. Asked when its metrics are in `ctx.peaks`.

        Asked of engines with gradients only. Where the answer is no, the gradients enter the optimizer's averages, and the
        weights stay.
        """
        return True

    def collect(self, groups: list[Group], ctx: Context) -> list[Group]:
        """Turn the round's groups, in any number, into groups to train on.

        Offline data is one round. With `needs.rollouts` a group comes with the replies of this round and their rewards.
        """
        return groups

    def offline_groups(self, batch: int) -> int:
        """With rollouts: how many groups of a global batch of `batch` are not of the round, but pairs of the dataset."""
        return 0

    def collect_offline(self, groups: list[Group], ctx: Context) -> list[Group]:
        """As `collect`, of groups of the dataset: each becomes one, before the first step."""
        return self.collect(groups, ctx)

    def check(self, train: list[Group], held_out: list[Group]) -> None:
        """Refuse data that the algorithm cannot train on; called before a model is loaded, by `prepare` too.

        Raises:
            UserError: saying what is missing.
        """

    def batch_groups(self, groups: list[Group], ctx: Context) -> list[Group]:
        """The groups of a global batch that the loss is to see, after a look at them with the policy as it is now."""
        return groups

    def evaluation(self, groups: list[Group], scores: list[np.ndarray]) -> dict[str, float]:
        """Metrics that are no sums: from the scores, float32[completions] per group, of all held-out groups."""
        return {}

    def figure_names(self) -> tuple[str, ...] | None:
        """The names of what `loss` and `evaluation` give for held-out data, without prefixes; None: not known beforehand.

        A subclass with a `loss` or an `evaluation` of its own says its own names, or none are known. Not asked with rollouts.
        """
        return None

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Term]:
        """Return the loss terms and metrics of one micro-batch by name.

        Two threads may be in here at once, so it changes nothing of `self`; `batch_groups` may, once a step.
        """
        raise TypeError(f"{type(self).__name__} defines no loss")


def collect_reference(groups: list[Group], ctx: Context) -> list[Group]:
    """Fill `ref_logprobs` of every completion: the `collect` of every algorithm with a fixed reference."""
    for group, logprobs in zip(groups, ctx.logprobs("reference", groups), strict=True):
        for completion, values in zip(group.completions, logprobs, strict=True):
            completion.ref_logprobs = values
    return groups
