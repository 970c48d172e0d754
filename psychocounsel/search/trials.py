"""Journal of a search's trials, shared by their jobs; the callback that reports to it, and the report of the best trial."""

import copy
import hashlib
import json
import math
import os
import shlex
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf, open_dict

from psychocounsel.engine.callbacks import Callback
from psychocounsel.errors import CONTINUE_LATER, DONE, GATE_NO, UserError
from psychocounsel.rundir.identity import defining
from psychocounsel.rundir.paths import SweepDir
from psychocounsel.rundir.results import is_finished, objective, objective_interval, read_summary, smaller_is_better
from psychocounsel.rundir.run import Run
from psychocounsel.settings.sweep import written
from psychocounsel.storage.files import point, write_json
from psychocounsel.storage.locks import held, taken
from psychocounsel.storage.text_hashes import seed_of

# The journal is an optuna study in a file of the sweep's folder. No process has to keep running: each job gets its values
# when it starts and reports its result when it ends. Lock files work on NFS; the lock of a killed job is taken over.

_STUDY = "search"  # each file holds one study
_RUN = "run"  # optuna's user attribute with the name of a trial's run directory


def require_optuna() -> None:
    """Check that optuna is installed.

    Raises:
        UserError: with the command that installs it.
    """
    if find_spec("optuna") is None:
        raise UserError("hydra/sweeper=optuna: optuna is not installed; pip install 'psychocounsel[search]'")


def journal_mark(config: DictConfig) -> str:
    """Return a hash that identifies a search: of everything that defines its trials except their numbers."""
    plain: Any = copy.deepcopy(OmegaConf.to_container(config))
    for recipe in plain["settled"].values():
        recipe.pop("trial", None)
    return hashlib.sha256(json.dumps(defining(plain), sort_keys=True).encode()).hexdigest()[:8]


def name_journal(config: DictConfig) -> None:
    """Write the journal's name into a trial's recipes, so that the folder may be moved."""
    recipes = [recipe for recipe in (config.get("settled") or {}).values() if "trial" in recipe]
    if recipes:
        mark = journal_mark(config)
        with open_dict(config):
            for recipe in recipes:
                recipe.setdefault("journal", mark)


def journal_of(run_dir: Path, config: DictConfig) -> "TrialJournal":
    """Return the journal of the search to which this trial's run belongs."""
    recipes = {str(key): dict(recipe) for key, recipe in config.settled.items() if "trial" in recipe}
    mark = next(iter(recipes.values()))["journal"]
    smaller = smaller_is_better(config.checkpoint.metric, config.checkpoint.mode)
    return TrialJournal(SweepDir(run_dir.parent).journal(mark), recipes, config.checkpoint.metric, smaller)


