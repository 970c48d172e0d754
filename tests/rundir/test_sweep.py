"""Tests of the names of a sweep's runs, and of recognising a run by its configuration under any folder name."""

import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from psychocounsel.rundir import submissions
from psychocounsel.rundir.identity import defining, differing, identity, is_same
from psychocounsel.rundir.paths import RunDir
from psychocounsel.rundir.run_config import read_plain, write_config
from psychocounsel.rundir.sweep import SweepFolder, add_to_table, cell_name, namings, runs_of, telling_name
from tests.support.composed import check, compose
from tests.support.processes import FORKED

# -- names

CASES = [
    ([["algo.beta=0.3", "seed=2"], ["algo.beta=0.1", "seed=1"]], ["beta-0.3_seed-2", "beta-0.1_seed-1"]),
    ([["algo=dpo", "seed=1"], ["algo=simpo", "seed=1"]], ["algo-dpo", "algo-simpo"]),
    ([["debug=fast", "seed=1"], ["debug=fast", "seed=2"]], ["seed-1", "seed-2"]),
    ([["debug=fast", "algo.lr=1e-06"]], ["run"]),
    ([["algo.lr=1e-06"], ["algo.lr=1e-05"], ["algo.lr=1e+22"]], ["lr-1e-6", "lr-1e-5", "lr-1e22"]),
    (
        [["model.path=a", "data.path=b", "seed=1"], ["model.path=c", "data.path=d", "seed=2"]],
        ["model.path-a_data.path-b_seed-1", "model.path-c_data.path-d_seed-2"],
    ),
    ([["model.path=/runs/one/model"], ["model.path=/runs/two/model"]], ["path-one", "path-two"]),
    ([["model.path=/a/one/model"], ["model.path=/b/one/model"]], ["path-a-one-model", "path-b-one-model"]),
    ([["data.path='./a b.jsonl'"], ["data.path=./c.jsonl"]], ["path-a-b.jsonl", "path-c.jsonl"]),
    ([["+model.template_args.mood=calm"], ["+model.template_args.mood=brisk"]], ["mood-calm", "mood-brisk"]),
    ([["zero='2'"], ["zero='3'"]], ["zero-2", "zero-3"]),
    ([["data.safety_veto=True"], ["data.safety_veto=False"]], ["safety_veto-true", "safety_veto-false"]),
    ([["cluster.nodes=1"], ["cluster.nodes=16"]], ["nodes-1", "nodes-16"]),
    ([["algo=dpo"], ["algo=simpo", "algo.beta=2"]], ["algo-dpo", "algo-simpo_beta-2"]),
    ([["hydra.sweeper.seed=1", "seed=1"], ["hydra.sweeper.seed=1", "seed=2"]], ["seed-1", "seed-2"]),
]


@pytest.mark.parametrize(("jobs", "names"), CASES, ids=[" ".join(case[1]) for case in CASES])
def test_names_hold_what_is_swept_and_nothing_else(jobs: list[list[str]], names: list[str]) -> None:
    assert [naming.name for naming in namings(jobs)] == names


def test_jobs_that_a_name_cannot_tell_apart_have_different_names_all_the_same() -> None:
    long = [[f"data.path=/{'x' * 200}/{number}/same"] for number in range(3)]
    alike = [["a=x y"], ["a=x-y"], ["a=x_y"]]
    for jobs in (long, alike):
        names = [naming.name for naming in namings(jobs)]
        assert len(set(names)) == len(jobs) and all(len(name) <= 80 for name in names)
    same = namings([["seed=1", "a=1"], ["seed=1", "a=1"], ["seed=2", "a=1"]])
    assert [naming.name for naming in same] == ["seed-1", "seed-1", "seed-2"], "equal jobs are refused elsewhere"


def test_keys_that_end_alike_stand_whole() -> None:
    assert cell_name(["data.split_seed=3", "seed=1"]) == "split_seed-3_seed-1"
    assert cell_name(["algo.seed=3", "seed=1"]) == "algo.seed-3_seed-1"


# -- folders


def config_of(*overrides: str) -> DictConfig:
    return check(compose(["model=tiny", *overrides]))


def keep(sweep: Path, name: str, *overrides: str) -> Path:
    """Return a run directory as an earlier command has left it."""
    run = sweep / name
    run.mkdir(parents=True)
    write_config(run, config_of(*overrides))
    RunDir(run).overrides.write_text("".join(f"{text}\n" for text in overrides))
    return run


def chosen(sweep: Path, *jobs: Sequence[str]) -> list[str]:
    """Return the folders that the jobs of one command get."""
    folder = SweepFolder(sweep)
    found = [folder.choose(naming, config_of(*job)) for job, naming in zip(jobs, namings(jobs), strict=True)]
    assert all(path.parent == sweep for path in found)
    return [path.name for path in found]


