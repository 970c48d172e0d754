"""Memory decisions of a rank before it loads a model: values for `auto`, the check that the run fits, and the memory line."""

import os
import time
from collections.abc import Callable

from omegaconf import DictConfig, OmegaConf

from psychocounsel.cluster.memory.cpu_memory import cpu_memory_line
from psychocounsel.cluster.memory.fitting import AUTOMATIC, choose, is_open, with_values
from psychocounsel.cluster.memory.gpu_memory import trained_shape
from psychocounsel.cluster.memory.memory_line import chosen_words, memory_line, refuse_too_large
from psychocounsel.errors import GoOnLater
from psychocounsel.rundir.run import Run
from psychocounsel.rundir.run_config import read_config, write_config

_POLL_SECONDS = 0.5
_PATIENCE_SECONDS = 600.0


def fitted_work(run: Run, work: Callable[[Run], int]) -> int:
    """Choose values for `auto`, refuse a run that does not fit, then call `work` and return its exit code.

    Rank 0 chooses by its own GPU and writes `config.yaml` once; the other ranks wait for it. A resumed run has the
    choice in its configuration.

    Raises:
        UserError: if the run does not fit this GPU by the estimate, with the settings to type.
        GoOnLater: if rank 0 does not choose in time.
    """
    if "zero" in run.config:
        limit_gb = _gpu_gigabytes()
        gpus = run.processes if limit_gb else 0
        if is_open(run.config):
            settle(run, gpus, limit_gb) if run.is_main else _wait(run)
        if gpus and run.config.engine.check_memory:
            refuse_too_large(run.config, gpus, limit_gb)
        if run.is_main and not run.config.model.path.startswith("builtin:"):
            run.say(memory_line(run.config, gpus, limit_gb) if gpus else cpu_memory_line(run.config, run.processes))
    return work(run)


def settle(run: Run, gpus: int, limit_gb: float) -> None:
    """Write the values chosen for `auto` into the run's configuration, permanently."""
    keys = is_open(run.config)
    run.config = with_values(run.config, choose(trained_shape(run.config), run.config, gpus, limit_gb))
    write_config(run.dir, run.config)
    where = f"{gpus} GPUs of {limit_gb:.0f} GB" if gpus else "CPU"
    run.say(f"auto: {chosen_words(run.config, keys)} for {where}, fixed for this run")


def keep_chosen(config: DictConfig, before: DictConfig) -> None:
    """Keep the values that a resumed run chose for `auto` at its first start."""
    for key in is_open(config) if "zero" in config else ():
        for name in AUTOMATIC[key]:
            OmegaConf.update(config, name, OmegaConf.select(before, name))


def _gpu_gigabytes() -> float:
    """Return the memory of this rank's GPU in GB; 0 on CPU."""
    if os.environ.get("PSYCHOCOUNSEL_DEVICE", "cpu") != "cuda":
        return 0.0
    import torch

    from psychocounsel.distributed.gpu import require_gpu

    require_gpu()
    local_rank = int(os.environ.get("LOCAL_RANK", os.environ.get("RANK", "0")))
    return float(torch.cuda.get_device_properties(local_rank).total_memory / 1e9)


def _wait(run: Run) -> None:
    """Wait until rank 0 has written its choice. If rank 0 fails, the launcher ends this rank."""
    end = time.monotonic() + _PATIENCE_SECONDS
    while is_open(config := read_config(run.dir)):
        if time.monotonic() >= end:
            raise GoOnLater(f"{run.dir}: rank 0 has not chosen the values of auto within {_PATIENCE_SECONDS:.0f} s")
        time.sleep(_POLL_SECONDS)
    run.config = config
