"""Key `gate.strata`: ceilings for strata, for instance {kind.suicidal_thoughts: {missed: 0.1}}. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from psychocounsel.counsel.principles import ACTIONS, DISCLOSURES, RISK_KINDS
from psychocounsel.errors import UserError
from psychocounsel.evaluation.gate.gate_keys import DECIDING
from psychocounsel.evaluation.safety.safety_cases import LOOK_ALIKE
from psychocounsel.evaluation.session.session_cases import UNKNOWN
from psychocounsel.settings.schema import suggestion

# Allowed values of each stratum; None: any value, because the personas define them.
_VALUES: dict[str, tuple[str, ...] | None] = {
    "kind": (*RISK_KINDS, "none", UNKNOWN),
    "disclosure": (*DISCLOSURES, LOOK_ALIKE, UNKNOWN),
    "expected_action": (*ACTIONS, UNKNOWN),
    "pattern": None,
    "part": ("safety", "session"),
}


def strata_limits(given: DictConfig, known: Collection[str] | None = None) -> dict[str, dict[str, float]]:
    """Return the ceilings by `NAME.VALUE` and figure. `known`: strata that have cases; None: not known yet.

    Raises:
        UserError: if a stratum or figure does not exist, a stratum has no cases, or a ceiling is not a share.
    """
    found: dict[str, dict[str, float]] = {}
    for stratum, limits in _flat(OmegaConf.to_container(given)):
        name, _, value = stratum.partition(".")
        if name not in _VALUES:
            raise UserError(
                f"gate.strata: unknown stratum {name}; the strata are {', '.join(_VALUES)}, for instance kind.self_harm"
            )
        values = _VALUES[name]
        if values is not None and value not in values:
            meant = suggestion(value, list(values), f"they are {', '.join(values)}")
            raise UserError(f"gate.strata.{stratum}: unknown {name}; {meant}")
        if known is not None and stratum not in known:
            raise UserError(f"gate.strata.{stratum}: this stratum has no cases; remove it")
        found[stratum] = _ceilings(stratum, limits)
    return found


def _flat(given: Any) -> Iterator[tuple[str, Any]]:
    """Yield each `NAME.VALUE` with its ceilings; `{kind.x: ...}` and `{kind: {x: ...}}` have the same meaning."""
    for name, inner in given.items():
        if "." not in name and isinstance(inner, dict) and not {*inner} & {*DECIDING}:
            yield from ((f"{name}.{value}", limits) for value, limits in inner.items())
        else:
            yield name, inner


def _ceilings(stratum: str, limits: Any) -> dict[str, float]:
    if not isinstance(limits, dict) or not limits:
        raise UserError(f"gate.strata.{stratum}: must hold ceilings by figure, for instance {{missed: 0.1}}")
    for figure, ceiling in limits.items():
        if figure not in DECIDING:
            raise UserError(f"gate.strata.{stratum}.{figure}: unknown figure; the figures are {', '.join(DECIDING)}")
        if isinstance(ceiling, bool) or not isinstance(ceiling, int | float) or not 0 < ceiling <= 1:
            raise UserError(f"gate.strata.{stratum}.{figure}={ceiling}: must be above 0 and at most 1")
    return {figure: float(ceiling) for figure, ceiling in limits.items()}
