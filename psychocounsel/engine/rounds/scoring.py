"""Scoring of replies by the reward."""

from collections.abc import Sequence

from omegaconf import DictConfig

from psychocounsel.data.group import Group
from psychocounsel.data.tokenise import without_system_prompt
from psychocounsel.distributed.world import World
from psychocounsel.engine.rounds.offloading import on_device
from psychocounsel.reward.base import Scorer, open_scorer, scored
from psychocounsel.settings import config as configs


class Scoring:
    """Scores replies by `scorer`, in the context `on_device`; without a scorer, replies get no reward.

    With `offload`, the scorer's models are on the GPU only in this context, which a round enters once, because an 8B
    model moves 16 GB each time. The scorer gets conversations without the policy's `system_prompt`, because a reward
    model has its own.
    """

    def __init__(self, scorer: Scorer | None, world: World, offload: bool, system_prompt: str | None) -> None:
        self.scorer, self.system_prompt = scorer, system_prompt
        self.on_device = on_device(scorer.models if scorer else (), world, offload)

    def __call__(self, groups: Sequence[Group]) -> Sequence[Group]:
        """Return the same groups with the `reward` of each completion, and `reward_parts` if there are several reward models."""
        if self.scorer is None:
            return groups
        replies = [(group, completion) for group in groups for completion in group.completions]
        conversations = [
            [*prompt, {"role": "assistant", "content": completion.text}]
            for group in groups
            for prompt in [without_system_prompt(group.messages or [], self.system_prompt)]
            for completion in group.completions
        ]
        rewards = scored(self.scorer, conversations).tolist() if conversations else []
        for index, (_, completion) in enumerate(replies):
            completion.reward = rewards[index]
            completion.reward_parts = {name: float(values[index]) for name, values in self.scorer.parts.items()} or None
        return groups


def open_scoring(config: DictConfig, world: World, system_prompt: str | None) -> Scoring:
    """Return the scoring of a run with replies to prompts with this system message; it has a scorer if the run has a reward.

    Raises:
        UserError: if the reward model cannot be loaded.
    """
    has_reward = config.get("reward") is not None
    scorer = open_scorer(configs.build(config, "reward"), world.device) if has_reward else None
    return Scoring(scorer, world, config.rollout.offload_idle, system_prompt)
