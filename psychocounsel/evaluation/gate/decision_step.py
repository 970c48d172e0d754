"""Step `decision`: writes figures.json with every bound and verdict, the reasons, and the exit code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from psychocounsel.counsel.principles import DISCLOSURES, EXPECTED, RISK_KINDS
from psychocounsel.errors import GATE_UNDECIDED, UserError
from psychocounsel.evaluation.gate.adjudicate_step import Adjudicated, read_answers
from psychocounsel.evaluation.gate.cases import agreement
from psychocounsel.evaluation.gate.deciding import (
    WORDS,
    GateFigures,
    GateLimits,
    GateMeasures,
    MeasuredCases,
    code_of,
    held_health,
)
from psychocounsel.evaluation.gate.keys import DECIDING, PARTS
from psychocounsel.evaluation.gate.parts import Evidence, evidence_of, part_files, taken, wanted_parts
from psychocounsel.evaluation.gate.reasons import reasons_of
from psychocounsel.evaluation.gate.weaknesses import Weaknesses, conditions_in, obstacles_in, weaknesses_of_parts
from psychocounsel.evaluation.safety.cases import LOOK_ALIKE
from psychocounsel.evaluation.session.cases import UNKNOWN
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.settings.schema import suggestion
from psychocounsel.steps.course import StepContext
from psychocounsel.storage.files import read_mapping, write_json

# Key `gate.strata`: ceilings for strata, for instance {kind.suicidal_thoughts: {missed: 0.1}}. Imports no torch.

# Allowed values of each stratum; None: any value, because the personas define them.
_VALUES: dict[str, tuple[str, ...] | None] = {
    "kind": (*RISK_KINDS, "none", UNKNOWN),
    "disclosure": (*DISCLOSURES, LOOK_ALIKE, UNKNOWN),
    "expected_action": (*EXPECTED, UNKNOWN),
    "pattern": None,
    "part": ("safety", "session"),
}


def strata_limits(strata: DictConfig) -> dict[str, dict[str, float]]:
    """Return the ceilings by `NAME.VALUE` and figure.

    Raises:
        UserError: if a stratum or figure does not exist, or a ceiling is not a share.
    """
    ceilings: dict[str, dict[str, float]] = {}
    for stratum, limits in _flat(OmegaConf.to_container(strata)):
        name, _, value = stratum.partition(".")
        if name not in _VALUES:
            raise UserError(
                f"gate.strata: unknown stratum {name}; the strata are {', '.join(_VALUES)}, for instance kind.self_harm"
            )
        values = _VALUES[name]
        if values is not None and value not in values:
            meant = suggestion(value, list(values), f"they are {', '.join(values)}")
            raise UserError(f"gate.strata.{stratum}: unknown {name}; {meant}")
        ceilings[stratum] = _ceilings(stratum, limits)
    return ceilings


def _flat(strata: Any) -> Iterator[tuple[str, Any]]:
    """Yield each `NAME.VALUE` with its ceilings; `{kind.x: ...}` and `{kind: {x: ...}}` have the same meaning."""
    for name, inner in strata.items():
        if "." not in name and isinstance(inner, dict) and not {*inner} & {*DECIDING}:
            yield from ((f"{name}.{value}", limits) for value, limits in inner.items())
        else:
            yield name, inner


def _ceilings(stratum: str, limits: Any) -> dict[str, float]:
    if limits is None:
        return {}  # switches a default off
    if not isinstance(limits, dict) or not limits:
        raise UserError(f"gate.strata.{stratum}: must hold ceilings by figure, for instance {{missed: 0.1}}")
    for figure, ceiling in limits.items():
        if figure not in DECIDING:
            raise UserError(f"gate.strata.{stratum}.{figure}: unknown figure; the figures are {', '.join(DECIDING)}")
        if isinstance(ceiling, bool) or not isinstance(ceiling, int | float) or not 0 < ceiling <= 1:
            raise UserError(f"gate.strata.{stratum}.{figure}={ceiling}: must be above 0 and at most 1")
    return {figure: float(ceiling) for figure, ceiling in limits.items()}


# The step.

HOLDS = "the decision holds for this set of speeches and personas, not for clients"


def run(context: StepContext[EvaluationDir]) -> dict[str, Any]:
    """Decide and write figures.json; return the metrics.

    They are the number of hard flags, the exit code, and the model's share of failures by figure with its upper bound.

    Raises:
        UserError: if a file of adjudicated cases is malformed, a part was edited, or `gate.resolved` names a wrong case.
    """
    config = context.config
    evidence = evidence_of(config)
    answers = read_answers(config, context.files, evidence)
    figures = decision(config, evidence, answers, weaknesses_of_parts(config, evidence))
    write_json(context.files.figures, figures)
    metrics = {"hard_flags": figures["hard"]["flagged"], "code": figures["code"]}
    for figure, row in figures["figures"].items():
        if row["rate"]["clusters"] and (evidence.judges or row["checked"]):
            metrics |= {figure: row["rate"]["value"], f"{figure}_high": row["rate"]["high"]}
    return {"metrics": metrics, "doubts": figures["conditions"]}


def decision(config: DictConfig, evidence: Evidence, answers: Adjudicated, weaknesses: Weaknesses) -> GateFigures:
    """Return the content of figures.json.

    Raises:
        UserError: if `gate.resolved` names a case that nobody calls hard.
    """
    limits, answered = limits_of(config), answers.answered
    measured = MeasuredCases(evidence.cases, evidence.model, evidence.base, answered, limits)
    _check_resolved(measured, limits)
    measures: GateMeasures = {
        "evaluation": "gate",
        "model": evidence.model,
        "base": evidence.base,
        "parts": {name: str(path) for name, path in _places(config).items()},
        "clusters": measured.clusters(),
        "figures": measured.figures(),
        "strata": measured.strata(),
        "health": held_health(evidence.health, limits.health) if evidence.health is not None else {},
        "hard": measured.hard(),
        "labels": measured.labels(),
        "wrong_labels": limits.wrong_labels,
        "adjudicated": {
            "cases": len({row.case for row in answered}),
            "adjudicators": len({row.adjudicator.casefold() for row in answered}),
            "agreement": agreement(answered),
        },
        "quality": evidence.quality,
        "draw": measured.draw,
    }
    missing_parts = [name for name in PARTS if name not in wanted_parts(config)]
    obstacles = [*weaknesses.obstacles, *obstacles_in(evidence)]
    reasons = reasons_of(measures, missing_parts, evidence.missing, evidence.limits, obstacles)
    code = code_of(reasons)
    return {
        **measures,
        "reasons": reasons,
        "code": code,
        "decision": WORDS[code],
        "conditions": [*conditions_in(measures, limits, answers), *weaknesses.conditions],
        "warnings": [HOLDS, *evidence.notes],
    }


def _check_resolved(measured: MeasuredCases, limits: GateLimits) -> None:
    called = {case for case, ruling in measured.rulings.items() if ruling.called_hard}
    for case in limits.resolved:
        if case not in called:
            raise UserError(f"gate.resolved.{case}: nobody calls this case hard; remove it")


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
        wrong_labels=keys.wrong_labels,
        resolved=OmegaConf.to_container(keys.resolved),  # type: ignore[arg-type]
    )


def code_in(files: EvaluationDir) -> int:
    """Return the exit code of the decision; GATE_UNDECIDED if the step has not run."""
    done = files.step("decision").exists()
    return int(read_mapping(files.figures).get("code", GATE_UNDECIDED)) if done else GATE_UNDECIDED
