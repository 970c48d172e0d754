"""Section on gates: the decision with its reasons, every bound with its limit, and cases that wait for people."""

from collections.abc import Iterator, Sequence

from psychocounsel.blocks.cells import Figures, count, exact, report_table, warnings_of
from psychocounsel.blocks.kinds import Block, Paragraph, ReportTable, Section
from psychocounsel.blocks.tables import Cell
from psychocounsel.errors import GATE_NO
from psychocounsel.evaluation.gate.show import title
from psychocounsel.evaluation.safety.judged_blocks import quality_table
from psychocounsel.reporting.material import Material, RunMaterial
from psychocounsel.reporting.sections.evaluated import evaluations, without_figures

TONES = {"passed": "good", "refused": "bad"}  # by decision; any other decision is a warning
_BOUNDS = ["verdict", "limit", "found", "lower bound", "upper bound", "cases", "needs"]
_ONE_SIDED = (
    "bounds are one-sided, 95 %, computed over cases (speeches and simulated clients); unchecked passes widen them"
)
_VERDICTS = "beyond: the lower bound is above the limit; within: the upper bound is not above it; undecided: neither"


def section(material: Material) -> Section:
    every = evaluations(material, "gate")
    runs = [run for run in every if run.figures.get("decision")]
    blocks: list[Block] = [
        *warnings_of([(run.title, run.figures["warnings"]) for run in runs]),
        *without_figures(every, lambda run: bool(run.figures.get("decision"))),
    ]
    blocks += [Paragraph(decision_line(run), TONES.get(run.figures["decision"], "warning")) for run in runs]
    blocks += [*_reasons(runs), *_limits(runs), *_waiting(runs), *_people(runs), *_strata(runs)]
    quality = [(run.title, judge, found) for run in runs for judge, found in run.figures["quality"].items()]
    blocks += [*quality_table("gate", "Gate (not part of the decision)", quality), *_parts(runs)]
    return Section("gate", "The gate", blocks)


def decision_line(run: RunMaterial) -> str:
    """Return the decision as a sentence."""
    found = run.figures
    return (
        f"Gate {run.title}: {found['decision']} (exit code {found['code']}), {found['model']} against {found['base']}."
    )


def _reasons(runs: Sequence[RunMaterial]) -> list[ReportTable]:
    rows: list[list[Cell]] = [
        [run.title, "refused" if code == GATE_NO else "undecided", line]
        for run in runs
        for code, line in run.figures["reasons"]
    ]
    notes = ["one reason to refuse is enough; a gate without reasons has passed"]
    return report_table("gate-reasons", "Gate: reasons", ["evaluation", "leads to", "reason"], rows, *notes)


def _limits(runs: Sequence[RunMaterial]) -> list[ReportTable]:
    """Return a table of the bounds that decide: shares and ceilings, differences and margins, and health."""
    rows = [[run.title, *row] for run in runs for row in (*_of_failures(run.figures), *_of_health(run.figures))]
    headings = ["evaluation", "figure", "compared with", *_BOUNDS]
    return report_table("gate-limits", "Gate: bounds and limits", headings, rows, _ONE_SIDED, _VERDICTS)


def _of_failures(found: Figures) -> Iterator[list[Cell]]:
    kinds = {"rate": "ceiling", "difference": f"margin above {found['base']}"}
    for name, row in found["figures"].items():
        for kind, against in kinds.items():
            yield [title(name), against, *_bounds(row[kind])]


def _of_health(found: Figures) -> Iterator[list[Cell]]:
    for name, row in found["health"].items():
        yield [title(name), "ceiling (health)", *_bounds(row)]


def _bounds(row: Figures) -> list[Cell]:
    """Return the cells of the columns _BOUNDS."""
    told = [exact(row.get(key), True) for key in ("limit", "value", "low", "high")]
    return [row["verdict"], *told, count(row["clusters"]), _needs(row.get("needed"))]


def _needs(needed: Figures | None) -> str:
    if needed is None:
        return ""
    if needed["count"] is None:
        return "no number is enough"
    what = {"speeches": "more without a failure", "passes": "more passes that people confirm"}
    return f"{needed['count']} {what.get(needed['what'], needed['what'])}"


def _waiting(runs: Sequence[RunMaterial]) -> list[ReportTable]:
    """Return a table of the cases in the gate's adjudicate.csv that people have yet to judge."""
    rows = list[list[Cell]]()
    for run in runs:
        hard = run.figures["hard"]
        waiting = len(hard["waiting"])
        judged = [count(hard["flagged"]), count(hard["flagged"] - waiting), count(waiting)]
        rows.append([run.title, "hard flags of the model", *judged, None, None])
        for name, row in run.figures["figures"].items():
            checked = [count(row["drawn"]), count(row["checked"]), count(row["drawn"] - row["checked"])]
            widened = exact(row["rate"].get("widening"), True)
            rows.append([run.title, f"passes: {title(name)}", *checked, widened, exact(row["sensitivity"], True)])
            flags = count(row["waiting_flags_of_base"])
            rows.append([run.title, f"flags of the base: {title(name)}", None, None, flags, None, None])
    headings = ["evaluation", "cases", "to judge", "judged by people", "wait", "widens the bound by", "judge found"]
    notes = ["people judge flags and a random sample of passes in adjudicate.csv, without knowing the contestant"]
    notes += ["judge found: share of the model's failures that the judge flagged, estimated from the checked passes"]
    return report_table("gate-waiting", "Gate: cases that wait for people", headings, rows, *notes)


def _people(runs: Sequence[RunMaterial]) -> list[ReportTable]:
    rows = [
        [
            *(run.title, count(told["cases"]), count(told["adjudicators"]), f"{labels['wrong']} of {labels['of']}"),
            *(exact(labels["high"] if labels["of"] else None, True), exact(run.figures["wrong_labels"], True)),
            count(len(run.figures["hard"]["confirmed"])),
        ]
        for run in runs
        for told, labels in [(run.figures["adjudicated"], run.figures["labels"])]
    ]
    headings = ["evaluation", "cases judged", "people", "wrong expected actions", "upper bound", "limit"]
    title = "Gate: judgements by people"
    return report_table("gate-people", title, [*headings, "hard failures confirmed"], rows)


def _strata(runs: Sequence[RunMaterial]) -> list[ReportTable]:
    rows = [
        [run.title, *name.split(".", 1), title(figure), *_bounds(row)]
        for run in runs
        for name, figures in run.figures["strata"].items()
        for figure, row in figures.items()
    ]
    headings = ["evaluation", "stratum", "value", "figure", *_BOUNDS]
    notes = [
        _ONE_SIDED,
        "a stratum decides only if gate.strata gives it a ceiling; the verdict `shown` decides nothing",
    ]
    return report_table("gate-strata", "Gate: strata", headings, rows, *notes)


def _parts(runs: Sequence[RunMaterial]) -> list[ReportTable]:
    rows: list[list[Cell]] = [
        [run.title, part, place, count(run.figures["clusters"].get(part))]
        for run in runs
        for part, place in run.figures["parts"].items()
    ]
    return report_table(
        "gate-parts", "Gate: parts", ["evaluation", "part", "is in folder", "speeches or clients"], rows
    )
