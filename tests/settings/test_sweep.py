"""Sweeps in files expand to the right jobs, runs keep their folders wherever a value is typed, and mistakes are refused."""

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from psychocounsel.errors import USER_ERROR, UserError
from psychocounsel.rundir.sweep import cell_name
from psychocounsel.settings.config import quote_choice
from psychocounsel.settings.sweep import take_sweep, with_rows
from tests.support.composed import compose
from tests.support.harness import cli
from tests.support.in_process import run_here

PLAN = re.compile(r"would run psychocounsel train with 1 process on CPU in (\S+): (.*)")


def keep(folder: Path, name: str, content: Any) -> Path:
    """Write the file of a sweep. `content` is YAML text, or an object that is written as YAML."""
    (folder / "sweep").mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else OmegaConf.to_yaml(OmegaConf.create(content))
    (folder / "sweep" / f"{name}.yaml").write_text(text)
    return folder


def expand(arguments: Sequence[str], *folders: Path) -> list[list[str]]:
    """Return the overrides of every job, in the order in which Hydra's sweeper makes them from our command line."""
    line, rows = take_sweep(arguments, folders)
    texts = [quote_choice(text) for text in line if not text.startswith("-")]
    (combinations,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(texts), None)
    return with_rows(combinations, [[quote_choice(text) for text in row] for row in rows])


def names(jobs: list[list[str]]) -> list[str]:
    return list(map(cell_name, jobs))


def values(job: list[str]) -> list[Any]:
    return [OverridesParser.create().parse_override(text).value() for text in job]


def planned(*arguments: str, cwd: Path) -> dict[str, str]:
    """Return the output of a real dry run: the overrides of each job by the name of its folder."""
    result = cli("train", *arguments, "dry_run=true", cwd=cwd)
    return {Path(folder).name: overrides for folder, overrides in PLAN.findall(result.stdout)}


# -- expanding


def test_lists_of_cross_are_crossed_and_those_of_pair_go_together(tmp_path: Path) -> None:
    keep(tmp_path, "both", {"pair": {"a": [1, 2], "b": ["x", "y"]}, "cross": {"c": [3, 4], "d": [5]}})
    assert expand(["e=9", "sweep=both"], tmp_path) == [
        ["e=9", "c=3", "d=5", "a=1", "b=x"],
        ["e=9", "c=3", "d=5", "a=2", "b=y"],
        ["e=9", "c=4", "d=5", "a=1", "b=x"],
        ["e=9", "c=4", "d=5", "a=2", "b=y"],
    ]


def test_either_part_may_stand_alone(tmp_path: Path) -> None:
    keep(tmp_path, "crossed", {"cross": {"a": [1, 2], "b": [3, 4]}})
    keep(tmp_path, "paired", {"pair": {"a": [1, 2], "b": [3, 4]}})
    keep(tmp_path, "single", {"cross": {"a": [1]}})
    assert expand(["sweep=crossed"], tmp_path) == [["a=1", "b=3"], ["a=1", "b=4"], ["a=2", "b=3"], ["a=2", "b=4"]]
    assert expand(["sweep=paired"], tmp_path) == [["a=1", "b=3"], ["a=2", "b=4"]]
    assert expand(["sweep=single"], tmp_path) == [["a=1"]]


@pytest.mark.parametrize("flag", [[], ["-m"], ["--multirun"]])
def test_a_sweep_is_a_sweep_with_or_without_the_flag(flag: list[str], tmp_path: Path) -> None:
    keep(tmp_path, "single", {"cross": {"a": [1]}})
    line, rows = take_sweep([*flag, "sweep=single", "b=2"], [tmp_path])
    assert (line, rows) == ([*(flag or ["-m"]), "b=2", "a=1"], [[]])


@pytest.mark.parametrize(
    "arguments", [[], ["-m", "a=1,2", "+b='x y'"], ["a=1", "-m"], ["--cfg", "job"], ["paths.output=a/sweep=b"]]
)
def test_without_a_name_nothing_is_changed(arguments: list[str]) -> None:
    assert take_sweep(arguments, []) == (arguments, [[]])


