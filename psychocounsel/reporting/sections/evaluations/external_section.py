"""Section on external benchmarks: exams, prompts with criteria, and lm-eval tasks."""

from psychocounsel.reporting.blocks import Block, Paragraph, Section
from psychocounsel.reporting.material import Material
from psychocounsel.reporting.sections.evaluations.external_parts.ability_tables import ability_tables
from psychocounsel.reporting.sections.evaluations.external_parts.exam_tables import exam_tables
from psychocounsel.reporting.sections.evaluations.external_parts.rubric_tables import rubric_tables
from psychocounsel.reporting.sections.evaluations.figure_cells import evaluations, without_figures


def section(material: Material) -> Section:
    every = evaluations(material, "external")
    runs = [run for run in every if "sets" in run.figures]
    blocks: list[Block] = [*without_figures(every, lambda run: "sets" in run.figures)]
    blocks += [
        Paragraph(f"{run.title}: {line.removeprefix('warning: ')}", "warning")
        for run in runs
        for line in run.figures["warnings"]
    ]
    return Section(
        "benchmarks", "External benchmarks", [*blocks, *exam_tables(runs), *rubric_tables(runs), *ability_tables(runs)]
    )
