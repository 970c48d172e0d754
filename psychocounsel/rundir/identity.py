"""Identity of runs: the settings that define a run, and names of single runs' directories (for sweeps: `sweep.py`)."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from psychocounsel.errors import UserError
from psychocounsel.storage.files import absolute

# Keys that may change when a run directory is used again; all other keys define the run.
_MAY_DIFFER = (
    "cluster",
    "tracker",
    "paths",
    "engine",
    "guard",
    "callbacks",
    "run_dir",
    "sweep_dir",
    "out",
    "after",
    "dry_run",
    "code_path",
    "verbose",
    # Keys of commands that work in steps; each step records its own settings.
    "steps",
    "budget",
    "shards",
    "share",
    "remove",
    "counterfactuals",  # of evaluations by earlier versions
)
_MAY_DIFFER_KEYS = (
    "data.allowed_hosts",
    "eval.every",
    *(f"checkpoint.{name}" for name in ("every", "minutes", "background", "keep_last", "patience")),
)
# Keys that may change on resume: server addresses, time-outs and prices, and where idle models are kept.
_MAY_DIFFER_WITHIN = re.compile(
    r"(reward|compare\[\d+\])(\.members\[\d+\])?\.(addresses|concurrency|timeout_seconds|retries|key_variable)"
    r"|(reward|compare\[\d+\])\.judge\.(addresses|concurrency|timeout_seconds|retries|key_variable|input_price|output_price|currency)"
    r"|rollout\.(addresses|servers|start_minutes|timeout_seconds|transfer|offload_idle)"
    r"|(judge|client|annotator|writers|contestants)(\.\w+(\[\d+\])?)*"
    r"\.(addresses|concurrency|timeout_seconds|retries|key_variable|input_price|output_price)"
)
_MAY_RESHARD = re.compile(r"zero\.\w+")  # checkpoints load at any stage and number of processes
LENGTHS = ("max_steps", "epochs")  # may grow
# Keys that may change but still decide the result of a finished run: its figures, best model and finished steps.
_DECIDE_THE_END = ("eval.every", "checkpoint.patience", "guard", "callbacks", "steps", "remove", *LENGTHS)
# Keys that a run fills in if its command leaves them open: commits of the hub, and a measured size.
_FILLED_IN = re.compile(r"(.+\.)?(eval_)?revision|micro_batch_tokens")
_OPEN = (None, "auto")
_GONE = {"data.swapped": 0.0, "data.system_prompt": None}  # keys of earlier versions, with the value that has no effect
# Keys that runs of earlier versions lack, with the value by which they were trained; _ANY: the value had no effect.
_ANY = object()
_ADDED = {
    "algo.aggregate": "reply",
    "algo.budget": _ANY,
    "algo.ratio": "token",
    "algo.resample": 0,
    "algo.mask_unfinished": False,
    "algo.unfinished_ramp": 0.0,
    "algo.kl_unbiased": False,
    "algo.client_left_penalty": 0.0,
    "algo.out_of_room_penalty": 0.0,
    "algo.rewritten_penalty": 0.0,
}
# Keys that a job adds to a recipe in `settled` when it begins.
_NOTED = ("value", "journal")


def identity(config: DictConfig | dict[str, Any]) -> dict[str, Any]:
    """Return the flat keys that define a run: configurations with equal identity give the same training.

    A key whose value a job determines when it begins (`settled`) holds the recipe as JSON, not the resulting value.
    """
    return {key: value for key, value in _flat(config).items() if _defines(key)}


def defining(config: DictConfig | dict[str, Any], swept: Iterable[str] = ()) -> dict[str, Any]:
    """Return the keys that distinguish a run from the others of its sweep: its identity, its length and the swept keys.

    `swept` may also name groups. If the checked configuration lacks a swept key because checking replaced it by others, as for
    `model.path=http://...` of an evaluation, addresses are included, too.
    """
    keys = tuple(swept)
    flat = _flat(config)
    became_others = any(not any(is_within(key, swept_key) for key in flat) for swept_key in keys)
    return {
        key: value
        for key, value in flat.items()
        if defines(key)
        or any(is_within(key, swept_key) for swept_key in keys)
        or (became_others and key.endswith(".addresses"))
    }


def deciding(config: DictConfig | dict[str, Any]) -> dict[str, Any]:
    """Return the identity of a run and all other keys that affect the result of the finished run.

    Keys about machines, checkpoints, logging and access to servers are excluded.
    """
    return {
        key: value
        for key, value in _flat(config).items()
        if _defines(key) or any(is_within(key, deciding_key) for deciding_key in _DECIDE_THE_END)
    }


def is_within(key: str, other: str) -> bool:
    """Return True if a flat key is `other` or lies within it."""
    return key == other or key.startswith((f"{other}.", f"{other}["))


def defines(key: str) -> bool:
    """Return True if another value of this key or group makes another run of a sweep; the length does, too."""
    return _defines(key) or key in LENGTHS


def differing(new: Mapping[str, Any], old: Mapping[str, Any]) -> list[str]:
    """Return the flat keys in which a run of `new` differs from the run of `old`.

    Values that the old run filled in, and that `new` leaves open, do not count.
    """
    return sorted(_differing(new, old))


_MOST_SHOWN = 6  # keys


def both_values(keys: Sequence[str], new: Mapping[str, Any], old: Mapping[str, Any]) -> str:
    """Return "KEY was OLD, now NEW" for the first keys, and the number of the others."""
    shown = ", ".join(f"{key} was {old.get(key)}, now {new.get(key)}" for key in keys[:_MOST_SHOWN])
    return shown + (f" and {len(keys) - _MOST_SHOWN} more" if len(keys) > _MOST_SHOWN else "")


def is_same(new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    """Return True if no key is `differing`; faster than `differing`."""
    return next(_differing(new, old), None) is None


def _differing(new: Mapping[str, Any], old: Mapping[str, Any]) -> Iterator[str]:
    for key in (*new, *(key for key in old if key not in new)):
        if not _agree(key, new, old) and not (_FILLED_IN.fullmatch(key) and new.get(key) in _OPEN):
            yield key


def _agree(key: str, new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    """Return True if the key has the same effect in a run of `new` as in an earlier run of `old`."""
    if key in _GONE and old.get(key) == _GONE[key]:
        return True
    before = old.get(key, _ADDED.get(key))
    return before is _ANY or bool(new.get(key) == before)


def _flat(config: DictConfig | dict[str, Any]) -> dict[str, Any]:
    """Return every value by its dotted key, in the order of keys; a list without mappings is one value."""
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

    content: Any = OmegaConf.to_container(config) if isinstance(config, DictConfig) else config
    walk({key: value for key, value in content.items() if key != "settled"}, "")
    for key, recipe in (content.get("settled") or {}).items():
        flat[key] = json.dumps({name: recipe[name] for name in sorted(recipe) if name not in _NOTED})
    return dict(sorted(flat.items()))


@cache
def _defines(key: str) -> bool:
    return (
        key.split(".")[0] not in _MAY_DIFFER
        and key not in (*_MAY_DIFFER_KEYS, *LENGTHS)
        and not _MAY_DIFFER_WITHIN.fullmatch(key)
        and not _MAY_RESHARD.fullmatch(key)
    )


def fingerprint(config: DictConfig, **more: Any) -> str:
    """Return the sha256 of a run's identity, its length and `more` (hashes of data and weights)."""
    content = {**identity(config), **{key: config[key] for key in LENGTHS if key in config}, **more}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check_same_run(config: DictConfig, existing: DictConfig, run_dir: Path) -> None:
    """Refuse a run directory that belongs to another configuration.

    Raises:
        UserError: with both values of the keys that differ; or if the run would become shorter.
    """
    new, old = identity(config), identity(existing)
    keys = sorted(key for key in new.keys() | old.keys() if not _agree(key, new, old))
    if keys:
        raise UserError(
            f"{run_dir} belongs to a run with other settings ({both_values(keys, new, old)}): use another run_dir, or the "
            "same values"
        )
    if all(key in config for key in LENGTHS):
        _check_length(config, existing, run_dir)


