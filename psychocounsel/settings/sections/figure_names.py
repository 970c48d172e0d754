"""Names of the figures in a run's summary, as far as they are known before the run starts. No torch."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from omegaconf import DictConfig, OmegaConf

from psychocounsel.errors import UserError
from psychocounsel.rundir.summary import known_mode
from psychocounsel.settings.schema import suggestion
from psychocounsel.settings.targets import build

_EVALUATED = "eval/"
_OF_REPLIES = ("reward", "length", "unfinished", "repetition", "win_rate", "win_rate_low", "win_rate_high")
_OF_AUDITS = ("blind_accuracy", "blind_low", "blind_high", "*_accuracy", "*_reads")
NOTHING_HELD_OUT = "data.dev_fraction=0 leaves no held-out rows to measure it on: raise it, or give data.eval_path"


def figures_of(config: DictConfig) -> list[str] | None:
    """Return the names of a run's figures; * matches names that depend on the data. None if they are known only after the run.

    `config` is a checked configuration of train, evaluate, audit or annotate.
    """
    if "algo" in config:
        return _of_training(config)
    if "audit" in config:
        return [*_OF_AUDITS]
    if "evaluation" not in config:
        return None
    evaluation = build(config, "evaluation")
    return _ordered(evaluation.figure_names(config)) if _says_its_own(evaluation, ("work", "course")) else None


def refuse_unknown_figure(said: str, name: str, config: DictConfig) -> None:
    """Check that a run will have the figure `name`; `said` is the setting that names it, for the message.

    Raises:
        UserError: if the run will not have it.
    """
    known = figures_of(config)
    if known is None or any(fnmatchcase(name, each) for each in known):
        return
    if not known:
        raise UserError(f"{said}: {NOTHING_HELD_OUT}")
    near = suggestion(name, known)
    near = f"; {near}" if near.startswith("did you") else ""
    raise UserError(f"{said}: no such figure{near} (there will be {', '.join(known)})")


def check_checkpoint_metric(config: DictConfig) -> None:
    """Refuse a `checkpoint.metric` that no evaluation of this training reports.

    Without held-out data there are no evaluations, and any metric is accepted.

    Raises:
        UserError: naming the nearest metric; or if neither `checkpoint.mode` nor the name gives the direction.
    """
    if figures_of(config) == []:
        return
    metric, mode = config.checkpoint.metric, config.checkpoint.mode
    refuse_unknown_figure(f"checkpoint.metric={metric}", metric, config)
    if mode == "auto" and known_mode(metric) is None:
        raise UserError(
            f"checkpoint.metric={metric}: is its smallest or its largest value the best? Add checkpoint.mode=min or "
            "checkpoint.mode=max"
        )


def _of_training(config: DictConfig) -> list[str] | None:
    data = config.data
    if not (data.dev_fraction or data.eval_path or data.eval_split):
        return []
    algorithm = build(config, "algo")
    names = list[str]()
    if "rollout" in config:  # replies are measured, independent of the loss
        names += [*_OF_REPLIES, *_of_reference(algorithm), *_of_rewards(config)]
    if not algorithm.needs.rollouts:
        own = algorithm.figure_names() if _says_its_own(algorithm, ("loss", "evaluation")) else None
        if own is None:
            return None
        names += own
    limits = [name for name, value in config.guard.items() if name != "stop" and value is not None]
    names += [f"{name}_{end}" for name in names if _has_interval(name) for end in ("low", "high")]
    return _ordered([*(f"{_EVALUATED}{name}" for name in names), *(f"guard/{name}" for name in limits)])


def _has_interval(name: str) -> bool:
    """Return True unless the figure is the end of an interval, or describes the scale of rewards."""
    return not name.endswith(("_low", "_high")) and name not in ("reward_mean", "reward_std")


def _of_reference(algorithm: Any) -> list[str]:
    return ["kl"] if algorithm.reference_kind == "initial" or not algorithm.needs.rollouts else []


def _of_rewards(config: DictConfig) -> list[str]:
    """Return the names of the members' rewards; a user's own member may have parts of any name."""
    own = not str(OmegaConf.select(config, "reward._target_")).startswith("psychocounsel.")
    members = config.reward.get("members") or [] if "reward" in config else []
    return ["reward_*"] if own else [f"reward_{member.name}" for member in members]


def _says_its_own(made: Any, makers: tuple[str, ...]) -> bool:
    """Return True if no subclass overrides one of the methods `makers`, so that the class's list of figures holds."""
    order = type(made).__mro__
    first = {
        name: next((place for place, each in enumerate(order) if name in vars(each)), len(order)) for name in makers
    }
    return next(place for place, each in enumerate(order) if "figure_names" in vars(each)) <= min(first.values())


def _ordered(names: Iterable[str] | None) -> list[str] | None:
    return None if names is None else list(dict.fromkeys(names))
