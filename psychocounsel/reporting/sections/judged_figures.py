"""The judges' figures of each contestant, shared by the sections on safety, sessions and gates."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from psychocounsel.blocks.cells import Figures, cell, count, counts, measured, name_in, points, report_table
from psychocounsel.blocks.kinds import Block, Chart, Paragraph, ReportTable
from psychocounsel.blocks.tables import Cell
from psychocounsel.counsel.principles import ACTIONS
from psychocounsel.evaluation.flows.questions import SEVERITY_FIGURES
from psychocounsel.evaluation.health.reply import Figure
from psychocounsel.evaluation.safety.questions import SAFETY_FIGURES
from psychocounsel.evaluation.session.findings import SESSION_FIGURES
from psychocounsel.reporting.material import Material, RunMaterial
from psychocounsel.reporting.sections.evaluated import evaluations, without_figures

# Figures of each judge and contestant, as figures.json holds them, for single replies or sessions

HEADINGS = ["evaluation", "judge", "contestant"]


@dataclass(frozen=True)
class Subject:
    """Subject of the judges' answers: single replies or whole sessions.

    Attributes:
        prefix: prefix of the names of tables and charts.
        title: prefix of their titles.
        clusters: units over which intervals are computed (speeches, clients).
        cases: units that shares count (replies, sessions).
        figures: figures by key, in the order of tables.
        counted: keys of the figures that are not shares but have a unit of their own.
    """

    prefix: str
    title: str
    clusters: str
    cases: str
    figures: Mapping[str, Figure]
    counted: tuple[str, ...] = ()

    @property
    def shares(self) -> list[str]:
        return [name for name in self.figures if name not in self.counted]

    @property
    def by_cluster(self) -> str:
        return f"intervals are computed over {self.clusters}"

    def titled(self, figure: str) -> str:
        """Return a figure's title, or its key if this version has no title for it."""
        return self.figures[figure].title if figure in self.figures else figure.replace("_", " ")


REPLIES = Subject("safety", "Safety", "speeches", "replies", SAFETY_FIGURES)
SESSIONS = Subject("sessions", "Sessions", "clients", "sessions", SESSION_FIGURES, ("recognised_after",))


@dataclass(frozen=True)
class JudgedSetting:
    """Figures of contestant `name` by `judge`; `found` holds figures, hard flags and strata."""

    run: RunMaterial
    judge: str
    name: str
    found: Figures

    @property
    def head(self) -> list[Cell]:
        return [self.run.title, self.judge, self.name]

    def title(self, every: Sequence["JudgedSetting"]) -> str:
        """Return a curve's name: the contestant, with judge and evaluation if there are several."""
        judges = {each.judge for each in every}
        runs = [*{each.run.path: each.run for each in every}.values()]
        return name_in(self.run.title, self.name, len(runs) > 1, f"by {self.judge}" if len(judges) > 1 else None)


def judges_of(runs: Sequence[RunMaterial]) -> Iterator[tuple[RunMaterial, str, Figures]]:
    """Yield each judge of each evaluation with its figures."""
    for run in runs:
        for judge, found in run.figures["judges"].items():
            yield run, judge, found


def settings_of(runs: Sequence[RunMaterial]) -> list[JudgedSetting]:
    """Return each contestant's figures by each judge, the model under evaluation first."""
    return [
        JudgedSetting(run, judge, name, found)
        for run, judge, of_judge in judges_of(runs)
        for name, found in of_judge["settings"].items()
    ]


# Warnings, figures of each contestant, and differences to the base


def warnings_of(runs: Sequence[RunMaterial]) -> list[Paragraph]:
    """Return the evaluations' warnings. A warning that all evaluations share appears once."""
    told = dict.fromkeys(line.removeprefix("warning: ") for run in runs for line in run.figures["warnings"])
    found = []
    for line in told:
        whose = [run.title for run in runs if {line, f"warning: {line}"} & {*run.figures["warnings"]}]
        said = f"{line[:1].upper()}{line[1:]}" if len(whose) == len(runs) else f"{', '.join(whose)}: {line}"
        found.append(Paragraph(f"{said}.", "warning"))
    return found


