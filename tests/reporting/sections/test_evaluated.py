"""Sections on evaluations hold the evaluation's own blocks for the runs with figures, and name the others."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from psychocounsel.blocks.cells import Titled
from psychocounsel.evaluation.audit.figures import AuditFigures
from psychocounsel.evaluation.audit.show import audit_blocks
from psychocounsel.evaluation.external.figures import ExternalFigures
from psychocounsel.evaluation.external.show import external_blocks
from psychocounsel.evaluation.health.figures import HealthFigures
from psychocounsel.evaluation.health.figures_step import summarise
from psychocounsel.evaluation.health.show import health_blocks
from psychocounsel.evaluation.reward.show import RewardFigures, reward_blocks
from psychocounsel.evaluation.winrate.figures import WinrateFigures
from psychocounsel.evaluation.winrate.show import winrate_blocks
from psychocounsel.reporting.material import AUDIT, EVALUATION, RunMaterial
from psychocounsel.reporting.sections.evaluated import (
    audit_section,
    external_section,
    gate_section,
    health_section,
    reward_section,
    session_section,
    winrate_section,
)
from tests.reporting.sections.shown import material
from tests.support.shown_blocks import rows, said


def evaluated(title: str, what: str, figures: Any) -> RunMaterial:
    status = "finished" if figures else "running"
    return RunMaterial(Path(title), title, EVALUATION, what, status, figures=dict(figures or {}))


def test_the_section_on_health() -> None:
    row = {"setting": "mine", "seed": 0, "speech": "a", "text": "I hear you.", "outcome": "text"}
    row |= {"length_limit": None, "completion_tokens": 9}
    variants = summarise([row], [{"speech": "a", "text": "I cry.", "language": "en"}])
    figures: HealthFigures = {"evaluation": "health", "model": "mine", "variants": variants, "warnings": []}
    runs = [
        evaluated("one", "health", figures),
        evaluated("two", "health", None),
        evaluated("three", "health", figures),
    ]
    other = evaluated("four", "winrate", figures)
    section = health_section(material(*runs, other))
    warning = "two: no figures, because it is running."
    assert said(section)[0] == warning
    assert section.blocks[1:] == health_blocks([Titled("one", figures), Titled("three", figures)])
    assert not health_section(material(other)).blocks


def test_the_section_on_win_rates() -> None:
    nothing: Any = {"opponents": {}, "judges": {}, "agreement": [], "experts": [], "ranking": None}
    figures: WinrateFigures = {
        "evaluation": "winrate",
        "model": "mine",
        "left_out": 3,
        "verdicts": {},
        "answered_by": {},
        "variants": [{"length_limit": None, **nothing}],
        "warnings": [],
    }
    runs = [
        evaluated("one", "winrate", figures),
        evaluated("two", "winrate", None),
        evaluated("three", "health", figures),
    ]
    section = winrate_section(material(*runs))
    assert (section.name, said(section)[0]) == ("win-rates", "two: no figures, because it is running.")
    assert section.blocks[1:] == winrate_blocks([Titled("one", figures)])
    assert not winrate_section(material(runs[2])).blocks


def test_the_section_on_external_benchmarks() -> None:
    metric: Any = {"value": 0.5, "stderr": "N/A", "documents": 8}
    figures: ExternalFigures = {
        "evaluation": "external",
        "model": "mine",
        "base": None,
        "sets": {},
        "ability": {"settings": {"mine": {"task": {"acc": metric}}}},
        "warnings": [],
    }
    runs = [evaluated("one", "external", figures), evaluated("two", "external", None)]
    section = external_section(material(*runs))
    assert (section.name, said(section)[0]) == ("benchmarks", "two: no figures, because it is running.")
    assert section.blocks[1:] == external_blocks([Titled("one", figures)]) != []


AUDITED: AuditFigures = {
    "counts": {"pairs": 9, "prompts": 9, "replies": 18, "components": 9, "largest_component": 1, "writers": None},
    "topics": {"source": "none", "count": 1},
    "blind": {
        "baselines": {"best_cue": {"by_prompt": {"accuracy": 0.6, "low": 0.4, "high": 0.8, "judged": 9}}},
        "cues": {"length": {"accuracy": 0.6, "low": 0.4, "high": 0.8, "decides": 9}},
        "maximum": {"column": 0, "accuracy": 0.6, "low": 0.55, "high": 0.8, "p": 0.4, "cue": "length"},
        "best": "length",
    },
    "reading": {},
    "gate": {"limit": None, "baseline": "best_cue", "verdict": "none"},
    "halo": None,
    "disagreement": None,
    "contradictions": {},
    "repeats": {},
    "against": {},
}


def test_the_section_on_audits() -> None:
    titles = {"one": AUDITED, "two": None, "three": AUDITED}
    runs = [
        RunMaterial(Path(title), title, AUDIT, "", "finished" if figures else "failed", extra={"audit": figures})
        for title, figures in titles.items()
    ]
    section = audit_section(material(*runs))
    assert said(section)[0] == "two: no figures, because it is failed."
    assert section.blocks[1:] == audit_blocks([Titled("one", AUDITED), Titled("three", AUDITED)])


def test_the_section_on_reward_models() -> None:
    metrics = {"accuracy": 0.6, "pairs": 9, "prompts": 9, "longer_reply_accuracy": 0.5}
    curves = {"mine": {"risk_coverage": [{"coverage": 1.0, "accuracy": 0.6, "margin": 0.1}]}}
    config, summary = {"reward": {"name": "mine"}}, {"metrics": metrics}
    runs = [
        RunMaterial(
            Path(title), title, EVALUATION, "reward", "failed", config, summary=written, extra={"reliability": curves}
        )
        for title, written in {"one": summary, "two": {}, "three": summary}.items()
    ]
    section = reward_section(material(*runs))
    assert said(section) == ["two: no figures, because it is failed."]
    figures = RewardFigures("mine", summary, curves)
    assert section.blocks[1:] == reward_blocks([Titled("one", figures), Titled("three", figures)])
    assert not reward_section(material(evaluated("four", "health", None))).blocks


def test_the_sections_on_sessions_and_gates() -> None:
    session: Any = {"evaluation": "session", "model": "mine", "sessions": {}, "warnings": ["warning: scripted"]}
    judge: Any = {"quality": {}, "settings": {}, "against": {}, "outcomes": {}, "quotes": {"found": 1, "of": 2}}
    session |= {"judges": {"j": judge}}
    outcomes = {"steps": {"answers": {"figures": {"outcomes": {"j": {"text": 4}}}}}}
    run = replace(evaluated("one", "session", session), extra=outcomes)
    section = session_section(material(run, evaluated("two", "session", None)))
    assert (section.name, said(section)) == ("sessions", ["two: no figures, because it is running.", "scripted"])
    [row] = rows(section, "sessions-judges")
    assert row["outcomes of all calls"] == "4 text", "from the record of the step"
    begun = gate_section(material(evaluated("three", "gate", None)))
    assert (begun.name, said(begun)) == ("gate", ["three: no figures, because it is running."])
