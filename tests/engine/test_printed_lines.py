"""Trainings print their own lines alone: DeepSpeed's reports of memory and its log stay out of the terminal."""

import re
from pathlib import Path

import pytest

from tests.support.harness import ROOT, cli

_DEEPSPEED = re.compile(
    r"\bMA \d|Max_MA|Virtual Memory|bf16_|initializing|\[(INFO|WARNING|ERROR)\]|deepspeed", re.IGNORECASE
)


_ALL = [(stage, dtype) for stage in (1, 0, 2, 3) for dtype in ("bf16", "fp32")]


@pytest.mark.parametrize(
    ("stage", "dtype"), [_ALL[0], *(pytest.param(*pair, marks=pytest.mark.slow) for pair in _ALL[1:])]
)
def test_a_training_prints_its_own_lines_alone(stage: int, dtype: str, tmp_path: Path, small_model: Path) -> None:
    run = f"run_dir={tmp_path / 'run'}"
    size = ["max_steps=1", "data.limit=8", "eval.limit=4", "global_batch_size=4", "max_length=512"]
    done = cli("train", run, f"model.path={small_model}", f"zero={stage}", f"model.dtype={dtype}", *size, cwd=ROOT)
    printed = (done.stdout + done.stderr).splitlines()
    assert any("finished at step 1 of 1" in line for line in printed)
    assert not [line for line in printed if _DEEPSPEED.search(line)]
