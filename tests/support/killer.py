"""Callbacks that disturb a training run for tests: kills, hangs, a full disk, NaN weights, errors and stop requests."""

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psychocounsel.engine.callbacks import Callback
from psychocounsel.errors import UserError
from psychocounsel.rundir.run import Run
from tests.support.listening import addresses_of


@dataclass
class Kill(Callback):
    """Kills its own process with SIGKILL at an event of a step of one attempt; `eval_end` falls after the export."""

    event: str
    step: int
    rank: int = 0
    attempt: int = 1

    def on(self, event: str, step: int, run: Run) -> None:
        if (event, step, run.rank, run.attempt) == (self.event, self.step, self.rank, self.attempt):
            os.kill(os.getpid(), signal.SIGKILL)

    def eval_end(self, metrics: dict[str, float], step: int, run: Run) -> None:
        self.on("eval_end", step, run)


def first_server(run: Run) -> int:
    """Return the process id of the first rollout server of the run."""
    processes = subprocess.run(["pgrep", "-f", f"rollout.server {run.dir} "], capture_output=True, text=True)
    return int(processes.stdout.split()[0])


@dataclass
class SignalServer(Callback):
    """Sends `signal` to the first rollout server at the first `event` of a step.

    The addresses at which it listened are the content of a file with the signal's name.
    """

    event: str
    step: int
    signal: str

    def on(self, event: str, step: int, run: Run) -> None:
        note = run.dir / self.signal
        if (event, step) == (self.event, self.step) and not note.exists():
            server = first_server(run)
            command = Path(f"/proc/{server}/cmdline").read_text().split("\0")
            note.write_text(" ".join(addresses_of(int(command[command.index(str(run.dir)) + 1]))))
            os.killpg(server, getattr(signal, self.signal))


@dataclass
class KillServer(Callback):
    """Sends `signal` to the first rollout server of the run after step 1, in the middle of a weight transfer.

    Weights are sent in small pieces, so that the transfer has a middle.
    """

    signal: str = "SIGKILL"

    def on(self, event: str, step: int, run: Run) -> None:
        if (event, step) != ("step_end", 1):
            return
        from psychocounsel.rollout import weight_sync

        whole = weight_sync.weights_of

        def interrupted(engine: Any) -> Iterator[Any]:
            for number, piece in enumerate(whole(engine)):
                if number == 2:
                    weight_sync.weights_of = whole
                    os.killpg(first_server(run), getattr(signal, self.signal))
                    (run.dir / "interrupted").touch()
                yield piece

        weight_sync._PIECE = 1 << 20
        weight_sync.weights_of = interrupted


@dataclass
class TakeAway(Callback):
    """Empties the weights of idle models wherever the run may offload them, so that any use of an idle model fails.

    On CPU this replaces the move away from the GPU. `arrivals`: a file that gets the number of models at each arrival.
    """

    arrivals: str

    def __post_init__(self) -> None:
        import torch

        from psychocounsel.engine import references
        from psychocounsel.engine.rounds import offloading, scoring

        class Away(offloading.OnDevice):
            def __init__(self, models: Any, world: Any) -> None:
                self.count = len(models)
                super().__init__(models, world)

            def __enter__(self) -> None:
                super().__enter__()
                with open(arrivals, "a") as log:
                    log.write(f"{self.count}\n")

            def _leave(self) -> None:
                super()._leave()
                for parameter, _ in self._waiting:
                    parameter.data = torch.empty(0)

        arrivals = self.arrivals

        def always(models: Any, world: Any, offload: bool) -> Any:
            return Away(list(models), world) if offload else offloading.on_device(models, world, offload)

        references.on_device = scoring.on_device = always


@dataclass
class RestEngines(Callback):
    """Offloads the trained engines while replies are generated and scored, on any device."""

    def __post_init__(self) -> None:
        from psychocounsel.engine import trainer
        from psychocounsel.engine.rounds.offloading import Offloading

        trainer.open_offloading = lambda stepper, config: Offloading(stepper, True)


@dataclass
class Touch(Callback):
    """Requests a stop at an event of a step of the first attempt, by creating the file `stop` as a user would."""

    event: str
    step: int

    def on(self, event: str, step: int, run: Run) -> None:
        if (event, step, run.attempt) == (self.event, self.step, 1):
            Path(run.dir / "stop").touch()


@dataclass
class FullDisk(Callback):
    """Limits files to 100 kB after a step of the first attempt, which has the effect of a full disk."""

    step: int

    def on(self, event: str, step: int, run: Run) -> None:
        if (event, step, run.attempt) == ("step_end", self.step, 1):
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@dataclass
class Spoil(Callback):
    """Sets a parameter to NaN after a step, as a broken kernel would."""

    step: int

    def on(self, event: str, step: int, run: Run) -> None:
        if (event, step) == ("step_end", self.step):
            import gc

            import torch

            from psychocounsel.model.packed import Policy

            policy = next(item for item in gc.get_objects() if isinstance(item, Policy))
            with torch.no_grad():
                next(policy.parameters()).fill_(float("nan"))


@dataclass
class Hang(Callback):
    """Sleeps for ten minutes at an event of a step of the first attempt, like a collective operation that never returns."""

    step: int
    event: str = "step_end"

    def on(self, event: str, step: int, run: Run) -> None:
        if (event, step, run.attempt) == (self.event, self.step, 1):
            import time

            time.sleep(600)


@dataclass
class Fail(Callback):
    """Raises RuntimeError at the end of a step of the run with the given seed, if the file exists."""

    seed: int
    file: str
    step: int = 1

    def on(self, event: str, step: int, run: Run) -> None:
        if (event, step, run.config.seed) == ("step_end", self.step, self.seed) and Path(self.file).exists():
            raise RuntimeError("made to fail")


@dataclass
class Slow(Callback):
    """Sleeps after each step, so that a test has time to act while the run trains."""

    seconds: float

    def on(self, event: str, step: int, run: Run) -> None:
        if event == "step_end":
            import time

            time.sleep(self.seconds)


@dataclass
class Mistake(Callback):
    """Raises UserError on every rank at the end of a step."""

    step: int

    def on(self, event: str, step: int, run: Run) -> None:
        if (event, step) == ("step_end", self.step):
            raise UserError("made to fail")


@dataclass
class FullGPU(Callback):
    """Raises at the end of a step what PyTorch raises when a GPU's memory is full."""

    step: int

    def on(self, event: str, step: int, run: Run) -> None:
        if (event, step) == ("step_end", self.step):
            import torch

            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@dataclass
class EndAt(Callback):
    """Ends the run after the evaluation of a step, like a search that prunes a trial."""

    step: int

    def eval_end(self, metrics: dict[str, float], step: int, run: Run) -> str | None:
        return f"enough at step {step}" if step == self.step else None
