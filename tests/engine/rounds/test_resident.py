"""Frozen models that wait in host memory while nobody asks them."""

from pathlib import Path

import pytest
import torch

from psychocounsel.engine.rounds.resident import Resident, resident
from psychocounsel.reward.local_model import LocalScorer
from tests.algo.test_online_dpo import BASE
from tests.engine.test_resume import assert_bitwise_equal
from tests.reward.test_local_model import CONVERSATIONS
from tests.reward.test_servers import REWARD
from tests.support.harness import ROOT, cli


def test_weights_come_to_the_device_and_what_waited_is_the_same_afterwards() -> None:
    scorer = LocalScorer.load(str(REWARD))
    expected = scorer.score(CONVERSATIONS)
    weight = next(scorer.model.parameters())
    waiting = Resident(scorer.models, torch.device("cpu"))
    on_host = weight.data_ptr()
    for _ in range(2):
        with waiting:
            assert weight.data_ptr() != on_host
            assert (scorer.score(CONVERSATIONS) == expected).all()
        assert weight.data_ptr() == on_host
    with pytest.raises(KeyError), waiting:
        raise KeyError
    assert weight.data_ptr() == on_host


def test_models_on_cpu_stay_where_they_are() -> None:
    scorer = LocalScorer.load(str(REWARD))
    before = [parameter.data_ptr() for parameter in scorer.model.parameters()]
    with resident(scorer.models, torch.device("cpu"), offload=True):
        assert [parameter.data_ptr() for parameter in scorer.model.parameters()] == before


@pytest.mark.slow
def test_a_run_asks_models_only_while_they_are_there(small_model: Path, tmp_path: Path) -> None:
    """With weights that are gone in between, several reward models and the reference say what they always say."""
    members = "reward.members=[builtin:tiny_reward,{name: tiny}]"
    common = ("train", *BASE, f"model.path={small_model}", "reward=ensemble", members)
    away = "+callbacks.away={_target_: tests.support.killer.TakeAway}"
    cli(*common, f"run_dir={tmp_path / 'whole'}", cwd=ROOT)
    cli(*common, f"run_dir={tmp_path / 'run'}", "rollout.offload_idle=true", away, cwd=ROOT)
    assert_bitwise_equal(tmp_path / "run", tmp_path / "whole")