# -- the command line overrides the file, and folders stay the same


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["a=7"], {"a=7 b=3", "a=7 b=4"}),
        (["a=1,7"], {"a=1 b=3", "a=1 b=4", "a=7 b=3", "a=7 b=4"}),
        (["b=4", "a=2"], {"a=2 b=4"}),
        (["a=8", "a=2"], {"a=2 b=3", "a=2 b=4"}),
        (["++a=2"], {"++a=2 b=3", "++a=2 b=4"}),
        (["c=1"], {"c=1 a=1 b=3", "c=1 a=1 b=4", "c=1 a=2 b=3", "c=1 a=2 b=4"}),
    ],
)
def test_values_of_the_command_line_take_the_place_of_the_files(
    given: list[str], expected: set[str], tmp_path: Path
) -> None:
    keep(tmp_path, "crossed", {"cross": {"a": [1, 2], "b": [3, 4]}})
    for arguments in (["sweep=crossed", *given], [*given, "sweep=crossed"]):
        assert {" ".join(job) for job in expand(arguments, tmp_path)} == expected


def test_runs_are_called_the_same_wherever_their_values_come_from(tmp_path: Path) -> None:
    lists = {"algo": ["dpo", "simpo"], "algo.lr": [1e-6, 5e-7], "zero": [2, 3], "data.path": ["./a b.jsonl"]}
    pairs = {"algo.beta": [2.5, 10.0], "seed": [1, 2]}
    keep(tmp_path, "mine", {"pair": pairs, "cross": lists})
    whole = names(expand(["sweep=mine", "debug=fast"], tmp_path))
    assert len(set(whole)) == len(whole) == 16
    some = [
        *(["algo=simpo"], ["algo.lr=1e-6"], ["zero=3"], ["algo=simpo", "zero=2"], ["zero=2,3", "algo.lr=5e-7"]),
        *(["algo.lr=0.0000005"], ["data.path='./a b.jsonl'", "zero=3,2"]),
    ]
    for given in some:
        part = names(expand([*given, "debug=fast", "sweep=mine"], tmp_path))
        assert set(part) <= set(whole), given
        assert len(set(part)) == len(part) in (4, 8, 16)
    keep(tmp_path, "narrower", {"pair": pairs, "cross": {**lists, "zero": [3]}})
    assert set(names(expand(["sweep=narrower", "debug=fast"], tmp_path))) < set(whole)


def test_keys_to_add_are_the_same_keys(tmp_path: Path) -> None:
    keep(tmp_path, "adding", {"cross": {"+model.template_args.mood": ["calm", "brisk"]}})
    assert expand(["sweep=adding", "+model.template_args.mood=dry"], tmp_path) == [["+model.template_args.mood=dry"]]
    keep(tmp_path, "both", {"cross": {"+a": [1]}, "pair": {"a": [1]}})
    with pytest.raises(UserError, match="a is in both cross and pair"):
        expand(["sweep=both"], tmp_path)


# -- values

VALUES = [
    *("a b", "it's", 'say "no"', "a,b=c:[d]{e}(f)", "", " lead", "tab\t", "line\nline", "gr\u00fc\u00df", "2024-07-26"),
    *(
        "a\\b",
        "a\\",
        "\\'",
        "a\\'b\\\\'c\\\\",
        "~/x",
        "./x y",
        "$HOME",
        "null",
        "True",
        "1",
        "1e-6",
        "nan",
        "1_0",
        "+a",
    ),
    *(None, True, False, 0, -3, 1e-6, 1e22, 0.1, "plain/path-2.x", "2_offload", [], [1, "a b", None, [True]], {}),
    *({"sample": {"rows": 100, "path": "a b.jsonl"}}, [{"name": "sample", "rows": 1}, {"path": "x,y", "weight": 0.5}]),
]


def test_values_arrive_as_the_file_has_them(tmp_path: Path) -> None:
    keep(tmp_path, "crossed", {"cross": {"+probe": VALUES, "seed": [1]}})
    keep(tmp_path, "paired", {"pair": {"+probe": VALUES, "seed": list(range(len(VALUES)))}})
    for name in ("crossed", "paired"):
        arrived = [values(job)[0] for job in expand([f"sweep={name}"], tmp_path)]
        assert arrived == VALUES
        assert list(map(type, arrived)) == list(map(type, VALUES))


