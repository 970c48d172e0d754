"""Base classes of rewards: `RewardSettings` (a file of `conf/reward/`) opens a `Scorer`, which scores conversations.

To add a reward, derive a dataclass from RewardSettings and a class from Scorer, or one class from both whose `open`
returns itself. Classes that derive from neither are rejected before a run starts.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from omegaconf import MISSING

from psychocounsel.data.messages import Message
from psychocounsel.errors import UserError
from psychocounsel.settings.targets import Contract, GroupSettings, place_of, require_kind, wrong_return

if TYPE_CHECKING:
    import numpy as np
    import torch
    from omegaconf import DictConfig

    from psychocounsel.data.group import Group

Conversation = Sequence[Message]  # ends with the scored reply, of role assistant


class RoundNotes(Protocol):
    """Values that are carried from one round of rollouts to the next; a resumed run gets the same ones."""

    def earlier(self, name: str) -> float | None:
        """Return the value noted by `name` in the previous round; None in the first round."""

    def note(self, name: str, value: float) -> None:
        """Log `value` as the metric `rollout/<name>` of this round."""


class Scorer(Contract):
    """Base class of scorers, which score conversations. A subclass must define `score`.

    Attributes:
        models: the frozen modules (torch.nn.Module) that `score` computes with in this process. With
            `rollout.offload_idle` they are on the GPU only while it runs.
        parts: for a scorer with several members or principles, the rewards, float32[n], of each in the last `score`, by
            name. Their means are logged as `reward_<name>`.
        heads: the principles, for a model with a score for each (`parts` holds them); () for other scorers.
        asks: True if a language model gives the rewards (`grading.rewards.JudgeScorer`). Then rank 0 alone scores, and a
            reward, or a part of it, may be NaN: none.
    """

    models: Sequence[Any] = ()
    parts: Mapping[str, Any] = MappingProxyType({})
    heads: Sequence[str] = ()
    asks: bool = False

    @abstractmethod
    def score(
        self, conversations: Sequence[Conversation], progress: Callable[[range], Iterable[int]] = iter
    ) -> np.ndarray:
        """Return the reward of the last message of each conversation, float32[n], in order.

        `progress` may wrap the loop over batches, to show progress.

        Raises:
            UserError: for a conversation that does not end with a reply, or that is too long for the model.
        """

    def unnormalised(self, rewards: np.ndarray) -> np.ndarray:
        """Return rewards of `score` on the model's own scale, float[...]. Default: they are on this scale already."""
        return rewards

    def finish_round(self, groups: Sequence[Group], notes: RoundNotes) -> None:
        """Change the rewards of a round once all its replies are scored. Default: they stay.

        In sessions change `turn_scores`: the rewards of sessions are then made from them (`rollout.session_reward`).
        Every rank calls it with the whole round, and again after a resume.
        """


@dataclass
class RewardSettings(GroupSettings):
    """Base of the settings of rewards; each field is a key of `reward.*`. A subclass must define `open`. Imports no torch.

    Attributes:
        path_is: the role of the field `path`, if there is one. "loaded": a reward model whose weights each process
            loads, and from which a critic can start. "served": the model of a server; its tokenizer and config.json are
            read here. "nothing" (default): no model.
        several: True if the field `members` holds the settings of other rewards.
        asks: True if the field `judge` holds the settings of a language model.
    """

    config_group: ClassVar[str] = "reward"
    path_is: ClassVar[str] = "nothing"
    several: ClassVar[bool] = False
    asks: ClassVar[bool] = False

    name: str = MISSING

    @abstractmethod
    def open(self, device: torch.device) -> Scorer:
        """Return the scorer, with its models on `device`. Called in each process.

        Raises:
            UserError: if the model cannot be loaded, or the server does not answer.
        """

    def check(self, key: str) -> None:
        """Reject settings that cannot work; `key` is their place, such as `reward` or `reward.members[0]`.

        Raises:
            UserError: naming the setting.
        """

    def part_names(self) -> Sequence[str]:
        """Return the names of the scorer's `parts`, as far as they are known. Default: none."""
        return ()

    def check_settled(self, key: str) -> None:
        """Reject settings that do not fit the model's files or the members' names; called when both are settled.

        Raises:
            UserError: naming the setting.
        """

    def meets_limits(self, figures: Mapping[str, float]) -> bool:
        """Return whether held-out figures (`eval/reward_NAME` and others) keep the reward's limits. Default: there are none."""
        return True

    def memory(self, config: DictConfig, key: str) -> dict[str, float | None]:
        """Return the bytes on each GPU by purpose; None for an unknown size, the default."""
        return {f"reward {self.name}": None}


def open_scorer(settings: RewardSettings, device: torch.device | None = None) -> Scorer:
    """Open the scorer of `settings`. Without `device` it runs on the GPU if there is one, otherwise on the CPU.

    Raises:
        UserError: as `open` does, or if the result is not a Scorer.
    """
    if device is None:
        import torch

        from psychocounsel.model.cpu import prepare_process

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if device.type == "cpu":
            prepare_process()
    return require_kind(settings, "open", settings.open(device), Scorer)


def scored(
    scorer: Scorer, conversations: Sequence[Conversation], progress: Callable[[range], Iterable[int]] = iter
) -> np.ndarray:
    """Return `scorer.score(conversations, progress)`, float[n], after checking it and the scorer's parts.

    Raises:
        UserError: naming the scorer's class, unless there is one finite number for each conversation (or NaN, if a
            language model gives the rewards); or as `score` does.
    """
    rewards = _numbers(scorer, "score", scorer.score(conversations, progress), len(conversations))
    for name, values in scorer.parts.items():
        _numbers(scorer, f"parts[{name!r}]", values, len(conversations))
    return rewards


def _numbers(scorer: Scorer, name: str, values: Any, count: int) -> np.ndarray:
    import numpy as np

    try:
        scores = np.asarray(values)
    except (TypeError, ValueError, RuntimeError):  # lists of unequal length, a tensor on a GPU
        scores = np.asarray(None)
    if scores.shape != (count,) or scores.dtype.kind not in "fiu":
        raise wrong_return(scorer, name, values, f"{count} numbers, one for each conversation: float32[{count}]")
    if not (np.isfinite(scores) | (scorer.asks & np.isnan(scores))).all():
        raise UserError(
            f"{place_of(scorer, name)}: some rewards are not finite (NaN or infinite); a model may need reward.dtype=fp32"
        )
    return scores
