"""A command of the user's own: one Python file and one YAML file, outside of the package."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from psychocounsel.rundir.results import read_summary
from tests.support.harness import ROOT

_CODE = """
from dataclasses import dataclass

from psychocounsel.commands.application import main
from psychocounsel.data.privacy import data_files
from psychocounsel.data.settings import PairsConfig, check_data, settle_data
from psychocounsel.errors import UserError
from psychocounsel.evaluation.part import load_evaluated, settle_part
from psychocounsel.rundir.results import FINISHED, write_summary
from psychocounsel.settings.command import Command
from psychocounsel.settings.schema import option


@dataclass
class LengthConfig(PairsConfig):
    at_least: int = option(1, at_least=1)


class Lengths(Command):
    name, module, section = "lengths", "lengths", "at_least"

    def schema(self, plain):
        return LengthConfig

    def check(self, config, plain):
        check_data(config)
        settle_data(config)
        settle_part(config)
        if config.limit is not None and config.limit < config.at_least:
            raise UserError(f"limit={config.limit}: must be at least at_least={config.at_least}")

    def sources(self, config):
        return data_files(config)

    def subjects(self, config):
        return (config.data.name,)

    def metric(self, config):
        return "words"

    def figure_names(self, config):
        return ["words"]

    def loads_a_model(self, config):
        return False

    def idle(self, config):
        yield "data.balance", "lengths weights no pairs"

    def work(self, run):
        rows = load_evaluated(run.config, run.say).used[: run.config.limit]
        words = sum(len(reply.split()) for row in rows for reply in row.replies) / len(rows)
        write_summary(run.dir, FINISHED, metrics={"words": words})
        return 0


COMMAND = Lengths()
if __name__ == "__main__":
    main("lengths")
"""
_VALUES = """
defaults:
  - _self_
  - data: sample
  - cluster: local
  - paths: default
  - override hydra/launcher: psychocounsel
  - override hydra/sweeper: psychocounsel
  - override hydra/job_logging: none
  - override hydra/hydra_logging: none
part: auto
limit: null
at_least: 1
run_dir: null
sweep_dir: null
after: []
dry_run: false
code_path: []
hydra:
  run: {dir: .}
  sweep: {dir: "${or_new_sweep:${sweep_dir},${paths.output}}", subdir: .}
  output_subdir: null
  job: {chdir: false}
"""
_STUDY = """
about: Lengths of replies.
stages:
  few: lengths limit=3,5
table:
  words: {rows: [few], columns: {words: words}}
"""


@pytest.mark.slow
def test_a_command_of_the_users_own_is_checked_run_swept_and_part_of_a_study(tmp_path: Path) -> None:
    (tmp_path / "my").mkdir()
    (tmp_path / "lengths.py").write_text(_CODE)
    (tmp_path / "my" / "lengths.yaml").write_text(_VALUES)
    (tmp_path / "short.yaml").write_text(_STUDY)
    place = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "PSYCHOCOUNSEL_CACHE": str(tmp_path / "cache")}

    def run(*given: str, code: int = 0, module: str = "lengths") -> str:
        command = [sys.executable, "-m", module, *given]
        done = subprocess.run(command, cwd=tmp_path, env=place, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    own = ["--config-dir=my"]
    assert "would run lengths with 1 process" in run(*own, "dry_run=true")
    assert "limit=1: must be at least at_least=2" in run(*own, "limit=1", "at_least=2", code=2)
    assert "unknown key at_most: did you mean" in run(*own, "at_most=1", code=2)
    assert "data.balance=[words]: has no effect, because lengths weights no pairs" in run(
        *own, "data.balance=[words]", code=2
    )
    run(*own, "limit=4", "run_dir=one")
    assert read_summary(tmp_path / "one")["metrics"]["words"] > 1
    assert "already finished" in run(*own, "limit=4", "run_dir=one")
    swept = run(*own, "-m", "limit=3,5", "sweep_dir=several")
    assert "limit=3" in swept and "words" in swept
    run(*own, "study=short.yaml", "study_dir=study", module="psychocounsel.launch")
    assert list((tmp_path / "study").rglob("words.csv"))
