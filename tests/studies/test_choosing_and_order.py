"""The order of stages, which of them a command asks for, and the choice of the best cell, against brute force."""

import itertools
import random
from pathlib import Path

import pytest

from psychocounsel.errors import UserError
from psychocounsel.studies.launching import read_arguments
from psychocounsel.studies.plan import circles, following, in_order, requested_stages
from psychocounsel.studies.references import with_values
from psychocounsel.studies.selecting import Candidate, choose
from psychocounsel.studies.study_file import find_study, read_study
from tests.support.small_study import CHAIN, write_study


def test_every_stage_stands_behind_what_it_needs_and_circles_are_found() -> None:
    draw = random.Random(0)
    names = list("abcdef")
    for _ in range(300):
        graph = {name: draw.sample(names, draw.choice([0, 0, 1, 2])) for name in names}
        has_circle = not any(
            all(set(graph[name]) <= set(order[:place]) for place, name in enumerate(order))
            for order in itertools.permutations(names)
        )
        assert bool(circles(graph)) == has_circle
        order = in_order(graph)
        assert sorted(order) == names
        if not has_circle:
            assert all(set(graph[name]) <= set(order[:place]) for place, name in enumerate(order))
            begin = draw.choice(names)
            reached = {begin}
            for _ in names:
                reached |= {name for name in names if reached & set(graph[name])}
            assert following(graph, [begin]) == reached
            assert requested_stages(graph, [], begin) == reached
    assert in_order({"b": [], "a": []}) == ["b", "a"], "the file's order counts"


def test_the_best_setting_is_that_of_the_best_mean_and_its_best_run_is_chosen() -> None:
    values = {("0.1", "1"): 0.9, ("0.1", "2"): 0.1, ("0.3", "1"): 0.6, ("0.3", "2"): 0.7}
    cells = [
        Candidate(f"{beta}-{seed}", {"algo.beta": beta, "seed": seed}, value) for (beta, seed), value in values.items()
    ]
    best, rows = choose(cells, "max")
    assert (best.folder, best.setting) == ("0.3-2", {"algo.beta": "0.3"}), "0.9 is the best run, of a worse setting"
    assert [row["mean"] for row in rows] == [pytest.approx(0.65), pytest.approx(0.5)]
    best, rows = choose(cells, "min")
    assert best.folder == "0.1-2"
    assert choose([Candidate("a", {}, 1.0), Candidate("b", {"seed": "2"}, 1.0)], "max")[0].folder == "a"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("about: x", "is not a study: it needs stages"),
        ("stages: {a: trian algo=sft}", "trian is not a command of a study; did you mean train?"),
        ("stages: {a: {run: train, bets: x}}", "has no key bets; did you mean best?"),
        ("stages: {best: train}", "a stage needs a name of letters"),
        ("stages: {a: {run: train, best: test/accuracy}}", "test/accuracy is a figure of the test data"),
        ("values: {force: 1}\nstages: {a: train}", "values.force: this name has another meaning"),
        ('stages: {a: "train \'x"}', "cannot be read as a command line"),
        ("stages: [train]", "stages: must contain NAME: VALUE"),
        ("stages: {a: train\n", "is not YAML"),
    ],
)
def test_mistakes_in_the_form_of_a_file(content: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        read_study(write_study(tmp_path, content))
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["study=chian.yaml"], "study=chian.yaml: no such file"),
        (["study=nothing_like_it"], "study=nothing_like_it: no such study"),
        ([], "study is not set: give study=NAME"),
        (["seds=[1]"], "seds=[1]: is not a key of study=chain; did you mean seeds?"),
        (["dpp.algo.beta=1"], "dpp.algo.beta=1: is not a key of study=chain; did you mean dpo.algo.beta?"),
        (["small=[1]"], "small=[1]: is not a key of study=chain; (it has"),
        (["parallel=0"], "parallel=0: give the number"),
        (["dry_run=perhaps"], "dry_run=perhaps: must be true or false"),
        (["-m"], "-m: launch has no such option"),
    ],
)
def test_mistakes_on_the_command_line(typed: list[str], said: str, tmp_path: Path) -> None:
    given = [] if not typed or typed[0].startswith("study=") else [f"study={write_study(tmp_path)}"]
    with pytest.raises(UserError) as refused:
        read_arguments([*given, *typed])
    assert str(refused.value).startswith(said)


def test_what_is_typed_goes_where_it_belongs(tmp_path: Path) -> None:
    command = read_arguments(
        [
            *(
                f"study={write_study(tmp_path)}",
                "seeds=4,5",
                "dpo.algo.beta=0.3",
                "dpo.+callbacks.a.b=1",
                "cluster.threads=1",
            ),
            *("only=[sft,dpo]", "force=dpo", "parallel=2", "dry_run=true", f"study_dir={tmp_path}/x"),
        ]
    )
    assert command.study.values["seeds"] == [4, 5]
    dpo = command.study.stages["dpo"].overrides
    assert "algo.beta=0.3" in dpo
    assert "algo.beta=0.05,0.1" not in dpo
    assert command.common == ["cluster.threads=1"]
    assert (command.only, command.force, command.parallel, command.dry_run) == (["sft", "dpo"], ["dpo"], 2, True)
    assert command.folder == tmp_path / "x"
    assert find_study(str(tmp_path / "chain.yaml")).read_text() == CHAIN


def test_a_value_that_stands_for_overrides_is_taken_as_it_is_typed(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    stages = "stages: {a: 'evaluate ${study.judge} ${study.test} x=${study.model}'}"
    file.write_text(f"values: {{judge: judge=tiny, test: a=b, model: tiny}}\n{stages}\n")
    typed = read_arguments([f"study={file}", "judge=judge=reward judge.reward=tiny_2", "test=null", "model=x"])
    assert typed.study.values == {"judge": "judge=reward judge.reward=tiny_2", "test": None, "model": "x"}
    assert with_values(typed.study.stages["a"], typed.study.values) == [
        "judge=reward", "judge.reward=tiny_2", "x=x"
    ]  # fmt: skip
    with pytest.raises(UserError, match="model=a b=c: cannot be read as KEY=VALUE; put a value"):
        read_arguments([f"study={file}", "model=a b=c"])
