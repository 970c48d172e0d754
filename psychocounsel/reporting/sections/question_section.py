"""Section "What was asked": the settings that differ between runs with their values, and what all runs share."""

from collections.abc import Iterable, Sequence

from psychocounsel.reporting.blocks import Block, Paragraph, ReportTable, Section
from psychocounsel.reporting.material import Material, RunMaterial
from psychocounsel.reporting.sections.comparing.setting_groups import listed
from psychocounsel.studies.tables.formats import Cell, Table

_NAMES = {"training": ("training", "trainings"), "evaluation": ("evaluation", "evaluations")}
_NAMES |= {
    "annotation": ("annotation", "annotations"),
    "audit": ("audit", "audits"),
    "other": ("other run", "other runs"),
}
_EQUAL = {"model.path": "model", "data.path": "data", "algo._target_": "algorithm", "reward.name": "reward"}
_EQUAL |= {
    "evaluation.name": "evaluation",
    "global_batch_size": "prompts per step",
    "max_steps": "steps",
    "epochs": "epochs",
}
_VERSIONS = ("psychocounsel", "torch", "transformers", "deepspeed", "vllm")
_MOST_VALUES = 12


def section(material: Material) -> Section:
    if not material.runs:
        return Section("question", "What was asked")
    blocks: list[Block] = [Paragraph(_counts(material))]
    for line in (_equal(material.runs), _versions(material.runs)):
        blocks += [Paragraph(line)] if line else []
    return Section("question", "What was asked", [*blocks, *_differences(material.runs)])


def _counts(material: Material) -> str:
    """Return a sentence such as `8 trainings and 1 evaluation; seeds 1 and 2.`"""
    counts = {kind: len(material.of(kind)) for kind in _NAMES}
    said = listed([f"{count} {_NAMES[kind][count > 1]}" for kind, count in counts.items() if count])
    studies = listed([study.name for study in material.studies]) if material.studies else ""
    seeds = sorted({run.seed for run in material.runs if run.seed is not None})
    parts = [said, f"study {studies}" if studies else ""]
    parts += [f"{'seed' if len(seeds) == 1 else 'seeds'} {listed([*map(str, seeds)])}"] if seeds else []
    return f"{'; '.join(filter(None, parts))}."


def _equal(runs: Sequence[RunMaterial]) -> str:
    """Return a sentence on the values that all runs share: model, data, algorithm, length."""
    known = [(name, _only(_value(run, key) for run in runs)) for key, name in _EQUAL.items()]
    shared = [f"{name} {_short(key, value)}" for (name, value), key in zip(known, _EQUAL, strict=True) if value]
    return f"Equal in all runs that have it: {', '.join(shared)}." if shared else ""


def _versions(runs: Sequence[RunMaterial]) -> str:
    """Return the versions of the main packages. A package that changed between runs has several."""
    found = list[str]()
    for name in _VERSIONS:
        given = dict.fromkeys(filter(None, ((run.environment.get("versions") or {}).get(name) for run in runs)))
        found += [f"{name} {' and '.join(map(str, given))}"] if given else []
    return f"Versions: {', '.join(found)}." if found else ""


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
    given = [run.settings[key] for run in runs if key in run.settings]
    counts = {value: given.count(value) for value in dict.fromkeys(given)}
    shown = [f"{value} ({count})" for value, count in counts.items()]
    return listed(shown, _MOST_VALUES), str(len(runs) - len(given) or "")


def _value(run: RunMaterial, key: str) -> str:
    """Return a setting by its dotted key; "" if the run does not have it."""
    here: object = run.config
    for name in key.split("."):
        here = here.get(name) if hasattr(here, "get") else None
    return "" if here is None else str(here)


def _only(values: Iterable[str]) -> str:
    """Return the value if all non-empty values are equal, otherwise ""."""
    given = {*filter(None, values)}
    return given.pop() if len(given) == 1 else ""


def _short(key: str, value: str) -> str:
    return value.rpartition(".")[2] if key.endswith("_target_") else value