def test_runs_are_known_by_their_configuration_whatever_they_are_called(tmp_path: Path) -> None:
    keep(tmp_path, "debug-fast_algo.beta-0.3_seed-2", "algo.beta=0.3", "seed=2")  # the name that earlier versions gave
    keep(tmp_path, "mine", "algo.beta=0.3", "seed=3")
    jobs = [["algo.beta=0.3", f"seed={seed}"] for seed in (1, 2, 3)]
    assert chosen(tmp_path, *jobs) == ["seed-1", "debug-fast_algo.beta-0.3_seed-2", "mine"]
    other = ["cluster.threads=1", "eval.every=3", "tracker=none", "zero=2"]  # keys that do not define a run
    assert chosen(tmp_path, *([*job, *other] for job in jobs)) == ["seed-1", "debug-fast_algo.beta-0.3_seed-2", "mine"]


def test_a_changed_fixed_override_joins_the_name_and_nothing_is_lost(tmp_path: Path) -> None:
    first = [[f"algo.beta={beta}", "debug=fast"] for beta in (0.1, 0.3)]
    for job, name in zip(first, chosen(tmp_path, *first), strict=True):
        keep(tmp_path, name, *job)
    changed = [[*job, "algo.lr=1e-06", "cluster.threads=1"] for job in first]
    names = chosen(tmp_path, *changed)
    assert names == ["lr-1e-6_beta-0.1", "lr-1e-6_beta-0.3"]
    for job, name in zip(changed, names, strict=True):
        keep(tmp_path, name, *job)
    assert chosen(tmp_path, *changed) == names and chosen(tmp_path, *first) == ["beta-0.1", "beta-0.3"]
    more = chosen(tmp_path, *([*job, "data.limit=30"] for job in changed))
    assert more == ["lr-1e-6_limit-30_beta-0.1", "lr-1e-6_limit-30_beta-0.3"]
    back = chosen(tmp_path, *([*job[:1], "debug=fast", "max_steps=1"] for job in first))
    assert back == ["max_steps-1_beta-0.1", "max_steps-1_beta-0.3"], "a shorter run is another one"


def test_a_default_in_the_place_of_what_was_typed_before_joins_by_its_value(tmp_path: Path) -> None:
    keep(tmp_path, "seed-1", "seed=1", "algo.beta=0.3")
    default = config_of().algo.beta
    assert chosen(tmp_path, ["seed=1"], ["seed=2"]) == [f"beta-{default}_seed-1", "seed-2"]


def test_where_no_key_tells_two_runs_apart_a_number_does(tmp_path: Path) -> None:
    run = keep(tmp_path, "seed-1", "seed=1")
    config = OmegaConf.load(run / "config.yaml")
    config.model.path = "/another/model"  # a job whose models lie elsewhere, with the same overrides
    OmegaConf.save(config, run / "config.yaml")
    assert chosen(tmp_path, ["seed=1"], ["seed=2"]) == ["seed-1_2", "seed-2"]
    keep(tmp_path, "seed-1_2", "seed=1", "algo.beta=3")
    assert chosen(tmp_path, ["seed=1"], ["seed=2"])[0] == "seed-1_3"


def test_one_more_value_of_a_sweep_is_named_by_what_it_adds(tmp_path: Path) -> None:
    keep(tmp_path, "seed-1", "seed=1")
    keep(tmp_path, "seed-2", "seed=2")
    assert chosen(tmp_path, ["seed=3"]) == ["seed-3"] and chosen(tmp_path, ["seed=2"]) == ["seed-2"]
    assert chosen(tmp_path / "new", ["seed=3"]) == ["run"]


def test_what_is_swept_tells_runs_apart_even_where_it_does_not_define_them(tmp_path: Path) -> None:
    jobs = [["cluster.processes=1"], ["cluster.processes=2"]]
    for job, name in zip(jobs, chosen(tmp_path, *jobs), strict=True):
        keep(tmp_path, name, *job)
    assert chosen(tmp_path, *reversed(jobs)) == ["processes-2", "processes-1"]
    zeros = [[f"zero={stage}", "cluster.processes=2"] for stage in (0, 2)]
    assert chosen(tmp_path, *zeros) == ["processes-1", "zero-2"], (
        "processes are not swept here, and do not define a run"
    )


def test_a_swept_key_that_became_addresses_tells_runs_apart() -> None:
    one, two = (
        {
            "evaluation": {"name": "winrate"},
            "contestants": {"members": [{"addresses": [f"http://10.0.0.{host}:8000/v1"]}]},
        }
        for host in (1, 2)
    )
    assert identity(one) == identity(two), "a server may move"
    assert defining(one, ["model.path"]) != defining(two, ["model.path"])
    assert defining(one, ["evaluation.name"]) == defining(two, ["evaluation.name"])


