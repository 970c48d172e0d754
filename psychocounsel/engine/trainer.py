"""The one training loop; it is the same for all algorithms."""

import platform
import time
from contextlib import suppress
from typing import Any

import torch

from psychocounsel.algo.base import Algorithm
from psychocounsel.asking.budget import BudgetSpent
from psychocounsel.data.dataset import Dataset, build_dataset
from psychocounsel.data.group import Group
from psychocounsel.data.packing import packing_report
from psychocounsel.distributed.world import World
from psychocounsel.engine.callbacks import Callbacks
from psychocounsel.engine.engines import build_engines
from psychocounsel.engine.feed import Collector, Feed, OfflineFeed, mixed
from psychocounsel.engine.loop import Evaluator, HeldOutEvaluation, LoopState, OptimizerStep, StopRequest, Watchdog
from psychocounsel.engine.products import Products
from psychocounsel.engine.references import before_training, choose_reference
from psychocounsel.engine.rounds.held_out import HeldOutReplies, open_scored_rollout
from psychocounsel.engine.rounds.offloading import open_offloading
from psychocounsel.engine.rounds.round_feed import Unrewarded, open_rounds
from psychocounsel.engine.schedule import data_order
from psychocounsel.engine.sizing.micro_batch import micro_batch_tokens
from psychocounsel.engine.step import NonFiniteBatch, Scores, Stepper, Tally
from psychocounsel.engine.telemetry.progress import Progress
from psychocounsel.engine.telemetry.records import Phases, StepLog, opening_line
from psychocounsel.engine.telemetry.speed import Speed, gpu_names
from psychocounsel.errors import CONTINUE_LATER, DONE, GATE_NO, Guarded, NonFinite, Stopped, Unwritable, UserError
from psychocounsel.model.load import dropped_flags, weights_id
from psychocounsel.model.quiet import quiet_libraries
from psychocounsel.model.tokenizer import load_chat_format
from psychocounsel.remote.hub import set_cache_directories
from psychocounsel.rundir.results import accept
from psychocounsel.rundir.run import Run
from psychocounsel.settings import config as configs


