"""Search spaces of a report's runs: ranges of Optuna searches, values of sweeps, and the chosen runs with their metric."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from psychocounsel.annotation.card.markdown import escaped
from psychocounsel.errors import UserError
from psychocounsel.reporting.material import Material, RunMaterial
from psychocounsel.rundir.paths import SweepDir
from psychocounsel.storage.files import read_mapping


def search_lines(material: Material) -> Iterator[str]:
    """Yield Markdown list items: each sweep, the values of each key that it varies, and the chosen run."""
    sweeps: dict[Path, list[RunMaterial]] = {}
    for run in material.runs:
        if run.sweep is not None:
            sweeps.setdefault(run.sweep, []).append(run)
    for sweep, runs in sweeps.items():
        yield f"- {escaped(sweep)}: {len(runs)} runs"
        yield from (f"  - {line}" for line in _ranges(runs))
        yield from (f"  - {line}" for line in _chosen(sweep))


def _ranges(runs: list[RunMaterial]) -> Iterator[str]:
    recipes: dict[str, Mapping[str, Any]] = {}
    for run in runs:
        settled = run.config.get("settled") or {}
        recipes |= {key: recipe for key, recipe in settled.items() if "trial" in recipe}
    for key, recipe in recipes.items():
        yield f"{escaped(key)}: {_range(recipe)}, searched by Optuna with seed {recipe.get('seed')}"
    for key in dict.fromkeys(key for run in runs for key in run.settings if key not in recipes):
        values = dict.fromkeys(run.settings[key] for run in runs if key in run.settings)
        if len(values) > 1:
            yield f"{escaped(key)}: {', '.join(map(escaped, values))}"
    if seeds := sorted({run.seed for run in runs if run.seed is not None}):
        yield f"seeds: {', '.join(map(str, seeds))}"


def _range(recipe: Mapping[str, Any]) -> str:
    if "choices" in recipe:
        return f"one of {', '.join(escaped(each) for each in recipe['choices'])}"
    step = f" in steps of {recipe['step']}" if recipe.get("step") else ""
    return f"{recipe.get('low')} to {recipe.get('high')}{' on a logarithmic scale' if recipe.get('log') else ''}{step}"


def _chosen(sweep: Path) -> Iterator[str]:
    try:
        record = read_mapping(SweepDir(sweep).best_record)
    except UserError as error:
        yield escaped(error)
        return
    chosen = record.get("chosen") or {}
    if chosen:
        which = "smallest" if record.get("mode") == "min" else "largest"
        yield f"chosen by the {which} {escaped(record.get('metric'))}: {escaped(chosen.get('run'))} ({chosen.get('value')})"
