"""Check of a run's first replies: the rollout must have written them with the policy's weights."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from psychocounsel.data.group import Group
from psychocounsel.engine.references import Reference
from psychocounsel.errors import UserError
from psychocounsel.rollout.base import Rollout
from psychocounsel.rundir.run import Run

# Largest mean difference of log-probabilities per token [nats]. vLLM and the trainer round differently: by 1e-5 in float32, and
# bfloat16 from float32 by 0.04 (SmolLM2-135M). With one of its weight matrices replaced by noise, it differs by 0.5 to 4.
LARGEST_DIFFERENCE = 0.2
_REPLIES = 32  # spread over the round, so that every engine and server wrote some


class FirstReplies:
    """Checks once in each process that the rollout's first replies have the log-probabilities that `policy` gives them.

    Only a rollout that writes with a copy of the weights is checked, and only without `rollout.top_p` and `top_k`,
    because its log-probabilities then belong to another distribution than the policy's.
    """

    def __init__(self, run: Run, rollout: Rollout, policy: Reference) -> None:
        config: Any = run.config
        self.run, self.policy = run, policy
        self._due = rollout.writes_with_a_copy and config.rollout.top_p == 1 and not config.rollout.top_k

    def check(self, groups: Sequence[Group], step: int) -> None:
        """Compare one reply to each of at most 32 prompts, of those that the weights after `step` steps wrote.

        All ranks call it together, with the same groups.

        Raises:
            UserError: if the mean absolute difference per token exceeds LARGEST_DIFFERENCE, or is not a number.
        """
        if not self._due:
            return
        current = [
            replace(group, completions=group.completions[:1])
            for group in groups
            if group.completions and group.completions[0].policy_version == step
        ]
        if not current:
            return  # written ahead with earlier weights: the next round is checked
        self._due = False
        some = current[:: -(-len(current) // _REPLIES)]
        difference = mean_difference(some, self.policy.logprobs(some))
        if not difference <= LARGEST_DIFFERENCE:
            raise UserError(
                f"rollout: the replies of step {step} were written with other weights than the policy's: by the trainer, "
                f"their log-probabilities differ by {difference:.3g} nats per token (at most {LARGEST_DIFFERENCE} is "
                "accepted); start servers at rollout.addresses with the model.* settings of this run, or use rollout=hf; "
                f"{self.run.files.rounds} holds these replies, so use another run_dir"
            )


def mean_difference(groups: Sequence[Group], logprobs: Sequence[Sequence[np.ndarray]]) -> float:
    """Return the mean over all tokens of |`logprobs` - the rollout's log-probabilities| [nats].

    `logprobs`: float32[len] for each completion of each group.
    """
    differences = [
        values - completion.logprobs
        for group, of_group in zip(groups, logprobs, strict=True)
        for completion, values in zip(group.completions, of_group, strict=True)
        if completion.logprobs is not None
    ]
    return float(np.abs(np.concatenate(differences)).mean())
