"""State of a study and of the runs below a folder, for `jobs` and `launch`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from psychocounsel.blocks.terminal import aligned
from psychocounsel.cluster import resubmission
from psychocounsel.cluster.states import (
    ENDED,
    Row,
    beside_lines,
    counted,
    lines_of,
    reasons,
    rows_of,
    shard_rows,
    short,
    telling,
)
from psychocounsel.errors import UserError
from psychocounsel.rundir.paths import StudyDir, is_selection
from psychocounsel.rundir.run_config import is_run
from psychocounsel.rundir.sweep import ListedRun, is_sweep, runs_of, shards_of
from psychocounsel.storage.files import DamagedFile, read_mapping

# `jobs` for a study's folder.


@dataclass
class StageRows:
    """The current runs of a stage and its selection; or the job that writes the tables."""

    name: str
    rows: list[Row]

    def names(self) -> list[str]:
        """Name of each row: `dpo/3` is the run with index 3 of STUDY/dpo."""
        alone = self.name if len(self.rows) == 1 and self.rows[0].index is None else ""
        return [alone or f"{self.name}/{row.run_dir.name if row.index is None else row.index}" for row in self.rows]

    def overrides(self) -> list[str]:
        """Overrides that distinguish the runs of a sweep; empty for a single run."""
        swept = [row for row in self.rows if row.index is not None]
        texts = dict(zip(map(id, swept), telling(swept), strict=True)) if len(swept) > 1 else {}
        return [texts.get(id(row), "") for row in self.rows]


def is_study(folder: Path) -> bool:
    return StudyDir(folder).study.exists()


def stages(folder: Path) -> list[StageRows]:
    """Return the state of every job of a study by stage, with one query to its cluster.

    Raises:
        UserError: if the cluster does not answer.
        DamagedFile: if `cells.json` is damaged.
    """
    listed = _listed(StudyDir(folder))
    states = iter(rows_of([run for runs in listed.values() for run in runs]))
    return [StageRows(name, [next(states) for _ in runs]) for name, runs in listed.items()]


def _listed(files: StudyDir) -> dict[str, list[ListedRun]]:
    """Return the jobs of each stage from `cells.json`, with index and overrides of the stage's sweep if they were submitted."""
    listed: dict[str, list[ListedRun]] = {}
    for name, stage in dict(read_mapping(files.cells).get("stages", {})).items():
        folder = files.stage(name)
        known = {run.run_dir: run for run in runs_of(folder.path)} if is_sweep(folder.path) else {}
        try:
            cells = [(files.path / cell["run_dir"], cell["name"]) for cell in stage["cells"]]
        except (KeyError, TypeError) as error:
            raise DamagedFile(f"{files.cells}: is damaged; the study's command writes it again") from error
        listed[name] = [known.get(run_dir, ListedRun(None, run_dir, title)) for run_dir, title in cells]
        select = folder.path / str(stage.get("select"))
        if stage.get("select") and is_run(select):
            listed[name].append(ListedRun(None, select, ""))
    if is_run(files.table):
        listed[files.table.name] = [ListedRun(None, files.table, "")]
    return listed


def listed_runs(folder: Path) -> list[ListedRun]:
    """Return every job of a study, stage by stage.

    Raises:
        DamagedFile: if `cells.json` is damaged.
    """
    return [run for runs in _listed(StudyDir(folder)).values() for run in runs]


def status(folder: Path) -> tuple[str, bool]:
    """Return the stages with counts and a line for each run, and True if anything runs or waits.

    Raises:
        UserError: if the cluster does not answer.
        DamagedFile: if `cells.json` is damaged.
    """
    stage_rows = stages(folder)
    rows = [row for stage in stage_rows for row in stage.rows]
    names = [name for stage in stage_rows for name in stage.names()]
    overview = [("stage", "finished", "state")]
    for stage in stage_rows:
        done = sum(row.state == "finished" for row in stage.rows)
        overview.append((stage.name, f"{done}/{len(stage.rows)}", counted(stage.rows)))
    overrides = [text for stage in stage_rows for text in stage.overrides()]
    lines = [*aligned(overview), "", *lines_of(rows, names, overrides, "run"), ""]
    # Live jobs have no reason to show: they run, or wait for the jobs that they need.
    ended = [(row, name) for row, name in zip(rows, names, strict=True) if not row.is_live]
    lines += [*reasons([row for row, _ in ended], [name for _, name in ended]), counted(rows)]
    earlier = [row for row in rows_of(_earlier(folder)) if row.is_live]
    shards = shard_rows([*rows, *earlier])
    lines += [*beside_lines(earlier, "runs of earlier settings"), *beside_lines(shards, "shards")]
    if any(row.state in ENDED for row in rows):
        lines.append("to resume: repeat the study's command (psychocounsel launch ...)")
    return "\n".join(lines), any(row.is_live for row in [*rows, *earlier, *shards])


