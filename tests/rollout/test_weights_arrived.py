"""A transfer after which vLLM lacks weights is refused. tests/rollout/test_vllm.py checks the same with vLLM."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from psychocounsel.errors import UserError
from psychocounsel.rollout.weight_sync import Transfer, refuse_missing, tied_names


def test_a_tied_output_layer_needs_no_weights_of_its_own() -> None:
    model = nn.ModuleDict({"embed_tokens": nn.Embedding(4, 2), "lm_head": nn.Linear(2, 4, bias=False)})
    assert tied_names(model) == set()
    model["lm_head"].weight = model["embed_tokens"].weight
    assert tied_names(model) == {"lm_head.weight"}


def test_the_first_missing_names_and_their_number_are_told() -> None:
    refuse_missing("rollout=vllm", [])
    with pytest.raises(UserError, match=r"^rollout=vllm: .* for norm.weight: .*; use rollout=hf$"):
        refuse_missing("rollout=vllm", ["norm.weight"])
    with pytest.raises(UserError, match=r" for a, b, c and 2 more: "):
        refuse_missing("rollout=vllm", [*"abcde"])


@pytest.mark.parametrize("missing", [[], ["model.norm.weight"]])
def test_a_server_that_lacks_weights_is_refused(missing: list[str]) -> None:
    client: Any = SimpleNamespace(live=lambda: ["http://gpu7:8000"], post=lambda *_: {"missing": missing})
    transfer = Transfer(client, "http", torch.device("cpu"), 5.0)
    if missing:
        with pytest.raises(UserError, match=r"^rollout: http://gpu7:8000: vLLM took .* for model.norm.weight: "):
            transfer.end(3)
    else:
        assert transfer.end(3) == ["http://gpu7:8000"]
