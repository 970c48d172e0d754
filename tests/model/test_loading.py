"""Weights loaded to a device one after another equal weights loaded to host memory."""

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from psychocounsel.errors import UserError
from psychocounsel.model import gpu
from psychocounsel.model.load import load_causal_lm
from psychocounsel.model.reward_head import load_reward_lm, load_trained_reward_lm
from psychocounsel.model.tokenizer import require_model
from tests.reward.test_servers import REWARD
from tests.support.composed import compose

_NAMED = "cpu:0"  # differs from "cpu", so that loading takes the path of a GPU


def _same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    theirs = second.state_dict()
    return all(torch.equal(value, theirs.pop(name)) for name, value in first.state_dict().items()) and not theirs


def _model(*overrides: str) -> DictConfig:
    section: DictConfig = compose([*overrides]).model
    return section


def test_a_policy() -> None:
    here, there = (load_causal_lm(_model(), torch.bfloat16, None, device) for device in ("cpu", _NAMED))
    assert _same(here, there) and {value.dtype for value in there.parameters()} == {torch.bfloat16}
    assert all(value.requires_grad for value in there.parameters())
    assert not any(hasattr(module, "_hf_hook") for module in there.modules()), "no hook moves inputs and outputs"


def test_attention_of_loaded_models_is_never_computed_by_cudnn() -> None:
    torch.backends.cuda.enable_cudnn_sdp(True)
    load_causal_lm(_model(), torch.float32, None)
    assert not torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.parametrize(("kernels", "device"), [("auto", "cpu"), ("auto", "cuda"), ("plain", "cuda")])
def test_kernels_that_cannot_run_here_are_not_chosen(
    kernels: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "lacking", lambda: "a C compiler (gcc)")
    lm = load_causal_lm(_model(), torch.float32, None)
    before = {type(module) for module in lm.modules()}
    gpu.set_kernels(lm, kernels, "tiny", device)
    assert {type(module) for module in lm.modules()} == before


def test_auto_is_liger_on_a_gpu_that_has_all_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "lacking", lambda: "")
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: name)
    assert gpu.chosen_kernels("auto", "cuda") == "liger"
    assert gpu.chosen_kernels("auto", "cpu") == gpu.chosen_kernels("plain", "cuda") == "plain"


def test_a_reward_model_with_a_new_head_and_a_trained_one() -> None:
    fresh = []
    for device in ("cpu", _NAMED):
        torch.manual_seed(3)
        fresh.append(load_reward_lm(_model(), torch.float32, None, 0, device))
    assert _same(*fresh) and fresh[1].score.weight.abs().sum() > 0
    trained = OmegaConf.create({"path": str(REWARD), "revision": None})
    assert _same(*(load_trained_reward_lm(trained, torch.float32, device) for device in ("cpu", _NAMED)))


def test_the_name_of_a_shipped_model_is_answered_by_its_path() -> None:
    with pytest.raises(UserError, match=r"^against\.path=tiny_dpo: .*; did you mean builtin:tiny_dpo\?$"):
        require_model("tiny_dpo", None, "against")
