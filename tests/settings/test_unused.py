"""Typed options without an effect are refused, and no other options."""

import dataclasses
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from psychocounsel.algo.dpo import DPO
from psychocounsel.errors import USER_ERROR
from psychocounsel.settings.unused import typed_unused
from psychocounsel.storage.files import shipped
from psychocounsel.train import COMMAND as TRAIN
from tests.support.composed import check, compose
from tests.support.in_process import run_here

ALGORITHMS = sorted(file.stem for file in (shipped("conf") / "algo").glob("*.yaml"))


def no_choice(group: str, name: str) -> DictConfig:
    return OmegaConf.create()


@pytest.mark.parametrize("loss_type", ["sigmoid", "robust", "hinge", "ipo"])
def test_what_a_loss_does_not_read_is_named_and_nothing_else(loss_type: str) -> None:
    margin = torch.linspace(-2, 2, 9, dtype=torch.float64)
    algorithm = DPO(loss_type=loss_type)
    changed = dataclasses.replace(algorithm, label_smoothing=0.2)
    reads = not torch.equal(algorithm.pair_losses(margin), changed.pair_losses(margin))
    unused = algorithm.unused(OmegaConf.create())
    assert ("label_smoothing" in unused) is not reads
    assert ("length_normalised" in unused) is (loss_type == "ipo")


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_each_named_option_is_a_key_and_none_is_refused_that_was_not_typed(algo: str) -> None:
    config = check(compose([f"algo={algo}"]))
    assert typed_unused(TRAIN, config, [f"algo={algo}"], no_choice) == {}
    for key in ("algo.loss_type=ipo", "algo.schedule=constant"):
        if key.partition("=")[0].partition(".")[2] in config.algo:
            changed = check(compose([f"algo={algo}", key]))
            typed = [f"algo.{name}={value}" for name, value in config.algo.items() if name != "_target_"]
            found = typed_unused(TRAIN, changed, [text for text in typed if "{" not in text], no_choice)
            assert {text.partition("=")[0] for text in found} <= {f"algo.{name}" for name in config.algo}
            assert "algo.lr" not in {text.partition("=")[0] for text in found}


def test_keys_of_evaluations_may_say_that_there_are_none() -> None:
    for typed in (
        ["data.dev_fraction=0", "eval.every=0", "eval.limit=null", "checkpoint.patience=null"],
        ["data.eval_path=builtin:sample", "eval.every=3", "eval.limit=3", "checkpoint.patience=2"],
        ["eval.every=0", "eval.limit=3"],
        ["zero=auto", "zero.persistence_elements=0", "zero.bucket_elements=1000"],
    ):
        assert typed_unused(TRAIN, check(compose(typed)), typed, no_choice) == {}


@pytest.mark.slow
def test_a_sweep_may_hold_runs_without_a_use_for_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_here("train -m algo.loss_type=ipo,sigmoid algo.label_smoothing=0.1 dry_run=true").code == 0
    answer = run_here("train -m algo.loss_type=ipo,hinge algo.label_smoothing=0.1")
    assert answer.code == USER_ERROR
    assert "algo.label_smoothing=0.1: has no effect, because algo.loss_type=" in answer.stderr
    assert run_here("train -m algo=dpo,rloo rollout.temperature=0.7").code == 0


def test_dictionaries_of_the_users_own_are_given_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for given in ("cluster.environment={A: '1', B: x}", "cluster.sbatch={licenses: scratch}"):
        key, _, _ = given.partition("=")
        answer = run_here(f'train cluster=slurm "{given}" --cfg job')
        assert answer.code == 0, answer
        (name,) = list(OmegaConf.select(OmegaConf.create(answer.stdout), key))[:1]
        assert name in ("A", "licenses")
