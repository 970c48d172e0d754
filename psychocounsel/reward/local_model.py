"""`reward=local`: a reward model in each training process, with its own tokenizer and chat template."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar

from omegaconf import MISSING, OmegaConf

from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.counsel.system_prompt import reward_prompt
from psychocounsel.errors import UserError
from psychocounsel.reward.base import Conversation, RewardSettings, RoundNotes, Scorer
from psychocounsel.reward.combining import CombinedReward, ScoreCombination
from psychocounsel.rundir.paths import RunDir
from psychocounsel.rundir.trained_runs import trained_dtype
from psychocounsel.settings.schema import option
from psychocounsel.storage.files import folder_of, read_json

if TYPE_CHECKING:
    import numpy as np
    import torch
    from omegaconf import DictConfig

    from psychocounsel.data.group import Group

_BLOCK = 1024  # conversations tokenised at a time


@dataclass
class LocalReward(CombinedReward):
    """Settings of a reward model in each training process.

    `combine` and the fields of `CombinedReward` concern models with a score for each principle (`algo.heads=principles`).
    """

    path_is: ClassVar[str] = "loaded"

    path: str = MISSING  # hub id, local folder, or builtin:tiny_reward
    revision: str | None = None
    dtype: str = option("auto", choices=("auto", "fp32", "bf16"))
    chat_template: str | None = None
    template_args: dict[str, Any] = option({})
    system_prompt: str | None = "auto"
    max_length: int | None = option(None, at_least=8)
    micro_batch_tokens: int = option(4096, at_least=1)
    normalise: bool = False
    combine: str | None = option(None, choices=(None, "lexicographic", "constraint"))

    def check_settled(self, key: str) -> None:
        if self.combines():
            self.check_combination(key, self.combine, PRINCIPLES, "{safety: 4}")
            labels = labels_of(self.path)
            if labels is not None and labels != PRINCIPLES:
                raise one_score(key, self.path)

    def combines(self) -> bool:
        """Return True if a field is set that only a model of several scores can use."""
        return bool(self.combine or self.weights or self.at_least or self.multiplier_rate)

    def open(self, device: torch.device) -> Scorer:
        return LocalScorer(self, device)

    def number_format(self) -> str:
        """Return `dtype`; for `auto`, the format in which the model's run trained it, if its `model.dtype` names one."""
        return self.dtype if self.dtype != "auto" else trained_dtype(self.path) or "auto"

    def memory(self, config: DictConfig, key: str) -> dict[str, float | None]:
        """Return the size of the model's weights, complete on every GPU."""
        from psychocounsel.model.shape import bytes_of_weight, shape_of

        shape = shape_of(config, key, self.path) if self.path else None
        return {f"reward {self.name}": bytes_of_weight(self.number_format()) * shape.scorer if shape else None}


def labels_of(path: str) -> tuple[str, ...] | None:
    """Return the labels in the config.json of a local model; None if it is not local, or does not exist yet."""
    place = folder_of(path)
    if not place.is_dir():
        return None
    config = read_json(place / "config.json") or read_json(RunDir(place).model / "config.json")
    return None if config is None else tuple((config.get("id2label") or {}).values())


def one_score(key: str, path: str) -> UserError:
    """Return the error for a model of one score whose scores are to be combined."""
    return UserError(
        f"{key}.path={path}: has one score, so there is nothing to combine: leave out {key}.combine, weights and at_least, or "
        "train a model with algo.heads=principles"
    )


def format_lines(rewards: Iterable[RewardSettings]) -> Iterator[str]:
    """Yield a line for each reward model that is loaded in the number format of its training."""
    for reward in rewards:
        if isinstance(reward, LocalReward) and (dtype := reward.number_format()) != reward.dtype:
            yield f"number format of {reward.name}: {dtype}, because its training had model.dtype={dtype}"


def among_rated(settings: LocalReward, unrated: Sequence[str]) -> ScoreCombination:
    """Return the rule that combines the scores of the principles without the `unrated` ones.

    Raises:
        UserError: if the settings need one of these, or leave no other principle a weight.
    """
    rule = settings.combination(settings.combine or "mean")
    asked = [name for name in unrated if settings.weights.get(name) or name in settings.at_least]
    rest = [name for name in PRINCIPLES if name not in (*unrated, rule.limited) and settings.weights.get(name, 1.0)]
    if unrated and (asked or not rest):
        key, names = ("at_least" if asked and asked[0] in settings.at_least else "weights"), ", ".join(asked or unrated)
        raise UserError(
            f"reward.{key}: no row rated {names} when {settings.path} was trained, so there is no such score; the others are "
            + ", ".join(name for name in PRINCIPLES if name not in unrated)
        )
    return replace(rule, weights={**rule.weights, **dict.fromkeys(unrated, 0.0)})


