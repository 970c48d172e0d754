"""What `psychocounsel.export` does once its arguments are read. Imports no torch before the caches' folders are set."""

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError

from psychocounsel.engine.telemetry.progress import quiet_libraries
from psychocounsel.errors import UserError
from psychocounsel.remote.hub import set_cache_directories
from psychocounsel.rundir.paths import ModelDir, RunDir, run_of_model
from psychocounsel.rundir.run_config import is_run, read_run
from psychocounsel.settings.code_path import add_code_path


@dataclass(frozen=True)
class Export:
    """What is asked for: the weights of `step` (None: the best), adapters merged, where to, and a repository to push to."""

    step: int | None = None
    merge: bool = False
    to: str | None = None
    push: str | None = None
    public: bool = False


def export_run(run: Path, asked: Export) -> None:
    """Write a run's weights to a folder, RUN/export unless told otherwise, and push them.

    Raises:
        UserError: if there are no such weights, the folder is not to be replaced, or the hub refuses.
    """
    _, config = read_run(run)
    try:
        _export(run, config, asked)
    except ConfigAttributeError as error:
        raise UserError(
            f"the run was made by another version of psychocounsel (no key {error.full_key}); "
            f"its {RunDir(run).code.name} says which"
        ) from error


def _export(run: Path, config: DictConfig, asked: Export) -> None:
    add_code_path(config.code_path)  # to an algorithm of the user's own
    folder = Path(asked.to).expanduser() if asked.to else RunDir(run).export
    place = folder.resolve()
    _check_replaceable(place, folder, run)
    set_cache_directories(config.paths.cache)
    quiet_libraries()
    from psychocounsel.engine.checkpoints.publish import assemble, push

    about = assemble(run, config, asked.step, asked.merge, place)
    print(f"{folder}: the weights of step {about['step']}, with README.md as their card")
    if asked.push is not None:
        address = push(place, asked.push, asked.public)
        print(f"pushed to {address} ({'public' if asked.public else 'private'})")


def _check_replaceable(place: Path, folder: Path, run: Path) -> None:
    """Only an earlier export may be replaced: no run, no run's model, and nothing else."""
    owner = run_of_model(place)
    if place == run.resolve() or (owner is not None and is_run(owner)):
        raise UserError(f"to={folder}: would replace a part of a run; give another folder")
    if place.is_file():
        raise UserError(f"to={folder}: is a file; give a folder")
    if place.exists() and any(place.iterdir()) and not ModelDir(place).about.exists():
        raise UserError(f"to={folder}: holds other files; give a new or empty folder")
