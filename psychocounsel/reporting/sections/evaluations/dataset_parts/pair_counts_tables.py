"""Tables and a chart of a dataset's pairs: their number, the agreement of votes, and gap, topic, risk and language."""

from collections.abc import Sequence

from psychocounsel.reporting.blocks import Block, Chart, Curve, ReportTable
from psychocounsel.reporting.material import RunMaterial
from psychocounsel.reporting.sections.evaluations.dataset_parts.dataset_losses import StepsOf
from psychocounsel.reporting.sections.evaluations.figure_cells import count, name_in, report_table
from psychocounsel.studies.tables.formats import Cell

_SPLITS = ("train", "test")
_KINDS = ("gap", "topic", "risk", "language")


def pair_blocks(runs: Sequence[RunMaterial], steps_of: StepsOf) -> list[Block]:
    return [*_agreement(runs, steps_of), *_gap_chart(runs), *_kinds(runs)]


def _agreement(runs: Sequence[RunMaterial], steps_of: StepsOf) -> list[ReportTable]:
    rows = list[list[Cell]]()
    for run in runs:
        pairs, held = steps_of(run).get("pairs", {}), (run.extra.get("counts") or {}).get("pairs", {})
        for split in _SPLITS:
            if found := pairs.get(split):
                counts = [*found["agreement"].values(), found["against_majority"], found["unequal_votes"]]
                clients = held.get(split, {}).get("clients")
                rows.append([run.title, split, count(found["pairs"]), count(clients), *map(count, counts)])
    headings = ["dataset", "split", "pairs", "clients", "unanimous", "majority", "split votes", "against the majority"]
    notes = ["unanimous: all votes prefer the chosen reply; majority: more than half; split: half or fewer"]
    notes += [
        "with one vote per reply, every pair is unanimous, which says nothing about agreement",
        "no client is in both splits",
    ]
    title = "Pairs and the agreement of votes"
    return report_table("dataset-pairs", title, [*headings, "replies with unequal votes"], rows, *notes)


def _gap_chart(runs: Sequence[RunMaterial]) -> list[Chart]:
    held = [
        (name_in(run, split, runs), found["gap"])
        for run in runs
        for split, found in (run.extra.get("counts") or {}).get("pairs", {}).items()
        if found["gap"]
    ]
    ticks = sorted({gap for _, gaps in held for gap in gaps}, key=lambda gap: float(gap.split()[0]))
    curves = [
        Curve(title, {"gap of mean ratings": [ticks.index(gap) for gap in gaps]}, list(gaps.values()))
        for title, gaps in held
    ]
    notes = ["Bins of half a point, named by their ends; bins without pairs are omitted."]
    return (
        [Chart("dataset-gaps", "Pairs by the gap of their ratings", "pairs", curves, ticks=ticks, notes=notes)]
        if held
        else []
    )


def _kinds(runs: Sequence[RunMaterial]) -> list[ReportTable]:
    rows = list[list[Cell]]()
    for run in runs:
        held = (run.extra.get("counts") or {}).get("pairs", {})
        for kind in _KINDS:
            values = dict.fromkeys(value for split in held.values() for value in split[kind])
            for value in values:
                numbers = [count(held[split][kind].get(value, 0)) if split in held else None for split in _SPLITS]
                rows.append([run.title, kind, value, *numbers])
    headings = ["dataset", "kind", "value", "training pairs", "test pairs"]
    return report_table("dataset-kinds", "Pairs by gap, topic, risk and language", headings, rows)
