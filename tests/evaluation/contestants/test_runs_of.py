"""Training runs that produced a contestant's weights."""

from pathlib import Path

from psychocounsel.evaluation.contestants.evaluation_speeches import runs_of
from psychocounsel.rundir.paths import RunDir
from psychocounsel.rundir.run_config import write_config
from psychocounsel.storage.files import write_json
from tests.support.contests import contest


def test_the_folder_of_an_evaluation_is_no_run_of_a_model(tmp_path: Path) -> None:
    """A served model may share its name with a folder that belongs to an evaluation, which trained nothing."""
    write_config(tmp_path, contest("evaluation=health", "model.path=builtin:tiny_dpo"))
    write_json(RunDir(tmp_path).job, {"module": "psychocounsel.evaluate"})
    assert runs_of(str(tmp_path)) == []
