"""Checks of a training's settings, before any job starts and without torch; and the names of its figures."""

import importlib.util
import sys
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from psychocounsel.counsel.cues import CUES
from psychocounsel.counsel.system_prompt import policy_prompt
from psychocounsel.errors import UserError
from psychocounsel.metrics.limits import set_limits
from psychocounsel.model.settings import check_model, idle_model
from psychocounsel.reward.sections import check_reward_paths
from psychocounsel.rundir.results import known_mode
from psychocounsel.settings.command import idle_keys, lists_own_figures, ordered, refuse_unknown_figure
from psychocounsel.settings.schema import suggestion
from psychocounsel.settings.targets import build
from psychocounsel.storage.files import folder_of
from psychocounsel.storage.weight_files import is_reward_model

_EVALUATED = "eval/"
_OF_REPLIES = ("length", "unfinished", "repetition", "echo")
_OF_SESSIONS = ("turns", "only_asks", "client_left", "out_of_room", "rewritten")
_OF_SCORES = ("reward", "win_rate", "win_rate_low", "win_rate_high")


def check_training(config: DictConfig, cluster: Any) -> None:
    """Refuse settings of a training that cannot work; `cluster` is the object of the group `cluster`.

    Raises:
        UserError: naming the key and what to type instead.
    """
    algorithm = build(config, "algo")
    check_needs(algorithm)
    check_training_pairs(config, algorithm)
    check_length(config)
    check_combinations(config, cluster)
    if algorithm.needs.main == "policy" and is_reward_model(folder_of(config.model.path)):
        raise UserError(
            f"model.path={config.model.path}: is a reward model, not a language model; only algo=reward can train it further"
        )
    check_guard(config, algorithm)
    algorithm.check_settings(config)
    check_held_out_replies(config, algorithm)
    check_checkpoint_metric(config)
    if algorithm.needs.rollouts:
        check_rollouts(config, algorithm)
    if config.get("rollout") is not None:
        rollout = build(config, "rollout")
        rollout.check(config, cluster.process_count())
        rollout.check_clients(config)
    build(config, "tracker").check()


def check_length(config: DictConfig) -> None:
    """Raise UserError for a run with two lengths or without a length."""
    if config.max_steps is not None and config.epochs is not None:
        raise UserError(
            f"max_steps={config.max_steps} and epochs={config.epochs:g}: each sets the length of the run; leave one out, or "
            "give epochs=null where an experiment sets it"
        )
    if config.max_steps is None and config.epochs is None:
        raise UserError("epochs=null and max_steps=null: give one of them to set the length of the run")


def check_needs(algorithm: Any) -> None:
    """Raise UserError for an algorithm whose `needs` this engine cannot meet."""
    name, needs = type(algorithm).__name__, algorithm.needs
    lacking = sorted(needs.models - {"policy", "reference", "reward_model", "critic"})
    if lacking:
        raise UserError(f"algo={name}: needs {', '.join(lacking)}, which this version of the engine does not provide")
    if needs.data not in ("pairs", "completions", "labelled", "prompts"):
        raise UserError(
            f"algo={name}: needs.data={needs.data!r} must be 'pairs', 'completions', 'labelled' or 'prompts'"
        )
    if len(needs.models & {"policy", "reward_model"}) != 1 or needs.models == {"reward_model", "reference"}:
        raise UserError(f"algo={name}: needs.models must contain policy, or only reward_model")
    if needs.rollouts != (algorithm.round is not None):
        raise UserError(
            f"algo={name}: needs.rollouts={needs.rollouts} contradicts its round, which is {algorithm.round}; an algorithm "
            "with rollouts is a subclass of psychocounsel.algo.online.Online"
        )


def check_combinations(config: DictConfig, cluster: Any) -> None:
    """Refuse settings that contradict each other, and missing hardware or packages.

    Raises:
        UserError: naming the key and what to type instead.
    """
    if config.zero.offload_optimizer or config.zero.offload_parameters:
        if not cluster.gpus():
            raise UserError(
                "zero.offload_*=true moves state from GPU to CPU, but this machine has no GPU: use zero=0..3"
            )
        if config.zero.offload_parameters and config.zero.stage not in (3, "auto"):
            raise UserError(f"zero.offload_parameters=true needs zero.stage=3, not {config.zero.stage}")
        if config.zero.stage == 0:
            raise UserError("zero.offload_optimizer=true needs zero.stage of 1 to 3, not 0")
    _check_hpz(config.zero, cluster)
    if config.micro_batch_tokens != "auto" and config.micro_batch_tokens < config.max_length:
        raise UserError(
            f"micro_batch_tokens={config.micro_batch_tokens} is smaller than max_length={config.max_length}: "
            f"a sequence must fit; use micro_batch_tokens={config.max_length} or more"
        )
    if config.max_prompt_length and config.max_prompt_length >= config.max_length:
        raise UserError(
            f"max_prompt_length={config.max_prompt_length} must be less than max_length={config.max_length}"
        )
    _check_callbacks(config)
    check_model(config, bool(cluster.gpus()))


