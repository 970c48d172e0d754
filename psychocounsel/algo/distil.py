"""On-policy distillation: the policy learns to reply as a teacher would, from replies of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from omegaconf import OmegaConf

from psychocounsel.algo.base import Context, Needs, Outputs, Term
from psychocounsel.algo.policy_gradient import AdvantageAlgorithm, clipped, divergence, ratio_metrics
from psychocounsel.errors import UserError
from psychocounsel.model.settings import check_model_paths
from psychocounsel.settings.schema import option
from psychocounsel.settings.targets import is_on_hub

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from psychocounsel.data.batch import Batch
    from psychocounsel.data.group import Group


@dataclass
class Teacher:
    """The model that the policy learns from, with `model.dtype`: a folder or hub id, and a commit of the hub."""

    path: str | None = None
    revision: str | None = None


@dataclass
class Distil(AdvantageAlgorithm):
    """On-policy distillation: minimise the reverse KL divergence from a teacher on the policy's own replies.

    The loss follows arXiv 2306.08543 (eq. 2), without the effect of a token on later ones. The advantage of a token is
    log teacher - log pi_old, so it needs no reward model. Its gradient, E[(log pi - log teacher) grad log pi], is that of
    KL(pi || teacher) at each position. In later steps on the same replies, the ratio pi / pi_old is clipped as in PPO.
    The loss is the mean over all tokens of the global batch.

    The teacher is a reference of its own: `Completion.ref_logprobs` are its log-probabilities.
    """

    teacher: Teacher = field(default_factory=Teacher)
    clip: float = option(0.2, above=0)

    needs = Needs(models=frozenset({"policy", "reference"}), data="prompts", rollouts=True)

    def __post_init__(self) -> None:
        if isinstance(self.teacher, dict):  # built from a configuration
            self.teacher = Teacher(**self.teacher)

    @property
    def reference_kind(self) -> Literal["none", "initial", "round", "model"]:
        return "model"

    def check_settings(self, config: DictConfig) -> None:
        super().check_settings(config)
        if not self.teacher.path:
            raise UserError(
                "algo.teacher.path is not set: add algo.teacher.path=FOLDER_OR_HUB_ID, a model with the tokenizer of model.path"
            )
        section = OmegaConf.create({"path": self.teacher.path, "chat_template": None})
        check_model_paths(config, "algo.teacher", section)
        config.algo.teacher.path = section.path  # that of a run has become that of its model

    def unused(self, config: DictConfig) -> dict[str, str]:
        unused = super().unused(config)
        if not is_on_hub(str(self.teacher.path)):
            unused["teacher.revision"] = "algo.teacher.path is not a repository of the hub"
        return unused

    def check_tokenizer(self, tokenizer: Any) -> None:
        from psychocounsel.model.tokenizer import load_tokenizer

        teacher = OmegaConf.create(vars(self.teacher))
        if load_tokenizer(teacher, "algo.teacher").get_vocab() != tokenizer.get_vocab():
            raise UserError(
                f"algo.teacher.path={self.teacher.path}: has another tokenizer than model.path, so it cannot read the policy's "
                "tokens; give a teacher of the same family"
            )

    def collect(self, groups: list[Group], ctx: Context) -> list[Group]:
        """Fill each completion's `logprobs` (by the trainer), `ref_logprobs` (by the teacher) and `advantages`."""
        import numpy as np

        groups = self.collect_reference(groups, ctx)
        weights = self.take_logprobs(groups, ctx)
        for group, of_group in zip(groups, weights, strict=True):
            for completion, weight in zip(group.completions, of_group, strict=True):
                completion.advantages = -divergence(completion) * weight
        gaps = np.concatenate([divergence(completion) for group in groups for completion in group.completions])
        ctx.note("kl_per_token", float(gaps.mean()))
        return self.unmasked(groups, weights)

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Term]:
        """Return the loss, the metrics and the entropy, averaged over tokens.

        `outputs.logprobs`: float32[N], log-probabilities of the batch's completion tokens.
        """
        assert outputs.logprobs is not None
        losses, ratio = clipped(outputs.logprobs - batch.old_logprobs, batch.advantages, self.clip, self.clip)
        terms = {"loss_policy": Term(losses.sum(), "tokens")} | ratio_metrics(ratio, self.clip, self.clip, "tokens")
        return terms | self.common_terms(outputs, batch)
