"""Values settled when jobs start, by real commands: from a finished run, and from a search that is killed and resumed."""

from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf, open_dict

from psychocounsel.cluster.job import make_job, write_run_directory
from psychocounsel.errors import UserError
from psychocounsel.rundir.identity import check_same_run, fingerprint, identity
from psychocounsel.rundir.paths import RunDir
from psychocounsel.rundir.results import read_summary
from psychocounsel.search.settling import keep_settled
from psychocounsel.settings.command import command_of
from psychocounsel.storage.files import read_json
from tests.support.composed import check, compose, with_values
from tests.support.harness import cli, metrics_of

SHORT = ["debug=fast", "data.limit=16", "eval.limit=4"]


def composed(recipe: dict[str, Any] | None, *overrides: str) -> DictConfig:
    plain = compose([*overrides])
    if recipe is not None:
        with open_dict(plain):
            plain.settled = {"algo.beta": recipe}
    return check(plain)


def test_the_recipe_stands_in_the_place_of_the_value() -> None:
    recipe = {"run": "/study/grid/best", "key": "algo.beta"}
    one, other = composed(recipe, "algo.beta=0.1"), composed(recipe, "algo.beta=0.3")
    assert identity(one) == identity(other) and fingerprint(one) == fingerprint(other)
    found = with_values(one, {"algo.beta": 0.7})
    with open_dict(found):
        found.settled["algo.beta"]["value"] = 0.7
    assert identity(found) == identity(one) and found.algo.beta == 0.7
    check_same_run(other, found, Path("run"))
    keep_settled(other, found)
    assert other.algo.beta == 0.7, "a resumed run keeps its settled value"
    for different in (composed(None, "algo.beta=0.1"), composed({**recipe, "key": "algo.lr"}, "algo.beta=0.1")):
        assert identity(different) != identity(one)
        with pytest.raises(UserError, match=r"belongs to a run with other settings \(algo.beta"):
            check_same_run(different, one, Path("run"))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("algo.beta", "much", "algo.beta"),
        ("algo.beta", -1, "algo.beta=-1.0: must be"),
        ("data.limit", 2.5, "data.limit"),
        ("algo.betta", 1, "unknown key algo.betta"),
    ],
)
def test_a_value_that_cannot_stand_there_is_refused(key: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        with_values(check(compose([])), {key: value})


def test_a_checked_configuration_is_the_same_when_it_is_typed_again() -> None:
    for overrides in ([], ["algo=online_dpo"], ["algo=reward", "model.lora.rank=4"]):
        config = check(compose(overrides))
        assert with_values(config, {"seed": 5}) == OmegaConf.merge(config, {"seed": 5})


@pytest.mark.slow
def test_a_run_takes_its_value_from_a_finished_one_and_keeps_it(small_model: Path, tmp_path: Path) -> None:
    base = [*SHORT, f"model.path={small_model}", "max_steps=2"]
    first, second = tmp_path / "first", tmp_path / "second"
    recipe = {"run": str(first), "key": "algo.beta"}
    config = composed(recipe, *base, f"run_dir={second}")
    job = make_job(command_of("psychocounsel.train"), config, [])
    write_run_directory(job)
    early = cli("worker", str(second), cwd=tmp_path, check_code=2)
    assert f"algo.beta: its value comes from {first}, which has not finished" in early.stderr
    write_run_directory(
        make_job(command_of("psychocounsel.train"), composed(None, *base, "algo.beta=0.37", f"run_dir={first}"), [])
    )
    cli(
        "worker", str(first), cwd=tmp_path
    )  # by the worker command like the second, because a launcher sets threads and memory for its workers
    done = cli("worker", str(second), cwd=tmp_path)
    assert "settled: algo.beta=0.37" in done.stderr
    written = OmegaConf.load(RunDir(second).config)
    assert written.algo.beta == 0.37 and written.settled["algo.beta"].value == 0.37
    assert metrics_of(second) == metrics_of(first)
    again = make_job(command_of("psychocounsel.train"), composed(recipe, *base, f"run_dir={second}"), [])
    assert again.config.algo.beta == 0.37


@pytest.mark.slow
def test_a_search_is_killed_and_goes_on_with_the_same_values(small_model: Path, tmp_path: Path) -> None:
    line = ["-m", "hydra/sweeper=optuna", "algo.beta=tag(log,interval(0.01,1))", "algo.loss_type=choice(sigmoid,ipo)"]
    line += [*SHORT, f"model.path={small_model}", "max_steps=2", "eval.every=1", "checkpoint.every=1"]
    line += ["hydra.sweeper.pruner=none", "checkpoint.metric=eval/accuracy"]

    def values(folder: str) -> list[Any]:
        runs = sorted((tmp_path / folder).glob("trial-*"))
        configs = [OmegaConf.load(run / "config.yaml") for run in runs]
        return [
            {key: recipe.value for key, recipe in config.settled.items() if "value" in recipe} for config in configs
        ]

    whole = cli("train", *line, "hydra.sweeper.trials=4", "sweep_dir=whole", cwd=tmp_path)
    assert whole.stdout.count("done ") == 4 and "search: 4 finished" in whole.stdout
    kill = "+callbacks.kill={_target_: tests.support.killer.Kill, event: step_end, step: 1, attempt: 1}"
    killed = cli("train", *line, kill, "hydra.sweeper.trials=2", "sweep_dir=parts", cwd=tmp_path, check_code=137)
    assert "search: 2 unfinished" in killed.stdout
    before = values("parts")
    cli("train", *line, "hydra.sweeper.trials=2", "sweep_dir=parts", cwd=tmp_path)
    assert values("parts") == before and all(len(each) == 2 for each in before)
    more = cli("train", *line, "hydra.sweeper.trials=4", "sweep_dir=parts", cwd=tmp_path)
    assert more.stdout.count("is already finished") == 2 and "search: 4 finished" in more.stdout
    assert values("parts") == values("whole"), "the first trials are random, independent of other trials"
    record = read_json(tmp_path / "parts" / "best.json")
    chosen = tmp_path / "parts" / record["chosen"]["run"]
    assert (tmp_path / "parts" / "best").resolve() == chosen
    assert read_summary(chosen)["metrics"]["best"]["eval/accuracy"] == record["chosen"]["value"]
    assert "algo.beta=" in cli("jobs", "status", "parts", cwd=tmp_path).stdout


@pytest.mark.slow
def test_a_callback_ends_a_run_in_good_order(small_model: Path, tmp_path: Path) -> None:
    end = "+callbacks.end={_target_: tests.support.killer.EndAt, step: 2}"
    line = [*SHORT, f"model.path={small_model}", "max_steps=4", "eval.every=1", "checkpoint.every=0", "run_dir=run"]
    cli("train", *line, end, cwd=tmp_path)
    summary = read_summary(tmp_path / "run")
    assert (summary["status"], summary["steps"], summary["ended_early"]) == ("finished", 2, "enough at step 2")
    assert (tmp_path / "run" / "model" / "config.json").exists()
    assert (tmp_path / "run" / "checkpoints" / "latest").read_text() == "step-000002\n"
    assert "is already finished" in cli("train", *line, end, cwd=tmp_path).stdout
    death = "+callbacks.kill={_target_: tests.support.killer.Kill, event: checkpoint_renamed, step: 2}"
    line[-1] = "run_dir=killed"
    cli("train", *line, end, death, cwd=tmp_path, check_code=137)
    cli("train", *line, cwd=tmp_path)
    assert read_summary(tmp_path / "killed")["ended_early"] == "enough at step 2", "training stops"
