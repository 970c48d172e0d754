"""`reproducibility.md`: everything needed to reproduce a report's runs, and their cost."""

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from psychocounsel import __version__
from psychocounsel.blocks.kinds import Report
from psychocounsel.blocks.markdown import escaped, fenced, table
from psychocounsel.errors import UserError
from psychocounsel.reporting.material import COMMANDS, Material, RunMaterial
from psychocounsel.reporting.sections.cost import bought_answers, device_hours
from psychocounsel.reporting.sections.foreign_runs import REASON, without_foreign
from psychocounsel.rundir.paths import AnnotationDir, RunDir, SweepDir
from psychocounsel.rundir.run_config import read_overrides
from psychocounsel.settings.targets import config_folders
from psychocounsel.storage.files import read_mapping, with_noun, write_atomically

# Search spaces: ranges of Optuna searches, values of sweeps, and the chosen runs with their metric


def search_lines(material: Material) -> Iterator[str]:
    """Yield Markdown list items: each sweep, the values of each key that it varies, and the chosen run."""
    sweeps: dict[Path, list[RunMaterial]] = {}
    for run in material.runs:
        if run.sweep is not None:
            sweeps.setdefault(run.sweep, []).append(run)
    for sweep, runs in sweeps.items():
        yield f"- {escaped(sweep)}: {with_noun(len(runs), 'run')}"
        yield from (f"  - {line}" for line in _search_ranges(runs))
        yield from (f"  - {line}" for line in _chosen_runs(sweep))


def _search_ranges(runs: list[RunMaterial]) -> Iterator[str]:
    recipes: dict[str, Mapping[str, Any]] = {}
    for run in runs:
        settled = run.config.get("settled") or {}
        recipes |= {key: recipe for key, recipe in settled.items() if "trial" in recipe}
    for key, recipe in recipes.items():
        yield f"{escaped(key)}: {_search_range(recipe)}, searched by Optuna with seed {recipe.get('seed')}"
    for key in dict.fromkeys(key for run in runs for key in run.settings if key not in recipes):
        values = dict.fromkeys(run.settings[key] for run in runs if key in run.settings)
        if len(values) > 1:
            yield f"{escaped(key)}: {', '.join(map(escaped, values))}"
    if seeds := sorted({run.seed for run in runs if run.seed is not None}):
        yield f"seeds: {', '.join(map(str, seeds))}"


def _search_range(recipe: Mapping[str, Any]) -> str:
    if "choices" in recipe:
        return f"one of {', '.join(escaped(choice) for choice in recipe['choices'])}"
    step = f" in steps of {recipe['step']}" if recipe.get("step") else ""
    return f"{recipe.get('low')} to {recipe.get('high')}{' on a logarithmic scale' if recipe.get('log') else ''}{step}"


def _chosen_runs(sweep: Path) -> Iterator[str]:
    try:
        record = read_mapping(SweepDir(sweep).best_record)
    except UserError as error:
        yield escaped(error)
        return
    chosen = record.get("chosen") or {}
    if chosen:
        which = "smallest" if record.get("mode") == "min" else "largest"
        yield f"chosen by the {which} {escaped(record.get('metric'))}: {escaped(chosen.get('run'))} ({chosen.get('value')})"


# Data and models: revisions, licences and fingerprints, each source once

Row = tuple[Any, ...]


def _counted(rows: Iterable[Row]) -> list[Row]:
    return [(*row, count) for row, count in Counter(rows).items()]


def _data(run: RunMaterial) -> Iterator[Row]:
    fingerprint = run.environment.get("data") or (run.extra.get("audit") or {}).get("fingerprint")
    data, speeches = run.config.get("data"), run.config.get("speeches")
    if isinstance(data, Mapping):
        for source in data.get("mix") or [data]:
            yield (*_source({**data, **source}), fingerprint)
        if data.get("eval_path"):
            held_out = {
                "path": data["eval_path"],
                "revision": data.get("eval_revision"),
                "split": data.get("eval_split"),
            }
            yield (*_source({**data, **held_out}), fingerprint)
    if isinstance(speeches, Mapping):
        for source in speeches.get("sources") or [speeches]:
            yield (*_source({**speeches, **source}), None)


def _source(section: Mapping[str, Any]) -> Row:
    return section.get("path"), _revision(section), section.get("split"), _licence(section)


def _revision(section: Mapping[str, Any]) -> str:
    """Return the pinned revision of a dataset or model of the hub, or a remark: shipped, local or not pinned."""
    if section.get("revision"):
        return str(section["revision"])
    path = str(section.get("path") or section.get("model"))
    return (
        "ships with this version" if path.startswith("builtin:") else "local" if path.startswith("/") else "not pinned"
    )


def _licence(section: Mapping[str, Any]) -> str | None:
    """Return the licence that the configuration names, or otherwise the licence in the card of a local dataset."""
    if section.get("license"):
        return str(section["license"])
    path = Path(str(section.get("path")))
    card = path / AnnotationDir(Path()).card.name
    if not path.is_absolute() or not card.is_file():
        return None
    try:
        head = yaml.safe_load(card.read_text(errors="replace").split("---")[1])
        return str(head["license"])
    except (IndexError, KeyError, TypeError, yaml.YAMLError, OSError):
        return None