def _check_hpz(zero: DictConfig, cluster: Any) -> None:
    if zero.hpz == 1:
        return
    if zero.stage != 3:
        raise UserError(
            f"zero.hpz={zero.hpz} needs zero=3, not zero.stage={zero.stage}: other stages keep whole parameters"
        )
    if zero.offload_parameters:
        raise UserError(f"zero.hpz={zero.hpz}: its copy is on the GPU; use zero.hpz=1 or zero.offload_parameters=false")
    on_node, _ = cluster.first_node(cluster.process_count())
    if on_node % zero.hpz:
        raise UserError(
            f"zero.hpz={zero.hpz} must divide the {on_node} processes of a node: "
            f"use zero.hpz={on_node}, for one copy on each node"
        )


def _check_callbacks(config: DictConfig) -> None:
    for name, callback in config.callbacks.items():
        target = callback.get("_target_") if OmegaConf.is_dict(callback) else None
        if not isinstance(target, str) or not target:
            raise UserError(f"callbacks.{name}: needs a _target_, for instance {{_target_: my_module.MyCallback}}")
        if target.partition(".")[0] in sys.stdlib_module_names:
            base = "psychocounsel.engine.callbacks.Callback"
            raise UserError(f"callbacks.{name}._target_={target}: must be a class that derives from {base}")
        try:
            module = importlib.util.find_spec(target.rpartition(".")[0])
        except (ImportError, ValueError):
            module = None
        if module is None:
            raise UserError(f"callbacks.{name}._target_={target}: no such module")


def check_guard(config: DictConfig, algorithm: Any) -> None:
    """Refuse limits on figures that are not measured, and a stop without limits.

    Raises:
        UserError: naming the key and what to type instead.
    """
    guard = config.guard
    limits = [*set_limits(guard)]
    if (limits or guard.stop) and config.get("rollout") is None:
        name = limits[0] if limits else "stop"
        raise UserError(
            f"guard.{name}={guard[name]}: guards measure replies of the policy, but this run generates none; add "
            "eval.replies=true, or use an algorithm with rollouts (online_dpo, ppo, rloo, grpo)"
        )
    if guard.stop and not limits:
        raise UserError("guard.stop=true needs a limit: give guard.repetition=0.2, for instance")
    if limits and not _holds_out(config):
        raise UserError(
            f"guard.{limits[0]} needs held-out prompts, but data.dev_fraction=0 leaves none: raise it, or give data.eval_path"
        )
    if guard.reward_drop is not None and config.get("reward") is None:
        raise UserError(
            f"guard.reward_drop={guard.reward_drop}: {type(algorithm).__name__} scores no replies; add eval.replies=true "
            "and a reward, or leave it out"
        )
    if guard.kl is not None and algorithm.reference_kind == "model":
        raise UserError(
            f"guard.kl={guard.kl}: {type(algorithm).__name__} measures the divergence from its teacher, not from the policy "
            "before training; leave guard.kl out"
        )
    if guard.kl is not None and algorithm.needs.rollouts and algorithm.reference_kind != "initial":
        raise UserError(
            f"guard.kl={guard.kl}: this run measures no divergence from the policy before training; use "
            "algo.reference=initial, and algo.kl_weight above 0"
        )


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
    if not _holds_out(config):
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


def check_training_pairs(config: DictConfig, algorithm: Any) -> None:
    """Refuse unknown cues, and settings of pairs, turns and soft labels that the algorithm cannot use.

    Raises:
        UserError: naming the cue, or the algorithms to use instead.
    """
    _check_balance(config, algorithm)
    _check_controls(config, algorithm)
    if config.data.train_on == "every" and algorithm.needs.data not in ("completions", "prompts"):
        raise UserError(
            f"data.train_on=every: algo={type(algorithm).__name__} learns from the last turn alone: use algo=sft or an algorithm "
            "with rollouts, or leave it out"
        )
    if config.data.soft_labels and not algorithm.needs.soft_labels:
        raise UserError(
            f"data.soft_labels=true: the loss of algo={type(algorithm).__name__} does not use soft labels: use algo=dpo or "
            "reward, or leave data.soft_labels out"
        )


def _check_balance(config: DictConfig, algorithm: Any) -> None:
    names = config.data.balance or []
    for name in names:
        if name not in CUES:
            cues = f"cues are {', '.join(CUES)}"
            raise UserError(f"data.balance: there is no cue {name}; {suggestion(name, list(CUES), cues)}")
    if len(set(names)) < len(names):
        raise UserError(f"data.balance=[{','.join(names)}]: names a cue twice; give each cue once")
    if names and not algorithm.needs.weights:
        raise UserError(
            f"data.balance=[{','.join(names)}]: weights pairs of the data, but the loss of algo={type(algorithm).__name__} "
            "does not use such weights: use algo=reward, dpo, modpo, simpo or orpo, or leave data.balance out"
        )


