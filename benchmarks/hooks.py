"""Callbacks for benchmarked psychocounsel runs. They measure the time of the reference and profile the steps."""

import json
import resource
import time
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

from psychocounsel.algo.dpo import DPO
from psychocounsel.engine.callbacks import Callback
from psychocounsel.rundir.run import Run


@dataclass
class Clock(Callback):
    """Writes RUN/clock.json after each step.

    It holds the seconds inside DPO's `collect` before the first step, the number of threads, and the peak host memory
    [10^9 bytes].
    """

    def __post_init__(self) -> None:
        self.seconds = self.reference_seconds = 0.0
        DPO.collect = self._timed(DPO.collect)  # type: ignore[method-assign]

    def _timed(self, collect: Any) -> Any:
        """Return `collect` with a timer around it, because callbacks get no event for it."""

        @wraps(collect)
        def timed(*args: Any) -> Any:
            started = time.perf_counter()
            groups = collect(*args)
            self.seconds += time.perf_counter() - started
            return groups

        return timed

    def on(self, event: str, step: int, run: Run) -> None:
        import torch

        if event == "step_end":
            self.reference_seconds = self.seconds if step == 0 else self.reference_seconds
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
            clock = {"reference_seconds": self.reference_seconds, "threads": torch.get_num_threads(), "host_gb": peak}
            (run.dir / "clock.json").write_text(json.dumps(clock))


@dataclass
class Operations(Callback):
    """Writes the operations of all steps after the first to `path`, sorted by their own time."""

    path: str

    def __post_init__(self) -> None:
        self.profiler: Any = None

    def on(self, event: str, step: int, run: Run) -> None:
        from torch.profiler import profile

        if event == "step_end" and step == 1:
            self.profiler = profile()
            self.profiler.__enter__()
        elif event == "checkpoint_written" and self.profiler:  # this event comes before the last step's `step_end`
            self.profiler.__exit__(None, None, None)
            Path(self.path).write_text(operations(self.profiler))
            self.profiler = None


def operations(profiler: Any) -> str:
    return str(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=15, max_name_column_width=40))
