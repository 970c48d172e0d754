"""DeepSpeed's buckets have the sizes in the estimate of memory (`cluster/memory/gpu.py`), in one process on CPU."""

from typing import Any

import pytest
import torch

from psychocounsel.algo.dpo import DPO
from psychocounsel.cluster.memory.gpu import bucket_memory, state_parts
from tests.support.harness import make_stepper, random_groups, small_lm

pytestmark = pytest.mark.usefixtures("in_process_training")

_BUCKET = 1 << 20


def _optimizer(stage: int) -> Any:
    """Return DeepSpeed's optimizer of a small model in bfloat16, after one step."""
    overrides = [f"zero='{stage}'", f"zero.bucket_elements={_BUCKET}"]
    stepper = make_stepper(small_lm("llama", dtype=torch.bfloat16), DPO(lr=1e-3), 4096, torch.bfloat16, *overrides)
    stepper.main.train(True)
    stepper.accumulate(random_groups(2), train=True)
    stepper.main.step(1e-3)
    return stepper.main.deepspeed.optimizer


@pytest.mark.parametrize("stage", [2, 3])
def test_the_buffer_has_the_counted_bytes(stage: int) -> None:
    optimizer = _optimizer(stage)
    if stage == 2:  # it is released after backward
        optimizer.ready_for_gradients, optimizer.overlap_comm = False, True  # as on a GPU
        optimizer.setup_buckets()
    buffers = [bucket.buffer for bucket in optimizer.ipg_buckets.values()]
    held = sum(each.nbytes for some in buffers for each in ([some] if stage == 3 else some))
    assert held == sum(bucket_memory(0, 0, 0, stage, 1, _BUCKET)), "for no weights, only the buffer counts"
    assert optimizer.gradient_accumulation_dtype == optimizer.communication_data_type == torch.float32


def test_stage_1_keeps_the_counted_states() -> None:
    optimizer = _optimizer(1)
    weights = sum(each.numel() for each in optimizer.bf16_groups_flat)
    parts = [*optimizer.bf16_groups_flat, *optimizer.fp32_groups_gradients_flat, *optimizer.fp32_groups_flat_partition]
    moments = [state[name] for state in optimizer.optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    assert sum(each.nbytes for each in [*parts, *moments]) == sum(state_parts(weights, 0, 1, 1).values())
