"""The training loop's parts: the optimizer step, an end without improvement, and intervals of held-out figures."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from psychocounsel.algo.base import Algorithm, Context
from psychocounsel.algo.dpo import DPO
from psychocounsel.algo.kto import KTO
from psychocounsel.algo.orpo import ORPO
from psychocounsel.algo.reward import Reward
from psychocounsel.algo.sft import SFT
from psychocounsel.data.group import Group
from psychocounsel.engine import trainer
from psychocounsel.engine.feed import Collector
from psychocounsel.engine.loop import Evaluator, LoopState, OptimizerStep, intervals_of
from psychocounsel.engine.references import AdaptersOff
from psychocounsel.engine.step import metrics_of as figures_of_tally
from psychocounsel.engine.telemetry.speed import Speed
from psychocounsel.engine.trainer import Trainer
from psychocounsel.errors import UserError
from psychocounsel.rundir.results import read_summary
from psychocounsel.storage.files import read_json
from tests.support.composed import check, compose, figures_of
from tests.support.harness import ROOT, cli, make_stepper, metrics_of, random_groups, small_lm, world

# Tests of one optimizer step: the groups that count, and the two questions to an algorithm about each engine.

GROUPS = random_groups(6)


@dataclass
class Picky(DPO):
    gradients: bool = True
    moves: bool = True

    def batch_groups(self, groups: list[Group], ctx: Context) -> list[Group]:
        return groups[:2]

    def gets_gradients(self, engine: str, ctx: Context) -> bool:
        assert "rewards/margin" not in ctx.peaks
        return self.gradients

    def moves_weights(self, engine: str, ctx: Context) -> bool:
        assert "rewards/margin" in ctx.peaks, "the step's metrics are known before the question"
        return self.moves


class Feed:
    steps = 4

    def groups(self, step: int) -> list[Group]:
        return GROUPS

    def metrics(self, step: int) -> dict[str, float]:
        return {"rollout/reward": 1.0}


@pytest.mark.usefixtures("in_process_training")
@pytest.mark.parametrize(("gradients", "moves"), [(True, True), (True, False), (False, False)])
def test_a_step(gradients: bool, moves: bool) -> None:
    stepper = make_stepper(small_lm(), Picky(lr=1e-3, gradients=gradients, moves=moves))
    run: Any = SimpleNamespace(config=check(compose([])), is_main=True, attempt=3)
    feed: Any = Feed()
    state = LoopState()
    step = OptimizerStep(run, stepper, Collector(run, stepper, None), feed, Speed(stepper.main, world()))
    before = {name: value.clone() for name, value in stepper.main.module.state_dict().items()}
    step(state)
    after = stepper.main.module.state_dict()
    assert any(not torch.equal(value, after[name]) for name, value in before.items()) == moves
    assert state.line is not None
    assert (state.step, state.line["step"], state.line["attempt"], state.line["rollout/reward"]) == (1, 1, 3, 1.0)
    assert state.line.get("skipped_steps", 0) == state.skipped == (not moves)
    assert state.line.get("groups") == (None if gradients else 0)
    if gradients:
        assert state.line["tokens"] == sum(group.tokens for group in GROUPS[:2]), "only groups in the loss count"
        assert state.line["loss"] > 0 and state.line["grad_norm"] > 0 and state.peaks["loss"] == state.line["loss"]
    averages = [each["exp_avg"].abs().sum() for each in stepper.main.deepspeed.optimizer.state.values()]
    assert bool(averages and max(averages) > 0) == gradients, (
        "a gradient enters Adam's averages even at a learning rate of 0"
    )


@pytest.mark.usefixtures("in_process_training")
def test_logprobs_of_a_model_that_does_not_exist_are_refused() -> None:
    stepper = make_stepper(small_lm(), DPO(lr=1e-3))
    run: Any = SimpleNamespace(config=check(compose([])), is_main=True)
    with pytest.raises(UserError, match='DPO: ctx.logprobs\\(\'refrence\', ...\\): give "policy" or "reference"'):
        Collector(run, stepper, None).logprobs("refrence", GROUPS)


# Tests of `checkpoint.patience`: a run without improvement ends, gives the reason, and counts as finished.


def test_evaluations_in_a_row_without_a_better_one_are_counted() -> None:
    state, found = LoopState(), list[tuple[int, str]]()
    checkpoint = OmegaConf.create({"patience": 2, "metric": "eval/loss"})
    for step, loss in enumerate([1.0, 0.9, 0.95, 0.8, 0.8, 0.85]):
        state.step = step
        state.note({"eval/loss": loss}, "eval/loss", "auto")
        found.append((state.unimproved, state.out_of_patience(checkpoint)))
    reason = "checkpoint.patience=2: eval/loss has not improved since step 3"
    assert found == [(0, ""), (0, ""), (1, ""), (0, ""), (1, ""), (2, reason)]
    assert state.out_of_patience(OmegaConf.create({"patience": None, "metric": "eval/loss"})) == ""
    state.note({"eval/loss": 0.1}, "eval/loss", "auto", eligible=False)  # exceeds a limit of guard
    assert state.unimproved == 3


def test_a_metric_that_is_no_number_is_never_the_best() -> None:
    state, found = LoopState(), list[bool]()
    for state.step, score in [(1, np.nan), (2, 0.2), (3, np.nan), (4, 0.1)]:
        found.append(state.note({"eval/reward_safety": score}, "eval/reward_safety", "auto"))
    assert found == [False, True, False, False] and state.best["step"] == 2 and state.unimproved == 2
    earlier = LoopState(step=2, best={"step": 1, "eval/loss": np.nan})  # as earlier versions kept it
    assert earlier.note({"eval/loss": 0.2}, "eval/loss", "auto")


def test_an_evaluation_without_a_figure_that_the_first_one_had_is_never_the_best() -> None:
    """A judge that answers about no reply leaves neither a win rate nor an error."""
    state, found = LoopState(), list[bool]()
    for step, figures in enumerate([{"eval/win_rate": 0.5}, {"eval/left_out": 1.0}, {"eval/win_rate": 0.6}]):
        state.step = step
        found.append(state.note(figures, "eval/win_rate", "max"))
    assert found == [False, False, True]
    with pytest.raises(UserError, match="the evaluation has only eval/left_out"):
        LoopState(step=1).note({"eval/left_out": 1.0}, "eval/win_rate", "max")


def test_an_end_of_an_interval_that_is_missing_is_explained() -> None:
    with pytest.raises(
        UserError, match="too few held-out prompts for an interval; use checkpoint.metric=eval/loss, or"
    ):
        LoopState().note({"eval/loss": 0.5}, "eval/loss_low", "min")
    with pytest.raises(UserError, match="the evaluation has only eval/loss"):
        LoopState().note({"eval/loss": 0.5}, "eval/kl_low", "min")


def test_evaluations_before_the_main_model_learns_cost_no_patience() -> None:
    """The critic learns alone in the first two steps."""
    state, found = LoopState(), list[int]()
    for state.step, state.skipped in [(1, 1), (2, 2), (3, 2), (4, 2)]:
        state.note({"eval/reward": 0.5}, "eval/reward", "auto")
        found.append(state.unimproved)
    assert found == [0, 0, 0, 1] and state.best["step"] == 3, "until then the weights are those before training"
    idle = LoopState(step=3, skipped=1, empty=2)  # no step had gradients for the main model
    assert not idle.note({"eval/reward": 0.5}, "eval/reward", "auto") and not idle.best and not idle.unimproved


def test_a_run_that_learns_nothing_ends_early_and_is_finished(small_model: Path, tmp_path: Path) -> None:
    given = ["algo=sft", f"model.path={small_model}", "algo.lr=1e-30", "data.limit=20", "global_batch_size=4"]
    given += ["eval.every=1", "eval.limit=4"]
    given += ["max_steps=9", "checkpoint.patience=2", "run_dir=run", "cluster.threads=1"]
    done = cli("train", *given, cwd=tmp_path)
    summary = read_summary(tmp_path / "run")
    assert (summary["status"], summary["steps"], summary["total_steps"]) == ("finished", 3, 9)
    assert summary["out_of_patience"].startswith("checkpoint.patience=2: eval/loss has not improved since step 1")
    assert "ended_early" not in summary, "otherwise a search would count the run as pruned"
    assert summary["out_of_patience"] in done.stderr and len(metrics_of(tmp_path / "run")) == 4
    assert "already finished" in cli("train", *given, cwd=tmp_path).stdout
    assert "finished at step 5 of 12" in cli("train", *given, "max_steps=12", cwd=tmp_path).stderr, (
        "patience begins again"
    )


def test_steps_that_are_repeated_up_to_the_exported_model_cost_no_patience() -> None:
    """The model of step 5 was exported, but the newest checkpoint is of step 3."""
    state = LoopState(step=3, best={"step": 5, "eval/loss": 0.7}, unimproved=1)
    found = list[tuple[bool, int]]()
    for state.step, loss in [(4, 0.8), (5, 0.7), (6, 0.9)]:
        found.append((state.note({"eval/loss": loss}, "eval/loss", "auto"), state.unimproved))
    assert found == [(False, 0), (False, 0), (False, 1)] and state.best["step"] == 5


@pytest.mark.slow
def test_a_run_killed_between_export_and_checkpoint_repeats_steps_without_losing_patience(tmp_path: Path) -> None:
    """Evaluations 4 and 5 are the best so far; the repeated evaluation 4 is worse than the model that 5 left in `model/`."""
    given = ["algo=sft", "algo.lr=1e-3", "algo.warmup=0", "data.limit=20", "global_batch_size=4", "eval.every=1"]
    given += ["eval.limit=4", "max_steps=6", "checkpoint.every=3", "checkpoint.patience=1", "cluster.threads=1"]
    death = "+callbacks.kill={_target_: tests.support.killer.Kill, event: eval_end, step: 5}"
    cli("train", *given, death, "run_dir=run", cwd=tmp_path, check_code=137)
    assert "resuming from step 3" in cli("train", *given, "run_dir=run", cwd=tmp_path).stderr
    cli("train", *given, "run_dir=unbroken", cwd=tmp_path)
    assert metrics_of(tmp_path / "run") == metrics_of(tmp_path / "unbroken")
    mine, theirs = (read_summary(tmp_path / name) for name in ("run", "unbroken"))
    assert mine["metrics"] == theirs["metrics"] and mine["steps"] == theirs["steps"] == 6


@pytest.mark.slow
def test_a_full_gpu_is_a_line_that_says_what_to_type(tmp_path: Path) -> None:
    full = "+callbacks.full={_target_: tests.support.killer.FullGPU, step: 1}"
    given = ["debug=fast", "run_dir=run", "micro_batch_tokens=2048", full]
    failed = cli("train", *given, cwd=tmp_path, check_code=1, PYTHONPATH=str(ROOT))
    assert "error: out of GPU memory after step 1: give a smaller micro_batch_tokens (now 2048)" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert read_json(tmp_path / "run" / "state.json")["phase"] == "failed"


# What tells the watchdog that long work goes on: log-probabilities of a large round, and replies to held-out prompts.


@pytest.mark.usefixtures("in_process_training")
def test_each_batch_of_log_probabilities_tells_the_watchdog() -> None:
    stepper, told = make_stepper(small_lm(), DPO(lr=1e-3)), list[int]()
    whole = stepper.per_token(GROUPS)
    stepper.batch, stepper.alive = 2, lambda: told.append(1)
    parts = stepper.per_token(GROUPS)
    assert len(told) == 3
    for mine, theirs in zip(parts, whole, strict=True):
        for row, expected in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(row, expected, atol=1e-5)


def test_an_evaluation_tells_the_watchdog_that_replies_are_being_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replies of a large policy can take longer than `engine.watchdog_minutes`."""
    monkeypatch.setattr(
        trainer, "open_scored_rollout", lambda *given: SimpleNamespace(alive=given[4], scoring=0, world=0)
    )
    monkeypatch.setattr(trainer, "before_training", lambda *given: None)
    told, run = list[str](), SimpleNamespace(write_state=lambda phase, *steps: told.append(phase))
    one: Any = Trainer.__new__(Trainer)
    vars(one).update(run=run, state=LoopState(), steps=1, offloading=None, stepper=None, chat=None, config=None)
    one.data = SimpleNamespace(held_out_prompts=GROUPS)
    one.world, one.stop = SimpleNamespace(any=bool), SimpleNamespace(requested=lambda: False)
    one.watchdog = SimpleNamespace(alive=lambda: told.append("alive"))
    one._held_out_replies().writing.alive()
    assert told == ["alive", "evaluating"]


