"""Sections "What was asked", gaps, and the study: what the report's runs are, and which are missing."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence

from psychocounsel.blocks.kinds import Block, Paragraph, ReportTable, Section
from psychocounsel.blocks.tables import Cell, Table, TableFigure
from psychocounsel.cluster.states import short
from psychocounsel.reporting.material import (
    ANNOTATION,
    COMMANDS,
    TRAINING,
    Material,
    RunMaterial,
    StudyMaterial,
)
from psychocounsel.reporting.sections.comparisons import (
    REWARD,
    differ,
    differing_held_out,
    differing_loss_settings,
    differing_rewards,
    families,
    is_reward_model,
    listed,
    settings_of,
)
from psychocounsel.reporting.sections.curves import not_finite
from psychocounsel.rundir.results import OF_GATES
from psychocounsel.storage.csv_tables import cell_text as written_text

# Section "What was asked"

_KIND_NAMES = {"training": ("training", "trainings"), "evaluation": ("evaluation", "evaluations")}
_KIND_NAMES |= {
    "annotation": ("annotation", "annotations"),
    "audit": ("audit", "audits"),
    "other": ("other run", "other runs"),
}
_SHARED_KEYS = {"model.path": "model", "data.path": "data", "algo._target_": "algorithm", "reward.name": "reward"}
_SHARED_KEYS |= {
    "evaluation.name": "evaluation",
    "global_batch_size": "prompts per step",
    "max_steps": "steps",
    "epochs": "epochs",
}
_VERSIONS = ("psychocounsel", "torch", "transformers", "deepspeed", "vllm")
_MOST_VALUES = 12


def question_section(material: Material) -> Section:
    if not material.runs:
        return Section("question", "What was asked")
    blocks: list[Block] = [Paragraph(_counts(material))]
    for line in (_equal(material.runs), _versions(material.runs)):
        blocks += [Paragraph(line)] if line else []
    return Section("question", "What was asked", [*blocks, *_differences(material.runs)])


def _counts(material: Material) -> str:
    """Return a sentence such as `8 trainings and 1 evaluation; seeds 1 and 2.`"""
    counts = {kind: len(material.of(kind)) for kind in _KIND_NAMES}
    kinds = listed([f"{count} {_KIND_NAMES[kind][count > 1]}" for kind, count in counts.items() if count])
    studies = listed([study.name for study in material.studies]) if material.studies else ""
    seeds = sorted({run.seed for run in material.runs if run.seed is not None})
    parts = [kinds, f"study {studies}" if studies else ""]
    parts += [f"{'seed' if len(seeds) == 1 else 'seeds'} {listed([*map(str, seeds)])}"] if seeds else []
    return f"{'; '.join(filter(None, parts))}."


def _equal(runs: Sequence[RunMaterial]) -> str:
    """Return a sentence on the values that all runs share: model, data, algorithm, length."""
    known = [(name, _only(_value(run, key) for run in runs)) for key, name in _SHARED_KEYS.items()]
    shared = [f"{name} {value.rpartition('.')[2] if name == 'algorithm' else value}" for name, value in known if value]
    return f"Equal in all runs that have it: {', '.join(shared)}." if shared else ""


def _versions(runs: Sequence[RunMaterial]) -> str:
    """Return the versions of the main packages. A package that changed between runs has several."""
    versions = list[str]()
    for name in _VERSIONS:
        values = dict.fromkeys(filter(None, ((run.environment.get("versions") or {}).get(name) for run in runs)))
        versions += [f"{name} {' and '.join(map(str, values))}"] if values else []
    return f"Versions: {', '.join(versions)}." if versions else ""


def _differences(runs: Sequence[RunMaterial]) -> list[Block]:
    """Return a table with a row for each setting whose values differ between runs."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    rows: list[list[Cell]] = [[key, *_values(runs, key)] for key in keys]
    if rows:
        title = "Settings that differ between the runs"
        notes = ["seeds do not count: runs that differ only in the seed are one setting"]
        return [
            ReportTable("question-settings", Table(title, ["setting", "values (runs)", "runs without it"], rows, notes))
        ]
    if len(runs) > 1:
        return [Paragraph("No setting but the seed differs between the runs.")]
    return [Paragraph("One run, so there is nothing to compare it with.")]


def _values(runs: Sequence[RunMaterial], key: str) -> tuple[str, str]:
    """Return each value with its number of runs, and the number of runs without the setting."""
    values = [run.settings[key] for run in runs if key in run.settings]
    counts = {value: values.count(value) for value in dict.fromkeys(values)}
    shown = [f"{value} ({count})" for value, count in counts.items()]
    return listed(shown, _MOST_VALUES), str(len(runs) - len(values) or "")


def _value(run: RunMaterial, key: str) -> str:
    """Return a setting by its dotted key; "" if the run does not have it."""
    node: object = run.config
    for name in key.split("."):
        node = node.get(name) if hasattr(node, "get") else None
    return "" if node is None else str(node)


