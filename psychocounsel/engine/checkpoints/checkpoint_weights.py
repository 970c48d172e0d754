"""The weights of a checkpoint: out of DeepSpeed's files, or out of those that `jobs archive` keeps of them."""

import os
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch

from psychocounsel.rundir.manifest import write_manifest
from psychocounsel.rundir.paths import CheckpointDir


def read_weights(folder: Path, engine: str) -> dict[str, torch.Tensor]:
    """The trained parameters of an engine; those that ZeRO-3 partitioned are put together from all ranks' files."""
    kept, whole = CheckpointDir(folder).weights(engine), folder / engine / "mp_rank_00_model_states.pt"
    if kept.exists():
        return dict(torch.load(kept, map_location="cpu"))
    if whole.exists():  # stages 0 to 2
        return dict(torch.load(whole, map_location="cpu", weights_only=False)["module"])
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed reads checkpoints; it need not look for a GPU
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        weights: Any = get_fp32_state_dict_from_zero_checkpoint(str(folder), engine, exclude_frozen_parameters=True)
    return dict(weights)


def keep_weights(checkpoint: Path, target: Path) -> None:
    """Write to `target` what a checkpoint holds but optimizer state, which some stages have in one file with weights."""
    for engine in sorted(path.name for path in checkpoint.iterdir() if path.is_dir()):
        file = CheckpointDir(target).weights(engine)
        file.parent.mkdir(parents=True)
        torch.save(read_weights(checkpoint, engine), file)
    shutil.copy2(CheckpointDir(checkpoint).loop, target)
    write_manifest(target, weights_alone=True)
