"""Changed code for figures makes only the step of figures due again; nothing is bought."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import DictConfig

from psychocounsel.evaluation.best_of.settings import BestOf
from psychocounsel.evaluation.external.settings import External
from psychocounsel.evaluation.gate.settings import GateEvaluation
from psychocounsel.evaluation.health.settings import HealthEvaluation
from psychocounsel.evaluation.safety import speeches
from psychocounsel.evaluation.safety.settings import SafetyEvaluation
from psychocounsel.evaluation.session.settings import SessionEvaluation
from psychocounsel.evaluation.stepped import SteppedEvaluation
from psychocounsel.evaluation.winrate.settings import WinRate
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.steps import plan
from psychocounsel.steps.running import run_steps
from psychocounsel.storage.files import PACKAGE, read_json
from tests.support.annotating import model_server
from tests.support.contests import PROMPTS, Recorder, contest, context, data, replies, verdict
from tests.support.scripted import completion
from tests.test_architecture import imports, modules

_OWN = ("psychocounsel.evaluation.", "psychocounsel.metrics.", "psychocounsel.counsel.")
# Modules below those rooms that compute nothing for the figures.
_NOT_FIGURES = (
    *(
        ".base",
        ".stepped",
        ".settings",
        ".contestants.replies_step",
        ".contestants.speeches",
        ".judging.judges",
        ".judging.pairs",
    ),
    *(".rubric", ".rubric_text", ".strict_yaml"),
)


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a copy of the package, whose files the plan hashes."""
    copy = tmp_path / "code"
    for room in ("evaluation", "metrics", "counsel"):
        shutil.copytree(PACKAGE / room, copy / room, ignore=shutil.ignore_patterns("__pycache__", "*.yaml"))
    monkeypatch.setattr(plan, "PACKAGE", copy)
    plan._code_of.cache_clear()
    yield copy
    plan._code_of.cache_clear()


def test_other_code_makes_the_statistics_anew_and_buys_nothing(tmp_path: Path, code: Path) -> None:
    replies(tmp_path / "mine.jsonl", lambda prompt: f"Hm, {prompt[:13]}?")
    replies(tmp_path / "base.jsonl", lambda prompt: f"No, {prompt[:13]}.")
    asked = Recorder(lambda payload, _: completion(verdict("tie"), payload))
    with model_server(change=asked) as server:
        config = contest(
            "evaluation=winrate", *data(tmp_path), f"model.path={tmp_path}/mine.jsonl",
            f"against={tmp_path}/base.jsonl", f"run_dir={tmp_path}/out",
            "judge=local_vllm", "judge.model=j", f"judge.addresses=[{server.address}/v1]", "evaluation.controls=0",
        )  # fmt: skip
        files, said = EvaluationDir(tmp_path / "out"), list[str]()
        made = context(config, files.path, said)

        def due() -> list[str]:
            return [each.step for each in plan.planned_steps(WinRate.course, config, files) if each.due]

        run_steps(WinRate.course, made, lambda step: None)
        assert due() == [] and len(asked.payloads) == 2 * len(PROMPTS)
        before = read_json(files.figures)
        with open(code / "metrics" / "win_rates.py", "a") as file:
            file.write("# another version\n")
        (code / "evaluation" / "judging" / "pairs.py").write_text("# what is asked has versions of its own\n")
        plan._code_of.cache_clear()
        assert due() == ["statistics"]
        said.clear()
        run_steps(WinRate.course, made, lambda step: None)
    assert "statistics: made again, because psychocounsel's code changed; bought answers are kept" in said
    assert due() == [] and len(asked.payloads) == 2 * len(PROMPTS) and read_json(files.figures) == before


@pytest.mark.parametrize("evaluation", [SafetyEvaluation, SessionEvaluation])
def test_expected_actions_and_seeded_replies_are_named(evaluation: type[SteppedEvaluation]) -> None:
    named = {file for pattern in evaluation.course.code["figures"] for file in PACKAGE.glob(pattern)}
    assert {*PACKAGE.glob("evaluation/safety/**/*.yaml")} <= named


def test_another_text_in_the_crisis_set_is_another_source_of_the_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    before = SafetyEvaluation.course.sources(DictConfig({}))
    assert before and before == SafetyEvaluation.course.sources(DictConfig({}))
    first, *others = speeches.swapped_speeches()
    monkeypatch.setattr(speeches, "swapped_speeches", lambda: (replace(first, text="Aye."), *others))
    assert before != SafetyEvaluation.course.sources(DictConfig({}))


@pytest.mark.parametrize(
    "evaluation", [WinRate, BestOf, HealthEvaluation, External, SafetyEvaluation, SessionEvaluation, GateEvaluation]
)
def test_what_computes_figures_is_named(evaluation: type[SteppedEvaluation]) -> None:
    """`Course.code` covers every module that a step of figures imports, directly or indirectly, within the rooms that compute.

    A step is also due again if an earlier one is.
    """
    named = set[Path]()
    for step, patterns in evaluation.course.code.items():
        named |= {file for pattern in patterns for file in PACKAGE.glob(pattern)}
        if step not in evaluation.course.modules:  # a part of the gate
            continue
        own = evaluation.course.modules[step].partition(":")[0]
        ahead, seen = [own], set[str]()
        while ahead:
            module = ahead.pop()
            if module not in seen and (module.startswith(_OWN) or module == own):
                seen.add(module)
                ahead += [] if module.endswith(_NOT_FIGURES) else imports()[module]
        used = {modules()[module] for module in seen if not module.endswith(_NOT_FIGURES)}
        missing = {file for file in used - named if file.name != "__init__.py"}
        assert len(used & named) > 5 and not missing