def _only(values: Iterable[str]) -> str:
    """Return the value if all non-empty values are equal, otherwise ""."""
    distinct = {*filter(None, values)}
    return distinct.pop() if len(distinct) == 1 else ""


# Section on gaps: runs that failed, still run, have one seed or cannot be compared, and the commands to continue

_ALIVE = ("running", "pending", "requeued")


def missing_section(material: Material) -> Section:
    paragraphs = [
        *_problems(material),
        *_unfinished(material),
        *_not_finite(material),
        *_alone(material),
        *_not_comparable(material),
    ]
    return Section("missing", "Missing or not comparable", [*dict.fromkeys(paragraphs)])


def _problems(material: Material) -> Iterator[Paragraph]:
    yield from (Paragraph(line, "warning") for line in material.problems)
    for study in material.studies:
        yield from (Paragraph(f"Study {study.name}: {line}", "warning") for line in study.problems)
    for run in material.runs:
        yield from (Paragraph(f"{run.title}: {line}", "warning") for line in run.problems)


def _unfinished(material: Material) -> Iterator[Paragraph]:
    for run in material.runs:
        if run.is_finished or run.status in OF_GATES:  # the answer section shows the verdicts of gates
            continue
        step, total = run.state.get("step"), run.state.get("total")
        at = f" at step {step} of {total}" if step and total else f" at step {step}" if step else ""
        if run.status in _ALIVE:
            yield Paragraph(f"{run.title} is {run.status}{at}: its figures are not final.", "warning")
        elif run.kind in COMMANDS:
            tone = "bad" if run.status in ("failed", "damaged", "lost") else "warning"
            yield Paragraph(f"{run.title}: {run.status}{at}. {_go_on(run)}.", tone)


def _go_on(run: RunMaterial) -> str:
    """Return the command that resumes a run."""
    target = str((run.config.get("cluster") or {}).get("_target_"))
    if run.stage:
        return "Run the study's command again to resume it (psychocounsel launch ...)"
    if target.endswith("Slurm"):
        return f"Resume it: psychocounsel jobs resubmit {short(run.path)}"
    if run.sweep is not None:
        return f"Run the sweep's command again to resume it (psychocounsel {COMMANDS[run.kind]} -m ...)"
    key = "out" if run.kind == ANNOTATION else "run_dir"
    return f"Run its command again with {key}={short(run.path)} to resume it (its overrides are in overrides.txt)"


def _not_finite(material: Material) -> Iterator[Paragraph]:
    for run in material.runs:
        if count := not_finite(run):
            subject = "figure is" if count == 1 else "figures are"
            yield Paragraph(f"{run.title}: {count} {subject} not finite (nan or inf) and not in any chart.", "warning")


def _alone(material: Material) -> Iterator[Paragraph]:
    """Warn of settings with a single finished training run, and of runs that share setting and seed."""
    settings = settings_of(material.of(TRAINING))
    alone = [setting.title for setting in settings if len(setting.finished) == 1]
    if alone:
        runs = "a single finished run" if len(alone) == 1 else "a single finished run each"
        yield Paragraph(f"n=1: {listed(alone)}: {runs}, so the spread over seeds is unknown. "
                        "Add seeds: train -m seed=1,2,3 with the same settings.", "warning")  # fmt: skip
    for setting in settings:
        seeds = [run.seed for run in setting.finished if run.seed is not None]
        if len(set(seeds)) < len(seeds):
            names = listed([run.title for run in setting.finished])
            yield Paragraph(
                f"{names} share settings and seed, so their spread says nothing about other seeds.", "warning"
            )


def _not_comparable(material: Material) -> Iterator[Paragraph]:
    trained = material.of(TRAINING)
    for name, chosen in (("policies", False), ("reward models", True)):
        runs = [run for run in trained if is_reward_model(run) is chosen]
        if len(runs) < 2:
            continue
        if differing := differing_held_out(runs):
            warning = f"The {name} were evaluated on different held-out data: {differ(differing)}"
            yield Paragraph(f"{warning}. Their evaluation figures cannot be compared.", "bad")
        elif _values_differ(runs, lambda run: run.environment.get("data")):
            yield from _other_data(runs)
        if keys := differing_loss_settings(runs):
            yield Paragraph(f"Losses of {name} cannot be compared, because {differ(keys)}.")
        if keys := differing_rewards([run for run in runs if run.figure(REWARD) is not None]):
            yield Paragraph(
                f"Held-out rewards of {name} are compared only between runs with the same reward, because {differ(keys)}."
            )
    groups = [family for family in families(material) if family.name in ("policies", "reward models")]
    alone = [family.settings[0].title for family in groups if len(family.settings) == 1]
    for family in groups if len(groups) > 1 else []:
        if len(family.settings) > 1:
            titles = listed([setting.title for setting in family.settings])
            lacking = "which the others lack, do not use or measure by another reward"
            yield Paragraph(f"{titles}: compared only with each other, by {family.metric}, {lacking}.")
    if alone and len(groups) > 1:
        yield Paragraph(f"Without another setting to be compared with: {listed(alone)}.")
    if _values_differ(material.runs, _version):
        versions = [
            f"{title} ({version})"
            for title, version in ((run.title, _version(run)) for run in material.runs)
            if version
        ]
        yield Paragraph(f"The runs were made by several versions of the code: {listed(versions)}.", "warning")


