"""Work of `psychocounsel export` after its arguments are read. It imports torch only after the cache folders are set."""

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError

from psychocounsel.data.privacy import data_files
from psychocounsel.errors import UserError
from psychocounsel.model.quiet import quiet_libraries
from psychocounsel.remote.hub import set_cache_directories
from psychocounsel.remote.server_access import host_of
from psychocounsel.rundir.paths import ModelDir, RunDir
from psychocounsel.rundir.run_config import is_run, read_run
from psychocounsel.rundir.trained_runs import confidential_sources
from psychocounsel.rundir.trust import refuse_untrusted_run
from psychocounsel.settings.own_code import require_agreement
from psychocounsel.settings.targets import add_code_path
from psychocounsel.storage.files import expanded
from psychocounsel.storage.modes import mask_of, restricted


@dataclass(frozen=True)
class Export:
    """Request for an export.

    `step`: the checkpoint to export (None: the best model). `merge`: merge a LoRA adapter into its base. `to`: the
    folder. `push`, `public`: the hub repository to upload to, and its visibility.
    """

    step: int | None = None
    merge: bool = False
    to: str | None = None
    push: str | None = None
    public: bool = False


def export_run(run: Path, settings: Export) -> None:
    """Write a run's weights to `settings.to` (default: RUN/export), and upload them to the hub if `settings.push` is set.

    Raises:
        UserError: if these weights do not exist, another user could have written them, the folder must not be replaced,
            or the hub or `data.confidential` refuses the upload.
    """
    refuse_untrusted_run(run)
    require_agreement(run)
    _, config = read_run(run)
    try:
        _export(run, config, settings)
    except ConfigAttributeError as error:
        raise UserError(
            f"another version of psychocounsel wrote this run (it has no key {error.full_key}); "
            f"its {RunDir(run).code.name} names the version"
        ) from error


def _export(run: Path, config: DictConfig, settings: Export) -> None:
    add_code_path(config.code_path)  # the user's own algorithm may be there
    set_cache_directories(config.paths.cache)
    if settings.push is not None:
        _check_push(run, settings.push)
    folder = expanded(settings.to) if settings.to else RunDir(run).export
    place = folder.resolve()
    _check_replaceable(place, folder, run)
    quiet_libraries()
    from psychocounsel.engine.checkpoints.publish import assemble, push

    hosts = [allowed for _, allowed in confidential_sources(str(run))]
    allowed_hosts = sorted(set.intersection(*hosts)) if hosts else None
    with restricted(_mask(run, config, place.parent)):
        about = assemble(run, config, settings.step, settings.merge, place, allowed_hosts)
    print(f"{folder}: the weights of step {about['step']}, with README.md as their card")
    if settings.push is not None:
        address = push(place, settings.push, settings.public)
        print(f"pushed to {address} ({'public' if settings.public else 'private'})")


def _mask(run: Path, config: DictConfig, place: Path) -> int:
    """Return a umask that makes the export as private as the data, if they still exist, and as the copied files."""
    files = RunDir(run)
    return mask_of([*data_files(config), files.model, ModelDir(files.model).about, files.checkpoints], place)


def _check_push(run: Path, repository: str) -> None:
    """Raise if confidential data would leave the allowed hosts, because trained weights can reveal texts.

    Raises:
        UserError: naming the host.
    """
    from huggingface_hub import constants

    hub = host_of(constants.ENDPOINT)
    for source, hosts in confidential_sources(str(run)):
        if hub not in hosts:
            raise UserError(
                f"push={repository}: {source} was trained on confidential data, and {hub} is not in its "
                "data.allowed_hosts; leave push out, or train with that host allowed"
            )


def _check_replaceable(place: Path, folder: Path, run: Path) -> None:
    """Raise unless `place` is new, empty or an earlier export: no run, no part of one and no other file is ever replaced."""
    own_export = run.resolve() / RunDir(run).export.name
    if place != own_export and (owner := next(filter(is_run, (place, *place.parents)), None)):
        raise UserError(f"to={folder}: lies in the run {owner}; give a folder outside of it")
    if place.is_file():
        raise UserError(f"to={folder}: is a file; give a folder")
    if place.exists() and any(place.iterdir()):
        others = ModelDir(place).files()[1]
        if others or not ModelDir(place).about.exists():
            names = f", such as {others[0]!r}" if others else ""
            raise UserError(f"to={folder}: holds other files than an export{names}; give a new or empty folder")