class TrialJournal:
    """Trials of one search. Runs are compared by `metric`; `smaller` is True if the smallest value is the best."""

    def __init__(self, path: Path, recipes: Mapping[str, Mapping[str, Any]], metric: str, smaller: bool) -> None:
        require_optuna()
        self.path, self.recipes, self.metric, self.smaller = path, recipes, metric, smaller

    @cached_property
    def storage(self) -> Any:
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        with _quiet():
            return JournalStorage(JournalFileBackend(str(self.path), _journal_lock(self.path)))

    @cached_property
    def study(self) -> Any:
        import optuna

        with _quiet():
            direction: Literal["minimize", "maximize"] = "minimize" if self.smaller else "maximize"
            return optuna.create_study(
                storage=self.storage, study_name=_STUDY, direction=direction, load_if_exists=True
            )

    def ask(self, run_dir: Path) -> dict[str, Any]:
        """Return the values of the run's trial by key: those that it already has, or new ones.

        Trial n of the journal draws its values with its own generator, seeded by the search's seed and n, so the values
        do not depend on the process. Results of earlier trials count; running trials are treated as bad ones.
        """
        from optuna.trial import TrialState

        with held(self.path.with_suffix(".asking")):
            self._tell_finished(run_dir.parent)
            trial = self._trial(run_dir.name)
            if trial is not None and trial.state == TrialState.FAIL:
                trial = self._renewed(trial)
            trial = trial or self._unclaimed() or self._new()
            self.storage.set_trial_user_attr(self._id(trial.number), _RUN, run_dir.name)
            return dict(trial.params)

    def tell(self, run_dir: Path, code: int) -> None:
        """Record the end of the run by its exit code. If a `guard` limit stopped the run, its best evaluation counts."""
        trial = self._trial(run_dir.name)
        if trial is None or code == CONTINUE_LATER:
            return
        if code in (DONE, GATE_NO):
            self._tell(trial, run_dir)
        else:
            self.fail(run_dir)

    def fail(self, run_dir: Path) -> None:
        """Record that the run failed."""
        from optuna.trial import TrialState

        trial = self._trial(run_dir.name)
        if trial is not None and not trial.state.is_finished():
            with _quiet():
                self.study.tell(trial.number, state=TrialState.FAIL)

    def begin_again(self, run_dir: Path) -> None:
        """Reopen the trial of a failed run that is resumed, with its values and evaluations."""
        from optuna.trial import TrialState

        trial = self._trial(run_dir.name)
        if trial is not None and trial.state == TrialState.FAIL:
            with held(self.path.with_suffix(".asking")):
                self._renewed(trial)

    def report(self, run_dir: Path, value: float, step: int, pruner: str) -> bool:
        """Record an evaluation; return True if the search prunes the trial."""
        trial = self._trial(run_dir.name)
        if trial is None or trial.state.is_finished():
            return False
        with _quiet():
            if step not in trial.intermediate_values:
                self.storage.set_trial_intermediate_value(self._id(trial.number), step, value)
            self.study.pruner = _pruner(pruner)
            return bool(self.study.pruner.prune(self.study, self._trial(run_dir.name)))

    def results(self, folder: Path) -> list[Any]:
        """Return optuna's newest record of each run in `folder`, after recording all finished runs."""
        if not self.path.exists():
            return []
        with held(self.path.with_suffix(".asking")):
            self._tell_finished(folder)
        newest = {trial.user_attrs.get(_RUN, trial.number): trial for trial in self._trials()}
        return sorted(newest.values(), key=lambda trial: trial.number)

    def run_of(self, trial: Any, folder: Path) -> Path:
        return folder / str(trial.user_attrs[_RUN])

    # -- helpers

    def _new(self) -> Any:
        from optuna.samplers import TPESampler

        seed = next(iter(self.recipes.values()))["seed"]
        with _quiet():
            self.study.sampler = TPESampler(seed=trial_seed(seed, len(self._trials())), constant_liar=True)
            trial = self.study.ask({key: distribution(recipe) for key, recipe in self.recipes.items()})
        return self._trials()[trial.number]

    def _renewed(self, trial: Any) -> Any:
        """Replace a failed trial by a running copy, because optuna cannot reopen an ended trial."""
        from optuna.trial import TrialState, create_trial

        more = {"user_attrs": trial.user_attrs, "intermediate_values": trial.intermediate_values}
        common = {"params": trial.params, "distributions": trial.distributions}
        with _quiet():
            self.study.add_trial(create_trial(state=TrialState.RUNNING, **common, **more))
        return self._trial(trial.user_attrs[_RUN])

    def _trial(self, run: str) -> Any:
        """Return the newest trial of a run, or None."""
        return next((trial for trial in reversed(self._trials()) if trial.user_attrs.get(_RUN) == run), None)

    def _unclaimed(self) -> Any:
        """Return a trial whose job was killed before it recorded its run; mark trials without all values as failed."""
        from optuna.trial import TrialState

        for trial in self._trials():
            if _RUN not in trial.user_attrs and not trial.state.is_finished():
                if trial.params.keys() == self.recipes.keys():
                    return trial
                self.study.tell(trial.number, state=TrialState.FAIL)
        return None

    def _tell_finished(self, folder: Path) -> None:
        """Record the results of runs that were killed after their end but before they reported it."""
        for trial in self._trials():
            if _RUN in trial.user_attrs and not trial.state.is_finished() and is_finished(self.run_of(trial, folder)):
                self._tell(trial, self.run_of(trial, folder))

    def _tell(self, trial: Any, run_dir: Path) -> None:
        from optuna.trial import TrialState

        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
            return
        value = objective(run_dir, self.metric)
        is_good = value is not None and math.isfinite(value)
        is_pruned = is_good and bool(read_summary(run_dir).get("ended_early"))
        state = TrialState.PRUNED if is_pruned else TrialState.COMPLETE if is_good else TrialState.FAIL
        if trial.state == TrialState.FAIL:
            if not is_good:
                return
            trial = self._renewed(trial)
        with _quiet():
            self.study.tell(trial.number, value if state == TrialState.COMPLETE else None, state=state)

    def _trials(self) -> list[Any]:
        trials: list[Any] = self.study.get_trials(deepcopy=False)
        return trials

    def _id(self, number: int) -> int:
        study: int = self.storage.get_study_id_from_name(_STUDY)
        trial_id: int = self.storage.get_trial_id_from_study_id_trial_number(study, number)
        return trial_id


