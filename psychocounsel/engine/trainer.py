"""The one training loop. It never asks which algorithm it runs."""

import time
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate

from psychocounsel import config as configs
from psychocounsel.algo.base import Algorithm
from psychocounsel.data.build import Dataset, build_dataset
from psychocounsel.data.group import Group
from psychocounsel.engine.checkpoint import load_checkpoint, save_checkpoint
from psychocounsel.engine.distributed import World
from psychocounsel.engine.export import export_model
from psychocounsel.engine.metrics import MetricsLog
from psychocounsel.engine.progress import Progress, quiet_libraries
from psychocounsel.engine.run import Run
from psychocounsel.engine.schedule import DataOrder, learning_rate, step_seed
from psychocounsel.engine.step import NonFiniteBatch, Stepper, save_rows
from psychocounsel.engine.stopping import StopRequest, Watchdog
from psychocounsel.engine.summary import print_summary, write_summary
from psychocounsel.engine.zero import Engine, deepspeed_config, weights_dtype
from psychocounsel.errors import CONTINUE_LATER, DONE, NonFinite, Stopped, UserError
from psychocounsel.model.load import load_causal_lm, load_chat_format, model_dtype, set_cache_directories, weights_id
from psychocounsel.model.policy import Policy
from psychocounsel.model.probe import check_packing


def train(run: Run) -> int:
    """Train as `run.config` says, from the start or from the newest checkpoint; returns the exit code."""
    quiet_libraries()
    set_cache_directories(run.config.paths.cache)
    trainer = Trainer(run)
    try:
        trainer.restore()
        trainer.fit()
        return DONE
    except Stopped:
        return CONTINUE_LATER
    except NonFinite as error:
        run.say(f"error: {error}")
        trainer.summarise("failed")
        return 1
    finally:
        trainer.close()


