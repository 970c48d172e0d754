"""Key `gate.from`: finished evaluations that replace parts; all must have the same model, base and judge."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from psychocounsel.errors import UserError
from psychocounsel.evaluation.gate.gate_parts import ALL
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.rundir.run_config import has_config, read_config
from psychocounsel.rundir.summary import is_finished
from psychocounsel.settings.targets import build
from psychocounsel.storage.files import read_mapping

_WEIGHTS = "contestants.local_weights."  # prefix of the hashes of local models in a step's record


def check_taken(config: DictConfig) -> None:
    """Check that the directories of `gate.from` fit each other and the parts that the gate runs itself.

    Raises:
        UserError: if a directory does not fit; the error names it and the remedy.
    """
    found: dict[str, DictConfig] = {}
    for path in map(Path, config.gate["from"]):
        part = _part_of(path)
        name = part.evaluation.name
        if name in found:
            raise UserError(f"gate.from: two directories hold evaluation={name}; name only one")
        if name not in config.gate.parts:
            raise UserError(f"gate.from: {path} holds {name}, which gate.parts leaves out; add it there")
        found[name] = part
    for part_config in found.values():
        check_sides(part_config, f"gate.from: {part_config.run_dir}")
    if found:
        _check_alike(found | {name: config for name in config.gate.parts if name not in found}, {*found})


def check_sides(config: DictConfig, where: str) -> None:
    """Check that the contestants are a model and one base, with one length limit.

    Raises:
        UserError: otherwise; the error begins with `where`.
    """
    sides = [*dict.fromkeys(config.contestants.settings)]
    if len(sides) != 2:
        named = "none is known" if len(sides) < 2 else "several are named"
        raise UserError(f"{where}: a gate compares with one base, and {named}; give against=BASE")
    if len(config.replies.length_limits) > 1:
        raise UserError(f"{where}: a gate decides at one length limit; set replies.length_limits to one value")


def _part_of(path: Path) -> DictConfig:
    if not has_config(path):
        raise UserError(
            f"gate.from: {path}: is not the directory of an evaluation (it has no {EvaluationDir(path).config.name})"
        )
    config = read_config(path)
    name = OmegaConf.select(config, "evaluation.name")
    if name not in ALL:
        raise UserError(f"gate.from: {path}: holds evaluation={name}; parts of a gate are {', '.join(ALL)}")
    if not is_finished(path):
        raise UserError(f"gate.from: {path}: is not finished; run its command again, then this one")
    return config


def _check_alike(parts: Mapping[str, DictConfig], taken: set[str]) -> None:
    """Refuse parts that differ in a fact that both have. For parts in `taken`, the facts include hashes of weights."""
    known: dict[str, tuple[str, Any]] = {}
    for name, config in parts.items():
        facts = _facts(name, config) | (_weights(config) if name in taken else {})
        for what, value in facts.items():
            whose, other = known.setdefault(what, (name, value))
            if other != value:
                raise UserError(
                    f"gate.from: {what} of {name}: not the same as in {whose}; all parts must have the same model, base, judge "
                    "and replies.* keys"
                )


def _facts(name: str, config: DictConfig) -> dict[str, Any]:
    """Return the facts that must be equal in all parts."""
    found: dict[str, Any] = {}
    settings = config.contestants.settings
    for number, model in enumerate(build(config, "contestants").models()):
        side = "the model" if settings[number] == settings[0] else "the base"
        found[f"{side} ({model.name})" if settings.count(settings[number]) > 1 else side] = model.digest
    found["replies"] = OmegaConf.to_container(config.replies)
    if not ALL[name].reads_data:
        found["the judge"] = sorted(judge.digest for judge in build(config, "judge").models())
    return found


def _weights(config: DictConfig) -> dict[str, Any]:
    """Return the hashes of local models that the steps of a finished part recorded."""
    found: dict[str, Any] = {}
    for file in EvaluationDir(Path(config.run_dir)).steps.glob("*.json"):
        settings = read_mapping(file).get("settings", {})
        found |= {
            f"the weights of {key.removeprefix(_WEIGHTS)}": settings[key]
            for key in settings
            if key.startswith(_WEIGHTS)
        }
    return found


def taken_marks(config: DictConfig) -> dict[str, str]:
    """Return a hash of the step records of each directory in `gate.from`; a changed result makes the decision due again."""
    return {str(path): "".join(_hashes(EvaluationDir(Path(path)))) for path in config.gate["from"]}


def _hashes(files: EvaluationDir) -> Iterator[str]:
    content = b"\0".join(file.read_bytes() for file in sorted(files.steps.glob("*.json")))
    yield hashlib.sha256(content).hexdigest()
