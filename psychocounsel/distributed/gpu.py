"""Whether torch can use the GPUs of this machine, and why not."""

import ctypes
import os

import torch

from psychocounsel.errors import UserError


def require_gpu() -> None:
    """Refuse to go on where torch can use no GPU.

    Raises:
        UserError: saying why, and what helps.
    """
    driver = driver_cuda()
    if why := problem(torch.version.cuda, driver, torch.cuda.is_available()):
        raise UserError(why)


def driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA version that the NVIDIA driver here serves; None without a driver."""
    version = ctypes.c_int()
    try:
        found = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None
    return None if found else (version.value // 1000, version.value % 1000 // 10)


def problem(built_for: str | None, driver: tuple[int, int] | None, sees: bool) -> str:
    """Why torch, `built_for` a version of CUDA (None: not for NVIDIA), uses no GPU with this driver; empty if it can.

    `sees`: whether it says that there is one, which it may with a driver that is too old. Within one major version of
    CUDA an older driver serves newer builds.
    """
    ours = f"torch {torch.__version__} is built for CUDA {built_for}"
    if built_for is None:
        return "" if sees else "torch here is a build without CUDA: install one with it, or use cluster.device=cpu"
    if driver is None:
        return f"{ours}, and there is no NVIDIA driver here (in a container: apptainer --nv); or use cluster.device=cpu"
    if driver[0] < int(built_for.split(".")[0]):
        return (
            f"{ours}, and the NVIDIA driver here serves CUDA {driver[0]}.{driver[1]} at most: use a node with a newer "
            f"driver, or install torch's build for CUDA {driver[0]} (https://pytorch.org/get-started)"
        )
    if not sees:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        return f"{ours}, and sees no GPU (CUDA_VISIBLE_DEVICES={visible}): ask for one, or use cluster.device=cpu"
    return ""