def _models(run: RunMaterial) -> Iterator[Row]:
    model, reward = run.config.get("model"), run.config.get("reward")
    if isinstance(model, Mapping):
        yield model.get("path"), _revision(model), model.get("license"), run.environment.get("weights")
    if isinstance(reward, Mapping):
        for member in reward.get("members") or [reward]:
            yield member.get("path"), _revision(member), member.get("license"), None
    weights = _weights(run)
    for group in ("writers", "annotator", "contestants", "judge", "client"):
        section = run.config.get(group)
        for member in (section.get("members") or [section]) if isinstance(section, Mapping) else ():
            settings = member if member.get("model") else member.get("reward") or {}
            path = settings.get("model") or settings.get("path")
            if path:
                yield (
                    path,
                    _revision(settings),
                    member.get("terms"),
                    weights.get(f"{group}.local_weights.{member.get('name')}"),
                )


def _weights(run: RunMaterial) -> dict[str, str]:
    """Return the hashes of local weights recorded by the run's steps, by setting name."""
    hashes: dict[str, str] = {}
    for record in (run.extra.get("steps") or {}).values():
        settings = record.get("settings") or {}
        hashes |= {key: value for key, value in settings.items() if ".local_weights." in key}
    return hashes


# The file


def write_reproducibility(report: Report, material: Material, path: Path) -> None:
    """Write the versions, commands, seeds, data, models, search ranges, hours and cost of all runs that can be read."""
    sections, foreign = without_foreign(_sections, material)
    lines = [
        f"# Reproducibility of {escaped(report.title)}",
        "",
        f"Made by psychocounsel {__version__} from {with_noun(len(material.runs), 'run')} in: "
        f"{', '.join(map(escaped, report.folders))}.",
        "",
        *(line for run in foreign for line in (f"{escaped(run.title)} is missing: {REASON}.", "")),
        *sections,
    ]
    write_atomically(path, "\n".join(lines).rstrip() + "\n")


def _sections(material: Material) -> list[str]:
    data, models = (_counted(row for run in material.runs for row in rows(run)) for rows in (_data, _models))
    return [
        *_section("Software", _software(material)),
        *_section("Data", _table(("data", "revision", "split", "licence", "fingerprint", "runs"), data)),
        *_section("Models", _table(("model", "revision", "licence", "weights", "runs"), models)),
        *_section("Search", search_lines(material)),
        *_section("Hours", _hours(material)),
        *_section("Cost", _cost(material)),
        *_section("Commands", _commands(material)),
    ]


def _section(title: str, lines: Iterable[str]) -> list[str]:
    body = [*lines]
    return [f"## {title}", "", *body, ""] if body else []


def _table(head: tuple[str, ...], rows: Iterable[Iterable[Any]]) -> list[str]:
    lists = [[*row] for row in rows]
    return table(head, lists)[:-1] if lists else []


def _software(material: Material) -> Iterator[str]:
    """Yield a table with each combination of versions, code and devices, and its number of runs."""
    yield from _table(("versions", "code", "devices per node", "runs"), _counted(map(_made_with, material.runs)))


def _made_with(run: RunMaterial) -> Row:
    versions = {"python": run.environment.get("python"), **(run.environment.get("versions") or {})}
    packages = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    gpus = run.environment.get("gpus") or []
    devices = ", ".join(f"{gpus.count(name)} {name}" for name in dict.fromkeys(gpus)) or "CPU"
    return packages or "not recorded", _code(run), devices if "gpus" in run.environment else "not recorded"


def _code(run: RunMaterial) -> str:
    """Return the version and commit, with a remark if the code had uncommitted changes."""
    path = RunDir(run.path).code
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    changed = " with uncommitted changes, listed in code.txt of the run directory" if len(lines) > 2 else ""
    return f"{', '.join(lines[:2])}{changed}" if lines else "not recorded"


def _hours(material: Material) -> Iterator[str]:
    tried = [attempt for run in material.runs for attempt in run.attempts]
    known = [attempt for attempt in tried if attempt.get("seconds") is not None]
    gpu = sum(device_hours(attempt) for attempt in known if attempt.get("gpus"))
    cpu = sum(device_hours(attempt) for attempt in known if not attempt.get("gpus"))
    yield (
        f"GPU-hours: {gpu:.4g}. CPU process hours without a GPU: {cpu:.4g}. "
        f"Both include {with_noun(len(tried), 'attempt')} of {with_noun(len(material.runs), 'run')}, also failed and stopped "
        "ones."
    )


def _cost(material: Material) -> Iterator[str]:
    journals = bought_answers(material.runs)
    answers, cost = sum(journal.answers for journal in journals), sum(journal.cost for journal in journals)
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
        command = COMMANDS.get(run.kind)
        if command:
            yield from fenced([f"psychocounsel {command} {_typed(run)}".rstrip()], "sh")


def _typed(run: RunMaterial) -> str:
    """Return the options and overrides quoted for a shell. If the run has not started, they come from its sweep's list."""
    code_path = run.config.get("code_path")
    known = [folder for folder in code_path if isinstance(folder, str)] if isinstance(code_path, list) else []
    folders = [f"--config-dir={folder}" for folder in config_folders(known)]
    typed = shlex.join(read_overrides(RunDir(run.path).overrides, "replace")) or run.overrides
    return " ".join([*map(shlex.quote, folders), typed])