# Every held-out figure of a training has its interval, in the run's files and in its closing table.


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
    shares = {name for name in found if name.startswith("rewards/accuracy")}
    four = [*groups[:3], *[groups[3]] * 3]
    assert intervals_of(tally, four).keys() == shares, "four prompts are too few for an unbounded figure"


@pytest.mark.usefixtures("in_process_training")
def test_rows_that_share_only_ktos_mismatched_replies_are_independent() -> None:
    groups = random_groups(6)
    for completion in (completion for group in groups for completion in group.completions):
        completion.label = bool(len(completion.ids) % 2)
    run: Any = SimpleNamespace(config=check(compose(["global_batch_size=4"])), is_main=True)
    stepper, feed = make_stepper(small_lm(), KTO(lr=1e-3)), cast(Any, Feed())
    collector = Collector(run, stepper, AdaptersOff(stepper))
    data: Any = SimpleNamespace(held_out=stepper.algorithm.collect(groups, collector))
    rows = Evaluator(run, data, feed, collector, partial(stepper.accumulate, train=False), lambda: None)._rows()
    assert {f"eval/{name}_{end}" for name in ("loss", "margin", "accuracy") for end in ("low", "high")} <= rows.keys()


@pytest.mark.slow
def test_no_best_figure_stands_without_its_interval(tmp_path: Path) -> None:
    given = [
        "max_steps=1",
        "global_batch_size=2",
        "data.limit=4",
        "eval.limit=24",
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
