"""Host memory of runs on GPUs: its parts by arithmetic, the line of a dry run, and the refusal of a machine that is too small."""

import re
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import DictConfig

from psychocounsel.cluster.memory.check import host_line, refuse_too_little
from psychocounsel.cluster.memory.fitting import choose
from psychocounsel.cluster.memory.gpu import trained_shape
from psychocounsel.cluster.memory.host import Machines, host_parts, pinned
from psychocounsel.cluster.slurm import dry_run
from psychocounsel.cluster.slurm.array_request import ArrayRequest
from psychocounsel.errors import UserError
from psychocounsel.settings import config as configs
from psychocounsel.train import COMMAND as TRAIN
from tests.cluster.test_fitting import _config

_B8, _SCORER = 8_030_261_248, 7_504_928_768  # weights of Llama 3.1 8B, and of a reward model of its layers


def _parts(config: DictConfig, gpus: int, machines: int) -> dict[str, float]:
    shape = trained_shape(config)
    assert shape is not None
    return host_parts(shape, config, gpus, machines)


@pytest.mark.parametrize(
    ("typed", "state"),
    [  # bytes that one of 8 processes pins: a block of 2.0 GB takes 2^31, of 4.0 GB 2^32, of 16.1 GB 2^34, of 32.1 GB 2^35
        ("zero='1'", 3 * 2**32 + 2**35 + 2**34),
        ("zero='2'", 3 * 2**32 + 2**34),
        ("zero='3'", 3 * 2**32 + 2**32 + 2**31),
        ("zero=2_offload", 2**34),
        ("zero='2' rollout=hf rollout.offload_idle=true", 3 * 2**32),
    ],
)
def test_idle_state_of_8b(typed: str, state: float) -> None:
    given = ["experiment=paper_dpo_iter_8b", "model.gradient_checkpointing=true", *typed.split()]
    parts = _parts(_config(*given), 8, 1)
    assert parts["idle training state"] == 8 * state
    frozen = _SCORER + (_B8 if typed != "zero='3'" else 0)  # stage 3 partitions the reference on the GPUs
    assert parts["frozen models"] == 2 * frozen, "one copy for all processes"
    assert parts["copies for checkpoints"] == 12 * _B8
    assert ("offloaded optimizer" in parts) == ("offload" in typed and "idle" not in typed)


def test_machines_share_state_and_each_has_its_frozen_models() -> None:
    config = _config("experiment=ppo_8b", "zero='3'", "model.gradient_checkpointing=true")
    one, two = _parts(config, 8, 1), _parts(config, 16, 2)
    assert two["frozen models"] == one["frozen models"] and two["processes"] == one["processes"]
    assert two["copies for checkpoints"] == one["copies for checkpoints"] / 2 == 6 * (_B8 + _SCORER)
    assert two["idle training state"] < one["idle training state"]


def test_what_is_off_is_not_counted() -> None:
    assert set(_parts(_config("model=llama3_1_8b", "checkpoint.background=false", "zero='2'"), 8, 1)) == {"processes"}
    adapters = ["experiment=grpo_8b", "model.lora.rank=16", "rollout.offload_idle=false", "zero='2'"]
    assert _parts(_config(*adapters), 8, 1)["sleeping vLLM"] == 8 * 2 * _B8, "the base model of each engine"


def test_pinned_blocks_are_powers_of_two() -> None:
    assert [pinned(size) for size in (0, 1, 4096, 4097)] == [0, 1, 4096, 8192]


def test_a_machine_that_is_too_small_is_refused_with_what_to_type() -> None:
    config = _config(
        "experiment=paper_dpo_iter_8b", "zero='2'", "cluster.memory=256G", "model.gradient_checkpointing=true"
    )
    offered = configs.build(config, "cluster").host_memory()
    assert offered == 256 * 2**30
    with pytest.raises(
        UserError, match="about 392 GB of host memory on each machine, more than cluster.memory=256G"
    ) as said:
        refuse_too_little(config, 8, Machines(1, offered))
    typed = re.search(
        r"Use cluster.memory=(\d+)G or rollout.offload_idle=false or checkpoint.background", str(said.value)
    )
    assert typed
    refuse_too_little(config, 8, Machines(1, int(typed[1]) * 2**30))
    refuse_too_little(config, 8, Machines())
    (line,) = host_line(config, 8, Machines(1, offered), None)
    assert "about 392 GB of 275 GB (" in line and "; MORE THAN cluster.memory=256G. Use cluster.memory=" in line
    beside = _config("cluster.memory=256G", "cluster.runs_side_by_side=4")
    assert configs.build(beside, "cluster").host_memory() == 64 * 2**30
    assert configs.build(_config("cluster.memory=0"), "cluster").host_memory() is None, (
        "all of a node, whose size is unknown"
    )


@pytest.mark.parametrize(("memory", "stage"), [("null", 1), ("700G", 1), ("600G", 2), ("200G", 1)])
def test_auto_takes_the_first_stage_that_fits_gpus_and_host(memory: str, stage: int) -> None:
    """On GPUs of 141 GB stage 1 fits, but pins whole float32 gradients. If nothing fits the host, the GPUs alone decide."""
    config = _config("experiment=paper_dpo_iter_8b", f"cluster.memory={memory}")
    machines = Machines(1, configs.build(config, "cluster").host_memory())
    assert choose(trained_shape(config), config, 8, 141.0, machines)["zero.stage"] == stage
    (line,) = host_line(config, 8, machines, 141.0)
    assert ("MORE THAN cluster.memory=200G" in line) == (memory == "200G")


def test_a_dry_run_of_a_slurm_job_prints_it() -> None:
    config = _config("model=llama3_1_8b", "cluster.nodes=2", "cluster.memory=16G", "zero='3'")
    job: Any = SimpleNamespace(command=TRAIN, config=config)
    on_gpu, on_host = dry_run._memory([ArrayRequest(configs.build(config, "cluster"), [[job], [job]])])
    assert "llama3_1_8b: memory on each of 16 GPUs: about" in on_gpu
    assert "llama3_1_8b: host memory on each of 2 machines: about 72 GB of 17 GB (processes 24.0, copies for" in on_host
    assert "; MORE THAN cluster.memory=16G. Use cluster.memory=68G or checkpoint.background=false" in on_host
