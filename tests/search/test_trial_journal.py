"""Trials through a journal: values and pruning equal those of optuna itself, whichever process is killed."""

import json
import os
import shlex
import signal
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest

from psychocounsel.errors import CONTINUE_LATER, DONE
from psychocounsel.rundir.results import write_summary
from psychocounsel.search.trials import TrialJournal, TrialReport, distribution, mark_best, trial_seed
from psychocounsel.storage.files import read_json
from tests.support.processes import FORKED

SPACE: dict[str, dict[str, Any]] = {
    "algo.beta": {"low": 0.01, "high": 1.0, "log": True, "step": None},
    "algo.loss_type": {"choices": ["sigmoid", "ipo"]},
    "data.limit": {"low": 2, "high": 9, "log": False, "step": None},
}


def journal(folder: Path, seed: int = 3) -> TrialJournal:
    """Open the journal as a separate process would."""
    folder.mkdir(exist_ok=True)
    recipes = {key: {"trial": 0, "seed": seed, **recipe} for key, recipe in SPACE.items()}
    return TrialJournal(folder / "search-x.journal", recipes, "eval/loss", True)


def loss(values: dict[str, Any]) -> float:
    return abs(values["algo.beta"] - 0.2) + 0.1 * values["data.limit"] + (values["algo.loss_type"] == "ipo")


def finish(run: Path, value: float, **more: Any) -> None:
    run.mkdir(exist_ok=True)
    write_summary(run, "finished", metrics={"before": {}, "best": {"eval/loss": value, "step": 2}, "last": {}}, **more)


def plain_study() -> optuna.Study:
    return optuna.create_study(direction="minimize")


@pytest.mark.filterwarnings("ignore")
def test_trials_in_processes_of_their_own_get_what_one_process_of_optuna_proposes(tmp_path: Path) -> None:
    study, expected = plain_study(), []
    distributions = {key: distribution(recipe) for key, recipe in SPACE.items()}
    for number in range(16):  # more than the random trials at TPE's start
        study.sampler = optuna.samplers.TPESampler(seed=trial_seed(3, number), constant_liar=True)
        trial = study.ask(distributions)
        expected.append(dict(trial.params))
        study.tell(trial, loss(trial.params))
    found = []
    for number in range(16):
        run = tmp_path / f"trial-{number:03d}"
        found.append(journal(tmp_path).ask(run))
        finish(run, loss(found[-1]))
        journal(tmp_path).tell(run, DONE)
    assert found == expected
    assert len({json.dumps(values) for values in found}) == 16
    assert journal(tmp_path / "other", seed=4).ask(tmp_path / "other" / "trial-000") != found[0]


def test_a_trial_that_asks_again_keeps_its_values(tmp_path: Path) -> None:
    values = journal(tmp_path).ask(tmp_path / "trial-000")
    journal(tmp_path).tell(tmp_path / "trial-000", CONTINUE_LATER)
    other = journal(tmp_path).ask(tmp_path / "trial-001")
    assert journal(tmp_path).ask(tmp_path / "trial-000") == values != other
    assert len(journal(tmp_path).results(tmp_path)) == 2


def _die_while_asking(folder: Path, writes: int) -> None:
    """Ask for values and get killed before this line of the journal is written."""
    mine, count = journal(folder), [0]
    backend = mine.storage._backend
    append = backend.append_logs

    def killed(logs: Any) -> None:
        count[0] += 1
        if count[0] == writes:
            with open(backend._file_path, "ab") as file:
                file.write(json.dumps(logs[0]).encode()[:20])  # an incomplete line
            os.kill(os.getpid(), signal.SIGKILL)
        append(logs)

    backend.append_logs = killed
    mine.ask(folder / "trial-001")


@pytest.mark.parametrize("writes", [1, 2, 3, 4, 5])
def test_killed_at_any_line_of_its_request_it_asks_again_and_nobody_waits(writes: int, tmp_path: Path) -> None:
    first = journal(tmp_path).ask(tmp_path / "trial-000")
    process: BaseProcess = FORKED.Process(target=_die_while_asking, args=(tmp_path, writes))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    values = journal(tmp_path).ask(tmp_path / "trial-001")
    assert values.keys() == SPACE.keys() and values != first
    assert journal(tmp_path).ask(tmp_path / "trial-000") == first
    running = [trial for trial in journal(tmp_path).results(tmp_path) if trial.state.name == "RUNNING"]
    assert [trial.user_attrs["run"] for trial in running] == ["trial-000", "trial-001"]


