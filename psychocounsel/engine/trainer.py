"""The one training loop. It never asks which algorithm it runs."""

import platform
import time
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from psychocounsel import config as configs
from psychocounsel import identity
from psychocounsel.algo.base import Algorithm
from psychocounsel.data.build import Dataset, build_dataset
from psychocounsel.data.group import Group
from psychocounsel.data.packing import packing_report
from psychocounsel.engine.build import build_critic, build_engine
from psychocounsel.engine.card import model_card
from psychocounsel.engine.checkpoint import load_checkpoint, save_checkpoint
from psychocounsel.engine.collect import Collector
from psychocounsel.engine.distributed import World
from psychocounsel.engine.export import export_model, kept_model
from psychocounsel.engine.feed import Feed, OfflineFeed
from psychocounsel.engine.fit import micro_batch_tokens
from psychocounsel.engine.metrics import MetricsLog, peak_memory_gb
from psychocounsel.engine.progress import Progress, quiet_libraries
from psychocounsel.engine.rounds import open_rounds
from psychocounsel.engine.run import Run
from psychocounsel.engine.schedule import DataOrder, learning_rate, step_seed
from psychocounsel.engine.speed import Speed
from psychocounsel.engine.state import LoopState
from psychocounsel.engine.step import NonFiniteBatch, Scores, Stepper, Tally, metrics_of, save_rows
from psychocounsel.engine.stopping import StopRequest, Watchdog
from psychocounsel.engine.summary import print_summary, write_summary
from psychocounsel.errors import CONTINUE_LATER, DONE, NonFinite, Stopped, UserError
from psychocounsel.hub import set_cache_directories
from psychocounsel.model.load import load_chat_format, weights_id


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
        self.data: Dataset = build_dataset(run.config, self.chat, self.algorithm.needs.data, run.say)
        self.algorithm.check(self.data.train, self.data.held_out)
        self.world = World(run.rank, run.processes, 2 * run.config.engine.watchdog_minutes + 10)
        self.engines = {self.main: build_engine(run.config, self.algorithm, self.world, self.tokenizer)}
        if "critic" in self.algorithm.needs.models:
            self.engines["critic"] = build_critic(run.config, self.algorithm, self.world, self.tokenizer)
        self.watchdog = Watchdog(run.config.engine.watchdog_minutes, run.log)
        budget = micro_batch_tokens(run, self.engines[self.main], self.data.train, self.world)
        self.stepper = Stepper(self.algorithm, self.engines, self.world, budget)
        self.speed = Speed(self.engines[self.main], self.world)
        self.tracker: Any = configs.build(run.config, "tracker")
        self.metrics: MetricsLog | None = None  # rank 0 has one, once it knows where the run stands
        self.progress = Progress(run.is_main)
        self.state = LoopState(line={"step": 0, "attempt": run.attempt})
        self.collector = Collector(run, self.algorithm, self.stepper, self.world, self._alive_while_collecting)
        self.feed = self._feed()
        self.steps = self.feed.steps
        if lengths := self.feed.lengths():
            run.say(packing_report(lengths, self.stepper.plan))
        self.started = time.time()

    def _feed(self) -> Feed:
        config = self.config
        if self.algorithm.needs.rollouts:
            more = (self.tokenizer, self.chat, self._announce, self._alive_in_round)
            return open_rounds(self.run, self.data, self.collector, *more)
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
            self.tracker.start(self.run.dir, self.config)
            self.metrics = MetricsLog(self.run.dir / "metrics.jsonl", self.state.written)
            for line in self.metrics.earlier:
                self._track(line)

    def _alive_while_collecting(self) -> None:
        if self.world.any(self.stop.requested()):
            self.run.say("stop requested: nothing new to save yet")
            self.run.write_state("stopped", self.state.step, self.steps)
            raise Stopped
        self._heartbeat("collecting")

    def _alive_in_round(self) -> None:
        """What is done of a round is on disk, so a stop there saves the step before it."""
        if self.world.any(self.stop.requested()):
            self._stop_here()
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
            if self.world.any(self.stop.requested()):
                self._stop_here()
            self._train_step()
        self.progress.close()
        if not self.state.best or self.world.any(self.run.is_main and not (self.run.dir / "model").exists()):
            self._export({})
        self.summarise("finished")

    def _train_step(self) -> None:
        started, self.stepper.data_seconds = time.perf_counter(), 0.0
        groups = self.feed.groups(self.state.step)
        lr = learning_rate(self.algorithm, self.state.step, self.steps)
        of_round = self.feed.metrics(self.state.step)
        if not groups:
            self.state.step += 1
            self.state.line = {"step": self.state.step, "attempt": self.run.attempt, "lr": lr, "groups": 0, **of_round}
            return
        groups = self.algorithm.batch_groups(groups, self.collector)
        torch.manual_seed(step_seed(self.config.seed, self.state.step, self.world.rank))
        for engine in self.engines.values():
            engine.train(True)
        metrics = metrics_of(self._guarded(groups, train=True)[0])
        norms = {name: engine.step(lr * self.algorithm.lr_factor(name)) for name, engine in self.engines.items()}
        if not all(np.isfinite(norm) for norm in norms.values()):
            raise self._non_finite(NonFiniteBatch(f"the gradient norm is {norms}", groups if self.run.is_main else []))
        self.stepper.untrained = False
        self.state.step += 1
        seconds = time.perf_counter() - started
        self.state.line = {
            "step": self.state.step,
            "attempt": self.run.attempt,
            "loss": metrics.pop("loss"),
            "lr": lr,
            "grad_norm": norms[self.main],
            **self.speed.of(groups, seconds),
            "data_seconds": self.stepper.data_seconds,
            "peak_memory_gb": peak_memory_gb(),
            **metrics,
            **of_round,
        }

    def _guarded(self, groups: list[Group], train: bool) -> tuple[Tally, Scores]:
        try:
            return self.stepper.accumulate(groups, train)
        except NonFiniteBatch as error:
            raise self._non_finite(error) from error

    def _finish_step(self, line: dict[str, Any]) -> None:
        """Evaluate if due, write the step's line, save a checkpoint if due."""
        is_last = self.state.step >= self.steps
        if self._due(self.config.eval.every, is_last):
            line |= self._evaluate()
        self.state.line = None
        if self.metrics is not None:
            self.metrics.write(line)
            self._track(line)
        self.progress.update(self.state.step, line)
        self._heartbeat("training")
        if self.state.step and self._due(self.config.checkpoint.every, is_last):
            self._checkpoint()
        self._announce("step_end")

    def _due(self, every: int, is_last: bool) -> bool:
        return is_last or self.state.step == 0 or bool(every and self.state.step % every == 0)

    def _evaluate(self) -> dict[str, float]:
        """Metrics of the held-out data as `eval/...`; exports the model if it is the best so far."""
        if not self.data.held_out:
            return {}
        for engine in self.engines.values():
            engine.train(False)
        evaluation = self.feed.evaluate(self.state.step)
        if evaluation is None:
            evaluation = self._evaluate_rows()
        if self.state.note(evaluation, self.config.checkpoint.metric, self.config.checkpoint.mode):
            self._export(evaluation)
        return evaluation

    def _evaluate_rows(self) -> dict[str, float]:
        """The loss and its metrics over the held-out rows."""
        size = self.config.global_batch_size
        tally: Tally = {}
        scores: Scores = []
        for start in range(0, len(self.data.held_out), size):
            if self.world.any(self.stop.requested()):
                self._stop_here()
            groups = self.algorithm.batch_groups(self.data.held_out[start : start + size], self.collector)
            part, some = self._guarded(groups, train=False)
            scores += some
            tally = {name: tally[name] + term if name in tally else term for name, term in part.items()}
            self._announce("eval_batch")
            self._heartbeat("evaluating")
        metrics = metrics_of(tally) | (self.algorithm.evaluation(self.data.held_out, scores) if scores else {})
        return {f"eval/{name.removeprefix('rewards/')}": value for name, value in metrics.items()}

    # -- ending

    def _stop_here(self) -> None:
        self.run.say(f"stop requested: saving step {self.state.step}")
        self._checkpoint()
        self.progress.close()
        self.summarise("stopped")
        raise Stopped

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
        if self.metrics is not None:
            self.metrics.sync()
            self.tracker.finish()

    # -- small parts

    def _checkpoint(self) -> None:
        loop = {
            "round": 0,  # offline data are one round, without minibatches of its own
            "minibatch": 0,
            "phase": "train" if self.state.line is None else "evaluate",
            "data_order": {"seed": self.config.seed, "rows": len(self.data.train)},
            **asdict(self.state),
            "fingerprints": self.fingerprints,
        }
        if self.metrics is not None:
            self.metrics.sync()
        keep = self.config.checkpoint.keep_last
        save_checkpoint(self.run.dir, self.state.step, loop, self.engines, self.world, keep, self._announce)
        self.watchdog.alive()

    def _export(self, evaluation: dict[str, float]) -> None:
        about = {"step": self.state.step, **evaluation}
        card = model_card(self.config, about)
        folder, engine, model = self.run.dir / "model", self.engines[self.main], self.config.model
        export_model(folder, engine, self.tokenizer, self.chat, self.world, model, card, about)
        self.watchdog.alive()

    def _track(self, line: dict[str, Any]) -> None:
        numbers = {name: value for name, value in line.items() if name not in ("step", "attempt")}
        if numbers:
            self.tracker.log(line["step"], numbers)

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
