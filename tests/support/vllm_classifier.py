"""vLLM as a server of a reward model's scores."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from psychocounsel.remote.server_access import free_port
from tests.support.harness import ROOT


@contextmanager
def serving_scores(folder: Path, log: Path) -> Iterator[str]:
    """Yield the address of a vLLM server of the reward model in `folder`, in fp32; its output goes to `log`."""
    port = str(free_port())
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--port", port]
    command += ["--host", "127.0.0.1", "--runner", "pooling", "--dtype", "float32", "--enforce-eager"]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "PYTHONPATH": str(ROOT)}
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=log.parent, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            ends = time.monotonic() + 600
            while "Application startup complete" not in log.read_text():
                assert process.poll() is None and time.monotonic() < ends, log.read_text()[-3000:]
                time.sleep(1)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(60)