def test_values_are_read_as_in_other_configuration_files(tmp_path: Path) -> None:
    text = (
        "cross: {algo.lr: [1e-6, 5.0e-7], model: [tiny], eval.limit: [~], zero: [2, 3, '1'], data.safety_veto: [true]}"
    )
    keep(tmp_path, "mine", text)
    jobs = expand(["sweep=mine"], tmp_path)
    assert values(jobs[0]) == [1e-6, "tiny", None, "2", True]
    composed = [compose(job) for job in jobs]
    found = {(config.algo.lr, config.zero.stage, config.eval.limit, config.data.safety_veto) for config in composed}
    assert found == {(lr, stage, None, True) for lr in (1e-6, 5e-7) for stage in (1, 2, 3)}


def test_interpolations_are_those_of_the_run(tmp_path: Path) -> None:
    keep(tmp_path, "mine", "cross: {algo.beta: [0.2, '${algo.warmup}']}")
    assert [compose(job).algo.beta for job in expand(["sweep=mine"], tmp_path)] == [0.2, 0.1]


# -- refusals

BROKEN = [
    ("", "must contain cross: and pair:"),
    ("- a", "must contain cross: and pair:"),
    ("hello", "must contain cross: and pair:"),
    ("algo.beta: [1, 2]", "must contain cross: and pair:"),
    ("cross: {a: [1]}\ncrossed: {b: [1]}", "must contain cross: and pair:"),
    ("cross:", "cross: must contain KEY: \\[VALUES\\]"),
    ("cross: {}", "cross: must contain KEY: \\[VALUES\\]"),
    ("cross: {a: [1]}\npair:", "pair: must contain KEY: \\[VALUES\\]"),
    ("cross: {a: []}", "a list of values for every key"),
    ("cross: {a: 1}", "a list of values for every key"),
    ("cross: {a: 1,2}", "a list of values for every key"),
    ("cross: {a: {b: 1}}", "a list of values for every key"),
    ("pair: {a: [1, 2], b: [1, 2, 3]}", "must have equal lengths: a has 2, b has 3"),
    ("cross: {a: [1]}\npair: {a: [1]}", "a is in both cross and pair"),
    ("cross: {a: [1}", "is not YAML \\(.* in line 1\\)"),
    ("cross:\n  a: [1]\n  a: [2]", "is not YAML \\(found duplicate key a in line 3\\)"),
    ("cross: {a: ['${']}", "cannot be read"),
]


@pytest.mark.parametrize(("text", "message"), BROKEN, ids=[repr(case[0]) for case in BROKEN])
def test_files_of_another_form_are_refused_by_name(text: str, message: str, tmp_path: Path) -> None:
    keep(tmp_path, "mine", text)
    with pytest.raises(UserError, match=message) as caught:
        take_sweep(["sweep=mine"], [tmp_path])
    assert str(caught.value).startswith(f"{tmp_path}/sweep/mine.yaml: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep=algoritms"], "no such choice; did you mean algorithms? (sweep is one of algorithms, dpo_beta, "),
        (["sweep="], "no such choice"),
        (["sweep=algorithms,dpo_beta"], "names one file of conf/sweep"),
        (["sweep=algorithms", "sweep=dpo_beta"], "names one file of conf/sweep"),
        (["sweep=simpo_settings", "algo.beta=1"], "algo.beta: sweep=simpo_settings sets it in rows with other keys"),
        (["++algo.beta=1", "sweep=simpo_settings"], "algo.beta: sweep=simpo_settings sets it in rows"),
        (["sweep=dpo_beta", "run_dir=here"], "with -m give sweep_dir="),
        (["sweep=dpo_beta", "algo.beta=0.1,-2"], "combination algo=dpo algo.beta=-2 seed=1: algo.beta=-2.0: must be"),
        (["sweep=dpo_beta", "algo=orpo,sft"], "use two commands"),
        (["sweep=simpo_settings", "algo=orpo"], "combination algo=orpo seed=1 algo.beta=2.5 algo.gamma_beta_ratio=0"),
    ],
)
def test_mistakes_on_the_command_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_environment: None
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = run_here(shlex.join(["train", *arguments]))
    assert answer.code == USER_ERROR, answer
    (line,) = answer.stderr.splitlines()
    assert line.startswith("error: ") and message in line
    assert not list(tmp_path.iterdir()), "a refused command leaves nothing behind"


# -- by the real command


