"""What the methods of a user's own parts return by mistake is refused in one line that names file, class and method."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from psychocounsel.algo.base import TAKEN, Algorithm, Term, checked_groups, checked_terms
from psychocounsel.asking.language_model import Answerer, LanguageModel, answer_of, open_model, submitted
from psychocounsel.cluster.base import Cluster
from psychocounsel.data.base import Source
from psychocounsel.data.group import Group
from psychocounsel.data.sources import read_rows
from psychocounsel.engine.callbacks import Callback, Callbacks
from psychocounsel.errors import USER_ERROR, UserError
from psychocounsel.evaluation.base import Evaluation
from psychocounsel.reward.base import RewardSettings, open_scorer
from psychocounsel.rollout.base import Rollout, RolloutSettings, Sampling
from psychocounsel.rollout.sessions import open_rollout
from psychocounsel.settings.targets import class_of, require_kind
from tests.support.harness import cli, metrics_of
from tests.support.own_folder import write_own

_ONE = torch.tensor(1.0)
_UNITS, _ENGINES = {"pairs": 2, "tokens": 9}, {"policy": None}
_NOTHING: Any = None


@dataclass
class Mine(Algorithm):
    def loss(self, outputs: Any, batch: Any) -> Any:
        return None


def _terms(**terms: Any) -> Callable[[], object]:
    return lambda: checked_terms(Mine(), terms, _UNITS, _ENGINES)


def _answered(value: Any) -> "Future[Any]":
    future: Future[Any] = Future()
    future.set_result(value)
    return future


def _instance(base: type, **methods: Callable[..., Any]) -> Any:
    """Return an object of a class Mine that derives from `base`, with its abstract methods; those not given return None."""
    lacking = dict.fromkeys(getattr(base, "__abstractmethods__", ()), lambda *given: None)
    return type("Mine", (base,), {**lacking, **methods, "__module__": __name__})()


def _opened_rollout() -> object:
    chat: Any = SimpleNamespace(tokenizer=None, ends=list)
    return open_rollout(_instance(RolloutSettings), _NOTHING, _NOTHING, chat, _NOTHING, _NOTHING)


def _generated(groups: Any) -> Callable[[], object]:
    rollout = _instance(Rollout, generate=lambda self, prompts, sampling: groups)
    return lambda: [*rollout.write([([Group("a", [])], Sampling(2, 1.0, 8, 8, 0))], lambda: None)]


def _ended(reason: Any) -> Callable[[], object]:
    callbacks = Callbacks.__new__(Callbacks)
    callbacks.run, callbacks.callbacks = _NOTHING, [_instance(Callback, eval_end=lambda *given: reason)]
    return lambda: callbacks.eval_end({}, 1, lambda text: [text])


def _rows(rows: Any) -> Callable[[], object]:
    source = _instance(Source, rows=lambda *given: rows)
    return lambda: [*read_rows(source, None, "train", None)]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: checked_terms(Mine(), _ONE, _UNITS, _ENGINES), r"loss returned Tensor of float32\[\]; it must return Terms"),
        (lambda: checked_terms(Mine(), None, _UNITS, _ENGINES), "loss returned None; it must return Terms by name"),
        (_terms(nll=_ONE), r"loss: Term nll is Tensor of float32\[\]; it must be a Term"),
        (_terms(nll=Term(torch.ones(3), "tokens")), r"loss: Term nll has a Tensor of float32\[3\]; it must be a scalar tensor"),
        (_terms(nll=Term(1.0, "tokens")), "loss: Term nll has a float; it must be a scalar tensor"),  # type: ignore[arg-type]
        (_terms(nll=Term(_ONE, "words")), "loss: Term nll has the unknown unit 'words'; choose from pairs, tokens"),
        (_terms(nll=Term(_ONE, "pairs", engine="critic")), "loss: Term nll belongs to engine 'critic'"),
        (_terms(nll=Term(_ONE, "pairs", weight=0)), "loss returned no Term with a weight for engine policy"),
        *((_terms(**{name: Term(_ONE, "pairs")}), f"loss: Term {name} has the name") for name in ("loss", "lr", "tokens")),
        (lambda: checked_groups(Mine(), "collect", None), "collect returned None; it must return a list of Groups"),
        (lambda: checked_groups(Mine(), "collect", [{}]), "collect returned list of 1; it must return a list of Groups"),
        (lambda: checked_groups(Mine(), "collect", [], 4), "collect returned list of 0; it must return as many Groups as it got"),
        (lambda: open_scorer(_instance(RewardSettings), torch.device("cpu")), "open returned None; it must return .*base.Scorer"),
        (_opened_rollout, "open returned None; it must return .*base.Rollout"),
        (_generated(None), "generate returned None; it must return its 1 Groups, each with 2 completions"),
        (_generated([]), "generate returned list of 0"),
        (_generated([Group("a", [])]), "generate returned list of 1"),
        (lambda: open_model(_instance(LanguageModel), "judge"), "open returned None; it must return .*Answerer"),
        (lambda: submitted(_instance(Answerer), _NOTHING, 1), "submit returned None; it must return .*Future"),
        (lambda: answer_of(_instance(Answerer), _answered("yes")), r"submit\(\).result returned str; it must return .*Answer"),
        (_rows(None), "rows returned None; it must return pairs of a row's place and the row"),
        (_rows([{"prompt": "a"}]), "rows returned dict of 1; it must return pairs"),
        (_ended(True), "eval_end returned bool; it must return the reason to end the run, or None"),
    ],
)  # fmt: skip
def test_a_wrong_return_is_named(call: Callable[[], object], said: str) -> None:
    with pytest.raises(UserError, match=rf"test_wrong_returns.py: Mine\.{said}") as caught:
        call()
    assert "\n" not in str(caught.value)


def test_right_returns_pass() -> None:
    terms = {"nll": Term(_ONE, "tokens"), "accuracy": Term(_ONE, "pairs", weight=0)}
    assert checked_terms(Mine(), terms, _UNITS, _ENGINES) == terms
    groups = [Group("a", [])]
    assert checked_groups(Mine(), "collect", groups, 1) == groups
    assert require_kind(Mine(), "work", 0, int) == 0
    assert _ended(None)() == "" and _ended("enough")() == "enough"


@pytest.mark.parametrize(
    ("base", "group", "lacking"),
    [
        (Algorithm, "algo", "loss"),
        (Cluster, "cluster", "gpus, process_count, submit"),
        (Evaluation, "evaluation", "work"),
        (RewardSettings, "reward", "open"),
        (RolloutSettings, "rollout", "open"),
        (LanguageModel, "judge", "open"),
        (Source, "data", "rows"),
    ],
)
def test_a_missing_method_and_another_base_are_refused_before_a_run(
    base: type, group: str, lacking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    name = f"of_{group}"
    where = f"from dataclasses import dataclass\nfrom {base.__module__} import {base.__name__}\n\n"
    classes = f"@dataclass\nclass Lacks({base.__name__}):\n    pass\n\n\n@dataclass\nclass Other:\n    pass\n"
    (tmp_path / f"{name}.py").write_text(where + classes)
    for kind, said in (
        ("Lacks", f"lacks {lacking} "),
        ("Other", f"must be a dataclass that derives from {base.__module__}.{base.__name__}"),
        ("None_", f"cannot be imported: .*{name}.py has no class None_"),
    ):
        with pytest.raises(UserError, match=rf"{group}._target_={name}.{kind}: {said}"):
            class_of(OmegaConf.create({"_target_": f"{name}.{kind}"}), group)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import nonexistent_module\n", "line 1: No module named 'nonexistent_module'"),
        ("\nfrom psychocounsel.algo.base import Nope\n", "line 2: cannot import name 'Nope'"),
        ("def f(:\n", "line 1: invalid syntax"),
        ("\n\nx = unknown\n", "line 3: name 'unknown' is not defined"),
    ],
)
def test_an_error_in_a_users_file_is_named_with_its_line(
    code: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "faulty.py").write_text(code)
    with pytest.raises(UserError, match=f"algo._target_=faulty.Mine: cannot be imported: faulty.py {said}") as caught:
        class_of(OmegaConf.create({"_target_": "faulty.Mine"}), "algo")
    assert "\n" not in str(caught.value)


_OWN = """
    from dataclasses import dataclass
    from psychocounsel.algo.base import Algorithm, Needs, Term

    @dataclass
    class Mine(Algorithm):
        needs = Needs(data="pairs")
        taken: bool = False

        def loss(self, outputs, batch):
            terms = {"nll": Term(-outputs.logprobs.sum(), "tokens"), "mine": Term(outputs.logprobs.sum(), "pairs", weight=0)}
            return terms | ({"lr": terms["mine"]} if self.taken else {})
"""


def test_a_run_refuses_taken_names_and_logs_no_other_names(small_model: Path, tmp_path: Path) -> None:
    write_own(tmp_path / "my", "algo", "mine", _OWN, "_target_: mine.Mine\nlr: 1e-5\ntaken: false\n")
    given = ["--config-dir=my", "algo=mine", f"model.path={small_model}", "debug=fast", "data.limit=40", "run_dir=run"]
    refused = cli("train", *given, "algo.taken=true", cwd=tmp_path, check_code=USER_ERROR).stderr
    assert "error: my/mine.py: Mine.loss: Term lr has the name of a metric" in refused and "Traceback" not in refused
    cli("train", *given[:-1], "run_dir=right", cwd=tmp_path)
    logged = {name for line in metrics_of(tmp_path / "right") for name in line if not name.startswith("eval/")}
    assert "mine" in logged and logged - {"mine"} <= {*TAKEN}