def trial_seed(seed: int, number: int) -> int:
    """Return the seed of trial `number` in a search with `seed`."""
    return seed_of(f"{seed} {number}")


def distribution(recipe: Mapping[str, Any]) -> Any:
    """Return optuna's distribution for a recipe."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if "choices" in recipe:
        return CategoricalDistribution(list(recipe["choices"]))
    low, high, log, step = (recipe[name] for name in ("low", "high", "log", "step"))
    if isinstance(low, int):
        return IntDistribution(low, high, log=log, step=step or 1)
    return FloatDistribution(low, high, log=log, step=step)


def _pruner(name: str) -> Any:
    from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner

    return {"median": MedianPruner, "hyperband": HyperbandPruner, "none": NopPruner}[name]()


def _journal_lock(journal: Path) -> Any:
    """Return our lock with optuna's interface; it also removes a line that a killed process wrote only partly."""

    class JournalLock:
        def acquire(self) -> bool:
            self.held = taken(journal.with_suffix(".writing"))
            content = journal.read_bytes() if journal.exists() else b""
            if content and not content.endswith(b"\n"):
                os.truncate(journal, content.rfind(b"\n") + 1)
            return True

        def release(self) -> None:
            self.held.release()

    return JournalLock()


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress optuna's progress messages and its warnings about experimental options."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# Report of the best trial.


def mark_best(journal: TrialJournal, folder: Path, fixed: Sequence[str]) -> list[str]:
    """Link `folder/best` to the best run, write `best.json`, and return lines for the user.

    `fixed` holds the overrides that were not searched. Pruned trials do not count; without a finished trial nothing is
    written.
    """
    trials = journal.results(folder)
    counts = Counter(trial.state.name for trial in trials)
    done = [trial for trial in trials if trial.state.name == "COMPLETE"]
    summary = ", ".join(f"{count} {_WORDS[name]}" for name, count in counts.items())
    if not done:
        return [f"search: {summary or 'no trial has started'}"]
    sign = 1 if journal.smaller else -1
    ranked = sorted(done, key=lambda trial: (sign * trial.value, trial.number))
    best = journal.run_of(ranked[0], folder)
    mode = "min" if journal.smaller else "max"
    chosen = {"run": best.name, "setting": ranked[0].params, "value": ranked[0].value}
    rows = [{"setting": trial.params, "mean": trial.value, "runs": [_row(journal, trial, folder)]} for trial in ranked]
    write_json(
        SweepDir(folder).best_record, {"metric": journal.metric, "mode": mode, "chosen": chosen, "settings": rows}
    )
    point(SweepDir(folder).best, best.name)
    lasting = [text for text in fixed if not text.startswith(("sweep_dir=", "dry_run="))]
    values = [f"{key}={written(value)}" for key, value in ranked[0].params.items()]
    return [
        f"search: {summary}",
        f"best by {journal.metric}: {ranked[0].value:.4g}{objective_interval(best, journal.metric)} in {best}",
        f"train with its values: psychocounsel train {shlex.join([*lasting, *values])}",
    ]


_WORDS = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "unfinished", "WAITING": "waiting"}


def _row(journal: TrialJournal, trial: Any, folder: Path) -> dict[str, Any]:
    return {"run": journal.run_of(trial, folder).name, "value": trial.value}


# Callback of the trials: it reports evaluations, and ends a run that the search prunes.


@dataclass
class TrialReport(Callback):
    """Compares `checkpoint.metric` with that of other trials by optuna's `pruner`: median, hyperband or none."""

    pruner: str

    def eval_end(self, metrics: dict[str, float], step: int, run: Run) -> str | None:
        if not run.is_main or not step:
            return None
        if any(value for name, value in metrics.items() if name.startswith("guard/")):
            return None  # no trial's result comes from such an evaluation
        metric = run.config.checkpoint.metric
        gives_up = journal_of(run.dir, run.config).report(run.dir, metrics[metric], step, self.pruner)
        return f"pruned at step {step}: other trials were better by {metric}" if gives_up else None
