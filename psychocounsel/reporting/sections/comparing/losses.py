"""Comparability of losses: two losses can be compared if algorithm and all settings that enter the loss are equal."""

from collections.abc import Iterable, Mapping, Sequence

from psychocounsel.reporting.material import RunMaterial

# These keys belong to the optimizer and do not enter the loss, so they may differ.
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
    """Return the algorithm and its type of loss: `DPO, sigmoid`. Curves of one kind can share a chart."""
    section = _algorithm(run)
    name = str(section.get("_target_") or run.what).rpartition(".")[2]
    return ", ".join(filter(None, (name, str(section.get("loss_type") or ""))))


def loss_settings(run: RunMaterial) -> dict[str, str]:
    """Return every setting of the algorithm that enters its loss, as text."""
    kept = {key: str(value) for key, value in _algorithm(run).items() if key not in _OF_THE_OPTIMIZER}
    return {"what": run.what, **kept}


def differing_loss_settings(runs: Iterable[RunMaterial]) -> list[str]:
    """Return the settings of the loss that differ between runs, such as `algo.beta`; only `algo` if the algorithms differ."""
    given = [loss_settings(run) for run in runs]
    keys = dict.fromkeys(key for each in given for key in each)
    differing = [key for key in keys if len({each.get(key) for each in given}) > 1]
    if {"what", "_target_"} & set(differing):
        return ["algo"]
    return [f"algo.{key}" for key in differing]


def losses_are_comparable(runs: Sequence[RunMaterial]) -> bool:
    """True if the losses of these runs can be compared."""
    return not differing_loss_settings(runs)


def _algorithm(run: RunMaterial) -> Mapping[str, object]:
    section = run.config.get("algo")
    return section if isinstance(section, Mapping) else {}
