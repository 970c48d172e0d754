"""Lists runs that trained on a dataset, or on a model of such a run: their weights keep what they learned from it."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from psychocounsel.rundir.paths import AnnotationDir, RunDir
from psychocounsel.rundir.run_config import is_run

UNDONE = (
    "Weights are not changed: models trained on the removed speeches keep what they learned from them. Delete these models or "
    "train them again."
)
_FILES = RunDir(Path())
TEXTS_TOO = (
    f"Run folders may also hold texts of the removed speeches ({_FILES.rounds}/, {_FILES.failure}/, {_FILES.counterfactuals}): "
    "delete what you do not need."
)
_OTHERS = ("run_dir", "sweep_dir", "after", "paths", "out")  # keys of folders that a run writes or waits for
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def users_of(dataset: Path, output: Path) -> dict[str, list[str]]:
    """Return the runs below `output` that read `dataset` or a model of such a run, each with its existing weights.

    Runs elsewhere and copies of the dataset are not found.
    """
    configs = {run: list(_strings(_config(run))) for run in _runs(output)}
    places, found = [dataset.resolve()], dict[str, list[str]]()
    while new := [run for run, texts in configs.items() if str(run) not in found and _mentions(texts, places)]:
        for run in sorted(new):
            found[str(run)] = [str(folder) for folder in _weights(run)]
            places.append(run.resolve())
    return found


def _runs(folder: Path) -> Iterator[Path]:
    """Yield every run directory at or below `folder`, except annotate directories; runs contain no other runs."""
    for place, folders, _ in os.walk(folder):
        run = Path(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if is_run(run):
            folders.clear()
            if not AnnotationDir(run).answers.exists():
                yield run


def _config(run: Path) -> Any:
    """Return the run's configuration without folders that it writes to or waits for."""
    try:
        found = yaml.load(RunDir(run).config.read_text(errors="replace"), _LOADER)
    except (OSError, yaml.YAMLError):
        return None
    return {key: value for key, value in found.items() if key not in _OTHERS} if isinstance(found, dict) else None


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _strings(each)
    elif isinstance(value, str):
        yield value


def _mentions(texts: list[str], places: list[Path]) -> bool:
    paths = [Path(os.path.realpath(text)) for text in texts if text.startswith("/")]
    return any(path.is_relative_to(place) for path in paths for place in places)


def _weights(run: Path) -> Iterator[Path]:
    files = RunDir(run)
    yield from (folder for folder in (files.model, files.export, files.checkpoints) if folder.is_dir())
