"""Transfer of adapters to vLLM: its file format, and rejected archives."""

import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from psychocounsel.errors import UserError
from psychocounsel.rollout.adapters import AdapterFolder, engine_rank
from tests.support.composed import check, compose
from tests.support.harness import small_lm, world

LORA = compose(["model.lora.rank=4", "model.lora.alpha=8"]).model.lora


class Policy:
    """Minimal engine for these tests."""

    def __init__(self) -> None:
        from psychocounsel.model.lora import add_adapter
        from psychocounsel.model.packed import Policy as Model

        world()
        torch.manual_seed(1)
        lm, adapter = add_adapter(small_lm(), LORA, None)
        self.module: Any = Model(lm, "small", adapter)
        self.dtype = torch.float32
        with torch.no_grad():
            for value in lm.parameters():
                if value.requires_grad:
                    value.add_(torch.randn_like(value))


@pytest.mark.usefixtures("in_process_training")
def test_an_adapter_comes_through_as_peft_reads_it(tmp_path: Path) -> None:
    from peft import PeftModel

    policy, sent, taken = Policy(), AdapterFolder(), AdapterFolder()
    sent.write(policy)
    taken.unpack(sent.packed())
    ids = torch.arange(12)[None]
    read = PeftModel.from_pretrained(small_lm(), str(taken.path))
    with torch.no_grad():
        torch.testing.assert_close(read(ids).logits, policy.module.lm(ids).logits)
        assert not torch.allclose(read(ids).logits, small_lm()(ids).logits, atol=0.1)
    assert len(load_file(taken.path / "adapter_model.safetensors")) == 2 * 3 * 7, "two matrices, seven targets"


def test_what_is_no_adapter_is_refused_and_nothing_is_written_elsewhere(tmp_path: Path) -> None:
    made = BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("../outside", b"x")
        archive.writestr("adapter_config.json", b"{}")
    for body in (made.getvalue(), b"", b"PK\x03\x04 nothing"):
        folder = AdapterFolder()
        with pytest.raises(ValueError, match=r"is not an adapter archive \(it must hold exactly adapter_config"):
            folder.unpack(body)
        assert not list(folder.path.iterdir()) and not (folder.path.parent / "outside").exists()


@pytest.mark.parametrize(("rank", "engine"), [(1, 8), (8, 8), (12, 16), (300, 320), (512, 512)])
def test_an_engine_has_the_next_rank_that_it_can(rank: int, engine: int) -> None:
    assert engine_rank(rank) == engine


def test_a_rank_that_vllm_does_not_take_is_refused_before_the_start() -> None:
    with pytest.raises(UserError, match="model.lora.rank=513: vLLM supports adapters up to rank 512; use rollout=hf"):
        check(compose(["algo=grpo", "rollout=vllm", "model.lora.rank=513", "dry_run=true"]))
