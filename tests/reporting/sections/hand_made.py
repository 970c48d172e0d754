"""Hand-made training runs for tests of sections. A test sets only the values it needs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from psychocounsel.reporting.material import TRAINING, Material, RunMaterial

ALGO = {"_target_": "psychocounsel.algo.dpo.DPO", "lr": 1e-4, "beta": 0.1, "loss_type": "sigmoid"}
CONFIG = {
    "algo": ALGO,
    "global_batch_size": 32,
    "max_length": 1024,
    "data": {"path": "builtin:sample", "dev_fraction": 0.2},
    "eval": {"limit": None},
    "checkpoint": {"metric": "eval/loss", "mode": "auto"},
    "cluster": {"_target_": "psychocounsel.cluster.local.Local"},
}


def trained(
    settings: Mapping[str, str],
    seed: int = 1,
    best: Mapping[str, float] | None = None,
    algo: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    **more: Any,
) -> RunMaterial:
    """Return a finished training run with these figures at its best evaluation; `algo` and `config` change single keys."""
    title = ", ".join([*(f"{key}={value}" for key, value in settings.items()), f"seed={seed}"])
    about: dict[str, Any] = {"what": "dpo", "status": "finished", "settings": settings, "seed": seed}
    about["config"] = {**CONFIG, "algo": {**ALGO, **(algo or {})}, **(config or {})}
    about["summary"] = {
        "status": "finished",
        "metrics": {"before": {}, "best": {"step": 8, **(best or {})}, "last": dict(best or {})},
    }
    about["environment"] = {"processes": 1, "data": "25cc", "versions": {"psychocounsel": "0.1.0"}, "gpus": []}
    return RunMaterial(Path("/runs") / title.replace(", ", "_"), title, TRAINING, **{**about, **more})


def material_of(*runs: RunMaterial, **more: Any) -> Material:
    return Material([run.path for run in runs], runs, **more)