def _earlier(folder: Path) -> list[ListedRun]:
    """Return the runs of a study's stages that are not its current jobs: those of earlier settings."""
    known, sweeps = {run.run_dir for run in listed_runs(folder)}, [path for path in folder.iterdir() if is_sweep(path)]
    runs = [run for sweep in sorted(sweeps) for run in runs_of(sweep)]
    chosen = [path for sweep in sweeps for path in sweep.iterdir() if is_selection(path) and is_run(path)]
    return [run for run in [*runs, *(ListedRun(None, path, "") for path in chosen)] if run.run_dir not in known]


def cancel(folder: Path) -> None:
    """Cancel all waiting and running jobs of all stages, those of earlier settings and shards included.

    Raises:
        UserError: if a cluster refuses or does not answer.
    """
    runs = [*listed_runs(folder), *_earlier(folder)]
    resubmission.end(rows_of([*runs, *shards_of(run.run_dir for run in runs)]))


def refuse(folder: Path, command: str) -> None:
    """Refuse a command that needs one stage, with the command to type.

    Raises:
        UserError: always.
    """
    place = short(folder)
    if command == "resubmit":
        raise UserError(
            f"{place}: is a study: repeat its command to resume unfinished runs (psychocounsel launch ...); "
            f"resubmit {place}/STAGE [INDEX ...] [cluster.time=48h] is for the runs of one stage"
        )
    index = " INDEX" if command == "logs" else " [INDEX ...]" if command == "cancel" else ""
    raise UserError(f"{place}: is a study: give one of its stages, {command} {place}/STAGE{index}")


# `jobs list`

_DEEPEST = 4  # levels of folders below the listed one
_NO_RUN = "contains no run, sweep or study; give the parent folder of runs"


def _jobs_below(folder: Path, depth: int = _DEEPEST) -> Iterator[tuple[str, Path]]:
    """Yield kind and folder of each study, sweep and run below `folder`; runs inside a study or sweep are not listed again."""
    for path in sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith(".")):
        if kind := _kind(path):
            yield kind, path
        elif depth > 1 and not path.is_symlink():
            yield from _jobs_below(path, depth - 1)


def _kind(path: Path) -> str:
    return "study" if is_study(path) else "sweep" if is_sweep(path) else "run" if is_run(path) else ""


def listing(folder: Path) -> tuple[str, bool]:
    """Return a line for each study, sweep and run below `folder`, and True if any of their runs runs or waits.

    A line has the kind, and the number of its runs in each state.

    Raises:
        UserError: if there is no run, or a cluster does not answer.
    """
    listed = [(kind, path, _runs(kind, path)) for kind, path in _jobs_below(folder)]
    if not listed:
        raise UserError(f"{folder}: {_NO_RUN}")
    rows = rows_of([run for _, _, runs in listed if isinstance(runs, list) for run in runs])
    states = iter(rows)
    lines = [("what", "runs", "folder")]
    for kind, path, runs in listed:
        counts = runs if isinstance(runs, str) else counted([next(states) for _ in runs])
        lines.append((kind, counts, short(path)))
    return "\n".join(aligned(lines)), any(row.is_live for row in rows)


def runs_below(folder: Path) -> list[ListedRun]:
    """Return the runs of a run, sweep or study, or those of every run, sweep and study below another folder.

    Raises:
        UserError: if there is no run, or the files of one are damaged.
    """
    places = [(kind, folder)] if (kind := _kind(folder)) else [*_jobs_below(folder)]
    if not places:
        raise UserError(f"{folder}: {_NO_RUN}")
    return [run for kind, path in places for run in (listed_runs(path) if kind == "study" else runs_of(path))]


def _runs(kind: str, path: Path) -> list[ListedRun] | str:
    """Return the runs of a folder, or the error in its files."""
    try:
        return listed_runs(path) if kind == "study" else runs_of(path)
    except (UserError, DamagedFile) as error:
        return f"damaged: {error}"