def test_who_knows_better_says_which_run_it_is(tmp_path: Path) -> None:
    keep(tmp_path, "seed-1", "seed=1")
    (naming, _) = namings([["seed=1"], ["seed=2"]])
    folder, config = SweepFolder(tmp_path), config_of("seed=1")
    assert folder.choose(naming, config, lambda run: False).name == "seed-1_2"
    assert folder.choose(naming, config, lambda run: run.name == "seed-1").name == "seed-1"


def test_what_a_run_has_filled_in_leaves_it_the_same() -> None:
    new = {"model.revision": None, "micro_batch_tokens": "auto", "seed": 1}
    assert is_same(new, {"model.revision": "abc", "micro_batch_tokens": 512, "seed": 1})
    assert differing({**new, "model.revision": "x"}, {**new, "model.revision": "y"}) == ["model.revision"]
    assert differing(new, {"seed": 2}) == ["seed"] and differing({}, {"seed": 2}) == ["seed"]


def test_a_damaged_configuration_is_not_taken_for_another_run(tmp_path: Path) -> None:
    (keep(tmp_path, "seed-1", "seed=1") / "config.yaml").write_text("a: [1")
    assert chosen(tmp_path, ["seed=1"], ["seed=2"]) == ["seed-1", "seed-2"], "reading it gives the error"


def test_plain_reading_gives_what_omegaconf_reads(tmp_path: Path) -> None:
    odd = {"a": 1e-6, "b": "1e-6", "c": "2024-07-26", "d": [None, True, "no", "1_0"], "e": {"f": "0x10", "g.h": "~"}}
    write_config(tmp_path, OmegaConf.create(odd))
    assert read_plain(tmp_path) == OmegaConf.to_container(OmegaConf.load(tmp_path / "config.yaml")) == odd
    config = config_of("algo=online_dpo")
    write_config(tmp_path, config)
    assert identity(read_plain(tmp_path) or {}) == identity(config)


@pytest.mark.slow
def test_two_hundred_runs_are_read_quickly(tmp_path: Path) -> None:
    config = config_of()
    text = OmegaConf.to_yaml(config)
    assert text.startswith("seed: 1\n")
    for seed in range(200):
        run = tmp_path / f"old_{seed}"
        run.mkdir()
        RunDir(run).config.write_text(f"seed: {seed}\n{text.partition(chr(10))[2]}")
    jobs = [[f"seed={seed}"] for seed in range(0, 400, 2)]
    plain = OmegaConf.to_container(config)
    configs = [OmegaConf.create({**plain, "seed": seed}) for seed in range(0, 400, 2)]
    started = time.process_time()
    folder = SweepFolder(tmp_path)
    names = [folder.choose(naming, config).name for naming, config in zip(namings(jobs), configs, strict=True)]
    assert time.process_time() - started < 10
    assert names == [f"old_{seed}" if seed < 200 else f"seed-{seed}" for seed in range(0, 400, 2)]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/runs/beta/model", "beta"),
        ("/studies/mine/sft/run/model", "sft"),
        ("/studies/mine/dpo/best-0123abcd/model", "dpo"),
        ("/studies/mine/dpo/seed-11/model", "dpo_seed-11"),
        ("/runs/beta-0.1_seed-11/model", "beta-0.1_seed-11"),
        ("/seed-1", "seed-1"),
    ],
)
def test_a_model_is_called_by_the_part_of_its_path_that_tells_it(path: str, name: str) -> None:
    assert telling_name(Path(path)) == name


# -- the table


def list_runs(sweep: Path, number: int, gate: object) -> None:
    gate.wait()  # type: ignore[attr-defined]
    add_to_table(sweep, [(sweep / f"run-{number}", [f"seed={number}"])])


def test_commands_that_list_their_runs_at_once_keep_the_lines_of_all(tmp_path: Path) -> None:
    gate = FORKED.Barrier(6)
    processes = [FORKED.Process(target=list_runs, args=(tmp_path, number, gate)) for number in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    listed = runs_of(tmp_path)
    assert {run.run_dir.name for run in listed} == {f"run-{number}" for number in range(6)}
    assert [run.index for run in listed] == [*range(6)] and [*tmp_path.iterdir()] == [tmp_path / "sweep.jsonl"]


def test_a_run_that_was_submitted_alone_is_known_when_its_folder_becomes_a_sweep(tmp_path: Path) -> None:
    run, code = tmp_path / "a", tmp_path / ".code" / "main-1"
    run.mkdir()
    submissions.write(submissions.new_submission(run), run, ["101"], [[run]], [code])
    add_to_table(tmp_path, [(tmp_path / "seed-3", ["seed=3"])])
    submissions.write(submissions.new_submission(tmp_path), tmp_path, ["102"], [[tmp_path / "seed-3"]], [])
    assert submissions.home_of(run) == tmp_path
    alone, of_sweep = submissions.read(tmp_path)
    assert (alone.jobs, alone.tasks, of_sweep.jobs) == (["101"], [[run]], ["102"])
    assert [(tmp_path / path).resolve() for path in alone.code] == [code]
