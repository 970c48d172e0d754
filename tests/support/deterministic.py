"""The operations that torch refuses on a GPU with deterministic algorithms, refused on a CPU."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# From the docstring of `torch.use_deterministic_algorithms` (torch 2.13), and kthvalue from its kernel, by their names in aten.
_NAMES = """avg_pool3d_backward _adaptive_avg_pool2d_backward _adaptive_avg_pool3d_backward adaptive_max_pool2d_backward
fractional_max_pool2d_backward fractional_max_pool3d_backward max_unpool2d max_unpool3d upsample_linear1d_backward
upsample_bilinear2d_backward upsample_bicubic2d_backward upsample_trilinear3d_backward reflection_pad1d_backward
reflection_pad2d_backward reflection_pad3d_backward nll_loss_forward nll_loss2d_forward _ctc_loss_backward
_embedding_bag_backward put put_ histc kthvalue grid_sampler_2d_backward grid_sampler_3d_backward"""


def _is_float(arguments: Mapping[str, Any]) -> bool:
    dtype = arguments.get("dtype") or arguments["self"].dtype
    return bool(dtype.is_floating_point or dtype.is_complex)


# Operations that are refused with some arguments only.
_SOMETIMES: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "cumsum": _is_float,
    "cumsum_": _is_float,
    "bincount": lambda arguments: arguments.get("weights") is not None,
    "median": lambda arguments: "dim" in arguments,
    "nanmedian": lambda arguments: "dim" in arguments,
    "scatter_reduce": lambda arguments: arguments["reduce"] == "prod",
    "scatter_reduce_": lambda arguments: arguments["reduce"] == "prod",
}
_REFUSED = {name: lambda arguments: True for name in _NAMES.split()} | _SOMETIMES


class AsOnGPU(TorchDispatchMode):
    """In this block, deterministic algorithms are on, and operations that they refuse on a GPU raise a RuntimeError.

    Code that turns them off may use all operations.
    """

    def __enter__(self) -> Any:
        self.before = torch.get_deterministic_debug_mode()
        torch.use_deterministic_algorithms(True)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        torch.set_deterministic_debug_mode(self.before)
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        names = [argument.name for argument in func._schema.arguments]
        arguments = dict(zip(names, args, strict=False)) | kwargs
        if torch.are_deterministic_algorithms_enabled() and name in _REFUSED and _REFUSED[name](arguments):
            raise RuntimeError(f"{name} has no deterministic implementation on CUDA")
        return func(*args, **kwargs)
