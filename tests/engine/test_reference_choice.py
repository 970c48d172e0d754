"""Each run has the right one of four references, and each reference gives its policy's log-probabilities."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from psychocounsel.algo.base import Algorithm
from psychocounsel.algo.dpo import DPO
from psychocounsel.algo.online_dpo import OnlineDPO
from psychocounsel.algo.online_simpo import OnlineSimPO
from psychocounsel.data.group import Group
from psychocounsel.engine.references import (
    AdaptersOff,
    CachedReference,
    FrozenModel,
    Reference,
    RoundStart,
    choose_reference,
)
from psychocounsel.engine.step import Stepper
from tests.support.composed import check, compose
from tests.support.harness import make_stepper, random_groups, small_lm

pytestmark = pytest.mark.usefixtures("in_process_training")


def chosen(algorithm: Algorithm, stepper: Stepper, model: Path, rounds: bool = True) -> Reference | None:
    config = check(compose(["algo=online_dpo", "reward=tiny", f"model.path={model}", "global_batch_size=3"]))
    run: Any = SimpleNamespace(config=config, is_main=True, say=lambda text: None)
    return choose_reference(run, stepper, lambda: None, rounds)


def flat(values: list[list[np.ndarray]]) -> np.ndarray:
    return np.concatenate([row for rows in values for row in rows])


def changed(stepper: Stepper, groups: list[Group]) -> np.ndarray:
    """Return the policy's log-probabilities after its weights have changed."""
    with torch.no_grad():
        for parameter in stepper.main.module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return flat(stepper.per_token(groups))


@pytest.mark.parametrize(
    ("algorithm", "rounds", "kind"),
    [
        (OnlineSimPO(), True, type(None)),
        (DPO(), False, CachedReference),
        (OnlineDPO(offline_fraction=0.5), False, CachedReference),
        (OnlineDPO(reference="round"), True, RoundStart),
        (OnlineDPO(), True, FrozenModel),
    ],
)
def test_without_adapters(algorithm: Algorithm, rounds: bool, kind: type, small_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    lm = AutoModelForCausalLM.from_pretrained(small_model, dtype=torch.float32).eval()
    stepper, groups = make_stepper(lm, algorithm), random_groups(8)
    reference = chosen(algorithm, stepper, small_model, rounds)
    assert type(reference) is kind
    if not isinstance(reference, FrozenModel | RoundStart):
        return
    before = flat(stepper.per_token(groups))
    np.testing.assert_allclose(flat(reference.logprobs(groups)), before, atol=1e-5)
    now = changed(stepper, groups)
    assert np.abs(now - before).max() > 0.01
    expected = before if isinstance(reference, FrozenModel) else now
    np.testing.assert_allclose(flat(reference.logprobs(groups)), expected, atol=1e-5)


def test_with_adapters_the_policy_without_them_is_the_reference(small_model: Path) -> None:
    from psychocounsel.model.lora import add_adapter

    lora = check(compose(["model.lora.rank=4"])).model.lora
    lm, adapter = add_adapter(small_lm(), lora, None)
    stepper, groups = make_stepper(lm, OnlineDPO()), random_groups(8)
    stepper.main.module.adapter = adapter
    reference = chosen(OnlineDPO(), stepper, small_model)
    assert type(reference) is AdaptersOff
    before = flat(reference.logprobs(groups))
    assert np.abs(changed(stepper, groups) - before).max() > 0.01
    np.testing.assert_array_equal(flat(reference.logprobs(groups)), before)
