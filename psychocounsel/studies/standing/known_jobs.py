"""`jobs list`: the studies, sweeps and runs below a folder, each with the states of its runs."""

from collections.abc import Iterator
from pathlib import Path

from psychocounsel.cluster.standing.status import rows_of
from psychocounsel.cluster.standing.status_lines import aligned, counted, short
from psychocounsel.errors import UserError
from psychocounsel.rundir.run_config import is_run
from psychocounsel.rundir.sweep_table import ListedRun, is_sweep, runs_of
from psychocounsel.storage.files import DamagedFile
from psychocounsel.studies.standing.study_status import is_study, listed_runs

_DEEPEST = 4  # levels of folders below the listed one
_NO_RUN = "contains no run, sweep or study; give the parent folder of runs"


def jobs_below(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield kind and folder of each study, sweep and run below `folder`; runs inside a study or sweep are not listed again."""
    yield from _below(folder, _DEEPEST)


def _below(folder: Path, depth: int) -> Iterator[tuple[str, Path]]:
    for path in sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith(".")):
        if kind := _kind(path):
            yield kind, path
        elif depth > 1 and not path.is_symlink():
            yield from _below(path, depth - 1)


def _kind(path: Path) -> str:
    return "study" if is_study(path) else "sweep" if is_sweep(path) else "run" if is_run(path) else ""


def listing(folder: Path) -> tuple[str, bool]:
    """Return a line for each study, sweep and run below `folder`, and True if any of their runs runs or waits.

    A line has the kind, and the number of its runs in each state.

    Raises:
        UserError: if there is no run, or a cluster does not answer.
    """
    found = [(kind, path, _runs(kind, path)) for kind, path in jobs_below(folder)]
    if not found:
        raise UserError(f"{folder}: {_NO_RUN}")
    rows = rows_of([run for _, _, runs in found if isinstance(runs, list) for run in runs])
    stand = iter(rows)
    lines = [("what", "runs", "folder")]
    for kind, path, runs in found:
        said = runs if isinstance(runs, str) else counted([next(stand) for _ in runs])
        lines.append((kind, said, short(path)))
    return "\n".join(aligned(lines)), any(row.is_live for row in rows)


def runs_below(folder: Path) -> list[ListedRun]:
    """Return the runs of a run, sweep or study, or those of every run, sweep and study below another folder.

    Raises:
        UserError: if there is no run, or the files of one are damaged.
    """
    found = [(kind, folder)] if (kind := _kind(folder)) else [*jobs_below(folder)]
    if not found:
        raise UserError(f"{folder}: {_NO_RUN}")
    return [run for kind, path in found for run in (listed_runs(path) if kind == "study" else runs_of(path))]


def _runs(kind: str, path: Path) -> list[ListedRun] | str:
    """Return the runs of a folder, or the error in its files."""
    try:
        return listed_runs(path) if kind == "study" else runs_of(path)
    except (UserError, DamagedFile) as error:
        return f"damaged: {error}"
