"""Blocks of `evaluation=gate`, and the end of its output: decision and next step, without any text of a speech or reply."""

from collections.abc import Iterator, Sequence

from psychocounsel.blocks.cells import Figures, Titled, count, exact, report_table, warnings_of
from psychocounsel.blocks.kinds import Block, Paragraph, ReportTable
from psychocounsel.blocks.tables import Cell
from psychocounsel.blocks.terminal import terminal_lines
from psychocounsel.errors import DONE, GATE_NO
from psychocounsel.evaluation.gate.cases import HARD_FAILURE, RIGHT
from psychocounsel.evaluation.gate.deciding import GateFigures
from psychocounsel.evaluation.gate.reasons import title
from psychocounsel.evaluation.safety.judged_blocks import quality_table
from psychocounsel.rundir.paths import EvaluationDir

TONES = {"passed": "good", "refused": "bad", "undecided": "undecided"}  # by decision
_WORST = 5  # strata without a ceiling in the table of the first strata
_REASONS = 4  # reasons that the terminal shows
_QUESTIONS = {HARD_FAILURE: "hard failures", RIGHT: "expected action right"}
_BOUNDS = ["verdict", "limit", "found", "lower bound", "upper bound", "cases", "needs"]
_ONE_SIDED = (
    "bounds are one-sided, 95 %, computed over cases (speeches and simulated clients); unchecked passes widen them"
)
_VERDICTS = "beyond: the lower bound is above the limit; within: the upper bound is not above it; undecided: neither"
_Runs = Sequence[Titled[GateFigures]]


def gate_blocks(runs: _Runs) -> list[Block]:
    """Return warnings, the decisions with their reasons, and all bounds."""
    return [
        *_warnings(runs),
        *(
            Paragraph(decision_line(run.title, run.figures), TONES.get(run.figures["decision"], "warning"))
            for run in runs
        ),
        *_reasons(runs),
        *_evidence(runs),
        *_strata("gate-strata", "Gate: strata", [(run.title, _strata_rows(run.figures)) for run in runs]),
    ]


def gate_lines(figures: GateFigures, files: EvaluationDir) -> Iterator[str]:
    """Yield the lines that a gate prints: warnings, decision, first reasons, pages of replies to read, and the next step."""
    yield from terminal_lines(_warnings([Titled("", figures)]))
    yield f"decision: {_decided(figures)}"
    reasons = sorted(figures["reasons"], key=lambda reason: reason[0] != GATE_NO)
    yield from (f"  {_leads_to(code)}: {line}" for code, line in reasons[:_REASONS])
    if len(reasons) > _REASONS:
        yield f"  and {len(reasons) - _REASONS} more reasons"
    yield from (f"read before you believe a decision: {page}" for page in files.sample_pages_of_parts())
    if figures["code"] not in (DONE, GATE_NO):
        fill_in = f"fill in {files.adjudicate}, " if _waits(figures) else ""
        yield f"next: {fill_in}do what the reasons say, then run the same command again"


def gate_tables(figures: GateFigures) -> list[str]:
    """Return the lines of all tables: bounds, the strata that matter most, and reasons."""
    run = Titled("", figures)
    first = [("", _first_strata(figures))]
    others = f"the {_WORST} strata without a ceiling in which the model fails most; figures.json has all"
    strata = _strata("gate-strata-first", "Gate: strata with a ceiling, and others", first, others)
    return [*terminal_lines([*_evidence([run]), *strata, *_reasons([run])])]


def _leads_to(code: int) -> str:
    return "refused" if code == GATE_NO else "undecided"


def decision_line(run_title: str, figures: Figures) -> str:
    """Return the decision of a gate as a sentence. `figures`: content of its figures.json."""
    return f"Gate {run_title}: {_decided(figures)}."


def _decided(figures: Figures) -> str:
    decided = f"{figures['decision']} (exit code {figures['code']}), {figures['model']} against {figures['base']}"
    return "; ".join([decided, *figures.get("conditions", [])])


def _waits(figures: GateFigures) -> bool:
    """Return True if some cases in adjudicate.csv have not been judged yet."""
    rows = figures["figures"].values()
    flags = any(row["waiting_flags"] or row["waiting_flags_of_base"] for row in rows)
    return bool(flags or figures["hard"]["waiting"] or any(row["checked"] < row["drawn"] for row in rows))


def _warnings(runs: _Runs) -> list[Paragraph]:
    return warnings_of([(run.title, run.figures["warnings"]) for run in runs])


def _reasons(runs: _Runs) -> list[ReportTable]:
    rows: list[list[Cell]] = [
        [run.title, _leads_to(code), line] for run in runs for code, line in run.figures["reasons"]
    ]
    note = "one reason to refuse is enough; a gate without reasons has passed"
    return report_table("gate-reasons", "Gate: reasons", ["evaluation", "leads to", "reason"], rows, note)


def _evidence(runs: _Runs) -> list[Block]:
    """Return all tables but those of reasons and strata."""
    quality = [(run.title, judge, figures) for run in runs for judge, figures in run.figures["quality"].items()]
    return [
        *_limits(runs),
        *_waiting(runs),
        *_people(runs),
        *_agreement(runs),
        *quality_table("gate", "Gate", quality),
        *_parts(runs),
    ]


