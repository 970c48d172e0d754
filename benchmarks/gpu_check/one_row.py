"""Run one row in this process and print a line of JSON: `python -m benchmarks.gpu_check.one_row FILE:FUNCTION FOLDER DATA`."""

import importlib
import importlib.util
import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.check_rows import MODULE
from benchmarks.gpu_check.running import MISSED, NOT_RUN, PASSED

_PACKAGES = ("torch", "transformers", "deepspeed", "vllm", "liger_kernel", "trl", "triton")


def main(arguments: list[str]) -> None:
    if arguments == ["probe"]:
        print(json.dumps(probe()), flush=True)
        return
    function, folder, data = arguments
    print(json.dumps(result(function, Path(folder), Path(data))), flush=True)


def result(function: str, folder: Path, data: Path) -> dict[str, Any]:
    """Return the result of a row's function. The function returns (goal met, figure as text, values)."""
    file, _, name = function.partition(":")
    try:
        met, figure, values = getattr(importlib.import_module(MODULE + file), name)(folder, data)
    except ImportError as error:  # some versions of torch lack a kernel
        return {"result": NOT_RUN, "figure": str(error).splitlines()[0][:200], "values": {}}
    return {"result": PASSED if met else MISSED, "figure": figure, "values": values}


def probe() -> dict[str, Any]:
    """Return the versions of installed packages, and the GPUs that torch sees."""
    import torch

    count = torch.cuda.device_count()
    gpus = [torch.cuda.get_device_properties(index) for index in range(count)]
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "cuda": torch.version.cuda,
        "gpus": [{"name": gpu.name, "gb": round(gpu.total_memory / 1e9, 1)} for gpu in gpus],
    }


def _version(name: str) -> str | None:
    if importlib.util.find_spec(name) is None:
        return None
    try:
        return version(name.replace("_", "-"))
    except PackageNotFoundError:
        return "of unknown version"


if __name__ == "__main__":
    main(sys.argv[1:])
