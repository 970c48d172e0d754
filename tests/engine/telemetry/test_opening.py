"""First lines of a run: counts and a warning. Last lines: whether it got worse, and a next command with the typed overrides."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from psychocounsel.data.dataset import Dataset
from psychocounsel.engine.telemetry.final_report import _typed, _unimproved
from psychocounsel.engine.telemetry.opening import opening_lines
from psychocounsel.rundir.run import Run
from tests.support.harness import random_groups


def test_counts_of_pairs_and_distinct_prompts() -> None:
    groups = random_groups(60, seed=1)
    doubled = [*groups[44:46], groups[45]]
    lines = list(opening_lines(Dataset(groups[:44], doubled), "pairs", 6, 8))
    assert lines[0] == "44 train / 3 held-out pairs (2 prompts), 6 steps of 8"
    assert lines[1].startswith("warning: only 2 held-out prompts: below 30")
    assert len(list(opening_lines(Dataset(groups[:10], groups[10:40]), "pairs", 6, 8))) == 1
    assert len(list(opening_lines(Dataset(groups[:10], groups[10:39]), "pairs", 6, 8))) == 2
    assert list(opening_lines(Dataset(groups[:1], []), "prompts", 1, 8)) == [
        "1 train / 0 held-out prompts, 1 step of 8"
    ]


def test_the_next_command_keeps_overrides_but_those_that_it_gives_itself(tmp_path: Path) -> None:
    (tmp_path / "overrides.txt").write_text(
        "model.path=my model\nalgo.beta=0.5\n+seed=4\nrun_dir=runs/a\nmax_steps=9\n"
    )
    run = Run(tmp_path, OmegaConf.create({"code_path": []}), 0, 1, 1, None)  # type: ignore[arg-type]
    assert _typed(run, ("algo.beta", "seed")) == ["'model.path=my model'", "max_steps=9"]


def test_the_next_command_keeps_the_folders_of_config_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my conf").mkdir()
    (tmp_path / "overrides.txt").write_text("algo=slic\n")
    given = [str(tmp_path / "my conf"), str(tmp_path), str(tmp_path)]  # as `code_path` holds it
    run = Run(tmp_path, OmegaConf.create({"code_path": given}), 0, 1, 1, None)  # type: ignore[arg-type]
    assert _typed(run, ()) == ["'--config-dir=my conf'", "algo=slic"]


@pytest.mark.parametrize(
    ("metric", "before", "best", "worse"),
    [
        ("eval/accuracy", 0.5, 0.25, True),
        ("eval/accuracy", 0.5, 0.5, False),
        ("eval/accuracy", 0.5, 0.75, False),
        ("eval/loss", 0.693, 0.719, True),
        ("eval/loss", 0.693, 0.65, False),
    ],
)
def test_a_run_that_got_worse_says_so(metric: str, before: float, best: float, worse: bool) -> None:
    lines = _unimproved(
        {metric: before}, {metric: best, "step": 3}, OmegaConf.create({"metric": metric, "mode": "auto"})
    )
    assert len(lines) == worse
    if lines:
        assert lines[0].startswith(f"worse than before   {metric} is {best:.3g} at the best step, ")
    assert _unimproved({}, {metric: best}, OmegaConf.create({"metric": metric, "mode": "auto"})) == []