class LocalScorer(Scorer):
    """Scores in micro-batches of `reward.micro_batch_tokens`; adjacent conversations with one prompt share its computation.

    Conversations without a system message get that of `reward.system_prompt`.

    A model with a score for each principle combines them (`ScoreCombination`); `parts` holds them. Principles that no row of its
    training rated (`unrated`) have weight 0.

    Rewards are the model's own. With `reward.normalise` the mean is subtracted and the result divided by the standard
    deviation, both from the model's config (measured on its held-out data).

    Raises:
        UserError: if the model cannot be loaded, is not a reward model or cannot run packed rows correctly, or
            `normalise` finds no mean and standard deviation.
    """

    def __init__(self, settings: LocalReward, device: torch.device) -> None:
        from psychocounsel.model.load import model_dtype
        from psychocounsel.model.packed import RewardModel, check_packing
        from psychocounsel.model.reward_head import is_openrlhf, load_trained_reward_lm, score_names, unrated_names
        from psychocounsel.model.tokenizer import load_chat_format
        from psychocounsel.reward.encoding import Scale

        prompt = reward_prompt(settings.system_prompt, settings.path, "reward.system_prompt")
        settled = {"dtype": settings.number_format(), "system_prompt": prompt}
        reward: Any = OmegaConf.create(asdict(settings) | settled)
        self.settings, self.device = settings, device
        self.dtype = model_dtype(reward, device)
        lm = load_trained_reward_lm(reward, self.dtype, device.type)
        _, self.chat = load_chat_format(reward, "reward", scores=not is_openrlhf(lm.config))
        self.model = RewardModel(lm, reward.path, device=device.type).eval()
        self.models = [self.model]
        self.heads = score_names(lm.config)
        if settings.combines() and not self.heads:
            raise one_score("reward", settings.path)
        self.unrated = unrated_names(lm) if self.heads else ()
        self.rule = among_rated(settings, self.unrated)
        self.scale = Scale(lm.config, reward.path, reward.normalise)
        self.max_length = reward.max_length or getattr(self.model.text_config, "max_position_embeddings", None)
        check_packing(self.model, self.model, self.dtype, device, reward.path)

    @classmethod
    def load(cls, path: str, **settings: Any) -> LocalScorer:
        """Return a scorer of the model at `path`, on a GPU if there is one; `settings` are fields of LocalReward."""
        import torch

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return cls(LocalReward(name="local", path=path, **settings), device)

    def score(
        self, conversations: Sequence[Conversation], progress: Callable[[range], Iterable[int]] = iter
    ) -> np.ndarray:
        """Implements `Scorer.score`."""
        import numpy as np

        starts = range(0, len(conversations), _BLOCK)
        parts = [self._score_block(conversations[start : start + _BLOCK], start) for start in progress(starts)]
        if not self.heads:
            return self.scale.apply(np.concatenate([np.zeros(0, np.float32), *parts]))
        scores = np.concatenate([np.zeros((0, len(self.heads)), np.float32), *parts])
        self.parts = dict(zip(self.heads, scores.T, strict=True))
        return self.scale.apply(self.rule(self.parts))

    def finish_round(self, groups: Sequence[Group], notes: RoundNotes) -> None:
        self.rule.constrain(groups, notes)

    def unnormalised(self, rewards: np.ndarray) -> np.ndarray:
        """Return rewards of `score` on the model's own scale."""
        return self.scale.undo(rewards)

    def _score_block(self, conversations: Sequence[Conversation], first: int) -> np.ndarray:
        import numpy as np
        import torch

        from psychocounsel.data.batch import build_batch
        from psychocounsel.data.packing import plan_step

        groups = self._groups(conversations, first)
        attention = self.model.attention
        lengths = [group.tokens for group in groups]
        (plan,) = plan_step(lengths, 1, self.settings.micro_batch_tokens, attention.one_row)
        rewards: dict[int, np.ndarray] = {}
        for micro in plan:
            rows = [[groups[index] for index in row] for row in micro]
            batch = build_batch(rows, multiple=attention.multiple).to(self.device)
            with torch.no_grad():
                pieces = self.model.pieces(self.model(batch), batch)
            rewards |= zip((index for row in micro for index in row), map(np.concatenate, pieces), strict=True)
        return np.concatenate([rewards[index] for index in range(len(groups))])

    def _groups(self, conversations: Sequence[Conversation], first: int) -> list[Group]:
        """Return one group for each run of adjacent conversations with the same prompt."""
        from psychocounsel.data.group import Completion, Group
        from psychocounsel.reward.encoding import encode_conversations

        encoded = encode_conversations(self.chat, conversations, self.max_length, first)
        runs = [list(run) for _, run in groupby(encoded, key=lambda conversation: conversation.prompt.tobytes())]
        return [
            Group(run[0].prompt_text, run[0].prompt, [Completion(conversation.reply) for conversation in run])
            for run in runs
        ]
