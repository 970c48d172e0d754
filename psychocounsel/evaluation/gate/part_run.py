"""Run of a part of the gate: an evaluation with its own steps in `RUN/parts/NAME`, which uses the gate's journal."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from psychocounsel.evaluation.gate.gate_parts import ALL
from psychocounsel.evaluation.safety.settings import NOT_READ
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.rundir.run_config import write_config
from psychocounsel.rundir.summary import FINISHED, write_summary
from psychocounsel.steps.context import StepContext
from psychocounsel.steps.plan import has_failed
from psychocounsel.steps.running import run_steps
from psychocounsel.storage.files import read_mapping


def run_part(name: str, context: StepContext[EvaluationDir]) -> dict[str, Any]:
    """Run the due steps of a part and return its metrics.

    Raises:
        BudgetSpent: if the budget is spent before the part is finished; the journal keeps all bought answers.
        UserError: see the part's steps.
    """
    config, files = part_config(context.config, name), context.files.part(name)
    files.path.mkdir(parents=True, exist_ok=True)
    write_config(files.path, config)
    context.say(f"{name}:")
    course = ALL[name].evaluation().course
    inner = replace(context, config=config, files=files, say=lambda line: context.say(f"  {line}"))
    found = run_steps(course, inner, lambda step: None)
    metrics = found[course.steps[-1]]["metrics"]
    write_summary(files.path, FINISHED, metrics=metrics)
    return {"metrics": metrics}


def part_config(config: DictConfig, name: str) -> DictConfig:
    """Return the configuration of a part: the gate's, with the part's own section `evaluation`."""
    part = ALL[name]
    found = OmegaConf.create(OmegaConf.to_container(config))
    assert isinstance(found, DictConfig)
    evaluation = part.evaluation()
    with open_dict(found):
        found.pop("gate")
        for section in ("judge", "personas"):
            if section not in evaluation.sections:
                found.pop(section, None)
        if not part.reads_data:
            for key, value in NOT_READ.items():
                OmegaConf.update(found, key, value)
        own = evaluation(**part.options)
        found.evaluation = {"_target_": part.settings, **{each.name: getattr(own, each.name) for each in fields(own)}}
        found.run_dir, found.steps = str(EvaluationDir(Path(config.run_dir)).part(name).path), None
    return found


def forget_failures(files: EvaluationDir, names: list[str]) -> None:
    """Make the first step with failed calls, and all later steps, due again in each of these parts.

    Otherwise the answers would stay missing, and a gate with missing answers never passes.
    """
    for name in names:
        part, steps = files.part(name), ALL[name].evaluation().course.steps
        first = next((number for number, step in enumerate(steps) if _has_failed(part, step)), None)
        if first is not None:
            for record in (files.step(name), *(part.step(step) for step in reversed(steps[first:]))):
                record.unlink(missing_ok=True)


def _has_failed(files: EvaluationDir, step: str) -> bool:
    return has_failed(read_mapping(files.step(step)).get("figures"))
