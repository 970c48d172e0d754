"""Work of the jobs that a study adds to its stages, without torch."""

from typing import TYPE_CHECKING

from psychocounsel.errors import DONE
from psychocounsel.rundir.paths import StudyDir
from psychocounsel.rundir.summary import FINISHED, is_finished, write_summary
from psychocounsel.storage.files import read_mapping
from psychocounsel.studies.selecting import select
from psychocounsel.studies.study_file import read_study

if TYPE_CHECKING:
    from psychocounsel.rundir.run import Run


def work(run: "Run") -> int:
    """Choose the best cell of a stage, or write the study's tables; return the exit code."""
    return select(run) if run.config.study.kind == "selection" else _write_tables(run)


def _write_tables(run: "Run") -> int:
    from psychocounsel.studies import tables

    files = StudyDir(run.dir.parent)
    ended = _finished_runs(files)
    written = tables.write(files, read_study(files.study, run.config.study.name))
    about = {"fingerprint": run.config.study.fingerprint, "runs": ended}
    write_summary(run.dir, FINISHED, metrics={}, files=[path.name for path in written], **about)
    return DONE


def _finished_runs(files: StudyDir) -> list[str]:
    """Return the finished runs of the study's cells, as named in `cells.json`."""
    stages = read_mapping(files.cells).get("stages", {})
    runs = [str(cell["run_dir"]) for each in stages.values() for cell in each["cells"]]
    return sorted(run for run in runs if is_finished(files.path / run))
