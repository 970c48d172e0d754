"""Sections on evaluations hold the evaluation's own blocks for the runs with figures, and name the others."""

from pathlib import Path

from psychocounsel.blocks.cells import Titled
from psychocounsel.evaluation.health.figures import HealthFigures
from psychocounsel.evaluation.health.figures_step import summarise
from psychocounsel.evaluation.health.show import health_blocks
from psychocounsel.reporting.material import EVALUATION, RunMaterial
from psychocounsel.reporting.sections.evaluated import health_section
from tests.reporting.sections.shown import material
from tests.support.shown_blocks import said


def health(title: str, figures: HealthFigures | None, what: str = "health") -> RunMaterial:
    status = "finished" if figures else "running"
    return RunMaterial(Path(title), title, EVALUATION, what, status, figures=dict(figures or {}))


def test_the_section_on_health() -> None:
    row = {"setting": "mine", "seed": 0, "speech": "a", "text": "I hear you.", "outcome": "text"}
    row |= {"length_limit": None, "completion_tokens": 9}
    variants = summarise([row], [{"speech": "a", "text": "I cry.", "language": "en"}])
    figures: HealthFigures = {"evaluation": "health", "model": "mine", "variants": variants, "warnings": []}
    runs = [health("one", figures), health("two", None), health("three", figures), health("four", figures, "winrate")]
    section = health_section(material(*runs))
    warning = "two: no figures, because it is running."
    assert said(section)[0] == warning
    assert section.blocks[1:] == health_blocks([Titled("one", figures), Titled("three", figures)])
    assert not health_section(material(health("four", figures, "winrate"))).blocks
