"""Check if torch can use the GPUs of this machine, with the reason if it cannot."""

import ctypes
import os

import torch

from psychocounsel.errors import UserError


def require_gpu() -> None:
    """Raise if torch can use no GPU.

    Raises:
        UserError: with the reason and a remedy.
    """
    driver = driver_cuda()
    if why := problem(torch.version.cuda, driver, torch.cuda.is_available()):
        raise UserError(why)


def own_gpu(local_rank: int, visible: int) -> int:
    """Return which of its `visible` GPUs (from 0) a process uses, if it is rank `local_rank` of its machine.

    A launcher that binds one GPU to each process (`srun --gpus-per-task=1`) shows each process only this one, as number 0.

    Raises:
        UserError: if the process sees several GPUs, but fewer than the machine has ranks.
    """
    if visible == 1:
        return 0
    if local_rank >= visible:
        raise UserError(
            f"process {local_rank} of {os.uname().nodename} (counted from 0) sees only {visible} GPUs: start at most {visible} "
            "processes on a node (cluster.processes, cluster.nodes), or let each process see one GPU (CUDA_VISIBLE_DEVICES)"
        )
    return local_rank


def driver_cuda() -> tuple[int, int] | None:
    """Return the newest CUDA version that this machine's NVIDIA driver supports; None without a driver."""
    version = ctypes.c_int()
    try:
        error = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None
    return None if error else (version.value // 1000, version.value % 1000 // 10)


def problem(built_for: str | None, driver: tuple[int, int] | None, sees: bool) -> str:
    """Return the reason why torch can use no GPU with this driver; "" if it can.

    `built_for`: the CUDA version that torch is built for (None: not for NVIDIA). `sees`: True if torch reports a GPU,
    which it may do even with too old a driver. Within one major version of CUDA, an older driver supports newer builds.
    """
    ours = f"torch {torch.__version__} is built for CUDA {built_for}"
    if built_for is None:
        return "" if sees else "this torch is built without CUDA: install a build with CUDA, or use cluster.device=cpu"
    if driver is None:
        return f"{ours}, but no NVIDIA driver was found (in a container: use apptainer --nv); or use cluster.device=cpu"
    if driver[0] < int(built_for.split(".")[0]):
        return (
            f"{ours}, but this NVIDIA driver supports CUDA {driver[0]}.{driver[1]} at most: use a node with a newer "
            f"driver, or install torch's build for CUDA {driver[0]} (https://pytorch.org/get-started)"
        )
    if not sees:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        return f"{ours}, but sees no GPU (CUDA_VISIBLE_DEVICES={visible}): request one, or use cluster.device=cpu"
    return ""
