"""Tables of an audit about the data themselves: sizes, ratings, duplicates, and overlap with other sets."""

from collections.abc import Sequence

from psychocounsel.reporting.blocks import ReportTable
from psychocounsel.reporting.material import RunMaterial
from psychocounsel.reporting.sections.evaluations.figure_cells import cell, count, report_table
from psychocounsel.studies.tables.formats import Cell

_SIZES = ("pairs", "prompts", "replies", "components", "largest_component")
_SHARED = ("rows", "prompts", "near_prompts", "replies", "near_replies", "pairs")


def text_tables(runs: Sequence[RunMaterial]) -> list[ReportTable]:
    return [*_sizes(runs), *_ratings(runs), *_shared(runs)]


def _sizes(runs: Sequence[RunMaterial]) -> list[ReportTable]:
    rows = list[list[Cell]]()
    for run in runs:
        audit = run.extra["audit"]
        repeats, contradictions = audit["repeats"], audit["contradictions"]
        twice = [
            repeats[key] for key in ("repeated_pairs", "reused_replies", "near_prompts", "near_replies", "near_pairs")
        ]
        sizes = [count(audit["counts"][key]) for key in _SIZES]
        rows.append([run.title, *sizes, *map(count, twice), count(contradictions["contradicted"])])
    headings = ["audit", "pairs", "prompts", "replies", "components", "pairs in the largest", "repeated pairs"]
    headings += ["replies under several prompts", "near-duplicate prompts", "near-duplicate replies"]
    headings += ["near-duplicate pairs", "contradicting pairs"]
    notes = ["components: groups of pairs that share no prompt and no reply with other groups"]
    return report_table("audit-sizes", "Audited data", headings, rows, *notes)


def _ratings(runs: Sequence[RunMaterial]) -> list[ReportTable]:
    """Return a table of ratings by principle, with notes on halo (correlated principles) and ceiling (top ratings)."""
    rows, notes = list[list[Cell]](), list[str]()
    for run in runs:
        halo = run.extra["audit"]["halo"]
        if halo is None:
            continue
        for name, found in halo["principles"].items():
            figures = [cell(found["mean"]), cell(found["deviation"]), cell(found["at_top"], percent=True)]
            rows.append([run.title, name, count(halo["replies"]), *figures, cell(found["with_others"])])
        shared = {"Cronbach's alpha": halo["alpha"], "share of the first component": halo["first_component"]}
        shared["mean correlation"] = halo["mean_correlation"]
        said = ", ".join(f"{what} {value:.3f}" for what, value in shared.items() if value is not None)
        notes += [f"{run.title}: {said}"] if said else []
        if disagreement := run.extra["audit"]["disagreement"]:
            several = f"{disagreement['replies']} of {disagreement['of']} replies have ratings that disagree"
            notes.append(f"{run.title}: {several}, with a mean standard deviation of {disagreement['deviation']:.3f}")
    headings = [
        "audit",
        "principle",
        "replies",
        "mean rating",
        "standard deviation",
        "top rating",
        "correlation with the others",
    ]
    return report_table("audit-ratings", "Ratings: halo and ceiling", headings, rows, *notes)


def _shared(runs: Sequence[RunMaterial]) -> list[ReportTable]:
    rows = [
        [run.title, name, *(count(found[key]) for key in _SHARED)]
        for run in runs
        for name, found in run.extra["audit"]["against"].items()
    ]
    headings = ["audit", "other set", "its rows", "prompts shared", "near prompts shared", "replies shared"]
    headings += ["near replies shared", "pairs affected"]
    return report_table("audit-shared", "Overlap of audited data with other sets", headings, rows)
