"""The one training loop. It never asks which algorithm it runs."""

import platform
import time
from collections.abc import Collection
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from psychocounsel.algo.base import Algorithm
from psychocounsel.data.dataset import Dataset, build_dataset
from psychocounsel.data.group import Group
from psychocounsel.data.packing import packing_report
from psychocounsel.distributed.world import World
from psychocounsel.engine.checkpoints.card import model_card
from psychocounsel.engine.checkpoints.model_folder import export_model, kept_model
from psychocounsel.engine.checkpoints.saving import load_checkpoint, save_checkpoint
from psychocounsel.engine.collector import Collector
from psychocounsel.engine.engines import build_critic, build_engine
from psychocounsel.engine.evaluating import Evaluation, Evaluator
from psychocounsel.engine.feed import Feed, OfflineFeed
from psychocounsel.engine.fit import micro_batch_tokens
from psychocounsel.engine.loop_state import LoopState
from psychocounsel.engine.rounds.mixed_feed import mixed
from psychocounsel.engine.rounds.round_feed import open_rounds
from psychocounsel.engine.schedule import DataOrder, learning_rate, step_seed
from psychocounsel.engine.step import NonFiniteBatch, Scores, Stepper, Tally, metrics_of, save_rows
from psychocounsel.engine.stop_request import StopRequest, Watchdog
from psychocounsel.engine.telemetry.progress import Progress, quiet_libraries
from psychocounsel.engine.telemetry.speed import Speed, peak_memory_gb
from psychocounsel.engine.telemetry.step_log import Records
from psychocounsel.engine.telemetry.summary import print_summary, write_summary
from psychocounsel.errors import CONTINUE_LATER, DONE, GATE_NO, Guarded, NonFinite, Stopped, UserError
from psychocounsel.model.load import load_chat_format, weights_id
from psychocounsel.remote.hub import set_cache_directories
from psychocounsel.rundir import identity
from psychocounsel.rundir.run import Run
from psychocounsel.settings import config as configs


def train(run: Run) -> int:
    """Train as `run.config` says, from the start or from the newest checkpoint; returns the exit code."""
    set_cache_directories(run.config.paths.cache)
    quiet_libraries()
    trainer = None
    try:
        trainer = Trainer(run)
        trainer.restore()
        trainer.fit()
        trainer.world.close()  # only in good order: beside a rank that failed it could wait for ever
        return DONE
    except Stopped:
        return CONTINUE_LATER
    except Guarded:
        assert trainer is not None
        trainer.world.close()
        return GATE_NO
    except NonFinite as error:
        assert trainer is not None
        run.say(f"error: {error}")
        trainer.summarise("failed")
        return 1
    except BaseException:
        run.write_state("failed", trainer.state.step if trainer else 0, None)
        raise
    finally:
        if trainer:
            trainer.close()


