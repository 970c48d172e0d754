"""Tests of runs of another version: they get a warning, and the figures of other runs stay on the page."""

from dataclasses import replace
from pathlib import Path

import pytest

from psychocounsel.blocks.kinds import Paragraph, Section
from psychocounsel.reporting.material import ANNOTATION, AUDIT, EVALUATION, TRAINING, Material, RunMaterial
from psychocounsel.reporting.sections import EVALUATION_SECTIONS
from psychocounsel.reporting.sections.foreign_runs import tolerant


def of_score(material: Material) -> Section:
    return Section("scores", "Scores", [Paragraph(f"{run.title} {run.figures['score']:.1f}") for run in material.runs])


def run(title: str, kind: str = EVALUATION, what: str = "winrate", **more: object) -> RunMaterial:
    return RunMaterial(Path(title), title, kind, what, "finished", **more)  # type: ignore[arg-type]


def test_a_run_that_cannot_be_read_is_told_and_the_others_stand() -> None:
    runs = [
        run("old", figures={"points": 1}),
        run("new", figures={"score": 2.0}),
        run("odd", figures={"score": "much"}),
    ]
    found = tolerant(of_score)(Material([], runs))
    texts = [each.text for each in found.blocks if isinstance(each, Paragraph)]
    assert texts[2:] == ["new 2.0"] and [text.split(":")[0] for text in texts[:2]] == ["old", "odd"]
    assert all("another version" in text for text in texts[:2])


def test_an_error_of_the_section_itself_is_not_hidden() -> None:
    def only_together(material: Material) -> Section:
        if len(material.runs) > 1:
            raise KeyError("together")
        return Section("x", "x")

    with pytest.raises(KeyError, match="together"):
        tolerant(only_together)(Material([], [run("a"), run("b")]))


def test_a_run_that_has_not_ended_hides_nothing_of_those_it_is_shown_with() -> None:
    def of_both(material: Material) -> Section:
        return Section("x", "x", [Paragraph(str([each.summary["metrics"] for each in material.runs][:2]))])

    def together(material: Material) -> Section:
        return of_both(material) if len(material.runs) > 1 else Section("x", "x")

    stopped = replace(run("stopped"), status="stopped")
    found = tolerant(together)(
        Material([], [stopped, run("a", summary={"metrics": 1}), run("b", summary={"metrics": 2})])
    )
    assert [each.text for each in found.blocks if isinstance(each, Paragraph)][1:] == ["[1, 2]"]


ODD = [{"variants": [{}]}, {"variants": "many"}, {"sets": {"exam": {"kind": "exam"}}}, {"sets": [1]}]


@pytest.mark.parametrize("figures", ODD)
def test_no_section_fails_for_figures_of_another_version(figures: dict[str, object]) -> None:
    odd = {"metrics": {"pairs": 1}, "slices": 3}
    runs = [run(what, what=what, figures=figures, summary=odd) for what in ("winrate", "health", "external", "reward")]
    runs += [run("made", ANNOTATION, extra={"steps": {"scores": {"figures": {"outcomes": 3}}}})]
    runs += [run("audit", AUDIT, extra={"audit": {"blind": {}}})]
    for section in map(tolerant, EVALUATION_SECTIONS):
        for block in section(Material([], runs)).blocks:
            assert isinstance(block, Paragraph) and block.tone == "warning"


def test_metrics_of_another_form_are_no_figures() -> None:
    """Sections compare runs with each other, so one run's damaged summary must not end them."""
    assert (
        run("odd", TRAINING, "dpo", summary={"metrics": {"best": "eval/accuracy 0.7"}}).figure("eval/accuracy") is None
    )
