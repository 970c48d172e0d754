"""A transfer after which vLLM lacks weights is refused. tests/rollout/test_vllm.py checks the same with vLLM."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from psychocounsel.errors import UserError
from psychocounsel.remote.client import Addresses, Client
from psychocounsel.rollout.weight_sync import Transfer, refuse_missing, tied_names
from tests.support.answering import no_proxy, serving

__all__ = ["no_proxy"]


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
    client: Any = SimpleNamespace(addresses=Addresses(["http://gpu7:8000"], "rollout"), post=lambda *_: missing)
    transfer = Transfer(client, "http", torch.device("cpu"), 5.0)
    if missing:
        with pytest.raises(UserError, match=r"^rollout: http://gpu7:8000: vLLM took .* for model.norm.weight: "):
            transfer.end(3)
    else:
        assert transfer.end(3) == ["http://gpu7:8000"]


BEGUN = {"workers": 1, "slots": 64, "device": "cpu", "adapter_rank": 0, "reached": False}
ODD_BEGINNINGS: list[Any] = [
    *([], 3, None, "text", {}, {"slots": 4}),
    *(
        BEGUN | {name: value}
        for name in ("workers", "slots", "adapter_rank")
        for value in (None, "4", -1, 10**400, [1])
    ),
]


@pytest.mark.parametrize("answer", ODD_BEGINNINGS)
def test_a_server_that_begins_with_an_odd_answer_is_named(answer: Any) -> None:
    with serving(lambda payload, number: answer) as server:
        transfer = Transfer(Client([server.address], "rollout", retries=0), "http", torch.device("cpu"), 5.0)
        with pytest.raises(UserError, match=rf"^{server.address}/weights/begin: its answer cannot be used: "):
            transfer.begin(0)


@pytest.mark.parametrize("answer", [[], 3, None, "text", {"missing": 3}, {"missing": None}])
def test_a_server_that_ends_with_an_odd_answer_is_named(answer: Any) -> None:
    with serving(lambda payload, number: answer) as server:
        transfer = Transfer(Client([server.address], "rollout", retries=0), "http", torch.device("cpu"), 5.0)
        with pytest.raises(UserError, match=rf"^{server.address}/weights/end.*: its answer cannot be used: "):
            transfer.end(1)