class Trainer:
    """Holds all parts of a run's training: data, engines, feed, evaluation, checkpoints and records."""

    def __init__(self, run: Run) -> None:
        self.run, self.config = run, run.config
        self.phases = Phases(run)
        self.stop = StopRequest(run.dir, run.is_main)
        run.write_state("loading", 0, None)
        self.callbacks = Callbacks(run)
        self.algorithm: Algorithm = configs.build(run.config, "algo")
        self.main = self.algorithm.needs.main
        with self.phases("data"):
            self.data = self._read_data()
        self.world = World(run.rank, run.processes, 2 * run.config.engine.watchdog_minutes + 10)
        with self.phases("model"):
            self.engines = build_engines(run.config, self.algorithm, self.world, self.chat.tokenizer)
        if self.main == "policy" and (flags := dropped_flags(run.config.model)):
            run.say(
                f"generation_config.json of {run.config.model.path}: {', '.join(flags)} left out, as invalid together"
            )
        self.watchdog = Watchdog(run.config.engine.watchdog_minutes, run.log)
        batch, alive = run.config.global_batch_size, self.watchdog.alive
        self.stepper = Stepper(self.algorithm, self.engines, self.world, batch=batch, alive=alive)
        speed = Speed(self.engines[self.main], self.world)
        self.progress = Progress(run.is_main, run.log)
        self.state = LoopState(line={"step": 0, "attempt": run.attempt})
        self.offloading = open_offloading(self.stepper, run.config)
        with self.phases("reference and reward models" if self.algorithm.needs.rollouts else "reference model"):
            self.collector = self._collector(self.algorithm.needs.rollouts)
            self.feed = self._feed()
        with self.phases("micro-batch"):  # after all models are in memory
            self.stepper.budget = micro_batch_tokens(run, self.stepper, self.data.train)
        self.steps = self.feed.steps
        self.optimizer_step = OptimizerStep(run, self.stepper, self.collector, self.feed, speed)
        self.records = StepLog(run, self.feed.sample)
        self.evaluate = Evaluator(run, self.data, self.feed, self.collector, self._tally, self._alive_in_evaluation)
        opening = opening_line(self.data, self.algorithm.needs.data, self.steps, batch)
        for line in [opening, *self.data.few_prompts(self.config.data.dev_fraction != 0)]:
            run.say(line)
        if lengths := self.feed.lengths():
            run.say(packing_report(lengths, self.stepper.plan))
        self.started = time.time()

    def _read_data(self) -> Dataset:
        config = self.config
        _, self.chat = load_chat_format(config.model, scores=self.main == "reward_model")
        mixes = self.algorithm.offline_groups(config.global_batch_size) > 0
        self.algorithm.check_tokenizer(self.chat.tokenizer)
        data = build_dataset(config, self.chat, self.algorithm.needs.data, self.run.say, mixes)
        self.algorithm.check(data.train, data.held_out)
        if unrated := self.algorithm.unrated:
            self.run.say(f"no row rates {', '.join(unrated)}: these scores stay constant, with weight 0 in the reward")
        return data

    def _collector(self, rounds: bool) -> Collector:
        """Return the collector for rounds if `rounds`, otherwise for a dataset."""
        reference = choose_reference(self.run, self.stepper, self._alive_while_collecting, rounds)
        return Collector(self.run, self.stepper, reference)

    def _feed(self) -> Feed:
        config = self.config
        if not self.algorithm.needs.rollouts:
            order = data_order(config, self.data.rows, self.data.fresh, self.data.sets)
            return OfflineFeed(self.data, order, self.collector, self._held_out_replies())
        rounds = open_rounds(
            self.run,
            self.data,
            self.collector,
            self.chat,
            announce=self._announce,
            alive=self._alive_in_round,
            offloading=self.offloading,
        )
        if not self.algorithm.offline_groups(config.global_batch_size):
            return rounds
        return mixed(rounds, self.data, self._collector(rounds=False))

    def _held_out_replies(self) -> HeldOutReplies | None:
        """Return the writer of replies to held-out prompts; None if the run has no such prompts."""
        prompts = self.data.held_out_prompts
        if not prompts:
            return None
        writing = open_scored_rollout(
            self.run, prompts, self.stepper, self.chat, self._alive_in_evaluation, self.offloading
        )
        return HeldOutReplies(self.run, prompts, writing, before_training(self.stepper, self.config))

    # -- starting

    def restore(self) -> None:
        """Collect a dataset with the untrained policy, then load the newest checkpoint if there is one.

        Raises:
            UserError: if the processes read different data, the checkpoint is beyond the run's last step, or as in
                `Products.restore`.
            Stopped: after a stop request.
        """
        model, cache = self.config.model, self.config.paths.cache
        with self.phases("hash of the weights"):
            weights = self.world.from_main(lambda: weights_id(model, cache), self._alive_while_collecting)
        # before `start`, which may add replies to the rows that the run visits: a longer run visits more
        fingerprints = {"data": self.data.fingerprint(), "weights": weights}
        with self.phases("reference log-probabilities"):
            self.feed.start(weights)
        if len(set(self.world.gather(fingerprints["data"]))) > 1:
            raise UserError(
                "the processes of this run read different data: make sure that all nodes see the same files in data.*"
            )
        nodes = sorted(set(self.world.gather(platform.node())))
        self.products = Products(
            self.run,
            self.stepper,
            self.chat,
            steps=self.steps,
            fingerprints=fingerprints,
            started=self.started,
            phases=self.phases,
            announce=self.callbacks.announce,
        )
        with self.phases("checkpoint"):
            self.state = self.products.restore() or self.state
        if self.state.step > self.steps:
            raise UserError(
                f"{self.run.dir} is already at step {self.state.step}, but this run has only {self.steps} steps"
            )
        is_reference = self.algorithm.reference_kind in ("initial", "round")
        self.stepper.untrained = is_reference and not self.state.step
        if self.run.is_main:
            accept(self.run.dir)
            self.run.write_environment(nodes, gpu_names(self.world.device), torch.get_num_threads(), **fingerprints)
        self.records.open(self.state.written)

    def _alive_while_collecting(self) -> None:
        if self.world.any(self.stop.requested()):
            self.run.say(
                f"stop requested: nothing new to save; to resume, repeat the command with run_dir={self.run.dir}"
            )
            self.run.write_state("stopped", self.state.step, self.steps)
            raise Stopped
        self._heartbeat("collecting")

    def _alive_in_round(self) -> None:
        """Stop if asked, complete finished checkpoints and report progress, while a round is being made.

        A stop loses nothing of the round, because its finished shards are on disk. A round may take hours, so the
        checkpoint of the previous step is completed meanwhile.
        """
        self._stop_if_asked()
        self._settle(wait=False)
        self._heartbeat("collecting")

    def _alive_in_evaluation(self) -> None:
        self._stop_if_asked()
        self._heartbeat("evaluating")

    # -- the loop

    def fit(self) -> None:
        """Train to the last step and write the summary; if no evaluation chose a best model, export the last weights.

        Raises:
            Stopped: after a stop request, a spent budget or three rounds without rewards, with a checkpoint on disk.
            Guarded: after an evaluation beyond a limit of `guard`, if `guard.stop` is set, with a checkpoint on disk.
            NonFinite: for a NaN or infinite loss or gradient, with the batch's rows on disk.
            Unwritable: if a checkpoint cannot be written.
            UserError: if an evaluation has no metric `checkpoint.metric`, or a round cannot be made.
        """
        self.run.write_state("training", self.state.step, self.steps)
        self.progress.start(self.state.step, self.steps)
        try:
            self._take_steps()
        except BudgetSpent as spent:
            self.run.say(f"{spent}. The same command with a larger budget continues")
            self._stop_here("budget spent")
        except Unrewarded as obstacle:
            self.run.say(str(obstacle))
            self._stop_here("no rewards")
        except UserError:
            self._keep_saved()
            raise
        self.progress.close()
        if not self.state.best or self.world.any(self.run.is_main and not (self.run.files.model).exists()):
            if not self.state.best and any(
                value for name, value in self.state.last.items() if name.startswith("guard/")
            ):
                self.run.say("every evaluation exceeded a limit of guard: model/ holds the last weights")
            elif not self.state.best and not self._meets_limits(self.state.last):
                self.run.say("no evaluation met reward.at_least: model/ holds the last weights")
            self._export({})
            self._settle(wait=True)
        self.products.summarise("finished", self.state)

    def _take_steps(self) -> None:
        while True:
            if self.state.line is not None:
                with self.phases("evaluation"):
                    self._finish_step(self.state.line)
            if self.state.step >= self.steps or self.state.ended_early:
                break
            self._stop_if_asked()
            self._train_step()

    def _train_step(self) -> None:
        self.phases.ready()
        try:
            self.optimizer_step(self.state)
        except NonFiniteBatch as error:
            raise self.products.failed(error, self.state.step + 1) from error

    def _tally(self, groups: list[Group]) -> tuple[Tally, Scores]:
        """Return the terms and scores of a batch of held-out rows."""
        try:
            terms_and_scores = self.stepper.accumulate(groups, train=False)
        except NonFiniteBatch as error:
            raise self.products.failed(error, self.state.step) from error
        self._announce("eval_batch")
        return terms_and_scores

    def _finish_step(self, line: dict[str, Any]) -> None:
        """Evaluate if due, write the step's line, and save a checkpoint if due."""
        is_last = self.state.step >= self.steps
        evaluation = self.evaluate(self.state) if self._due(self.config.eval.every, is_last) else HeldOutEvaluation()
        if evaluation.metrics:
            line |= evaluation.metrics
            self._note(evaluation)
            reason = self.callbacks.eval_end(evaluation.metrics, self.state.step, self.world.gather)
            self.state.ended_early = "" if is_last else reason or self.state.out_of_patience(self.config.checkpoint)
        is_last = is_last or bool(self.state.ended_early)
        self.state.line = None
        self.records.write(line)
        self.progress.update(self.state.step, line)
        self._heartbeat("training")
        self._settle(wait=False)
        if self.state.step and self._checkpoint_is_due(is_last):
            self._checkpoint()
        if is_last:
            self._settle(wait=True)
        self._announce("step_end")
        if evaluation.exceeded and self.config.guard.stop:
            self._stop_here("guard.stop=true", Guarded())

    def _due(self, every: int, is_last: bool) -> bool:
        return is_last or self.state.step == 0 or bool(every and self.state.step % every == 0)

    def _checkpoint_is_due(self, is_last: bool) -> bool:
        return self._due(self.config.checkpoint.every, is_last) or self.products.checkpoints.overdue()

    def _note(self, evaluation: HeldOutEvaluation) -> None:
        """Record an evaluation, and export the model if it is the best so far."""
        checkpoint = self.config.checkpoint
        eligible = not evaluation.exceeded and self._meets_limits(evaluation.metrics)
        if self.state.note(evaluation.metrics, checkpoint.metric, checkpoint.mode, eligible):
            self._export(evaluation.metrics)

    def _meets_limits(self, figures: dict[str, float]) -> bool:
        return self.config.get("reward") is None or configs.build(self.config, "reward").meets_limits(figures)

    # -- ending

    def _stop_if_asked(self) -> None:
        if self.world.any(self.stop.requested()):
            self._stop_here()

    def _stop_here(self, why: str = "stop requested", end: Exception | None = None) -> None:
        self.run.say(f"{why}: saving step {self.state.step}")
        self.offloading.end()
        self._checkpoint()
        self._settle(wait=True)
        self.progress.close()
        self.products.summarise("stopped", self.state)
        raise end or Stopped

    def _keep_saved(self) -> None:
        """Complete the checkpoint in progress after an error.

        With several ranks this is skipped: other ranks may not have failed and would never take part.
        """
        if self.world.size == 1:
            with suppress(Unwritable):
                self._settle(wait=True)

    def close(self) -> None:
        self.progress.close()
        self.watchdog.stop()
        self.records.close()

    # -- small parts

    def _checkpoint(self) -> None:
        self.records.sync()
        self.products.checkpoint(self.state, self.data.rows)
        self.watchdog.alive()

    def _settle(self, wait: bool) -> None:
        self.products.checkpoints.settle(wait)
        self.watchdog.alive()

    def _export(self, evaluation: dict[str, float]) -> None:
        self.products.export(self.state.step, evaluation)
        self.watchdog.alive()

    def _announce(self, event: str) -> None:
        self.callbacks.announce(event, self.state.step)

    def _heartbeat(self, phase: str) -> None:
        self.watchdog.alive()
        self.run.write_state(phase, self.state.step, self.steps)