class Trainer:
    """Everything that one run of the loop holds together."""

    def __init__(self, run: Run) -> None:
        self.run, self.config = run, run.config
        self.stop = StopRequest(run.dir, run.is_main)
        run.write_state("loading", 0, None)
        self.callbacks = [_instantiate(name, callback) for name, callback in run.config.callbacks.items()]
        self.algorithm: Algorithm = configs.build(run.config, "algo")
        self.main = self.algorithm.needs.main
        self.tokenizer, self.chat = load_chat_format(run.config.model, scores=self.main == "reward_model")
        mixes = self.algorithm.offline_groups(run.config.global_batch_size) > 0
        self.data: Dataset = build_dataset(run.config, self.chat, self.algorithm.needs.data, run.say, mixes)
        self.algorithm.check(self.data.train, self.data.held_out)
        self.world = World(run.rank, run.processes, 2 * run.config.engine.watchdog_minutes + 10)
        self.engines = {self.main: build_engine(run.config, self.algorithm, self.world, self.tokenizer)}
        if "critic" in self.algorithm.needs.models and not self.algorithm.value_head:
            lanes = self.engines[self.main].lanes
            self.engines["critic"] = build_critic(run.config, self.algorithm, self.world, self.tokenizer, lanes)
        self.watchdog = Watchdog(run.config.engine.watchdog_minutes, run.log)
        budget = micro_batch_tokens(run, self.engines[self.main], self.data.train, self.world)
        self.stepper = Stepper(self.algorithm, self.engines, self.world, budget)
        self.speed = Speed(self.engines[self.main], self.world)
        self.progress = Progress(run.is_main)
        self.state = LoopState(line={"step": 0, "attempt": run.attempt})
        self.collector = Collector(run, self.algorithm, self.stepper, self.world, self._alive_while_collecting)
        self.feed = self._feed()
        self.steps = self.feed.steps
        self.records = Records(run, self.feed.sample)
        self.evaluate = Evaluator(run, self.data, self.feed, self.collector, self._tally, self._stop_if_asked)
        if lengths := self.feed.lengths():
            run.say(packing_report(lengths, self.stepper.plan))
        self.started = time.time()

    def _feed(self) -> Feed:
        config = self.config
        if self.algorithm.needs.rollouts:
            more = (self.tokenizer, self.chat, self._announce, self._alive_in_round)
            return mixed(open_rounds(self.run, self.data, self.collector, *more), self.data, self.collector)
        length = (config.epochs, config.max_steps, config.seed)
        order = DataOrder(len(self.data.train), config.global_batch_size, *length)
        return OfflineFeed(self.data, order, self.collector)

    # -- starting

    def restore(self) -> None:
        """Collect the round's groups with the untouched policy, then load the newest checkpoint if there is one."""
        model, cache = self.config.model, self.config.paths.cache
        weights = self.world.from_main(lambda: weights_id(model, cache), self._alive_while_collecting)
        self.feed.start(weights)
        self.fingerprints = {"data": self.data.fingerprint(), "weights": weights}
        nodes = sorted(set(self.world.gather(platform.node())))
        loop = load_checkpoint(self.run.dir, self.engines)
        if loop is not None:
            self._restore_loop(loop)
        self.stepper.untrained = "reference" in self.algorithm.needs.models and not self.state.step
        if self.run.is_main:
            self.run.write_environment(nodes, **self.fingerprints)
        self.records.open(self.state.written)

    def _alive_while_collecting(self) -> None:
        if self.world.any(self.stop.requested()):
            self.run.say("stop requested: nothing new to save yet")
            self.run.write_state("stopped", self.state.step, self.steps)
            raise Stopped
        self._heartbeat("collecting")

    def _alive_in_round(self) -> None:
        """What is done of a round is on disk, so a stop there saves the step before it."""
        self._stop_if_asked()
        self._heartbeat("collecting")

    def _restore_loop(self, loop: dict[str, Any]) -> None:
        changed = [name for name, value in loop["fingerprints"].items() if self.fingerprints[name] != value]
        if changed:
            raise UserError(
                f"{self.run.dir}: the {' and the '.join(changed)} changed since this run began: "
                "restore them, or use another run_dir"
            )
        self.state = LoopState(**{item.name: loop[item.name] for item in fields(LoopState)})
        if self.state.line is not None:
            self.state.line["attempt"] = self.run.attempt
        kept = kept_model(self.run.dir / "model")
        if self.config.checkpoint.metric in kept:
            self.state.best = kept  # newer than the checkpoint, where a kill came between the two
        self.run.say(f"going on from step {self.state.step} of {self.steps}")

    # -- the loop

    def fit(self) -> None:
        """Run to the last step, then export and summarise.

        Raises:
            Stopped: after a stop request, with a checkpoint on disk.
            NonFinite: for a NaN or infinite loss or gradient, with the batch's rows on disk.
        """
        self.run.write_state("training", self.state.step, self.steps)
        self.progress.start(self.state.step, self.steps)
        while True:
            if self.state.line is not None:
                self._finish_step(self.state.line)
            if self.state.step >= self.steps:
                break
            self._stop_if_asked()
            self._train_step()
        self.progress.close()
        if not self.state.best or self.world.any(self.run.is_main and not (self.run.dir / "model").exists()):
            if not self.state.best and any(name.startswith("guard/") for name in self.state.last):
                self.run.say("no evaluation kept the limits of guard: model/ holds the last weights")
            self._export({})
        self.summarise("finished")

    def _train_step(self) -> None:
        started, self.stepper.data_seconds = time.perf_counter(), 0.0
        groups = self.feed.groups(self.state.step)
        lr = learning_rate(self.algorithm, self.state.step, self.steps)
        of_round = self.feed.metrics(self.state.step)
        self.state.enter(self.collector.round)
        self.collector.peaks = self.state.peaks
        idle = {name for name in self.engines if not self.algorithm.learns(name, self.collector)}
        if not groups or len(idle) == len(self.engines):
            self.state.advance()
            self.state.line = {"step": self.state.step, "attempt": self.run.attempt, "lr": lr, "groups": 0, **of_round}
            self._count_skipped(self.main in idle)
            return
        groups = self.algorithm.batch_groups(groups, self.collector)
        torch.manual_seed(step_seed(self.config.seed, self.state.step, self.world.rank))
        for name, engine in self.engines.items():
            engine.train(name not in idle)
        metrics = metrics_of(self._guarded(groups, train=True, idle=idle)[0])
        self.state.see(metrics)
        norms = {name: engine.step(self._rate(name, lr)) for name, engine in self.engines.items() if name not in idle}
        if not all(np.isfinite(norm) for norm in norms.values()):
            raise self._non_finite(NonFiniteBatch(f"the gradient norm is {norms}", groups if self.run.is_main else []))
        self.stepper.untrained = False
        self.state.advance()
        seconds = time.perf_counter() - started
        self.state.line = {
            "step": self.state.step,
            "attempt": self.run.attempt,
            "loss": metrics.pop("loss"),
            "lr": lr,
            **({"grad_norm": norms[self.main]} if self.main in norms else {}),
            **self.speed.of(groups, seconds),
            "data_seconds": self.stepper.data_seconds,
            "peak_memory_gb": peak_memory_gb(),
            **metrics,
            **of_round,
        }
        self._count_skipped(not self.algorithm.learns(self.main, self.collector))

    def _rate(self, name: str, lr: float) -> float:
        """The learning rate of an engine, by what the algorithm says now that it knows the step's metrics."""
        return lr * self.algorithm.lr_factor(name) if self.algorithm.learns(name, self.collector) else 0.0

    def _count_skipped(self, skipped: bool) -> None:
        self.state.skipped += skipped
        if self.state.skipped and self.state.line is not None:
            self.state.line["skipped_steps"] = self.state.skipped

    def _guarded(self, groups: list[Group], train: bool, idle: Collection[str] = ()) -> tuple[Tally, Scores]:
        try:
            return self.stepper.accumulate(groups, train, idle)
        except NonFiniteBatch as error:
            raise self._non_finite(error) from error

    def _tally(self, groups: list[Group]) -> tuple[Tally, Scores]:
        """A batch of held-out rows."""
        found = self._guarded(groups, train=False)
        self._announce("eval_batch")
        self._heartbeat("evaluating")
        return found

    def _finish_step(self, line: dict[str, Any]) -> None:
        """Evaluate if due, write the step's line, save a checkpoint if due."""
        is_last = self.state.step >= self.steps
        evaluation = self.evaluate(self.state) if self._due(self.config.eval.every, is_last) else Evaluation()
        if evaluation.metrics:
            line |= evaluation.metrics
            self._note(evaluation)
        self.state.line = None
        self.records.write(line)
        self.progress.update(self.state.step, line)
        self._heartbeat("training")
        if self.state.step and self._due(self.config.checkpoint.every, is_last):
            self._checkpoint()
        self._announce("step_end")
        if evaluation.exceeded and self.config.guard.stop and not is_last:
            self._stop_here("guard.stop=true", Guarded())

    def _due(self, every: int, is_last: bool) -> bool:
        return is_last or self.state.step == 0 or bool(every and self.state.step % every == 0)

    def _note(self, evaluation: Evaluation) -> None:
        """Keep an evaluation in mind, and the model if it is the best so far."""
        checkpoint = self.config.checkpoint
        if self.state.note(evaluation.metrics, checkpoint.metric, checkpoint.mode, not evaluation.exceeded):
            self._export(evaluation.metrics)

    # -- ending

    def _stop_if_asked(self) -> None:
        if self.world.any(self.stop.requested()):
            self._stop_here()

    def _stop_here(self, why: str = "stop requested", end: Exception | None = None) -> None:
        self.run.say(f"{why}: saving step {self.state.step}")
        self._checkpoint()
        self.progress.close()
        self.summarise("stopped")
        raise end or Stopped

    def _non_finite(self, error: NonFiniteBatch) -> NonFinite:
        """Save the rows on the ranks that have them, and say on every rank where they are."""
        step = self.state.step + (self.state.line is None)  # an evaluation is of the step that is done
        mine = None
        if error.groups:
            path = save_rows(self.run.dir / "failure", step, self.run.rank, error.groups)
            mine = f"rank {self.run.rank} wrote its {len(error.groups)} rows to {path}"
        saved = "; ".join(filter(None, self.world.gather(mine)))
        return NonFinite(f"step {step}: {error}; {saved}. Try a smaller algo.lr, model.dtype=fp32, or look at the rows")

    def summarise(self, status: str) -> None:
        if not self.run.is_main:
            return
        metrics = {name: getattr(self.state, name) for name in ("before", "best", "last")}
        mark = identity.fingerprint(self.config, **self.fingerprints)
        seconds = time.time() - self.started
        write_summary(self.run.dir, status, self.state.step, self.steps, metrics, mark, seconds)
        self.run.write_state(status, self.state.step, self.steps)
        print_summary(self.run, status, self.state.step, self.steps, metrics, seconds)

    def close(self) -> None:
        self.watchdog.stop()
        self.records.close()

    # -- small parts

    def _checkpoint(self) -> None:
        loop = {
            "phase": "train" if self.state.line is None else "evaluate",
            "data_order": {"seed": self.config.seed, "rows": len(self.data.train)},
            **asdict(self.state),
            "fingerprints": self.fingerprints,
        }
        self.records.sync()
        keep = self.config.checkpoint.keep_last
        save_checkpoint(self.run.dir, self.state.step, loop, self.engines, self.world, keep, self._announce)
        self.watchdog.alive()

    def _export(self, evaluation: dict[str, float]) -> None:
        about = {"step": self.state.step, **evaluation}
        card = model_card(self.config, about)
        folder, engine, model = self.run.dir / "model", self.engines[self.main], self.config.model
        export_model(folder, engine, self.tokenizer, self.chat, self.world, model, card, about)
        self.watchdog.alive()

    def _announce(self, event: str) -> None:
        for callback in self.callbacks:
            callback.on(event, self.state.step, self.run)

    def _heartbeat(self, phase: str) -> None:
        self.watchdog.alive()
        self.run.write_state(phase, self.state.step, self.steps)


def _instantiate(name: str, callback: Any) -> Any:
    try:
        return instantiate(callback)
    except InstantiationException as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise UserError(f"callbacks.{name}: cannot be made ({reason})") from error