def _other_data(runs: Sequence[RunMaterial]) -> Iterator[Paragraph]:
    """Warn of runs that were trained on different data, found by their data fingerprints."""
    first = next(run for run in runs if run.environment.get("data"))
    others = [run.title for run in runs if run.environment.get("data") not in (None, first.environment["data"])]
    same = len({str(run.config.get("data")) for run in runs}) == 1
    why = (
        "although their data settings are equal, so the files have changed"
        if same
        else "because their data settings differ"
    )
    yield Paragraph(
        f"{listed(others)}: trained on other rows than {first.title} (another data fingerprint), {why}.", "warning"
    )


def _values_differ(runs: Sequence[RunMaterial], value: Callable[[RunMaterial], object]) -> bool:
    return len({result for run in runs if (result := value(run))}) > 1


def _version(run: RunMaterial) -> str:
    return str((run.environment.get("versions") or {}).get("psychocounsel") or "")


# Section on a study: its stages with their status, gates and chosen runs, and the tables that it wrote

_FIGURE_PARTS = ("sd", "n", "low", "high")


def study_section(material: Material) -> Section:
    blocks: list[Block] = [
        block for study in material.studies for block in _of_study(study, material, len(material.studies) > 1)
    ]
    return Section("studies", "Stages of the study" if len(material.studies) == 1 else "Stages of the studies", blocks)


def _of_study(study: StudyMaterial, material: Material, several: bool) -> Iterator[Block]:
    runs_by_stage = {stage: _runs(study, material, stage) for stage in study.stages}
    rows: list[list[Cell]] = [
        [stage, str(len(runs)), str(sum(run.is_finished for run in runs)), _states(runs), *_choice(study, stage, runs)]
        for stage, runs in runs_by_stage.items()
    ]
    headings = ["stage", "runs", "finished", "others", "gate", "best run"]
    prefix = f"study-{_block_name(study.name)}" if several else "study"
    yield ReportTable(f"{prefix}-stages", Table(f"Stages of {study.name}", headings, rows))
    for name, text in study.tables.items():
        yield _written_table(f"{prefix}-{_block_name(name)}", name, text)


def _runs(study: StudyMaterial, material: Material, stage: str) -> list[RunMaterial]:
    folder = study.path.resolve()  # as typed, it may be relative
    return [run for run in material.runs if run.stage == stage and run.path.resolve().is_relative_to(folder)]


def _states(runs: list[RunMaterial]) -> str:
    """Return the statuses of unfinished runs: `1 failed, 2 running`."""
    others = [run.status for run in runs if not run.is_finished]
    return ", ".join(f"{others.count(status)} {status}" for status in dict.fromkeys(others))


def _choice(study: StudyMaterial, stage: str, runs: list[RunMaterial]) -> tuple[str, str]:
    """Return the gate's verdict, and the title of the run that the study chose."""
    gate = (
        {True: "passed", False: "not passed", None: "not decided"}[study.gates[stage]] if stage in study.gates else ""
    )
    best = study.best.get(stage)
    chosen = next((run.title for run in runs if best is not None and run.path.resolve() == best.resolve()), "")
    return gate, chosen or (best.name if best is not None else "")


def _written_table(name: str, title: str, text: str) -> Block:
    """Return a table of the study from its CSV text. Columns `X, X sd, X n, X low, X high` become one figure."""
    lines = [[written_text(cell) for cell in line] for line in csv.reader(io.StringIO(text))]
    if len(lines) < 2:
        return Paragraph(f"Table {title} of the study is empty.", "warning")
    headings = lines[0]
    figures = [
        place
        for place, heading in enumerate(headings)
        if headings[place + 1 : place + 5] == [f"{heading} {part}" for part in _FIGURE_PARTS]
    ]
    inside = {place + offset for place in figures for offset in range(1, 5)}
    columns = [place for place in range(len(headings)) if place not in inside]
    rows = [
        [_written_cell(line, place, place in figures) for place in columns]
        for line in lines[1:]
        if len(line) == len(headings)
    ]
    return ReportTable(name, Table(f"{title} (written by the study)", [headings[place] for place in columns], rows))


def _written_cell(line: list[str], place: int, is_figure: bool) -> Cell:
    if not line[place]:
        return None
    try:
        value, sd, n, low, high = (
            (float(text) if text else None for text in line[place : place + 5]) if is_figure else (None,) * 5
        )
    except ValueError:  # a text in a column of figures
        return line[place]
    return line[place] if value is None else TableFigure(value, sd, low, high, int(n or 1))


def _block_name(name: str) -> str:
    return "".join(sign if sign.isalnum() and sign.isascii() else "-" for sign in name)