def _check_length(config: DictConfig, existing: DictConfig, run_dir: Path) -> None:
    """Refuse a run shorter than before.

    Only the worker knows the steps of an epoch; it refuses a length below the finished steps.
    """
    for key in LENGTHS:
        before, now = existing[key], config[key]
        if before is not None and now is not None and now < before:
            raise UserError(f"{run_dir} was started with {key}={before}: {key} may grow but not shrink to {now}")
    if existing.max_steps is None and config.max_steps is not None:
        raise UserError(
            f"{run_dir} was started with epochs={existing.epochs:g}: its length is given in epochs and may grow but not shrink; "
            f"instead of max_steps={config.max_steps} give epochs={existing.epochs:g} or more, or use another run_dir"
        )


_LONGEST = 80  # characters of a name


def slug(text: str) -> str:
    """Return `text` as a file name of [A-Za-z0-9._-], with a hash if it is cut; Hydra cannot parse `=` or `,` in a path."""
    clean = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "run"
    if len(clean) > _LONGEST:
        clean = clean[: _LONGEST - 9] + "-" + hashlib.sha256(text.encode()).hexdigest()[:8]
    return clean


def new_directory(output: str, *names: str) -> Path:
    """Return a new path under `output`: `names` and the time."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S-%f")[:-3]
    return Path(absolute(output)) / slug("-".join([*names, stamp]))
