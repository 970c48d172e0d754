"""Callback that records the collectives of every rank, in `RUN/collectives-RANK`."""

import time
from typing import Any

from torch._C._distributed_c10d import ProcessGroup

from psychocounsel.engine.callbacks import Callback
from psychocounsel.rundir.run import Run

COLLECTIVES = (
    "allreduce",
    "allreduce_coalesced",
    "broadcast",
    "allgather",
    "_allgather_base",
    "allgather_into_tensor_coalesced",
    "reduce",
    "reduce_scatter",
    "_reduce_scatter_base",
    "gather",
    "scatter",
    "alltoall",
    "alltoall_base",
    "barrier",
)


class Recorded(Callback):
    """Writes a line for each collective: group size, name, and the shapes of its tensors. Events are lines with `#`.

    `RUN/shards` has the time of each shard.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        for name in COLLECTIVES:
            setattr(ProcessGroup, name, self._recorded(name, getattr(ProcessGroup, name)))

    def on(self, event: str, step: int, run: Run) -> None:
        with open(run.dir / f"collectives-{run.rank}", "a") as file:
            file.write("".join(f"{line}\n" for line in [*self.lines, f"# {event} {step}"]))
        self.lines.clear()
        if event == "shard_done":
            with open(run.dir / "shards", "a") as file:
                file.write(f"{step} {time.time()}\n")

    def _recorded(self, name: str, call: Any) -> Any:
        def recorded(group: Any, *given: Any, **named: Any) -> Any:
            self.lines.append(f"{group.size()} {name} {' '.join(_shapes(given))}")
            return call(group, *given, **named)

        return recorded


def _shapes(values: Any) -> list[str]:
    shapes = list[str]()
    for value in values if isinstance(values, list | tuple) else ():
        shapes += [f"{list(value.shape)}"] if hasattr(value, "shape") else _shapes(value)
    return shapes
