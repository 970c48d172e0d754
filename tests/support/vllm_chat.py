"""vLLM's command line on a CPU without a C++ compiler: small compiled functions run as they are, here and in its processes."""


def main() -> None:
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        type(current_platform).simple_compile_backend = "eager"
    from vllm.entrypoints.cli.main import main as vllm_main

    vllm_main()
