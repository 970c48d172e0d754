"""`dtype: auto` of contestants and reward models is the number format of the run that trained them."""

from pathlib import Path
from typing import Any

import pytest
import torch

from psychocounsel.evaluation.judging.reward_judge import RewardJudge
from psychocounsel.model.shape import builtin_folder
from psychocounsel.reward.local_model import LocalReward, LocalScorer, format_lines
from psychocounsel.settings.targets import build
from tests.support.chats import converse
from tests.support.contests import contest
from tests.support.trained import trained_run


def formats(*overrides: str) -> tuple[list[Any], list[str]]:
    """Return the number format of each contestant, and the line about formats."""
    found = build(contest("evaluation=health", *overrides), "contestants")
    return [getattr(model, "dtype", None) for model in found.models()], [*found.format_lines()]


def test_a_run_and_its_base_reply_in_the_number_format_of_the_training(tmp_path: Path) -> None:
    run = trained_run(tmp_path / "mine", "model.dtype=bf16")
    said = "number format of mine and tiny: bf16, because the training of mine had model.dtype=bf16"
    assert formats(f"model.path={run}") == (["bf16", "bf16"], [said])
    assert formats(f"model.path={run}/model", "against=null")[0] == ["bf16"]
    assert formats("model.path=builtin:tiny_dpo") == (["auto", "auto"], []), "nothing is known"


def test_a_typed_number_format_wins(tmp_path: Path) -> None:
    run = trained_run(tmp_path / "mine", "model.dtype=bf16")
    base = "against={path: 'builtin:tiny', dtype: fp32}"
    assert formats(f"model.path={run}", "model.dtype=fp32") == (
        ["fp32", "fp32"],
        ["number format of tiny: fp32, as for mine"],
    )
    assert formats(f"model.path={run}", base)[0] == ["bf16", "fp32"]


def test_each_run_has_the_format_of_its_own_training(tmp_path: Path) -> None:
    mine = trained_run(tmp_path / "mine", "model.dtype=bf16")
    wide = trained_run(tmp_path / "wide", "model.dtype=fp32")
    unsaid = trained_run(tmp_path / "unsaid")
    assert formats(f"model.path={mine}", f"against=[{wide},{unsaid}]")[0] == ["bf16", "fp32", "bf16"]
    assert formats(f"model.path={unsaid}", f"against={mine}")[0] == ["auto", "bf16"]


def test_the_weights_are_loaded_in_it_and_replies_are_kept_under_it(tmp_path: Path) -> None:
    run = trained_run(tmp_path / "mine", "model.dtype=bf16")
    kept = {}
    for dtype, wanted in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        given = [] if dtype == "bf16" else ["model.dtype=fp32"]
        (model,) = build(
            contest("evaluation=health", f"model.path={run}", "against=null", *given), "contestants"
        ).models()
        answerer: Any = model.open("model")
        assert next(answerer.rollout.policy.parameters()).dtype == wanted
        answerer.close()
        kept[dtype] = model.digest
    assert kept["bf16"] != kept["fp32"]


def test_a_reward_model_of_a_run_scores_in_the_number_format_of_its_training(tmp_path: Path) -> None:
    weights = builtin_folder("builtin:tiny_reward")
    run = trained_run(tmp_path / "mine", "algo=reward", "model.dtype=bf16", weights=weights)
    path = f"{run}/model"
    assert LocalScorer.load(path).dtype == torch.bfloat16
    assert LocalScorer.load(path, dtype="fp32").dtype == LocalScorer.load("builtin:tiny_reward").dtype == torch.float32
    said = "number format of mine: bf16, because its training had model.dtype=bf16"
    assert [*format_lines([LocalReward(name="mine", path=path)])] == [said]
    assert not [*format_lines([LocalReward(name="mine", path=path, dtype="bf16"), LocalReward(name="x", path="org/x")])]
    target = "psychocounsel.reward.local_model.LocalReward"
    digests = {
        dtype: RewardJudge(
            name="mine", reward={"_target_": target, "name": "mine", "path": path, "dtype": dtype}
        ).digest
        for dtype in ("auto", "bf16", "fp32")
    }
    assert digests["auto"] == digests["bf16"] != digests["fp32"], "verdicts are kept under the format used"


def test_chat_uses_the_same_formats_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained_run(tmp_path / "mine", "model.dtype=bf16")
    converse(monkeypatch, "Hello.\n", f"model.path={run}", "replies.max_tokens=2")
    assert "number format of mine: bf16, because the training of mine had model.dtype=bf16" in capsys.readouterr().err
