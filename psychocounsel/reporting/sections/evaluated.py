"""Sections on evaluations: the blocks of each evaluation for its runs, and a warning for each run without figures."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from psychocounsel.blocks.cells import Titled
from psychocounsel.blocks.kinds import Block, Paragraph, ReportTable, Section
from psychocounsel.evaluation.audit.show import audit_blocks
from psychocounsel.evaluation.best_of.show import best_of_blocks
from psychocounsel.evaluation.external.show import external_blocks
from psychocounsel.evaluation.gate.show import gate_blocks
from psychocounsel.evaluation.health.show import health_blocks
from psychocounsel.evaluation.reward.show import RewardFigures, reward_blocks
from psychocounsel.evaluation.safety.show import FLAGGED, safety_blocks
from psychocounsel.evaluation.session.show import session_blocks
from psychocounsel.evaluation.winrate.show import winrate_blocks
from psychocounsel.reporting.material import AUDIT, EVALUATION, Material, RunMaterial


def evaluations(material: Material, what: str) -> list[RunMaterial]:
    """Return the runs of `evaluation=WHAT`, in the order in which they were given."""
    return [run for run in material.of(EVALUATION) if run.what == what]


def without_figures(runs: Iterable[RunMaterial], has: Callable[[RunMaterial], bool]) -> list[Block]:
    """Return a warning for each run that has no figures yet."""
    return [
        Paragraph(f"{run.title}: no figures, because it is {run.status}.", "warning") for run in runs if not has(run)
    ]


def winrate_section(material: Material) -> Section:
    return _section(material, "winrate", "Win rates", "variants", winrate_blocks, "win-rates")


def best_of_section(material: Material) -> Section:
    return _section(material, "best_of", "Best of n replies", "reward_models", best_of_blocks, "best-of-n")


def health_section(material: Material) -> Section:
    return _section(material, "health", "Health of replies", "variants", health_blocks)


def external_section(material: Material) -> Section:
    # `sets` is empty if only general ability was measured.
    return _section(material, "external", "External benchmarks", "evaluation", external_blocks, "benchmarks")


def audit_section(material: Material) -> Section:
    runs = material.of(AUDIT)
    finished = [run for run in runs if "blind" in (run.extra.get("audit") or {})]
    blocks = audit_blocks([Titled(run.title, run.extra["audit"]) for run in finished])
    missing = without_figures(runs, lambda run: run in finished)
    return Section("audits", "Audits of preference data", [*missing, *blocks])


def reward_section(material: Material) -> Section:
    runs = evaluations(material, "reward")
    finished = [run for run in runs if "metrics" in run.summary]
    blocks = reward_blocks([Titled(run.title, reward_figures(run)) for run in finished])
    missing = without_figures(runs, lambda run: run in finished)
    return Section("reward-models", "Reward models", [*missing, *blocks])


def reward_figures(run: RunMaterial) -> RewardFigures:
    name = str((run.config.get("reward") or {}).get("name") or "reward model")
    return RewardFigures(name, run.summary, run.extra.get("reliability") or {})


def gate_section(material: Material) -> Section:
    return _section(material, "gate", "The gate", "decision", gate_blocks)


def safety_section(material: Material) -> Section:
    section = _section(material, "safety", "Safety of replies to speeches at risk", "model", safety_blocks)
    if material.shows_texts and any(
        isinstance(block, ReportTable) and block.name == FLAGGED for block in section.blocks
    ):
        note = "Flagged replies come first under Replies side by side. Each speech at risk is hidden until you click."
        return replace(section, blocks=[Paragraph(note), *section.blocks])
    return section


def session_section(material: Material) -> Section:
    return _section(material, "session", "Sessions with simulated clients", "model", session_blocks, "sessions")


def _section(
    material: Material,
    what: str,
    title: str,
    key: str,
    blocks: Callable[[Sequence[Titled[Any]]], Sequence[Block]],
    name: str = "",
) -> Section:
    """Return the section on `evaluation=WHAT`, named `name` or WHAT; a run has figures if its figures.json holds `key`."""
    runs = evaluations(material, what)
    finished = [Titled(run.title, run.figures, run.extra.get("steps", {})) for run in runs if run.figures.get(key)]
    missing = without_figures(runs, lambda run: bool(run.figures.get(key)))
    return Section(name or what, title, [*missing, *blocks(finished)])
