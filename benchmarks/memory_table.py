"""Update the table of docs/memory.md from the memory estimate: `python -m benchmarks.memory_table`. Needs no torch or GPU."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict

from psychocounsel.cluster.memory.check import zero_words
from psychocounsel.cluster.memory.fitting import choose, with_values
from psychocounsel.cluster.memory.gpu import estimate, trained_shape
from psychocounsel.cluster.memory.host import host_parts
from psychocounsel.settings.config import check, compose
from psychocounsel.storage.files import write_atomically
from psychocounsel.train import COMMAND as TRAIN

PAGE = Path(__file__).parents[1] / "docs" / "memory.md"
_BEGIN, _END = "<!-- table: python -m benchmarks.memory_table -->\n", "<!-- end of table -->\n"
_GB = 80.0
_LONG = "max_length=2048 micro_batch_tokens=4096"
_ROWS = [  # description, number of GPUs, overrides
    ("DPO of 0.6B", 1, f"algo=dpo model=qwen3_0_6b zero=auto {_LONG}"),
    ("DPO of 3B", 1, f"algo=dpo model=llama3_2_3b zero=auto {_LONG}"),
    ("DPO of 3B", 4, f"algo=dpo model=llama3_2_3b zero=auto {_LONG}"),
    ("DPO of 8B, adapters", 1, f"algo=dpo model=llama3_1_8b model.lora.rank=16 zero=auto {_LONG}"),
    ("DPO of 8B", 4, f"algo=dpo model=llama3_1_8b zero=auto {_LONG}"),
    ("DPO of 8B", 8, f"algo=dpo model=llama3_1_8b zero=auto {_LONG}"),
    ("SFT of 8B", 8, f"algo=sft model=qwen3_8b zero=auto {_LONG}"),
    ("the paper's DPO of 8B", 8, "experiment=paper_dpo_8b"),
    ("the paper's reward model of 8B", 8, "experiment=paper_reward_8b"),
    ("the paper's iterative DPO of 8B", 8, "experiment=paper_dpo_iter_8b"),
    ("online DPO of 8B", 8, "experiment=online_dpo_8b"),
    ("GRPO of 8B", 8, "experiment=grpo_8b"),
    ("PPO of 8B", 8, "experiment=ppo_8b"),
    ("PPO of 8B", 16, "experiment=ppo_8b"),
]


def configuration(typed: str, gpus: int) -> DictConfig:
    """Return the checked configuration of a command on GPUs of 80 GB.

    A vLLM rollout is inserted after the check, because vLLM may not be installed here.
    """
    given = [*typed.split(), "cluster=slurm", f"cluster.gpus_per_node={min(gpus, 8)}", f"cluster.nodes={-(-gpus // 8)}"]
    given.append(f"cluster.gpu_memory_gb={_GB:g}")
    composed = compose(given)
    writes_by_vllm = str(OmegaConf.select(composed, "algo.samples")) != "None" and "rollout=" not in typed
    config = check(TRAIN, compose([*given, "rollout=hf"]) if writes_by_vllm else composed)
    if writes_by_vllm:
        with open_dict(config):
            config.rollout = composed.rollout
    return config


def table() -> str:
    """Return the table as Markdown.

    Raises:
        ValueError: if the run of a row does not fit on its GPUs.
    """
    lines = [
        "| what | GPUs | GB on each | host GB | ZeRO | gradient checkpointing | command: `psychocounsel train ...` |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, gpus, typed in _ROWS:
        config = configuration(typed, gpus)
        shape = trained_shape(config)
        assert shape is not None
        config = with_values(config, choose(shape, config, gpus, _GB))
        needed = estimate(shape, config, gpus).total / 1e9
        if needed > _GB:
            raise ValueError(f"{typed}: needs {needed:.0f} GB")
        on_host = sum(host_parts(shape, config, gpus, -(-gpus // 8)).values()) / 1e9
        zero = zero_words(config).replace("zero.stage=", "").replace("zero.", "").replace("=true", "")
        checkpoints = "yes" if config.model.gradient_checkpointing else "no"
        lines.append(f"| {name} | {gpus} | {needed:.0f} | {on_host:.0f} | {zero} | {checkpoints} | `{typed}` |")
    return "\n".join(lines) + "\n"


def written(page: str) -> str:
    """Return `page` with the current table."""
    before, _, rest = page.partition(_BEGIN)
    return before + _BEGIN + table() + _END + rest.partition(_END)[2]


if __name__ == "__main__":
    write_atomically(PAGE, written(PAGE.read_text()))
