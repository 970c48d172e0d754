"""Settings that define the held-out data of training runs. Figures on different data cannot be compared."""

from collections.abc import Iterable, Mapping

from psychocounsel.reporting.material import RunMaterial

_DATA_KEYS: tuple[str, ...] = (
    "path",
    "revision",
    "split",
    "eval_path",
    "eval_revision",
    "eval_split",
    "dev_fraction",
    "split_seed",
    "limit",
)
_DATA_KEYS += (
    "pairs",
    "min_gap",
    "gap",
    "principle_weights",
    "safety_veto",
    "system_prompt",
    "rating_range",
    "too_long",
)


def differing_held_out(runs: Iterable[RunMaterial]) -> list[str]:
    """Return the settings of the held-out data that differ between runs, such as `data.dev_fraction` or `eval.limit`."""
    given = [_settings(run) for run in runs]
    keys = dict.fromkeys(key for each in given for key in each)
    return [key for key in keys if len({each.get(key) for each in given}) > 1]


def _settings(run: RunMaterial) -> dict[str, str]:
    data, evaluated = run.config.get("data"), run.config.get("eval")
    found = {f"data.{key}": str(data.get(key)) for key in _DATA_KEYS} if isinstance(data, Mapping) else {}
    if isinstance(evaluated, Mapping):
        found["eval.limit"] = str(evaluated.get("limit"))
    return {**found, "max_length": str(run.config.get("max_length"))}
