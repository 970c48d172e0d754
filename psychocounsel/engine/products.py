"""The files that a run leaves and goes on from: checkpoints, `model/`, `summary.json`, and the rows of a failed batch."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from psychocounsel.data.group import Group
from psychocounsel.data.tokenise import ChatFormat
from psychocounsel.distributed.world import World
from psychocounsel.engine.checkpoints.card import model_card
from psychocounsel.engine.checkpoints.model_folder import Companions, export_model, kept_model
from psychocounsel.engine.checkpoints.saving import Checkpoints
from psychocounsel.engine.loop_state import LoopState
from psychocounsel.engine.step import NonFiniteBatch, Stepper
from psychocounsel.engine.telemetry.final_report import Ending, report_end
from psychocounsel.engine.telemetry.phases import Phases
from psychocounsel.errors import NonFinite, UserError
from psychocounsel.rundir import identity
from psychocounsel.rundir.run import Run
from psychocounsel.rundir.summary import is_finished
from psychocounsel.storage.files import write_atomically


class Products:
    """All ranks call each method together.

    `steps` is the number of steps of the whole run, this attempt of which began at `started` (seconds since 1970);
    `fingerprints` tell its data and first weights from others. `phases` measured its start. `announce` is told when a checkpoint
    is whole.
    """

    def __init__(
        self,
        run: Run,
        stepper: Stepper,
        tokenizer: Any,
        chat: ChatFormat,
        steps: int,
        fingerprints: dict[str, str],
        started: float,
        phases: Phases,
        announce: Callable[[str, int], None],
    ) -> None:
        self.run, self.config, self.files = run, run.config, run.files
        self.engines, self.main, self.tokenizer, self.chat = stepper.engines, stepper.main, tokenizer, chat
        self.world: World = stepper.world
        self.steps, self.fingerprints, self.started, self.phases = steps, fingerprints, started, phases
        self.checkpoints = Checkpoints(run, stepper.engines, stepper.world, announce)

    def restore(self) -> LoopState | None:
        """Load the newest checkpoint into the engines; None if there is none.

        Raises:
            UserError: if the data or the weights are not those that the run began with.
        """
        loop = self.checkpoints.load()
        if loop is None:
            return None
        changed = [name for name, value in loop["fingerprints"].items() if self.fingerprints[name] != value]
        if changed:
            raise UserError(
                f"{self.run.dir}: the {' and the '.join(changed)} changed since this run began: "
                "restore them, or use another run_dir"
            )
        state = LoopState(**{item.name: loop[item.name] for item in fields(LoopState) if item.name in loop})
        was_finished, kept = kept_of_run(self.run, self.world)
        if was_finished:  # and is to be longer now
            state.ended_early, state.unimproved = "", 0
        if state.line is not None:
            state.line["attempt"] = self.run.attempt
        if self.config.checkpoint.metric in kept:
            state.best = kept  # newer than the checkpoint, where a kill came between the two
        self.run.say(f"going on from step {state.step} of {self.steps}")
        return state

    def checkpoint(self, state: LoopState, rows: int) -> None:
        """Begin to save what the run needs to go on after `state`; `rows` is the length of the training data.

        Raises:
            Unwritable: if the disk takes no more.
        """
        loop = {
            "phase": "train" if state.line is None else "evaluate",
            "data_order": {"seed": self.config.seed, "rows": rows},
            **asdict(state),
            "fingerprints": self.fingerprints,
        }
        self.checkpoints.save(state.step, loop)

    def export(self, step: int, evaluation: dict[str, float]) -> None:
        """Write the main model as it is after `step` steps to `model/`, with its card.

        The checkpoint before is whole by then: `model/` is never further ahead than one.
        """
        self.checkpoints.settle()
        about = {"step": step, **evaluation}
        companions = Companions(self.tokenizer, self.chat, self.config.model, model_card(self.config, about), about)
        export_model(self.files.model, self.main, self.world, companions)

    def summarise(self, status: str, state: LoopState) -> None:
        """Write `summary.json`, and tell the user how the run went."""
        if not self.run.is_main:
            return
        metrics = {name: getattr(state, name) for name in ("before", "best", "last")}
        mark = identity.fingerprint(self.config, **self.fingerprints)
        seconds = time.time() - self.started
        ending = Ending(status, state.step, self.steps, metrics, seconds, state.ended_early, self.phases.summary())
        report_end(self.run, ending, mark)

    def failed(self, error: NonFiniteBatch, step: int) -> NonFinite:
        """Save the rows of the failed batch of `step` on the ranks that have them; says on every rank where they are."""
        self.checkpoints.settle()
        mine = None
        if error.groups:
            path = save_rows(self.files.failed_rows(step, self.run.rank), error.groups)
            mine = f"rank {self.run.rank} wrote its {len(error.groups)} rows to {path}"
        saved = "; ".join(filter(None, self.world.gather(mine)))
        return NonFinite(f"step {step}: {error}; {saved}. Try a smaller algo.lr, model.dtype=fp32, or look at the rows")


def kept_of_run(run: Run, world: World) -> tuple[bool, dict[str, Any]]:
    """Whether the run has finished before, and what `model/` says of itself, as rank 0 sees them: all ranks go on alike."""
    found: tuple[bool, dict[str, Any]] = world.broadcast(
        (is_finished(run.dir), kept_model(run.files.model)) if world.rank == 0 else None
    )
    return found


def save_rows(path: Path, groups: Sequence[Group]) -> Path:
    """Write the rows of a failed batch, readable by their owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "id": group.id,
            "prompt": group.prompt_text,
            "completions": [completion.text for completion in group.completions],
        }
        for group in groups
    ]
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows), mode=0o600)
    return path
