"""`reproducibility.md`: everything needed to reproduce a report's runs, and their cost."""

import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from psychocounsel import __version__
from psychocounsel.annotation.card.markdown import escaped, fenced, table
from psychocounsel.reporting.blocks import Report
from psychocounsel.reporting.bought_answers import bought_answers
from psychocounsel.reporting.exports.search_ranges import search_lines
from psychocounsel.reporting.exports.used_sources import data_rows, model_rows
from psychocounsel.reporting.material import Material, RunMaterial
from psychocounsel.rundir.paths import RunDir
from psychocounsel.storage.files import write_atomically

_COMMANDS = {"training": "train", "evaluation": "evaluate", "annotation": "annotate", "audit": "audit"}


def write_reproducibility(report: Report, material: Material, path: Path) -> None:
    """Write the versions, commands, seeds, data, models, search ranges, hours and cost of all runs."""
    lines = [
        f"# Reproducibility of {escaped(report.title)}",
        "",
        f"Made by psychocounsel {__version__} from {len(material.runs)} runs in: {', '.join(map(escaped, report.folders))}.",
        "",
        *_section("Software", _software(material)),
        *_section("Data", _table(("data", "revision", "split", "licence", "fingerprint", "runs"), data_rows(material))),
        *_section("Models", _table(("model", "revision", "licence", "weights", "runs"), model_rows(material))),
        *_section("Search", search_lines(material)),
        *_section("Hours", _hours(material)),
        *_section("Cost", _cost(material)),
        *_section("Commands", _commands(material)),
    ]
    write_atomically(path, "\n".join(lines).rstrip() + "\n")


def _section(title: str, lines: Iterable[str]) -> list[str]:
    found = [*lines]
    return [f"## {title}", "", *found, ""] if found else []


def _table(head: tuple[str, ...], rows: Iterable[Iterable[Any]]) -> list[str]:
    found = [[*row] for row in rows]
    return table(head, found)[:-1] if found else []


def _software(material: Material) -> Iterator[str]:
    """Yield a table with each combination of versions, code and devices, and its number of runs."""
    found: dict[tuple[str, str, str], int] = {}
    for run in material.runs:
        versions = {"python": run.environment.get("python"), **(run.environment.get("versions") or {})}
        packages = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
        gpus = run.environment.get("gpus") or []
        devices = ", ".join(f"{gpus.count(name)} {name}" for name in dict.fromkeys(gpus)) or "CPU"
        key = (packages or "not recorded", _code(run), devices if "gpus" in run.environment else "not recorded")
        found[key] = found.get(key, 0) + 1
    yield from _table(("versions", "code", "devices per node", "runs"), ([*key, count] for key, count in found.items()))


def _code(run: RunMaterial) -> str:
    """Return the version and commit, with a remark if the code had uncommitted changes."""
    path = RunDir(run.path).code
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    changed = " with uncommitted changes, listed in code.txt of the run directory" if len(lines) > 2 else ""
    return f"{', '.join(lines[:2])}{changed}" if lines else "not recorded"


def device_hours(run: RunMaterial) -> tuple[float, float]:
    """Return (GPU hours, CPU process hours) of all attempts of a run. An attempt with GPUs counts no CPU hours."""
    gpu, cpu = 0.0, 0.0
    for attempt in run.attempts:
        hours = (attempt.get("seconds") or 0.0) / 3600
        gpu += hours * attempt.get("gpus", 0)
        cpu += 0.0 if attempt.get("gpus") else hours * attempt.get("processes", 1)
    return gpu, cpu


def _hours(material: Material) -> Iterator[str]:
    hours = [device_hours(run) for run in material.runs]
    tries = sum(len(run.attempts) for run in material.runs)
    gpu, cpu = (sum(each[device] for each in hours) for device in (0, 1))
    yield (
        f"GPU-hours: {gpu:.4g}. CPU process hours without a GPU: {cpu:.4g}. "
        f"Both include all {tries} attempts of {len(material.runs)} runs, even failed and stopped ones."
    )


def _cost(material: Material) -> Iterator[str]:
    found = bought_answers(material.runs)
    answers, cost = sum(each.answers for each in found), sum(each.cost for each in found)
    yield (
        f"Calls of language models: {answers:,} answers, cost {cost:.4g} in the currency of the configured prices "
        "(models without a price count as 0)."
    )


def _commands(material: Material) -> Iterator[str]:
    for run in material.runs:
        seed = "" if run.seed is None else f", seed {run.seed}"
        tries = f", {len(run.attempts)} attempts" if len(run.attempts) > 1 else ""
        yield f"### {escaped(run.title)}"
        yield ""
        yield f"{escaped(run.path)}: {run.status}{seed}{tries}"
        yield ""
        command = _COMMANDS.get(run.kind)
        if command:
            yield from fenced([f"python -m psychocounsel.{command} {_typed(run)}".rstrip()], "sh")


def _typed(run: RunMaterial) -> str:
    """Return the overrides quoted for a shell. If the run has not started, they come from its sweep's list."""
    path = RunDir(run.path).overrides
    return shlex.join(path.read_text(errors="replace").splitlines()) if path.is_file() else run.overrides
