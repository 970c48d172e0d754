"""What a rank settles before it loads a model: `auto` in `zero` and elsewhere, whether the run fits, and its memory line."""

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
    """Settle what is `auto`, refuse what does not fit, then do `work`, whose exit code is returned.

    Rank 0 chooses by its own GPU and writes `config.yaml` once; the other ranks wait for that. A resumed run has the
    choice in its configuration.

    Raises:
        UserError: if the run does not fit this GPU by the estimate, with what to type.
        GoOnLater: if rank 0 does not choose.
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
    """Put the values that `auto` stands for into the run's configuration, for good."""
    keys = is_open(run.config)
    run.config = with_values(run.config, choose(trained_shape(run.config), run.config, gpus, limit_gb))
    write_config(run.dir, run.config)
    where = f"{gpus} GPUs of {limit_gb:.0f} GB" if gpus else "CPU"
    run.say(f"auto: {chosen_words(run.config, keys)} for {where}, and stays so in this run")


def keep_chosen(config: DictConfig, before: DictConfig) -> None:
    """Let a run that goes on with `auto` have what was chosen when it began."""
    for key in is_open(config) if "zero" in config else ():
        for name in AUTOMATIC[key]:
            OmegaConf.update(config, name, OmegaConf.select(before, name))


def _gpu_gigabytes() -> float:
    """The memory of this rank's GPU; 0 on CPU."""
    if os.environ.get("PSYCHOCOUNSEL_DEVICE", "cpu") != "cuda":
        return 0.0
    import torch

    from psychocounsel.distributed.gpu import require_gpu

    require_gpu()
    local_rank = int(os.environ.get("LOCAL_RANK", os.environ.get("RANK", "0")))
    return float(torch.cuda.get_device_properties(local_rank).total_memory / 1e9)


def _wait(run: Run) -> None:
    """Until rank 0 has written its choice; if it fails, who has started the ranks ends this one."""
    end = time.monotonic() + _PATIENCE_SECONDS
    while is_open(config := read_config(run.dir)):
        if time.monotonic() >= end:
            raise GoOnLater(f"{run.dir}: rank 0 has not chosen what is auto in {_PATIENCE_SECONDS:.0f} s")
        time.sleep(_POLL_SECONDS)
    run.config = config