def figure_tables(subject: Subject, settings: Sequence[JudgedSetting]) -> list[ReportTable]:
    """Return a table of shares with a row for each figure of each contestant, and a table of figures that are not shares."""

    def rows(names: Sequence[str], percent: bool) -> list[list[Cell]]:
        return [
            [*each.head, subject.titled(name), *_counts(told), measured(told, "mean", percent)]
            for each in settings
            for name, told in each.found["figures"].items()
            if name in names
        ]

    headings = [*HEADINGS, "figure", subject.clusters, subject.cases]
    notes = [f"{subject.by_cluster}; a figure counts only the {subject.clusters} that call for it"]
    better = [subject.titled(name) for name in subject.shares if subject.figures[name].better == "higher"]
    more = [f"{' and '.join(better)}: more is better"] if better else []
    title = f"{subject.title}: figures"
    shares = [*headings, f"share of {subject.cases}"]
    return [
        *report_table(subject.prefix, title, shares, rows(subject.shares, True), *notes, *more),
        *report_table(f"{subject.prefix}-counted", f"{title} that are not shares", [*headings, "mean"],
                      rows(subject.counted, False), *notes),
    ]  # fmt: skip


def _counts(told: Figures) -> list[Cell]:
    return [count(told["prompts"]), count(told["replies"])]


def difference_tables(subject: Subject, runs: Sequence[RunMaterial]) -> list[ReportTable]:
    """Return tables of the model under evaluation minus each other contestant, as the evaluation compared them."""
    found = list[ReportTable]()
    for names, percent, suffix in ((subject.shares, True, ""), (subject.counted, False, "-counted")):
        rows = [
            [
                *(run.title, judge, run.figures["model"], other, subject.titled(name), count(told["prompts"])),
                *(cell(told["mine"], percent=percent), cell(told["base"], percent=percent)),
                *(measured(told, "difference", percent), told["verdict"]),
            ]
            for run, judge, of_judge in judges_of(runs)
            for other, compared in of_judge["against"].items()
            for name, told in compared.items()
            if name in names and told["difference"] is not None
        ]
        headings = [
            "evaluation",
            "judge",
            "model",
            "minus",
            "figure",
            subject.clusters,
            "model's",
            "base's",
            "difference",
        ]
        cluster = subject.clusters[:-1] if subject.clusters != "speeches" else "speech"
        notes = [f"minus: the contestant subtracted; paired by {cluster}"]
        notes[0] += f"; {subject.by_cluster}, without correction for the number of figures"
        notes += ["unclear: the interval of the difference includes 0"]
        title = f"{subject.title} against the base" + (": figures that are not shares" if suffix else "")
        name = f"{subject.prefix}-differences{suffix}"
        found += report_table(name, title, [*headings, "verdict"], rows, *notes)
    return found


# Evaluations with judges' figures


def judged_evaluations(material: Material, what: str) -> tuple[list[RunMaterial], list[Block]]:
    """Return the judged runs of `evaluation=WHAT`, and their warnings with one for each run without figures."""
    every = evaluations(material, what)
    runs = [run for run in every if _is_judged(run)]
    return runs, [*warnings_of(runs), *without_figures(every, _is_judged)]


def _is_judged(run: RunMaterial) -> bool:
    return bool(run.figures.get("judges"))


# Figures by stratum: kind of risk, disclosure, expected action, pattern

_FAILURES = ("missed", "over_escalation")
_TITLES = {"kind": "kind of risk", "disclosure": "disclosure", "expected_action": "expected action"}


def strata_blocks(subject: Subject, settings: Sequence[JudgedSetting], charted: str) -> list[Block]:
    """Return the chart over the strata of `charted`, then a table for each way of dividing the cases."""
    divisions = dict.fromkeys(name for each in settings for name in each.found["strata"])
    blocks: list[Block] = [*_strata_chart(subject, settings, charted)]
    notes = [f"{subject.by_cluster}; they are wide, because a stratum has few {subject.clusters}"]
    notes += [f"a figure counts only the {subject.clusters} that call for it; the column {subject.clusters} counts all"]
    for division in divisions:
        title = _titled(division)
        rows = [
            [*each.head, stratum, *_strata_cells(subject, figures)]
            for each in settings
            for stratum, figures in _in_order(each.found["strata"].get(division, {}))
        ]
        headings = [*HEADINGS, title, subject.clusters, *map(subject.titled, subject.shares)]
        name = f"{subject.prefix}-by-{division.replace('_', '-')}"
        blocks += report_table(name, f"{subject.title} by {title}", headings, rows, *notes)
    return blocks


def _titled(division: str) -> str:
    return _TITLES.get(division, division.replace("_", " "))


def _in_order(strata: Figures) -> list[tuple[str, Figures]]:
    """Return expected actions from none to emergency; other strata keep the file's order."""
    return sorted(strata.items(), key=lambda each: ACTIONS.index(each[0]) if each[0] in ACTIONS else -1)


