"""`gate.from`: finished evaluations in the place of parts, which must be of the same model, base and judge."""

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

_WEIGHTS = "contestants.local_weights."  # in the record of a step: a hash of each local model


def check_taken(config: DictConfig) -> None:
    """Refuse directories that cannot decide together, and with the parts that the gate runs itself.

    Raises:
        UserError: naming the directory, and what to type instead.
    """
    found: dict[str, DictConfig] = {}
    for path in map(Path, config.gate["from"]):
        part = _part_of(path)
        name = part.evaluation.name
        if name in found:
            raise UserError(f"gate.from: two directories are of evaluation={name}; give one")
        if name not in config.gate.parts:
            raise UserError(f"gate.from: {path} is of {name}, which gate.parts leaves out; add it there")
        found[name] = part
    for part_config in found.values():
        check_sides(part_config, f"gate.from: {part_config.run_dir}")
    if found:
        _check_alike(found | {name: config for name in config.gate.parts if name not in found}, {*found})


def check_sides(config: DictConfig, where: str) -> None:
    """Refuse anything but a model and one base, at one limit of length.

    Raises:
        UserError: beginning with `where`.
    """
    sides = [*dict.fromkeys(config.contestants.settings)]
    if len(sides) != 2:
        raise UserError(
            f"{where}: a gate compares with one base; against={'null' if len(sides) < 2 else '[...]'}, give one"
        )
    if len(config.replies.length_limits) > 1:
        raise UserError(f"{where}: a gate decides at one length; give replies.length_limits one value")


def _part_of(path: Path) -> DictConfig:
    if not has_config(path):
        raise UserError(
            f"gate.from: {path}: is no evaluation's directory (it has no {EvaluationDir(path).config.name})"
        )
    config = read_config(path)
    name = OmegaConf.select(config, "evaluation.name")
    if name not in ALL:
        raise UserError(f"gate.from: {path}: is of evaluation={name}; parts of a gate are {', '.join(ALL)}")
    if not is_finished(path):
        raise UserError(f"gate.from: {path}: is not finished; give its command again, then this one")
    return config


def _check_alike(parts: Mapping[str, DictConfig], taken: set[str]) -> None:
    """Refuse a part that differs from another in a fact that both have; the taken ones come first."""
    known: dict[str, tuple[str, Any]] = {}
    for name, config in parts.items():
        facts = _facts(name, config) | (_weights(config) if name in taken else {})
        for what, value in facts.items():
            whose, other = known.setdefault(what, (name, value))
            if other != value:
                raise UserError(
                    f"gate.from: {what} of {name}: not the same as of {whose}; all parts must be of the same model, base and "
                    "judge, and asked alike"
                )


def _facts(name: str, config: DictConfig) -> dict[str, Any]:
    """What must be the same of all parts."""
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
    """The hashes of local models, as the steps of a finished part recorded them."""
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
    """A hash of what each directory of `gate.from` records of its steps: another result makes the decision due."""
    return {str(path): "".join(_hashes(EvaluationDir(Path(path)))) for path in config.gate["from"]}


def _hashes(files: EvaluationDir) -> Iterator[str]:
    content = b"\0".join(file.read_bytes() for file in sorted(files.steps.glob("*.json")))
    yield hashlib.sha256(content).hexdigest()
