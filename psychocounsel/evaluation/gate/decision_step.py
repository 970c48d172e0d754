"""Step `decision`: writes figures.json with every bound and verdict, the reasons, and the exit code."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from psychocounsel.errors import GATE_UNDECIDED
from psychocounsel.evaluation.gate.adjudicate_step import all_answers
from psychocounsel.evaluation.gate.deciding import WORDS, GateLimits, MeasuredCases, code_of, held_health
from psychocounsel.evaluation.gate.gate_keys import DECIDING, PARTS
from psychocounsel.evaluation.gate.gate_parts import Evidence, evidence_of, part_files, taken, wanted_parts
from psychocounsel.evaluation.gate.gate_reasons import reasons_of
from psychocounsel.evaluation.gate.rulings import Answered, agreement
from psychocounsel.evaluation.gate.strata_keys import strata_limits
from psychocounsel.evaluation.safety.crisis_speeches import NOT_VALIDATED
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.steps.context import StepContext
from psychocounsel.storage.files import read_mapping, write_json

HOLDS = "the decision holds for this set of speeches and personas, not for clients"


def run(context: StepContext[EvaluationDir]) -> dict[str, Any]:
    """Decide and write figures.json; return the metrics.

    They are the number of hard flags, the exit code, and the model's share of failures by figure with its upper bound.

    Raises:
        UserError: if a file of adjudicated cases is malformed, or a stratum with a ceiling has no cases.
    """
    config = context.config
    evidence = evidence_of(config)
    answered = all_answers(config, evidence)
    found = decision(config, evidence, answered)
    write_json(context.files.figures, found)
    metrics = {"hard_flags": found["hard"]["flagged"], "code": found["code"]}
    for figure, row in found["figures"].items():
        if row["rate"]["clusters"]:
            metrics |= {figure: row["rate"]["value"], f"{figure}_high": row["rate"]["high"]}
    return {"metrics": metrics}


def decision(config: DictConfig, evidence: Evidence, answered: list[Answered]) -> dict[str, Any]:
    """Return the content of figures.json.

    `figures`, `strata`, `hard` and `labels` come from `MeasuredCases`, `health` from `held_health`. `reasons` holds pairs of
    exit code and line; `code` is the resulting exit code, and `decision` its word.

    Raises:
        UserError: if a stratum with a ceiling has no cases.
    """
    limits = limits_of(config)
    measured = MeasuredCases(evidence.cases, evidence.model, evidence.base, answered, limits)
    strata = measured.strata()
    strata_limits(config.gate.strata, strata)
    found: dict[str, Any] = {
        "evaluation": "gate",
        "model": evidence.model,
        "base": evidence.base,
        "parts": {name: str(path) for name, path in _places(config).items()},
        "clusters": measured.clusters(),
        "figures": measured.figures(),
        "strata": strata,
        "health": held_health(evidence.health, limits.health) if evidence.health is not None else {},
        "hard": measured.hard(),
        "labels": measured.labels(),
        "wrong_labels": limits.wrong_labels,
        "adjudicated": {
            "cases": len({each.case for each in answered}),
            "adjudicators": len({each.adjudicator for each in answered}),
            "agreement": agreement(answered),
        },
        "quality": evidence.quality,
    }
    missing_parts = [name for name in PARTS if name not in wanted_parts(config)]
    reasons = reasons_of(found, missing_parts, evidence.missing, evidence.limits)
    code = code_of(reasons)
    return found | {"reasons": reasons, "code": code, "decision": WORDS[code], "warnings": [HOLDS, NOT_VALIDATED]}


def _places(config: DictConfig) -> dict[str, Any]:
    """Return the directory of each part; a directory within the gate's own is relative to it."""
    there = taken(config)
    return {name: part_files(config, name).path if name in there else f"parts/{name}" for name in wanted_parts(config)}


def limits_of(config: DictConfig) -> GateLimits:
    """Return the limits that a checked configuration sets."""
    keys = config.gate
    return GateLimits(
        margin={figure: keys[figure].margin for figure in DECIDING},
        ceiling={figure: keys[figure].ceiling for figure in DECIDING},
        strata=strata_limits(keys.strata),
        health=OmegaConf.to_container(keys.health) if keys.health is not None else {},  # type: ignore[arg-type]
        passes=keys.passes,
        seed=keys.seed,
        wrong_labels=keys.wrong_labels,
    )


def code_in(files: EvaluationDir) -> int:
    """Return the exit code of the decision; GATE_UNDECIDED if the step has not run."""
    done = files.step("decision").exists()
    return int(read_mapping(files.figures).get("code", GATE_UNDECIDED)) if done else GATE_UNDECIDED