# Training as the worker runs it: its end becomes an exit code.


def train(run: Run) -> int:
    """Train as configured in `run.config`, from the start or the newest checkpoint; return the exit code.

    Raises:
        UserError: if the configuration, data or models cannot be used; `state.json` then says "failed".
    """
    set_cache_directories(run.config.paths.cache)
    quiet_libraries()
    trainer = None
    try:
        trainer = Trainer(run)
        trainer.restore()
        trainer.fit()
        trainer.world.close()  # only after a normal end: after another rank's failure, closing could wait for ever
        return DONE
    except Stopped:
        return CONTINUE_LATER
    except Unwritable as error:
        run.give_up(f"error: {error}", trainer.state.step if trainer else 0)
        return CONTINUE_LATER
    except Guarded:
        assert trainer is not None
        trainer.world.close()
        return GATE_NO
    except NonFinite as error:
        assert trainer is not None
        run.say(f"error: {error}")
        trainer.products.summarise("failed", trainer.state)
        return 1
    except torch.OutOfMemoryError:
        step, size = trainer.state.step if trainer else 0, run.config.micro_batch_tokens
        advice = f"give a smaller micro_batch_tokens (now {size}), or see docs/memory.md (If it does not fit)"
        run.give_up(f"error: out of GPU memory after step {step}: {advice}", step, "failed")
        return 1
    except BaseException:
        run.write_state("failed", trainer.state.step if trainer else 0, None)
        raise
    finally:
        if trainer:
            trainer.close()
