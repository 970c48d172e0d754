"""Checks of runs whose policy generates replies, for training or only at evaluations."""

from typing import Any

from omegaconf import DictConfig

from psychocounsel.errors import UserError
from psychocounsel.settings.checks import check_reward_paths


def check_guard(config: DictConfig, algorithm: Any) -> None:
    """Refuse limits on figures that are not measured, and a stop without limits.

    Raises:
        UserError: naming the key and what to type instead.
    """
    guard = config.guard
    limits = [name for name, value in guard.items() if name != "stop" and value is not None]
    if (limits or guard.stop) and "rollout" not in config:
        name = limits[0] if limits else "stop"
        raise UserError(
            f"guard.{name}={guard[name]}: guards measure replies of the policy, but this run generates none; add "
            "eval.replies=true, or use an algorithm with rollouts (online_dpo, ppo, rloo, grpo)"
        )
    if guard.stop and not limits:
        raise UserError("guard.stop=true needs a limit: give guard.repetition=0.2, for instance")
    if limits and not (config.data.dev_fraction or config.data.eval_path or config.data.eval_split):
        raise UserError(
            f"guard.{limits[0]} needs held-out prompts, but data.dev_fraction=0 leaves none: raise it, or give data.eval_path"
        )
    if guard.kl is not None and algorithm.needs.rollouts and algorithm.reference_kind != "initial":
        raise UserError(f"guard.kl={guard.kl}: the divergence is measured only with algo.reference=initial")


def check_held_out_replies(config: DictConfig, algorithm: Any) -> None:
    """Refuse `eval.replies` without a policy that replies, without held-out prompts, or with an unfair comparison.

    Raises:
        UserError: naming the key and what to type instead.
    """
    if not config.eval.replies or algorithm.needs.rollouts:
        return
    if algorithm.needs.main != "policy":
        raise UserError(
            "eval.replies=true: algo=reward trains a reward model, which generates no replies; leave it out"
        )
    if not (config.data.dev_fraction or config.data.eval_path or config.data.eval_split):
        raise UserError(
            "eval.replies=true asks for replies to held-out prompts, but data.dev_fraction=0 leaves none: raise it, "
            "or give data.eval_path"
        )
    check_reward_paths(config)
    if config.rollout.temperature != 1:
        raise UserError(
            f"rollout.temperature={config.rollout.temperature:g}: this algorithm trains at temperature 1, so eval.replies "
            "measures the divergence at 1; leave it out"
        )


def check_rollouts(config: DictConfig, algorithm: Any) -> None:
    """Refuse settings that an algorithm with rollouts cannot work with.

    Raises:
        UserError: naming the key and what to type instead.
    """
    check_reward_paths(config)
    batch, wanted = config.global_batch_size, algorithm.round.prompts
    prompts = batch - algorithm.offline_groups(batch)
    if wanted and wanted % prompts:
        less = "" if prompts == batch else f" less {batch - prompts} by algo.offline_fraction"
        raise UserError(
            f"algo.prompts_per_round={wanted} must be a multiple of global_batch_size={batch}{less}, a step's prompts"
        )
