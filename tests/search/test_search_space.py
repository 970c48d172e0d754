"""Search spaces: compositions checked before anything runs, and rejected searches."""

import shlex
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from psychocounsel.commands.composing import composer
from psychocounsel.errors import USER_ERROR, UserError
from psychocounsel.search.space import read_search, search_options
from psychocounsel.search.trials import distribution
from psychocounsel.settings.overrides import parsed
from psychocounsel.settings.sweep import written
from tests.support.composed import check, compose
from tests.support.in_process import run_here

OPTIONS = {"trials": 4, "seed": 0, "pruner": "median"}


def search(*overrides: str, **options: Any) -> Any:
    with composer([]):
        return read_search(overrides, {**OPTIONS, **options}, GlobalHydra.instance().config_loader())


def test_both_ends_and_every_choice_are_composed_before_anything_runs() -> None:
    found = search("debug=fast", "algo.beta=tag(log,interval(0.01,1))", "algo.loss_type=sigmoid,ipo,hinge")
    values = [
        [OverridesParser.create().parse_override(text).value() for text in corner[1:]] for corner in found.corners()
    ]
    plain = [[beta, getattr(kind, "text", kind)] for beta, kind in values]
    assert plain == [[0.01, "sigmoid"], [1, "sigmoid"], [0.01, "ipo"], [0.01, "hinge"]]
    assert all(corner[0] == "debug=fast" for corner in found.corners()) and found.fixed == ["debug=fast"]


def test_a_key_that_is_added_is_added_in_every_trial() -> None:
    found = search("algo=dpo", "+model.template_args.mode=choice(short,long)")
    assert found.space == {"model.template_args.mode": {"choices": ["short", "long"]}}
    modes = [check(compose(corner)).model.template_args.mode for corner in found.corners()]
    assert modes == ["short", "long"]
    assert found.placeholders == ["+model.template_args.mode=short"]


def test_a_key_has_the_distribution_of_its_type() -> None:
    line = ["algo.lr=tag(log,interval(1e-6,1))", "data.limit=interval(2,9)", "algo.beta=interval(1,2)"]
    line += ["max_length=range(64,129,32)", "algo.loss_type=choice(sigmoid,ipo)"]
    found = search(*line)
    typed = found.typed_as(check(compose(["data.limit=2"])))
    made = {key: distribution(recipe) for key, recipe in typed.space.items()}
    assert made == {
        "algo.lr": FloatDistribution(1e-6, 1.0, log=True),
        "data.limit": IntDistribution(2, 9),
        "algo.beta": FloatDistribution(1.0, 2.0),
        "max_length": IntDistribution(64, 128, step=32),
        "algo.loss_type": CategoricalDistribution(["sigmoid", "ipo"]),
    }


def test_a_line_of_a_study_says_the_same() -> None:
    line = ["algo=dpo", "hydra/sweeper=optuna", "hydra.sweeper.trials=8", "algo.beta=interval(0.1,1)"]
    options, rest = search_options(line)
    assert options == {"trials": 8, "seed": 0, "pruner": "median"}
    assert rest == ["algo=dpo", "algo.beta=interval(0.1,1)"]
    assert search_options(rest) == (None, rest)


REFUSED = [
    (["algo=dpo,simpo", "algo.beta=interval(1,2)"], {}, "algo=dpo,simpo: selects config files"),
    (["cluster.processes=1,2"], {}, "does not affect training"),
    (["seed=1"], {}, "there is nothing to search"),
    (["algo.beta=interval(1,0.1)"], {}, "an interval needs finite ends, the lower one first"),
    (["algo.beta=tag(log,interval(0,1))"], {}, "must begin above 0"),
    (["data.balance=[length],[ending]"], {}, "chooses between single values"),
    (["algo.beta=interval(0.1,1)"], {"trials": 0}, "hydra.sweeper.trials=0: must be"),
    (["algo.beta=interval(0.1,1)"], {"trials": 2.5}, "hydra.sweeper.trials=2.5: must be"),
    (["algo.beta=interval(0.1,1)"], {"seed": -1}, "hydra.sweeper.seed=-1: must be"),
    (["algo.beta=interval(0.1,1)"], {"pruner": "asha"}, "must be one of median, hyperband, none"),
    (["algo.beta=interval(0.1,1)"], {"sampler": "x"}, "hydra.sweeper.sampler: this option does not exist"),
]


@pytest.mark.parametrize(("line", "options", "message"), REFUSED, ids=[case[2] for case in REFUSED])
def test_what_cannot_be_searched_is_refused_in_a_line(line: list[str], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        search(*line, **options)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_an_interval_of_what_is_no_number_is_refused() -> None:
    with pytest.raises(UserError, match=r"algo.loss_type: is not a number"):
        search("algo.loss_type=interval(1,2)").typed_as(check(compose([])))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("algo.beta=interval(-1,1)", "algo.beta=-1"),
        ("algo.beta=interval(0.1,1) algo.los_type=sigmoid,ipo", "algo.los_type"),
        ("algo.label_smoothing=interval(0.1,0.6)", "algo.label_smoothing=0.6"),
        ("algo=dpo,simpo", "selects config files"),
        ("algo.beta=interval(0.1,1) settled.algo={}", "studies and searches set it"),
    ],
)
def test_a_wrong_end_is_refused_by_the_command_and_leaves_nothing(
    line: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_environment: None
) -> None:
    monkeypatch.chdir(tmp_path)
    words = shlex.join(["train", "-m", "hydra/sweeper=optuna", *line.split(), "sweep_dir=search"])
    answer = run_here(words)
    assert answer.code == USER_ERROR, answer
    (said,) = answer.stderr.splitlines()
    assert said.startswith("error: ") and message in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["C:\\x", "it's", "a b", "1", "null", "\\'", "x\\"])
def test_a_text_is_written_so_that_hydra_reads_it(text: str) -> None:
    value: Any = parsed(f"key={written(text)}").value()
    assert getattr(value, "text", value) == text