class Trainer:
    """State of the loop: `step` optimizer steps are done, `line` holds that step's metrics until they are written."""

    def __init__(self, run: Run) -> None:
        self.run, self.config = run, run.config
        self.stop = StopRequest(run.dir, run.is_main)
        run.write_state("loading", 0, None)
        self.algorithm: Algorithm = configs.build(run.config, "algo")
        self.tokenizer, self.chat = load_chat_format(run.config.model)
        self.data: Dataset = build_dataset(run.config, self.chat, self.algorithm.needs.data, run.say)
        self.order = DataOrder(
            len(self.data.train), run.config.global_batch_size, run.config.epochs, run.config.max_steps, run.config.seed
        )
        self.world = World(run.rank, run.processes)
        self.watchdog = Watchdog(run.config.engine.watchdog_minutes, run.log)
        self.engines = {"policy": self._build_policy()}
        budget, chunk = run.config.micro_batch_tokens, run.config.model.logits_chunk
        self.stepper = Stepper(self.algorithm, self.engines, self.world, budget, chunk)
        self.callbacks = [instantiate(callback) for callback in run.config.callbacks.values()]
        self.tracker: Any = configs.build(run.config, "tracker")
        self.progress = Progress(run.is_main)
        self.rng = np.random.default_rng([run.config.seed, 0])
        self.step = 0
        self.best: dict[str, Any] = {}
        self.before: dict[str, float] = {}
        self.last_evaluation: dict[str, float] = {}
        self.line: dict[str, Any] | None = {"step": 0, "attempt": run.attempt}
        self.started = time.time()

    def _build_policy(self) -> Engine:
        config = self.config
        torch.manual_seed(config.seed)
        torch.use_deterministic_algorithms(config.deterministic or self.world.device.type == "cpu", warn_only=True)
        self.dtype = model_dtype(config.model, self.world.device)
        zero3 = deepspeed_config(config, self.algorithm, self.dtype) if config.zero.stage == 3 else None
        lm = load_causal_lm(config.model, weights_dtype(config, self.dtype), zero3)
        policy = Policy(lm, config.model.path, self.algorithm.temperature)
        engine = Engine(policy, config, self.algorithm, self.dtype)
        engine.train(False)
        check_packing(policy, engine, self.dtype, self.world.device, config.model.path)
        return engine

    # -- what an algorithm's `collect` may use

    def logprobs(self, model: str, groups: list[Group]) -> list[list[np.ndarray]]:
        """Context.logprobs; the reference is the policy before its first step."""
        if model == "reference" and self.step:
            raise RuntimeError("reference log-probabilities are computed before the policy changes")
        self.engines["policy"].train(False)
        results: list[list[np.ndarray]] = []
        size = self.config.global_batch_size  # as in evaluation, so that margins before training are exactly zero
        for start in self.progress.bar(range(0, len(groups), size), f"{model} log-probabilities"):
            results += self.stepper.logprobs(groups[start : start + size])
            self._heartbeat("collecting")
        return results

    # -- starting

    def restore(self) -> None:
        """Collect the round's groups with the untouched policy, then load the newest checkpoint if there is one."""
        visited = self.order.visited()
        collected = self.algorithm.collect([self.data.train[index] for index in visited], self)
        for index, group in zip(visited, collected, strict=True):
            self.data.train[index] = group
        self.data.held_out = self.algorithm.collect(self.data.held_out, self)
        self.fingerprints = {"data": self.data.fingerprint(), "weights": weights_id(self.config.model)}
        loop = load_checkpoint(self.run.dir, self.engines)
        if loop is not None:
            self._restore_loop(loop)
        if self.run.is_main:
            self.run.write_environment(**self.fingerprints)
            self.metrics = MetricsLog(self.run.dir / "metrics.jsonl", self.step if self.line is None else self.step - 1)
            self.tracker.start(self.run.dir, self.config)
            for line in self.metrics.earlier:
                self._track(line)

    def _restore_loop(self, loop: dict[str, Any]) -> None:
        changed = [name for name, value in loop["fingerprints"].items() if self.fingerprints[name] != value]
        if changed:
            raise UserError(
                f"{self.run.dir}: the {' and the '.join(changed)} changed since this run began: "
                "restore them, or use another run_dir"
            )
        self.step, self.line = loop["step"], loop["line"]
        self.best, self.before, self.last_evaluation = loop["best"], loop["before"], loop["last_evaluation"]
        if self.line is not None:
            self.line["attempt"] = self.run.attempt
        self.run.say(f"going on from step {self.step} of {self.order.steps}")

    # -- the loop

    def fit(self) -> None:
        """Run to the last step, then export and summarise.

        Raises:
            Stopped: after a stop request, with a checkpoint on disk.
            NonFinite: for a NaN or infinite loss or gradient, with the batch's rows on disk.
        """
        self.run.write_state("training", self.step, self.order.steps)
        self.progress.start(self.step, self.order.steps)
        while True:
            if self.line is not None:
                self._finish_step(self.line)
            if self.step >= self.order.steps:
                break
            if self.world.any(self.stop.requested()):
                self._stop_here()
            self._train_step()
        self.progress.close()
        if not (self.run.dir / "model").exists() or not self.best:
            self._export(self.step, {})
        self.summarise("finished")

    def _train_step(self) -> None:
        started = time.perf_counter()
        groups = [self.data.train[index] for index in self.order.indices(self.step)]
        torch.manual_seed(step_seed(self.config.seed, self.step, self.world.rank))
        for engine in self.engines.values():
            engine.train(True)
        lr = learning_rate(self.algorithm, self.step, self.order.steps)
        try:
            metrics = self.stepper.accumulate(groups, train=True)
            norms = {name: engine.step(lr) for name, engine in self.engines.items()}
            if not all(np.isfinite(norm) for norm in norms.values()):
                raise NonFiniteBatch(f"the gradient norm is {norms}", groups if self.run.is_main else [])
        except NonFiniteBatch as error:
            raise self._non_finite(error) from error
        self.step += 1
        seconds, tokens = time.perf_counter() - started, sum(group.tokens for group in groups)
        self.line = {
            "step": self.step,
            "attempt": self.run.attempt,
            "loss": metrics.pop("loss"),
            "lr": lr,
            "grad_norm": norms["policy"],
            "tokens": tokens,
            "step_seconds": seconds,
            "tokens_per_second": tokens / seconds,
            "peak_memory_gb": _peak_memory_gb(),
            **metrics,
        }

    def _finish_step(self, line: dict[str, Any]) -> None:
        """Evaluate if due, write the step's line, save a checkpoint if due."""
        is_last = self.step >= self.order.steps
        if self._due(self.config.eval.every, is_last):
            line |= self._evaluate()
        self.line = None
        if self.run.is_main:
            self.metrics.write(line)
            self._track(line)
        self.progress.update(self.step, line)
        self._heartbeat("training")
        if self.step and self._due(self.config.checkpoint.every, is_last):
            self._checkpoint()
        self._announce("step_end")

    def _due(self, every: int, is_last: bool) -> bool:
        return is_last or self.step == 0 or bool(every and self.step % every == 0)

    def _evaluate(self) -> dict[str, float]:
        """Metrics of the held-out data as `eval/...`; exports the model if it is the best so far."""
        if not self.data.held_out:
            return {}
        for engine in self.engines.values():
            engine.train(False)
        size, rows = self.config.global_batch_size, 0
        sums: dict[str, float] = {}
        for start in range(0, len(self.data.held_out), size):
            if self.world.any(self.stop.requested()):
                self._stop_here()
            groups = self.data.held_out[start : start + size]
            with suppress(NonFiniteBatch):  # a diverged evaluation is a figure, not a failure: training will tell
                for name, value in self.stepper.accumulate(groups, train=False).items():
                    sums[name] = sums.get(name, 0.0) + value * len(groups)
                rows += len(groups)
            self._announce("eval_batch")
            self._heartbeat("evaluating")
        evaluation = {f"eval/{name.removeprefix('rewards/')}": total / rows for name, total in sums.items()}
        self._note_evaluation(evaluation)
        return evaluation

    def _note_evaluation(self, evaluation: dict[str, float]) -> None:
        self.last_evaluation = evaluation
        if self.step == 0:
            self.before = evaluation
            return
        metric = self.config.checkpoint.metric
        if metric not in evaluation:
            raise UserError(f"checkpoint.metric={metric}: the evaluation gives {', '.join(sorted(evaluation))}")
        if not self.best or self._is_better(evaluation[metric], self.best[metric]):
            self.best = {"step": self.step, **evaluation}
            self._export(self.step, evaluation)

    def _is_better(self, new: float, old: float) -> bool:
        mode = self.config.checkpoint.mode
        smaller = mode == "min" or (mode == "auto" and "loss" in self.config.checkpoint.metric)
        return new < old if smaller else new > old

    # -- ending

    def _stop_here(self) -> None:
        self.run.say(f"stop requested: saving step {self.step}")
        self._checkpoint()
        self.progress.close()
        self.summarise("stopped")
        raise Stopped

    def _non_finite(self, error: NonFiniteBatch) -> NonFinite:
        where = f"step {self.step + 1}, rank {self.run.rank}"
        saved = ""
        if error.groups:
            path = save_rows(self.run.dir / "failure", self.step + 1, self.run.rank, error.groups)
            saved = f"; the {len(error.groups)} rows are in {path}"
        return NonFinite(f"{where}: {error}{saved}. Try a smaller algo.lr, model.dtype=fp32, or look at the rows")

    def summarise(self, status: str) -> None:
        if not self.run.is_main:
            return
        metrics = {"before": self.before, "best": self.best, "last": self.last_evaluation}
        mark = configs.fingerprint(self.config, **self.fingerprints)
        seconds = time.time() - self.started
        write_summary(self.run.dir, status, self.step, self.order.steps, metrics, mark, seconds)
        self.run.write_state(status, self.step, self.order.steps)
        print_summary(self.run, status, self.step, self.order.steps, metrics, seconds)

    def close(self) -> None:
        self.watchdog.stop()
        if self.run.is_main and hasattr(self, "metrics"):
            self.metrics.sync()
            self.tracker.finish()
        self.world.close()

    # -- small parts

    def _checkpoint(self) -> None:
        loop = {
            "round": 0,
            "phase": "train" if self.line is None else "evaluate",
            "minibatch": 0,
            "data_order": {"seed": self.config.seed, "rows": self.order.rows},
            "line": self.line,
            "best": self.best,
            "before": self.before,
            "last_evaluation": self.last_evaluation,
            "fingerprints": self.fingerprints,
        }
        if self.run.is_main:
            self.metrics.sync()
        keep = self.config.checkpoint.keep_last
        save_checkpoint(self.run.dir, self.step, loop, self.engines, self.world, keep, self._announce)

    def _export(self, step: int, evaluation: dict[str, float]) -> None:
        about = {"step": step, "base": self.config.model.path, **evaluation}
        folder, policy = self.run.dir / "model", self.engines["policy"]
        export_model(folder, policy, self.dtype, self.tokenizer, self.chat, self.world, about)

    def _track(self, line: dict[str, Any]) -> None:
        numbers = {name: value for name, value in line.items() if name not in ("step", "attempt")}
        if numbers:
            self.tracker.log(line["step"], numbers)

    def _announce(self, event: str) -> None:
        for callback in self.callbacks:
            callback.on(event, self.step, self.run)

    def _heartbeat(self, phase: str) -> None:
        self.watchdog.alive()
        self.run.write_state(phase, self.step, self.order.steps)


def _peak_memory_gb() -> float:
    """Peak memory of this process so far: of the GPU if it uses one, else resident in RAM; in 10^9 bytes."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 1e9
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