def _check_controls(config: DictConfig, algorithm: Any) -> None:
    names = config.data.controls or []
    mixes = algorithm.offline_groups(config.global_batch_size) > 0
    if names and algorithm.needs.data != "pairs" and not mixes:
        raise UserError(
            f"data.controls=[{','.join(names)}]: adds pairs, but algo={type(algorithm).__name__} does not use pairs of the "
            "data: use algo=reward, dpo, simpo or orpo, online_dpo with algo.offline_fraction, or leave data.controls out"
        )


def check_checkpoint_metric(config: DictConfig) -> None:
    """Refuse a `checkpoint.metric` that no evaluation of this training reports.

    Without held-out data there are no evaluations, and any metric is accepted.

    Raises:
        UserError: naming the nearest metric; or if neither `checkpoint.mode` nor the name gives the direction.
    """
    figures = figures_of_training(config)
    if figures == []:
        return
    metric, mode = config.checkpoint.metric, config.checkpoint.mode
    refuse_unknown_figure(f"checkpoint.metric={metric}", metric, figures)
    if mode == "auto" and known_mode(metric) is None:
        raise UserError(
            f"checkpoint.metric={metric}: is its smallest or its largest value the best? Add checkpoint.mode=min or "
            "checkpoint.mode=max"
        )


def figures_of_training(config: DictConfig) -> list[str] | None:
    """Return the names of a training's evaluations; * matches names that depend on the settings. None if they are unknown."""
    if not _holds_out(config):
        return []
    model = config.model
    algorithm = build(config, "algo")
    names = list[str]()
    if config.get("rollout") is not None:  # replies are measured, independent of the loss
        names += [*_OF_REPLIES, *_of_reference(algorithm), *_of_rewards(config)]
        names += _OF_SESSIONS if config.rollout.clients else ()
        names += _OF_SCORES if config.get("reward") is not None else ()
        names += ["recital"] if policy_prompt(model.system_prompt, model.path, "model.system_prompt") else []
    if not algorithm.needs.rollouts:
        own = algorithm.figure_names() if lists_own_figures(algorithm, ("loss", "evaluation")) else None
        if own is None:
            return None
        names += own
    names += [f"{name}_{end}" for name in names if _has_interval(name) for end in ("low", "high")]
    return ordered(
        [*(f"{_EVALUATED}{name}" for name in names), *(f"guard/{name}" for name in set_limits(config.guard))]
    )


def _holds_out(config: DictConfig) -> bool:
    return bool(config.data.dev_fraction or config.data.eval_path or config.data.eval_split)


def _has_interval(name: str) -> bool:
    """Return True unless the figure is the end of an interval, or describes the scale of rewards."""
    return not name.endswith(("_low", "_high")) and name not in ("reward_mean", "reward_std")


def _of_reference(algorithm: Any) -> list[str]:
    return ["kl"] if algorithm.reference_kind in ("initial", "model") or not algorithm.needs.rollouts else []


def _of_rewards(config: DictConfig) -> list[str]:
    """Return the names of the members' rewards; a user's own member may have parts of any name."""
    own = not str(OmegaConf.select(config, "reward._target_")).startswith("psychocounsel.")
    if config.get("reward") is None or own:
        return ["reward_*"] if own else []
    members = [member.name for member in config.reward.get("members") or []]
    settings = build(config, "reward")
    return [f"reward_{name}" for name in (*members, *settings.part_names())] + ["left_out"] * settings.asks


def idle_training(config: DictConfig) -> Iterator[tuple[str, str]]:
    """Yield the keys of a training that other keys disable, each with the reason."""
    algorithm = build(config, "algo")
    name = type(algorithm).__name__
    if config.get("reward") is None:
        yield "reward", f"{name} uses no reward model (eval.replies=true would)"
    if config.get("rollout") is None:
        yield "rollout", f"{name} learns only from the data and generates no replies (eval.replies=true would)"
    else:
        if not algorithm.needs.rollouts:
            yield "rollout.shown_prompts", f"{name} has no rounds whose replies could be shown"
        yield from idle_keys("rollout", build(config, "rollout").unused(config))
        if config.rollout.clients and config.get("reward") is None:
            yield "rollout.session_reward", f"{name} scores no replies"
    yield from idle_keys("algo", algorithm.unused(config))
    yield from idle_model(config.model)
    yield from _idle_evaluation(config)
    if config.zero.stage not in (3, "auto"):
        yield "zero.persistence_elements", f"zero.stage={config.zero.stage} keeps all parameters whole on every rank"
    if config.zero.stage == 0:
        yield "zero.bucket_elements", "at zero.stage=0 DeepSpeed reduces gradients in buckets of a fixed size"


def _idle_evaluation(config: DictConfig) -> Iterator[tuple[str, str]]:
    """Yield the keys of evaluations that a run never makes, unless their values ask for none."""
    if not _holds_out(config):
        reason = "data.dev_fraction=0 leaves no held-out rows to evaluate on"
        if config.eval.every:
            yield "eval.every", f"{reason} (beside an experiment give eval.every=0)"
        if config.eval.limit:
            yield "eval.limit", reason
        if config.checkpoint.patience:
            yield "checkpoint.patience", reason
    elif not config.eval.every and config.checkpoint.patience:
        yield "checkpoint.patience", "eval.every=0 evaluates only before and after training"
