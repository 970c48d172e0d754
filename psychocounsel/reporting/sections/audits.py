"""Section on audits: accuracy of predicting labels without the client's speech, ratings, cues and duplicates."""

from collections.abc import Iterator, Sequence

from psychocounsel.blocks.cells import Figures, cell, count, measured, named, percent_text, points, report_table
from psychocounsel.blocks.kinds import Block, Chart, Paragraph, ReportTable, Section
from psychocounsel.blocks.tables import Cell
from psychocounsel.evaluation.audit.blind import TITLES
from psychocounsel.reporting.material import AUDIT, Material, RunMaterial
from psychocounsel.reporting.sections.evaluated import without_figures
from psychocounsel.reporting.sections.reward_models import reading_rows, reads

# The data themselves: sizes, ratings, duplicates, and overlap with other sets

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


# The section

_GATES = {
    "passed": ("passed, because the whole interval is below the limit", "good"),
    "refused": ("refused, because the whole interval is above the limit", "bad"),
    "undecided": ("undecided, because the interval includes the limit", "warning"),
}


def section(material: Material) -> Section:
    every = material.of(AUDIT)
    runs = [run for run in every if "blind" in (run.extra.get("audit") or {})]
    blocks: list[Block] = [*without_figures(every, lambda run: run in runs)]
    blocks += [Paragraph(*said) for run in runs for said in _conclusions(run)]
    blocks += [*_blind(runs), *_chart(runs), *_reading(runs), *_cues(runs), *text_tables(runs)]
    return Section("audits", "Audits of preference data", blocks)


def _conclusions(run: RunMaterial) -> Iterator[tuple[str, str]]:
    """Yield sentences on the gate, the best baseline without the client's speech, and whether the reward model reads it."""
    audit = run.extra["audit"]
    baselines = {name: found["by_prompt"] for name, found in audit["blind"]["baselines"].items()}
    gate = audit["gate"]
    if gate["verdict"] in _GATES:
        said, tone = _GATES[gate["verdict"]]
        about = f"{TITLES[gate['baseline']]} {percent_text(baselines[gate['baseline']])}"
        yield f"{run.title}: gate audit.max_blind={gate['limit']:g}: {said} ({about}).", tone
    best = max(baselines, key=lambda name: baselines[name]["accuracy"])
    about = f"the best baseline ({TITLES[best]}) is right on {percent_text(baselines[best])} of the pairs"
    if baselines[best]["low"] > 0.5:
        yield f"{run.title}: the labels can partly be predicted without reading the client: {about}.", "warning"
    else:
        yield f"{run.title}: no evidence that labels can be predicted without reading the client: {about}.", "good"
    if reward := audit["reading"].get("reward"):
        yield reads(run.title, _reader(run, "reward"), reward)


def _reader(run: RunMaterial, name: str) -> str:
    if name != "reward":
        return "words shared with the speech"
    return f"the reward model {(run.config.get('reward') or {}).get('name', '')}".strip()


def _blind(runs: Sequence[RunMaterial]) -> list[ReportTable]:
    rows = list[list[Cell]]()
    for run in runs:
        audit = run.extra["audit"]
        for name, found in audit["blind"]["baselines"].items():
            by_topic: Figures = found.get("by_topic") or {}
            shown = [measured(found["by_prompt"], "accuracy", True), count(by_topic.get("judged"))]
            accuracy = measured(by_topic, "accuracy", True)
            rows.append([run.title, TITLES[name], count(found["by_prompt"]["judged"]), *shown, accuracy])
    headings = ["audit", "baseline", "pairs", "accuracy", "pairs judged by topic", "accuracy, folds of topics"]
    notes = [
        "baselines see both replies but not the client; each is judged on prompts (or topics) that it was not fitted to"
    ]
    notes += ["50 % is chance; intervals are computed over groups of pairs that share a text"]
    return report_table("audit-blind", "Predicting labels without the client's speech", headings, rows, *notes)


def _chart(runs: Sequence[RunMaterial]) -> list[Chart]:
    baselines = [run.extra["audit"]["blind"]["baselines"] for run in runs]
    names = [name for name in TITLES if any(name in found for found in baselines)]
    curves = []
    for number, (run, found) in enumerate(zip(runs, baselines, strict=True)):
        accuracies = {names.index(name): each["by_prompt"] for name, each in found.items()}
        curves += points(run.title, accuracies, "baseline", number, len(runs), "accuracy")
    notes = ["At one half, a baseline is no better than chance.", "Bars are 95 % intervals; folds are of prompts."]
    title, ticks = "Accuracy of predicting labels without the client's speech", [TITLES[name] for name in names]
    chart = Chart("audit-blind", title, "accuracy", curves, ticks=ticks, reference=0.5, notes=notes)
    return [chart] if curves else []


def _reading(runs: Sequence[RunMaterial]) -> list[ReportTable]:
    rows = list[list[Cell]]()
    for run in runs:
        pairs = count(run.extra["audit"]["counts"]["pairs"])
        for name, found in run.extra["audit"]["reading"].items():
            rows += [[run.title, *row[:2], pairs, *row[2:]] for row in reading_rows(_reader(run, name), found)]
            if flipped := found["flipped"]:
                accuracy = named(flipped, "flipped_accuracy", True)
                about = [_reader(run, name), "flipped pairs, own speech", count(flipped["flipped_pairs"]), None]
                rows.append([run.title, *about, accuracy, None])
    headings = [
        "audit",
        "judged by",
        "speech shown",
        "pairs",
        "pairs skipped",
        "accuracy",
        "gain of own speech",
    ]
    notes = ["gain: accuracy with the client's own speech minus accuracy with the speech shown, in percentage points"]
    notes += [
        "flipped pairs: two replies to two clients, with opposite labels; a judge that ignores the client is right on half"
    ]
    return report_table("audit-reading", "Judging with the client's speech", headings, rows, *notes)


def _cues(runs: Sequence[RunMaterial]) -> list[ReportTable]:
    rows = [
        [run.title, name.replace("_", " "), count(each["decides"]), measured(each, "accuracy", True)]
        for run in runs
        for name, each in sorted(
            run.extra["audit"]["blind"]["cues"].items(), key=lambda item: -abs(item[1]["accuracy"] - 0.5)
        )
    ]
    notes = ["reply with more of it is chosen: share of pairs; equal replies are half a win (nothing is fitted)"]
    for run in runs:
        most = run.extra["audit"]["blind"]["maximum"]
        won = f"the best cue ({most['cue'].replace('_', ' ')}) wins {100 * most['accuracy']:.1f} %, p = {most['p']:.2g}"
        chance = f"with random labels the best cue would win {100 * most['low']:.1f} to {100 * most['high']:.1f} %"
        notes.append(f"{run.title}: {won}; {chance}")
    headings = ["audit", "cue", "pairs decided", "reply with more of it is chosen"]
    return report_table("audit-cues", "Single cues of replies", headings, rows, *notes)
