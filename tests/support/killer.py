"""A callback that ends its own process with SIGKILL, at an event of a step of one attempt."""

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


@dataclass
class Kill(Callback):
    event: str
    step: int
    rank: int = 0
    attempt: int = 1

    def on(self, event: str, step: int, run: Run) -> None:
        if (event, step, run.rank, run.attempt) == (self.event, self.step, self.rank, self.attempt):
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class KillServer(Callback):
    """After the first step, lets the run's own rollout servers be sent small pieces, and ends or freezes the first in between."""

    signal: str = "SIGKILL"

    def on(self, event: str, step: int, run: Run) -> None:
        if (event, step) != ("step_end", 1):
            return
        from psychocounsel.rollout.weight_sync import weights

        whole = weights.weights_of

        def interrupted(engine: Any) -> Iterator[Any]:
            for number, piece in enumerate(whole(engine)):
                if number == 2:
                    weights.weights_of = whole
                    found = subprocess.run(
                        ["pgrep", "-f", f"rollout.server {run.dir} "], capture_output=True, text=True
                    )
                    os.killpg(int(found.stdout.split()[0]), getattr(signal, self.signal))
                    (run.dir / "interrupted").touch()
                yield piece

        weights._PIECE = 1 << 20
        weights.weights_of = interrupted


@dataclass
class TakeAway(Callback):
    """Where models may wait, on any device: their weights are gone as long as they do, and whoever asks them then fails."""

    def __post_init__(self) -> None:
        import torch

        from psychocounsel.engine.references import choosing
        from psychocounsel.engine.rounds import resident, scoring

        class Away(resident.Resident):
            def _leave(self) -> None:
                super()._leave()
                for parameter, _ in self._waiting:
                    parameter.data = torch.empty(0)

        def always(models: Any, world: Any, offload: bool) -> Any:
            return Away(models, world) if offload else resident.resident(models, world, offload)

        choosing.resident = scoring.resident = always


@dataclass
class RestEngines(Callback):
    """On any device: the trained engines rest while replies are written and scored."""

    def __post_init__(self) -> None:
        from psychocounsel.engine import trainer
        from psychocounsel.engine.rounds.resting import Resting

        trainer.open_resting = lambda stepper, config: Resting(stepper, True)


@dataclass
class Touch(Callback):
    """Asks for a stop at an event of a step of the first attempt, by the file that a user would touch."""

    event: str
    step: int

    def on(self, event: str, step: int, run: Run) -> None:
        if (event, step, run.attempt) == (self.event, self.step, 1):
            Path(run.dir / "stop").touch()


@dataclass
class FullDisk(Callback):
    """After a step of the first attempt no file takes more than 100 kB, as if the disk were full."""

    step: int

    def on(self, event: str, step: int, run: Run) -> None:
        if (event, step, run.attempt) == ("step_end", self.step, 1):
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@dataclass
class Spoil(Callback):
    """Makes a weight NaN after a step, as a broken kernel would."""

    step: int

    def on(self, event: str, step: int, run: Run) -> None:
        if (event, step) == ("step_end", self.step):
            import gc

            import torch

            from psychocounsel.model.policy import Policy

            policy = next(item for item in gc.get_objects() if isinstance(item, Policy))
            with torch.no_grad():
                next(policy.parameters()).fill_(float("nan"))


@dataclass
class Hang(Callback):
    """Does nothing for a long time, as a collective that never returns would."""

    step: int

    def on(self, event: str, step: int, run: Run) -> None:
        if (event, step, run.attempt) == ("step_end", self.step, 1):
            import time

            time.sleep(600)


@dataclass
class Fail(Callback):
    """Raises at the end of a step of the run with a seed, as long as a file is there."""

    seed: int
    file: str
    step: int = 1

    def on(self, event: str, step: int, run: Run) -> None:
        if (event, step, run.config.seed) == ("step_end", self.step, self.seed) and Path(self.file).exists():
            raise RuntimeError("made to fail")


@dataclass
class Slow(Callback):
    """Takes its time with each step, so that a test can do something meanwhile."""

    seconds: float

    def on(self, event: str, step: int, run: Run) -> None:
        if event == "step_end":
            import time

            time.sleep(self.seconds)


@dataclass
class Mistake(Callback):
    """Raises at the end of a step what a mistake of the user raises, on every rank."""

    step: int

    def on(self, event: str, step: int, run: Run) -> None:
        if (event, step) == ("step_end", self.step):
            raise UserError("made to fail")


@dataclass
class EndAt(Callback):
    """Ends the run after the evaluation of a step, as a search does that gives it up."""

    step: int

    def eval_end(self, metrics: dict[str, float], step: int, run: Run) -> str | None:
        return f"enough at step {step}" if step == self.step else None
