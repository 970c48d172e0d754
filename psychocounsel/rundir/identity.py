"""What makes two runs the same, and what their directories are called."""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from psychocounsel.errors import UserError

# What may differ when a run directory is used again; everything else defines the run.
_MAY_DIFFER = (
    "cluster",
    "tracker",
    "paths",
    "engine",
    "guard",
    "callbacks",
    "run_dir",
    "sweep_dir",
    "after",
    "dry_run",
    "code_path",
)
_MAY_DIFFER_KEYS = (
    "data.allowed_hosts",
    "eval.every",
    *(f"checkpoint.{name}" for name in ("every", "minutes", "background", "keep_last")),
)
# How servers are reached, of replies, rewards and counterfactuals, and where models wait.
_MAY_DIFFER_WITHIN = re.compile(
    r"(reward|compare\[\d+\])(\.members\[\d+\])?\.(addresses|concurrency|timeout_seconds|retries|key_variable)"
    r"|counterfactuals\.(addresses|concurrency|timeout_seconds|retries|key_variable)"
    r"|rollout\.(addresses|servers|start_minutes|timeout_seconds|transfer|offload_idle)"
)
_MAY_RESHARD = re.compile(r"zero\.\w+")  # with the processes, which `cluster` holds: checkpoints fit any
_MAY_GROW = ("max_steps", "epochs")


def identity(config: DictConfig) -> dict[str, Any]:
    """The flat keys that define a run: two configurations with equal identity give the same training."""
    flat: dict[str, Any] = {}

    def walk(node: Any, prefix: str) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                walk(value, f"{prefix}.{key}" if prefix else key)
        elif isinstance(node, list) and any(isinstance(value, dict) for value in node):
            for index, value in enumerate(node):
                walk(value, f"{prefix}[{index}]")
        else:
            flat[prefix] = node

    walk(OmegaConf.to_container(config), "")
    return {
        key: value
        for key, value in sorted(flat.items())
        if key.split(".")[0] not in _MAY_DIFFER
        and key not in (*_MAY_DIFFER_KEYS, *_MAY_GROW)
        and not _MAY_DIFFER_WITHIN.fullmatch(key)
        and not _MAY_RESHARD.fullmatch(key)
    }


def fingerprint(config: DictConfig, **more: Any) -> str:
    """sha256 of a run's identity, its length and `more` (data and weight fingerprints)."""
    content = {**identity(config), **{key: config[key] for key in _MAY_GROW if key in config}, **more}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check_same_run(config: DictConfig, existing: DictConfig, run_dir: Path) -> None:
    """Refuse a run directory that belongs to another configuration.

    Raises:
        UserError: naming the keys that differ, with both values of the first.
    """
    new, old = identity(config), identity(existing)
    differing = sorted(key for key in new.keys() | old.keys() if new.get(key) != old.get(key))
    if differing:
        first = differing[0]
        shown = ", ".join(differing[:6]) + (f" and {len(differing) - 6} more" if len(differing) > 6 else "")
        raise UserError(
            f"{run_dir} belongs to a run with another {shown} ({first} was {old.get(first)}, now {new.get(first)}): "
            "use another run_dir, or the same values"
        )
    if all(key in config for key in _MAY_GROW):
        _check_length(config, existing, run_dir)


def _check_length(config: DictConfig, existing: DictConfig, run_dir: Path) -> None:
    """Refuse a shorter run. How many steps an epoch has is known to the worker alone, which refuses less than are done."""
    for key in _MAY_GROW:
        before, now = existing[key], config[key]
        if before is not None and now is not None and now < before:
            raise UserError(f"{run_dir} was started with {key}={before}: {key} may grow but not shrink to {now}")
    if existing.max_steps is None and config.max_steps is not None:
        raise UserError(
            f"{run_dir} was started with epochs={existing.epochs:g}: its length may grow but not shrink, and is given in epochs; "
            f"in the place of max_steps={config.max_steps} give epochs={existing.epochs:g} or more, or use another run_dir"
        )


def slug(text: str, limit: int = 80) -> str:
    """`text` as a file name of [A-Za-z0-9._-] (Hydra cannot parse `=` or `,` in a path); a hash marks what was cut."""
    clean = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "run"
    if len(clean) > limit:
        clean = clean[: limit - 9] + "-" + hashlib.sha256(text.encode()).hexdigest()[:8]
    return clean


def new_directory(output: str, *names: str) -> Path:
    """A new name under `output`: `names` and the time."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S-%f")[:-3]
    return Path(os.path.abspath(os.path.expanduser(output))) / slug("-".join([*names, stamp]))


def run_name(overrides: Sequence[str]) -> str:
    """The folder of a sweep's job: its overrides, without those that do not define the run."""
    telling = [text for text in overrides if text.lstrip("+~").partition("=")[0].split(".")[0] not in _MAY_DIFFER]
    return slug("_".join(telling) or "default")
