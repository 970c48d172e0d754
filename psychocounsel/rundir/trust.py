"""Trust in directories: code and weights are loaded only from this user's directories that nobody else can write to.

A run's configuration names modules that are imported and commands that are run, and checkpoints and models become
weights. Anyone who can write these files therefore controls this process.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from psychocounsel.errors import UserError
from psychocounsel.rundir.paths import RunDir
from psychocounsel.storage.trust import TRUST_VARIABLE, belongs_to_others, is_trusted


def refuse_untrusted_run(run_dir: Path, whole: bool = True) -> None:
    """Refuse a run directory whose configuration, checkpoints or model another user could have written.

    If not `whole`, only the folder and the files that define the run are checked: `config.yaml`, `job.json`,
    `overrides.txt` and their copies in `earlier.json`.

    Raises:
        UserError: naming the first such file and the remedy.
    """
    files = RunDir(run_dir)
    trees = (files.checkpoints, files.model) if whole else ()
    defining = [run_dir, files.config, files.job, files.overrides, files.earlier]
    _refuse(run_dir, [*defining, *(path for tree in trees for path in _below(tree))])


def refuse_untrusted_model(run_dir: Path) -> None:
    """Refuse the model of a run if another user could have written it. Raises the errors of refuse_untrusted_run."""
    _refuse(run_dir, [run_dir, *_below(RunDir(run_dir).model)])


def refuse_untrusted_code(folder: Path) -> None:
    """Refuse a folder of code if another user could have written it. Raises the errors of refuse_untrusted_run."""
    _refuse(folder, [folder.parent, *_below(folder)])


def _refuse(folder: Path, paths: list[Path]) -> None:
    if is_trusted(folder) or not folder.is_dir():  # the reader of a missing folder reports it
        return
    for path in paths:
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):  # its reader reports it
            continue
        why = f"code and weights would be loaded from {folder}"
        say = f"if you trust this folder, put {TRUST_VARIABLE}={folder} before the command"
        if fault := belongs_to_others(status):
            remedy = f"`chmod -R go-w {folder}`, or {say}" if fault.startswith("can be written") else say
            raise UserError(f"{path}: {fault}, and {why}: {remedy}")


def _below(tree: Path) -> Iterator[Path]:
    """Yield `tree` and all files in it, except drafts (`.NAME.tmp`), because nothing is loaded from them."""
    yield tree
    for folder, folders, files in os.walk(tree):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(folder) / name for name in (*folders, *files) if not name.startswith("."))
