"""Interpolations defined by this package for `conf/`, for instance ${if_tiny:A,B}: defaults that depend on other settings."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from psychocounsel.rundir.identity import new_directory
from psychocounsel.settings.paths import SHIPPED_DATA
from psychocounsel.settings.targets import target_class


def _if_tiny(tiny: Any, other: Any, *, _root_: DictConfig) -> Any:
    return tiny if _root_.model.path in ("builtin:tiny", "builtin:tiny_dpo") else other


def _if_shipped(shipped: Any, other: Any, *, _root_: DictConfig) -> Any:
    return shipped if _root_.data.path in SHIPPED_DATA else other


def _if_rules(rules: Any, other: Any, *, _root_: DictConfig) -> Any:
    return rules if _root_.annotator.get("name") == "rules" else other


def _or_new_sweep(sweep_dir: str | None, output: str) -> str:
    return sweep_dir or str(new_directory(output, "sweep"))


def _if_rollouts(scored: Any, unscored: Any, offline: Any, *, _root_: DictConfig) -> Any:
    return offline if "rollout" not in _root_ else scored if "reward" in _root_ else unscored


def _if_other_engine(other: Any, same: Any, *, _root_: DictConfig) -> Any:
    return other if "rollout" in _root_ and target_class(_root_, "rollout").other_engine else same


def _rollout_server(*, _root_: DictConfig) -> list[str]:
    """Return the command that runs on `cluster.server_nodes`, given by the rollout."""
    return target_class(_root_, "rollout").server_command(_root_.rollout) if "rollout" in _root_ else []


def _rollout_servers_per_node(gpus: Any, *, _root_: DictConfig) -> int:
    """Return the number of servers on a node with `gpus` GPUs."""
    return target_class(_root_, "rollout").servers_per_node(_root_.rollout, gpus) if "rollout" in _root_ else 1


def _shipped_reward(name: str) -> str:
    """Return the path of a shipped reward model. Defaults use it, so that reward/shipped.py can tell them from a typed path."""
    return f"builtin:{name}"


def _times(factor: int, number: int) -> int:
    return factor * number


def _if_given(value: Any, then: Any, otherwise: Any) -> Any:
    return otherwise if value is None else then


def register_resolvers() -> None:
    """Register the interpolations with OmegaConf."""
    OmegaConf.register_new_resolver("if_given", _if_given, replace=True)
    OmegaConf.register_new_resolver("times", _times, replace=True)
    OmegaConf.register_new_resolver("if_other_engine", _if_other_engine, replace=True)
    OmegaConf.register_new_resolver("rollout_server", _rollout_server, replace=True)
    OmegaConf.register_new_resolver("rollout_servers_per_node", _rollout_servers_per_node, replace=True)
    OmegaConf.register_new_resolver("if_rollouts", _if_rollouts, replace=True)
    OmegaConf.register_new_resolver("if_tiny", _if_tiny, replace=True)
    OmegaConf.register_new_resolver("if_shipped", _if_shipped, replace=True)
    OmegaConf.register_new_resolver("if_rules", _if_rules, replace=True)
    OmegaConf.register_new_resolver("shipped_reward", _shipped_reward, replace=True)
    OmegaConf.register_new_resolver("or_new_sweep", _or_new_sweep, replace=True, use_cache=True)