PLANTED = [[0.5, 0.4, 0.3], [0.6, 0.5, 0.2], [0.4, 0.4, 0.4], [0.7, 0.3, 0.3], [0.5, 0.5, 0.5]]
LATER = [[0.9, 0.2, 0.1], [0.3, 0.9, 0.9], [0.5, 0.45, 0.45], [0.55, 0.9, 0.1], [0.45, 0.3, 0.6]]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("pruner", ["median", "hyperband", "none"])
def test_planted_evaluations_are_pruned_where_optuna_prunes(pruner: str, tmp_path: Path) -> None:
    own = {"median": optuna.pruners.MedianPruner, "hyperband": optuna.pruners.HyperbandPruner}
    study = optuna.create_study(study_name="search", pruner=own.get(pruner, optuna.pruners.NopPruner)())
    verdicts = []
    for number, values in enumerate([*PLANTED, *LATER]):
        run, trial = tmp_path / f"trial-{number:03d}", study.ask()
        journal(tmp_path).ask(run)
        pruned = False
        for step, value in enumerate(values, 1):
            trial.report(value, step)
            pruned = trial.should_prune()
            assert journal(tmp_path).report(run, value, step, pruner) == pruned, f"trial {number}, step {step}"
            if pruned:
                break
        verdicts.append(pruned)
        study.tell(trial, None if pruned else min(values), state=optuna.trial.TrialState.PRUNED if pruned else None)
        finish(run, min(values), **({"ended_early": "pruned"} if pruned else {}))
        journal(tmp_path).tell(run, DONE)
    assert any(verdicts) == (pruner != "none") and not all(verdicts)
    states = [trial.state.name for trial in journal(tmp_path).results(tmp_path)]
    assert states == ["PRUNED" if pruned else "COMPLETE" for pruned in verdicts]


def test_an_evaluation_beyond_a_limit_of_guard_prunes_no_other_trial(tmp_path: Path) -> None:
    callback = TrialReport(pruner="median")
    broken = {"eval/reward": 9.0, "guard/kl": 1.0}
    assert callback.eval_end(broken, 5, SimpleNamespace(is_main=True, dir=tmp_path)) is None  # type: ignore[arg-type]
    assert not journal(tmp_path).results(tmp_path), "nothing was reported"


def test_ends_are_told_once_and_the_best_is_marked(tmp_path: Path) -> None:
    names = [f"trial-{number:03d}" for number in range(6)]
    values = [journal(tmp_path).ask(tmp_path / name) for name in names]
    finish(tmp_path / names[0], 0.5)
    finish(tmp_path / names[1], 0.3)
    finish(tmp_path / names[2], 0.1, ended_early="pruned")  # pruned, so not a candidate
    journal(tmp_path).report(tmp_path / names[2], 0.1, 1, "none")
    finish(tmp_path / names[3], float("nan"))
    for name in names[1:4]:
        journal(tmp_path).tell(tmp_path / name, DONE)
        journal(tmp_path).tell(tmp_path / name, DONE)
    journal(tmp_path).fail(tmp_path / names[4])
    lines = mark_best(journal(tmp_path), tmp_path, ["debug=fast", "data.path='a b'", "sweep_dir=x"])
    assert lines[0] == "search: 2 finished, 1 pruned, 2 failed, 1 unfinished", "the first ended without reporting"
    assert (tmp_path / "best").resolve().name == names[1]
    *typed, beta, kind, limit = shlex.split(lines[2])
    assert typed[-3:] == ["train", "debug=fast", "data.path='a b'"]
    assert beta.startswith("algo.beta=0.") and kind == f"algo.loss_type={values[1]['algo.loss_type']}"
    assert limit == f"data.limit={values[1]['data.limit']}"
    record = read_json(tmp_path / "best.json")
    assert record["chosen"] == {"run": names[1], "setting": values[1], "value": 0.3}
    assert [row["mean"] for row in record["settings"]] == [0.3, 0.5] and record["mode"] == "min"
    finish(tmp_path / names[4], 0.05)  # resumed and finished this time
    journal(tmp_path).tell(tmp_path / names[4], DONE)
    mark_best(journal(tmp_path), tmp_path, [])
    assert (tmp_path / "best").resolve().name == names[4]


def test_a_failed_trial_that_begins_again_is_one_trial_and_reports(tmp_path: Path) -> None:
    run = tmp_path / "trial-000"
    values = journal(tmp_path).ask(run)
    journal(tmp_path).report(run, 0.5, 1, "none")
    journal(tmp_path).fail(run)
    journal(tmp_path).begin_again(run)
    journal(tmp_path).report(run, 0.4, 2, "none")
    (trial,) = journal(tmp_path).results(tmp_path)
    assert (trial.state.name, trial.params, trial.intermediate_values) == ("RUNNING", values, {1: 0.5, 2: 0.4})
    finish(run, 0.4)
    journal(tmp_path).tell(run, DONE)
    assert mark_best(journal(tmp_path), tmp_path, [])[0] == "search: 1 finished"