def test_a_dry_run_says_every_job_and_leaves_nothing(tmp_path: Path) -> None:
    plan = planned("sweep=simpo_settings", "sweep_dir=there/inner", "debug=fast", cwd=tmp_path)
    rows = [("2.5", "0.55"), ("10.0", "0.3"), ("2.0", "0.5")]
    fast = "debug=fast dry_run=True algo=simpo"
    assert list(plan.values()) == [
        f"sweep_dir=there/inner {fast} seed={seed} algo.beta={beta} algo.gamma_beta_ratio={ratio}"
        for seed in (1, 2, 3)
        for beta, ratio in rows
    ]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_many_combinations_are_the_same_jobs_in_the_same_order(tmp_path: Path) -> None:
    many = planned("-m", "debug=fast", "seed=range(1,26)", "algo=dpo,simpo", cwd=tmp_path)  # composed on all cores
    few = planned("-m", "debug=fast", "seed=range(1,14)", "algo=dpo,simpo", cwd=tmp_path)
    assert [text.split()[2:] for text in list(many.values())[:26]] == [text.split()[2:] for text in few.values()]
    assert len(many) == 50
    wrong = ["-m", "seed=range(1,26)", "algo.beta=0.1,-1,-2", "dry_run=true"]
    result = cli("train", *wrong, cwd=tmp_path, check_code=USER_ERROR)
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: combination seed=1 algo.beta=-1"), "the first one that cannot work"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_your_own_sweeps_come_before_the_shipped_ones(tmp_path: Path) -> None:
    keep(
        tmp_path / "my",
        "zeros",
        {
            "cross": {
                "zero": [2, 3],
                "+callbacks.note": [{"_target_": "psychocounsel.engine.callbacks.Callback", "text": "a b"}],
            }
        },
    )
    keep(tmp_path / "my", "algorithms", {"cross": {"algo": ["kto"]}})
    own = planned("--config-dir=my", "sweep=zeros", cwd=tmp_path)
    assert set(own) == {"zero-2", "zero-3"}
    assert "+callbacks.note={_target_:psychocounsel.engine.callbacks.Callback,text:'a b'}" in own["zero-3"]
    assert set(planned("--config-dir", "my", "-m", "sweep=algorithms", cwd=tmp_path)) == {"run"}, "nothing is swept"
    assert len(planned("--config-dir=my", "sweep=dpo_beta", "seed=1", cwd=tmp_path)) == 4


@pytest.mark.slow
def test_a_sweep_in_a_file_is_the_same_as_one_that_is_typed(tmp_path: Path) -> None:
    """A typed sweep gives the same jobs with and without rows."""
    kept = planned("sweep=dpo_beta", "seed=2,3", "algo.beta=0.05,1e-1", cwd=tmp_path)
    typed = planned("-m", "algo=dpo", "algo.beta=0.05,1e-1", "seed=2,3", cwd=tmp_path)
    assert list(kept) == list(typed) == [f"beta-{beta}_seed-{s}" for beta in (0.05, 0.1) for s in (2, 3)]
    assert list(planned("seed=2", "-m", "zero=0,1", cwd=tmp_path)) == ["zero-0", "zero-1"]


@pytest.mark.slow
def test_rows_of_a_sweep_train_each_in_its_own_way_and_are_found_again(small_model: Path, tmp_path: Path) -> None:
    pairs = {"algo.beta": [1.0, 4.0], "algo.gamma_beta_ratio": [0.5, 0.1]}
    keep(tmp_path / "my", "first", {"pair": pairs, "cross": {"algo": ["simpo"]}})
    short = ["debug=fast", "max_steps=1", f"model.path={small_model}", "sweep_dir=runs"]
    first = cli("train", "--config-dir=my", "sweep=first", *short, cwd=tmp_path)
    assert first.stdout.count("done ") == 2
    table = (tmp_path / "runs" / "sweep.jsonl").read_text()
    rows = list(map(json.loads, table.splitlines()))
    algorithms = [OmegaConf.load(tmp_path / "runs" / row["run_dir"] / "config.yaml").algo for row in rows]
    assert [(algo.beta, algo.gamma_beta_ratio) for algo in algorithms] == [(1.0, 0.5), (4.0, 0.1)]
    again = cli("train", "--config-dir=my", "algo=simpo", "sweep=first", *short, cwd=tmp_path)
    assert again.stdout.count("is already finished") == 2
    assert (tmp_path / "runs" / "sweep.jsonl").read_text() == table
