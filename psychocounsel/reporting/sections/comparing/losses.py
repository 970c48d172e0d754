"""Which losses can be compared: those of one algorithm with the same settings that enter the loss."""

from collections.abc import Iterable, Mapping, Sequence

from psychocounsel.reporting.material import RunMaterial

# How weights move is no part of the loss: these keys may differ.
_OF_THE_OPTIMIZER: tuple[str, ...] = (
    "lr",
    "critic_lr",
    "schedule",
    "warmup",
    "min_lr_ratio",
    "weight_decay",
    "max_grad_norm",
)
_OF_THE_OPTIMIZER += ("adam_beta1", "adam_beta2", "adam_eps")


def loss_kind(run: RunMaterial) -> str:
    """The algorithm and its type of loss: `DPO, sigmoid`. Curves of one kind may lie in one chart."""
    section = _algorithm(run)
    name = str(section.get("_target_") or run.what).rpartition(".")[2]
    return ", ".join(filter(None, (name, str(section.get("loss_type") or ""))))


def loss_settings(run: RunMaterial) -> dict[str, str]:
    """Every setting of the algorithm that its loss is made of, as text."""
    kept = {key: str(value) for key, value in _algorithm(run).items() if key not in _OF_THE_OPTIMIZER}
    return {"what": run.what, **kept}


def differing_loss_settings(runs: Iterable[RunMaterial]) -> list[str]:
    """The settings of the loss that differ between runs: `algo.beta`; `algo` for two algorithms."""
    given = [loss_settings(run) for run in runs]
    keys = dict.fromkeys(key for each in given for key in each)
    differing = [key for key in keys if len({each.get(key) for each in given}) > 1]
    if {"what", "_target_"} & set(differing):
        return ["algo"]
    return [f"algo.{key}" for key in differing]


def losses_are_comparable(runs: Sequence[RunMaterial]) -> bool:
    """Whether a smaller loss of one of the runs says anything about another."""
    return not differing_loss_settings(runs)


def _algorithm(run: RunMaterial) -> Mapping[str, object]:
    section = run.config.get("algo")
    return section if isinstance(section, Mapping) else {}