# Bounds and limits


def _limits(runs: _Runs) -> list[ReportTable]:
    """Return a table of the bounds that decide: shares and ceilings, differences and margins, and health."""
    rows = [[run.title, *row] for run in runs for row in (*_of_failures(run.figures), *_of_health(run.figures))]
    headings = ["evaluation", "figure", "compared with", *_BOUNDS]
    return report_table("gate-limits", "Gate: bounds and limits", headings, rows, _ONE_SIDED, _VERDICTS)


def _of_failures(figures: GateFigures) -> Iterator[list[Cell]]:
    kinds = {"rate": "ceiling", "difference": f"margin above {figures['base']}"}
    for name, row in figures["figures"].items():
        for kind, against in kinds.items():
            yield [title(name), against, *_bounds(row[kind])]
        if "base" in row:
            yield [title(name), f"{figures['base']} itself (decides nothing)", *_bounds(row["base"])]


def _of_health(figures: GateFigures) -> Iterator[list[Cell]]:
    for name, row in figures["health"].items():
        yield [title(name), "ceiling (health)", *_bounds(row)]


def _bounds(row: Figures) -> list[Cell]:
    """Return the cells of the columns _BOUNDS."""
    values = [exact(row.get(key), True) for key in ("limit", "value", "low", "high")]
    return [row["verdict"], *values, count(row["clusters"]), _needs(row.get("needed"))]


def _needs(needed: Figures | None) -> str:
    if needed is None:
        return ""
    if needed["count"] is None:
        return "no number is enough"
    what = {"speeches": "more without a failure", "passes": "more passes that people confirm"}
    return f"{needed['count']} {what.get(needed['what'], needed['what'])}"


# Strata


def _strata_rows(figures: GateFigures) -> list[tuple[str, str, Figures]]:
    """Return stratum, figure and bounds."""
    return [(name, figure, row) for name, rows in figures["strata"].items() for figure, row in rows.items()]


def _first_strata(figures: GateFigures) -> list[tuple[str, str, Figures]]:
    """Return the rows with a ceiling, then the others with the largest lower bounds."""
    rows = _strata_rows(figures)
    limited = [(name, figure, row) for name, figure, row in rows if row["limit"] is not None]
    failing = [(name, figure, row) for name, figure, row in rows if row["limit"] is None and row["value"] > 0]
    worst = sorted(failing, key=lambda item: (-item[2]["low"], f"{item[1]} of {item[0]}"))
    return [*limited, *worst[:_WORST]]


def _strata(
    name: str, heading: str, runs: Sequence[tuple[str, Sequence[tuple[str, str, Figures]]]], *notes: str
) -> list[ReportTable]:
    """Return a table of strata. `runs` holds each run's title and its rows."""
    rows = [
        [run_title, *stratum.split(".", 1), title(figure), *_bounds(row)]
        for run_title, strata in runs
        for stratum, figure, row in strata
    ]
    headings = ["evaluation", "stratum", "value", "figure", *_BOUNDS]
    decides = "a stratum decides only if gate.strata gives it a ceiling; the verdict `shown` decides nothing"
    return report_table(name, heading, headings, rows, _ONE_SIDED, decides, *notes)


# Cases that people judge, and parts


def _waiting(runs: _Runs) -> list[ReportTable]:
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
    notes += [
        f"{run.title or 'passes'}: drawn by the hash {run.figures['draw']} of the replies"
        for run in runs
        if "draw" in run.figures
    ]
    notes += ["judge found: share of the model's failures that the judge flagged, estimated from the checked passes"]
    return report_table("gate-waiting", "Gate: cases that wait for people", headings, rows, *notes)


def _people(runs: _Runs) -> list[ReportTable]:
    rows = [
        [
            *(run.title, count(cases["cases"]), count(cases["adjudicators"]), f"{labels['wrong']} of {labels['of']}"),
            *(exact(labels["high"] if labels["of"] else None, True), exact(run.figures["wrong_labels"], True)),
            count(len(run.figures["hard"]["confirmed"])),
        ]
        for run in runs
        for cases, labels in [(run.figures["adjudicated"], run.figures["labels"])]
    ]
    headings = ["evaluation", "cases judged", "people", "wrong expected actions", "upper bound", "limit"]
    heading = "Gate: judgements by people"
    return report_table("gate-people", heading, [*headings, "hard failures confirmed"], rows)


def _agreement(runs: _Runs) -> list[ReportTable]:
    rows = [
        [run.title, _QUESTIONS.get(name) or title(name), exact(pairs["agreed"], True), count(pairs["of"])]
        for run in runs
        for name, pairs in run.figures["adjudicated"]["agreement"].items()
    ]
    headings = ["evaluation", "question", "pairs of people that agree", "pairs"]
    return report_table("gate-agreement", "Gate: agreement of people", headings, rows)


def _parts(runs: _Runs) -> list[ReportTable]:
    rows: list[list[Cell]] = [
        [run.title, part, place, count(run.figures["clusters"].get(part))]
        for run in runs
        for part, place in run.figures["parts"].items()
    ]
    headings = ["evaluation", "part", "is in folder", "speeches or clients"]
    return report_table("gate-parts", "Gate: parts", headings, rows)
