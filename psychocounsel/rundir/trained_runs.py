"""Finds the training runs that made a model, and reads their number format and training data from `config.yaml`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from omegaconf import OmegaConf

from psychocounsel.errors import UserError
from psychocounsel.rundir.paths import ModelDir, RunDir
from psychocounsel.rundir.results import is_finished, read_state, read_summary
from psychocounsel.rundir.run_config import has_config, is_run, read_config, read_plain, read_section
from psychocounsel.storage.files import expanded, read_json

MEASURED = "measured"  # key of an evaluation's summary.json: the result of `progress_of_models`
_UNFINISHED = ", unfinished"


def run_of(path: str | None) -> Path | None:
    """Return the training run whose directory holds a model's weights; None if no run holds them.

    A served model may share its name with a folder that trained nothing, such as an evaluation; the result is then None.
    """
    if path is None or path.startswith("builtin:"):
        return None
    folder = expanded(path)
    # os.path.isdir also answers for a name that is too long for a path.
    return next((place for place in (folder, folder.parent) if os.path.isdir(place) and _has_trained(place)), None)


def runs_of(path: str | None) -> list[Path]:
    """Return all runs that trained these weights, the last one first: for instance a DPO run, then the SFT run before it."""
    runs = list[Path]()
    while (run := run_of(path)) is not None and run not in runs:
        runs.append(run)
        path = OmegaConf.select(read_config(run), "model.path")
    return runs


_planned: dict[Path, str] = {}  # runs of a study that have no directory yet: the model that each will start from


def plan_training(run_dir: Path, model_path: str) -> None:
    """Note the model that a training will start from, for the runs of the same study that continue from it."""
    _planned[run_dir] = model_path


def start_path(path: str) -> str | None:
    """Return the path of the model from which the run behind `path` started, or will start; None without a run."""
    if (run := run_of(path)) is not None:
        return OmegaConf.select(read_config(run), "model.path")
    place = Path(path)
    return next((start for folder in (place, place.parent) if (start := _planned.get(folder))), None)


def progress_of_models(paths: Iterable[str | None]) -> dict[str, str]:
    """Return the step at which the run of each of these models stands, for `summary.json`; models without a run are left out."""
    return {path: _progress(run) for path in paths if path is not None and (run := run_of(path)) is not None}


def unfinished_models(progress: Mapping[str, str]) -> list[str]:
    """Return a line for each model whose run has not finished; `progress` is the result of `progress_of_models`."""
    return [
        f"{path} is an intermediate model: its run stands at {step.removesuffix(_UNFINISHED)}"
        for path, step in progress.items()
        if step.endswith(_UNFINISHED)
    ]


def is_up_to_date(run_dir: Path) -> bool:
    """Return True if the run finished, and the runs of the models that it measured have not gone on since.

    An evaluation may have measured a model of an unfinished run, or of a run that was made longer.
    """
    measured = read_summary(run_dir).get(MEASURED)
    runs = [(run_of(path), step) for path, step in measured.items()] if isinstance(measured, dict) else []
    return is_finished(run_dir) and all(run is None or _progress(run) == step for run, step in runs)


def _progress(run: Path) -> str:
    state = read_state(run)
    return f"step {state.get('step')} of {state.get('total')}" + ("" if is_finished(run) else _UNFINISHED)


def trained_dtype(path: str | None) -> str | None:
    """Return the number format that a run's `model.dtype` names for this model; None without a run, and for `auto`."""
    run = run_of(path)
    named = None if run is None else (read_section(run, "model") or {}).get("dtype")
    return named if named in ("fp32", "bf16") else None


def run_trained_on(path: str | None, data: Path) -> Path | None:
    """Return the last run behind a model that trained on the file `data`, or on a folder with it; None if none did."""
    data = expanded(data).resolve()
    return next((run for run in runs_of(path) if any(_holds(place, data) for place in _training_paths(run))), None)


def confidential_sources(path: str | None) -> Iterator[tuple[Path, set[str]]]:
    """Yield the runs and exports behind a model that were trained on confidential data, with the hosts allowed for each.

    Raises:
        UserError: if an export's record does not list hosts, because it may have been altered.
    """
    models = [path]
    for run in runs_of(path):
        config = read_config(run)
        models.append(OmegaConf.select(config, "model.path"))
        if OmegaConf.select(config, "data.confidential"):
            yield run, {host.lower() for host in config.data.allowed_hosts}
    for model in filter(None, models):
        folder = expanded(model)
        if folder.is_dir() and (hosts := _recorded_hosts(ModelDir(folder).confidential)) is not None:
            yield folder, hosts


def confidential_folders(path: Path) -> Iterator[tuple[Path, set[str]]]:
    """Yield a path and the folders that it really lies in, if their texts are confidential, with the hosts allowed for each.

    Raises:
        UserError: if a folder's configuration cannot be read, because its texts may be confidential.
    """
    place = expanded(path).resolve()
    for folder in filter(has_config, (place, *place.parents)):
        stored = read_plain(folder)
        if stored is None:
            files = RunDir(folder)
            text, beside = files.config.read_bytes(), (files.job, files.overrides, files.code, files.environment)
            if not any(map(Path.exists, beside)) and text and b"confidential" not in text:
                continue  # another program's file of this name; an empty one may be a damaged file of ours
            raise UserError(f"{RunDir(folder).config} cannot be read, so {place} may be confidential; restore it first")
        for section in (stored.get("speeches"), stored.get("data")):
            if isinstance(section, dict) and section.get("confidential"):
                yield folder, {str(host).lower() for host in section.get("allowed_hosts") or []}


def _recorded_hosts(file: Path) -> set[str] | None:
    """Return the hosts that an export's record of confidential data allows; None without such a record."""
    record = read_json(file)
    if record is None:
        return None
    hosts = record.get("allowed_hosts") if isinstance(record, dict) else None
    if not isinstance(hosts, list) or not all(isinstance(host, str) for host in hosts):
        raise UserError(f"{file}: has no list `allowed_hosts`, so it may have been altered; export these weights again")
    return {host.lower() for host in hosts}


def _has_trained(folder: Path) -> bool:
    return is_run(folder) and (read_section(folder, "model") or {}).get("path") is not None


def _training_paths(run: Path) -> Iterator[Path]:
    """Yield the files and folders whose rows a run trained on."""
    data = read_config(run).data
    for path in [entry.get("path") for entry in data.get("mix") or []] or [data.get("path")]:
        if path and not path.startswith("builtin:"):
            yield expanded(path).resolve()


def _holds(place: Path, file: Path) -> bool:
    return place == file or place in file.parents