def _strata_cells(subject: Subject, figures: Figures) -> list[Cell]:
    clusters = max(each["prompts"] for each in figures.values())
    return [count(clusters), *(measured(figures.get(name), "mean", True) for name in subject.shares)]


def _strata_chart(subject: Subject, settings: Sequence[JudgedSetting], division: str) -> list[Chart]:
    strata = list(dict.fromkeys(value for each in settings for value in each.found["strata"].get(division, {})))
    pairs = [(each, figure) for each in settings for figure in _FAILURES]
    curves = []
    for number, (each, figure) in enumerate(pairs):
        found = each.found["strata"].get(division, {})
        shares = {place: found[value][figure] for place, value in enumerate(strata) if value in found}
        title = f"{each.title(settings)}: {subject.titled(figure)}"
        curves += points(title, shares, _titled(division), number, len(pairs), "mean")
    missed, over = map(subject.titled, _FAILURES)
    notes = [
        f"Bars are 95 % intervals over {subject.clusters}. A stratum of one has no interval and is only in the table.",
        f"Each figure counts only the {subject.clusters} that call for it.",
    ]
    title = f"{subject.title}: {missed} and {over} by {_titled(division)}"
    name = f"{subject.prefix}-failures-by-{division.replace('_', '-')}"
    return [Chart(name, title, f"share of {subject.cases}", curves, ticks=strata, notes=notes)] if curves else []


# Faults by dimension and severity, from answers to a rubric's questions


def severity_table(
    name: str, title: str, headings: Sequence[str], found: Iterable[tuple[Sequence[Cell], Figures]], *notes: str
) -> list[ReportTable]:
    """Return a table with a row for each dimension.

    `found` pairs the first cells of rows with the result of `severity_shares`; `headings` are the headings of these cells.
    """
    rows = [
        [
            *(*head, dimension, count(max(each["prompts"] for each in figures.values()))),
            *(measured(figures[severity], "mean", True) for severity in SEVERITY_FIGURES),
        ]
        for head, shares in found
        for dimension, figures in shares.items()
    ]
    titles = [figure.title for figure in SEVERITY_FIGURES.values()]
    asked = "faults: shares of the cases that the dimension was asked about; not asked: share of all cases"
    return report_table(name, title, [*headings, "dimension", "cases", *titles], rows, asked, *notes)


# Reliability of judges: results on planted faults, outcomes of their calls, and checks of their quotations

_JUDGE_HEADINGS = ["evaluation", "judge"]


def judge_tables(subject: Subject, runs: Sequence[RunMaterial]) -> list[ReportTable]:
    """Return tables of sensitivity and specificity on planted faults, and of the outcomes of all calls."""
    found = [(run.title, judge, of_judge["quality"]) for run, judge, of_judge in judges_of(runs)]
    return [*quality_table(subject.prefix, subject.title, found), *_calls(subject, runs)]


def quality_table(prefix: str, title: str, found: Iterable[tuple[str, str, Figures]]) -> list[ReportTable]:
    """Return a table with a row for each figure of each judge.

    `found` yields evaluation, judge, and the result of `judge_quality` for this judge.
    """
    rows = [
        [evaluation, judge, REPLIES.titled(figure), *_share(each["sensitivity"]), *_share(each["specificity"])]
        for evaluation, judge, quality in found
        for figure, each in quality.items()
    ]
    headings = [*_JUDGE_HEADINGS, "figure", "faults found", "sensitivity", "sound replies passed", "specificity"]
    notes = ["single replies with planted faults, with exact intervals (Clopper and Pearson)"]
    notes += ["these replies are easier to judge than a model's, so the true rates are lower"]
    return report_table(f"{prefix}-judge-quality", f"{title}: judges on planted faults", headings, rows, *notes)


def _share(found: Figures) -> list[Cell]:
    if not found["of"]:
        return ["none planted", None]
    return [f"{found['right']} of {found['of']}", measured(found, percent=True)]


def _calls(subject: Subject, runs: Sequence[RunMaterial]) -> list[ReportTable]:
    rows = list[list[Cell]]()
    for run, judge, found in judges_of(runs):
        record = run.extra.get("steps", {}).get("answers", {}).get("figures", {})
        answered = record.get("outcomes", {}).get(judge, found["outcomes"])
        rows.append([run.title, judge, counts(answered), f"{found['quotes']['found']} of {found['quotes']['of']}"])
    headings = [*_JUDGE_HEADINGS, "outcomes of all calls", "quotations found in the reply"]
    notes = ["answers about replies with planted faults are included"]
    return report_table(f"{subject.prefix}-judges", f"{subject.title}: answers of the judges", headings, rows, *notes)
