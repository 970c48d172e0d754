"""Rows of the check with their requirements and goals. Imports no torch."""

from dataclasses import dataclass

MODULE = "benchmarks.gpu_check."


@dataclass(frozen=True)
class Row:
    """One check. `function` is MODULE:NAME below `benchmarks.gpu_check`.

    A row runs if its `packages` can be imported and at least `gpus` GPUs exist. It fails after `seconds`. If `is_target`, a
    figure that misses the goal is not a failure.
    """

    name: str
    about: str
    function: str
    goal: str
    seconds: int = 120
    gpus: int = 1
    packages: tuple[str, ...] = ()
    is_target: bool = False


_SAME = "difference <= 0.1 %"

# In the order of what they tell, because the time may not suffice for all.
ROWS = (
    Row(
        "varlen",
        "attention=varlen, forward and backward, against dense",
        "attention_error:varlen",
        "error <= 1.5 x dense",
    ),
    Row(
        "vllm",
        "vLLM sleeps, wakes, reloads weights and samples",
        "engine_reload:vllm",
        "equal tokens",
        240,
        packages=("vllm",),
    ),
    Row("mfu_1b", "MFU of DPO with Llama 3.2 1B's geometry", "full_size:mfu_1b", "50 %", 180, is_target=True),
    Row(
        "zero", "3 DPO steps at each ZeRO stage and with offload, against the CPU", "training_equality:zero", _SAME, 240
    ),
    Row(
        "vllm_offload",
        "3 rounds of online DPO with vLLM at ZeRO-3, with rollout.offload_idle against without",
        "training_equality:vllm_offload",
        f"{_SAME}, equal replies",
        300,
        packages=("vllm",),
    ),
    Row(
        "zero_of_two",
        "3 DPO steps on two GPUs at ZeRO 1 to 3, with several micro-batches and small buckets, against the CPU",
        "training_equality:zero_of_two",
        _SAME,
        240,
        2,
    ),
    Row(
        "nccl",
        "3 rounds of online DPO with a server that receives weights by NCCL",
        "nccl:weights",
        "same replies as with HTTP",
        300,
        2,
        ("vllm",),
    ),
    Row(
        "tensor_parallel",
        "3 rounds of online DPO with one vLLM engine over two GPUs, against an engine on each",
        "training_equality:tensor_parallel",
        f"{_SAME}, equal replies",
        300,
        2,
        ("vllm",),
    ),
    Row(
        "bandwidth",
        "NCCL's all-reduce of 1 GB over all GPUs",
        "nccl:bandwidth",
        "20 GB/s",
        gpus=2,
        is_target=True,
    ),
    Row(
        "estimate",
        "estimated memory of DPO at 1B, against the measured peak",
        "full_size:estimate",
        "within 10 %",
        240,
        is_target=True,
    ),
    Row(
        "mfu_8b_wide",
        "MFU of DPO with four layers of the width of Llama 3.1 8B",
        "full_size:mfu_8b_wide",
        "50 %",
        180,
        is_target=True,
    ),
    Row(
        "offload",
        "PPO with rollout.offload_idle, against the same steps without it",
        "training_equality:offload",
        _SAME,
        180,
    ),
    Row(
        "reshard",
        "a checkpoint of ZeRO-3 goes on at ZeRO-2, against ZeRO-2 throughout",
        "training_equality:reshard",
        _SAME,
    ),
    Row("lora", "3 DPO steps with an adapter, against the CPU", "training_equality:lora", _SAME),
    Row(
        "liger",
        "kernels=liger, forward and backward, against plain",
        "attention_error:liger",
        "error <= 1.5 x plain",
        packages=("liger_kernel",),
    ),
    Row(
        "flex",
        "attention=flex, forward and backward, against dense",
        "attention_error:flex",
        "error <= 1.5 x dense",
        180,
    ),
    Row(
        "trl",
        "benchmarks.offline --device cuda: DPO at 1B, against TRL",
        "full_size:trl",
        "at least 1x",
        300,
        packages=("trl",),
        is_target=True,
    ),
    Row(
        "full_8b",
        "DPO steps of an adapter at the full depth of Llama 3.1 8B: estimated memory, against the measured peak",
        "full_size:full_8b",
        "within 10 %",
        420,
        is_target=True,
    ),
)

NAMES = tuple(row.name for row in ROWS)
