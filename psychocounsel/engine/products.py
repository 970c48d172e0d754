"""Files that a run produces and resumes from: checkpoints, `model/`, `summary.json`, and the rows of a failed batch."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from psychocounsel.data.group import Group
from psychocounsel.data.tokenise import ChatFormat
from psychocounsel.distributed.world import World
from psychocounsel.engine.checkpoints.model_folder import Companions, kept_model, model_card, taken_model
from psychocounsel.engine.checkpoints.saving import Checkpoints
from psychocounsel.engine.loop import LoopState
from psychocounsel.engine.step import NonFiniteBatch, Stepper
from psychocounsel.engine.telemetry.records import Phases, report_end
from psychocounsel.errors import NonFinite, UserError
from psychocounsel.rundir import identity
from psychocounsel.rundir.run import Run
from psychocounsel.storage.files import with_noun, write_atomically


class Products:
    """Writes and restores the products of a run. All ranks call each method together.

    `steps`: number of steps of the whole run. `fingerprints`: hashes of its data and first weights.
    `started`: when this attempt had loaded data and models [seconds since 1970]. `phases`: the times of its start.
    `announce`: called with the events of each checkpoint.
    """

    def __init__(
        self,
        run: Run,
        stepper: Stepper,
        chat: ChatFormat,
        steps: int,
        fingerprints: dict[str, str],
        started: float,
        phases: Phases,
        announce: Callable[[str, int], None],
    ) -> None:
        self.run, self.config, self.files = run, run.config, run.files
        self.engines, self.main, self.chat = stepper.engines, stepper.main, chat
        self.world: World = stepper.world
        self.steps, self.fingerprints, self.started, self.phases = steps, fingerprints, started, phases
        self.checkpoints = Checkpoints(run, stepper.engines, stepper.world, announce)

    def restore(self) -> LoopState | None:
        """Load the newest checkpoint into the engines and return its loop state; None without a checkpoint.

        Raises:
            UserError: if the data or the first weights changed since the run began, or as in `Checkpoints.load`.
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
        if self.steps > loop.get("total", self.steps):  # this attempt extends the run
            state.ended_early, state.unimproved = "", 0
        kept = shared_kept_model(self.files.model, self.world)
        if state.line is not None:
            state.line["attempt"] = self.run.attempt
        if self.config.checkpoint.metric in kept:
            state.best = kept  # newer than the checkpoint if the run was killed between export and checkpoint
        self.run.say(f"resuming from step {state.step} of {self.steps}")
        return state

    def checkpoint(self, state: LoopState, rows: int) -> None:
        """Start to save everything that a run needs to resume after `state`; `rows` is the number of training rows.

        Raises:
            Unwritable: if the disk is full or cannot be written.
        """
        loop = {
            "phase": "train" if state.line is None else "evaluate",
            "data_order": {"seed": self.config.seed, "rows": rows},
            **asdict(state),
            "total": self.steps,
            "fingerprints": self.fingerprints,
        }
        self.checkpoints.save(state.step, loop)

    def export(self, step: int, evaluation: dict[str, float]) -> None:
        """Start to write the main model after `step` steps to `model/`, with its model card (`Checkpoints.export`).

        Raises:
            Unwritable: if an earlier model cannot be written.
        """
        about = {"step": step, **evaluation, "system_prompt": self.chat.system_prompt}
        companions = Companions(self.chat, self.config.model, model_card(self.config, about), about)
        self.checkpoints.export(self.files.model, *taken_model(self.main, self.world, companions))

    def summarise(self, status: str, state: LoopState) -> None:
        """Write `summary.json` and print how the run ended."""
        if not self.run.is_main:
            return
        mark = identity.fingerprint(self.config, **self.fingerprints)
        seconds = time.time() - self.started
        report_end(self.run, status, state, self.steps, seconds, self.phases.summary(), mark)

    def failed(self, error: NonFiniteBatch, step: int) -> NonFinite:
        """Save the rows of the batch that failed in `step`; return the error, which names the files of all ranks."""
        self.checkpoints.settle()
        mine = None
        if error.groups:
            path = save_rows(self.files.failed_rows(step, self.run.rank), error.groups)
            mine = f"rank {self.run.rank} wrote its {with_noun(len(error.groups), 'row')} to {path}"
        saved = "; ".join(filter(None, self.world.gather(mine)))
        return NonFinite(f"step {step}: {error}; {saved}. Try a smaller algo.lr, model.dtype=fp32, or look at the rows")


def shared_kept_model(model: Path, world: World) -> dict[str, Any]:
    """Return the step and the metrics of `model/`. All ranks get what rank 0 sees, so that they resume alike."""
    kept: dict[str, Any] = world.broadcast(kept_model(model) if world.rank == 0 else None)
    return kept


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
