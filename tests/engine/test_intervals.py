"""Every held-out figure of a training has its interval, in the run's files and in its closing table."""

from pathlib import Path

import numpy as np
import pytest

from psychocounsel.algo.base import Algorithm
from psychocounsel.algo.dpo import DPO
from psychocounsel.algo.orpo import ORPO
from psychocounsel.algo.reward import Reward
from psychocounsel.algo.sft import SFT
from psychocounsel.engine.evaluating import intervals_of
from psychocounsel.engine.step import metrics_of as figures_of_tally
from psychocounsel.settings.config import check, compose
from psychocounsel.settings.sections.figure_names import figures_of
from psychocounsel.storage.files import read_json
from tests.support.harness import cli, make_stepper, metrics_of, random_groups, small_lm


@pytest.mark.usefixtures("in_process_training")
@pytest.mark.parametrize(
    "algorithm", [DPO(sft_weight=0.2), ORPO(), SFT(), Reward(centring=0.1)], ids=lambda a: type(a).__name__
)
def test_sums_of_groups_are_those_of_the_batch_and_do_not_depend_on_its_split(algorithm: Algorithm) -> None:
    groups = random_groups(6, longest=20)
    model = small_lm(rewards=isinstance(algorithm, Reward), pad_token_id=0)
    ends = []
    for budget in (4096, 64):
        tally, _ = make_stepper(model, algorithm, budget).accumulate(groups, train=False)
        for term in tally.values():
            assert np.allclose(np.sum(term.by_group, axis=0), (term.sum, term.count), rtol=1e-5)
        found, figures = intervals_of(tally, groups), figures_of_tally(tally)
        assert {name.rpartition("_")[0] for name in found} == figures.keys()
        assert all(found[f"{name}_low"] <= value <= found[f"{name}_high"] for name, value in figures.items())
        ends.append(found)
    assert ends[0] == pytest.approx(ends[1], rel=1e-4, abs=1e-5)
    assert intervals_of(tally, [groups[0]] * 6) == {}, "one prompt alone has no spread"


def test_no_best_figure_stands_without_its_interval(tmp_path: Path) -> None:
    given = [
        "max_steps=1",
        "global_batch_size=2",
        "data.limit=4",
        "eval.limit=4",
        "checkpoint.every=0",
        "eval.replies=true",
    ]
    given += ["reward=tiny", "rollout.max_tokens=4", "max_length=256", "run_dir=run"]
    done = cli("train", *given, cwd=tmp_path)
    said = (done.stdout + done.stderr).splitlines()
    best = read_json(tmp_path / "run" / "summary.json")["metrics"]["best"]
    figures = [name for name in best if name.startswith("eval/") and not name.endswith(("_low", "_high"))]
    assert {"eval/loss", "eval/margin", "eval/accuracy", "eval/reward", "eval/kl", "eval/win_rate"} <= {*figures}
    assert all(best[f"{name}_low"] <= best[name] + 1e-9 <= best[f"{name}_high"] + 2e-9 for name in figures)
    assert {*best} - {"step"} == {*(figures_of(check(compose(given))) or [])}, (
        "and checkpoint.metric may name all of them"
    )
    assert "eval/loss_low" in metrics_of(tmp_path / "run")[-1]
    start = next(number for number, line in enumerate(said) if "with its 95 % interval by prompts" in line)
    rows = [line for line in said[start + 1 :] if line.startswith(("held-out", "win rate", "divergence"))]
    assert len(rows) >= 5 and all(" to " in line for line in rows)
