"""Tests of the limits of `guard`, the win rate and the samples: separately, and in a run that is killed and resumed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from psychocounsel.data.group import Completion, Group, read_groups
from psychocounsel.engine.loop import LoopState
from psychocounsel.engine.settings import GuardConfig
from psychocounsel.errors import GATE_NO, USER_ERROR, UserError
from psychocounsel.metrics.limits import exceeded
from psychocounsel.metrics.replies import sample_page
from psychocounsel.metrics.rewards import win_rate
from psychocounsel.storage.files import read_json
from tests.engine.test_resume import assert_bitwise_equal
from tests.support.composed import check, compose
from tests.support.harness import ROOT, cli, metrics_of

BEFORE = {"eval/repetition": 0.1, "eval/unfinished": 0.2, "eval/kl": 0.0, "eval/length": 40.0, "eval/reward": 1.0}


def guard(**limits: Any) -> Any:
    return OmegaConf.structured(GuardConfig(**limits))


@pytest.mark.parametrize(
    ("name", "limit", "kept", "beyond"),
    [
        ("repetition", 0.3, {"eval/repetition": 0.3}, {"eval/repetition": 0.31}),
        ("unfinished", 0.5, {"eval/unfinished": 0.5}, {"eval/unfinished": 0.6}),
        ("kl", 10.0, {"eval/kl": 9.9}, {"eval/kl": 10.1}),
        ("length_ratio", 2.0, {"eval/length": 80.0}, {"eval/length": 81.0}),
        ("length_ratio", 2.0, {"eval/length": 20.0}, {"eval/length": 19.0}),
        ("reward_drop", 0.5, {"eval/reward": 0.5}, {"eval/reward": 0.4}),
        ("reward_drop", 0.0, {"eval/reward": 1.0}, {"eval/reward": float("nan")}),
    ],
)
def test_a_limit_is_kept_or_not(name: str, limit: float, kept: dict, beyond: dict) -> None:
    assert not exceeded({**BEFORE, **kept}, BEFORE, guard(**{name: limit}))
    assert not exceeded({**BEFORE, **beyond}, BEFORE, guard())
    (found,) = exceeded({**BEFORE, **beyond}, BEFORE, guard(**{name: limit}))
    assert found.name == name and f"guard.{name}={limit:g}" in str(found) and "\n" not in str(found)


def test_what_exceeds_a_limit_is_never_the_best() -> None:
    state = LoopState()
    assert not state.note({"eval/reward": 1.0}, "eval/reward", "auto")
    state.step = 1
    assert not state.note({"eval/reward": 9.0}, "eval/reward", "auto", eligible=False)
    assert state.last == {"eval/reward": 9.0} and not state.best
    state.step = 2
    assert state.note({"eval/reward": 2.0}, "eval/reward", "auto") and state.best["step"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["algo=dpo", "guard.repetition=0.2"], "guard.repetition=0.2: guards measure replies"),
        (["algo=sft", "guard.stop=true"], "guard.stop=True"),
        (["algo=rloo", "guard.stop=true"], "needs a limit: give guard.repetition"),
        (["algo=rloo", "guard.kl=5", "algo.reference=round"], "algo.reference=initial"),
        (["algo=distil", "guard.kl=1"], "guard.kl=1.0: Distil measures the divergence from its teacher"),
        (["algo=rloo", "guard.repetition=0.2", "data.dev_fraction=0"], "data.dev_fraction=0 leaves none"),
        (["algo=rloo", "guard.repetition=1.2"], "must be at most 1"),
        (["algo=rloo", "guard.length_ratio=0.5"], "must be at least 1"),
        (["algo=rloo", "+guard.repetitions=0.5"], "did you mean guard.repetition?"),
    ],
)
def test_what_cannot_be_guarded_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message.replace("?", "\\?")) as caught:
        check(compose(arguments))
    assert "\n" not in str(caught.value)


def test_a_page_of_samples() -> None:
    replies = [
        Completion(np.arange(3), text, reward=reward, finish_reason=reason)
        for text, reward, reason in (("fine", 1.0, "stop"), ("best\nof all", 2.5, "stop"), ("worst", -1.0, "length"))
    ]
    messages: list[Any] = [{"role": "user", "content": "I feel\nalone."}]
    groups = [Group(str(number), np.arange(2), replies, messages=messages) for number in range(3)]
    page = sample_page(groups, 2, "Round 7")
    assert page.startswith("# Round 7\n") and page.count("---") == 2
    assert "> **user**: I feel\n> alone.\n" in page
    assert "reward 2.500, 3 tokens\n\n> best\n> of all\n\nreward -1.000, 3 tokens, cut\n\n> worst\n" in page
    assert "fine" not in page


# -- through the loop

BASE = ["algo=rloo", "reward=tiny", "algo.samples=2", "data.limit=200", "eval.limit=4", "max_steps=6", "max_length=600"]
BASE += ["global_batch_size=4", "rollout.max_tokens=12", "eval.every=2", "checkpoint.every=2", "algo.lr=1e-2"]
BASE += ["cluster.threads=1", "guard.unfinished=1", "guard.kl=0.5", "rollout.shown_prompts=1", "tracker=tensorboard"]
BASE += ["tracker.texts=true"]


def train(run: Path, model: Path, *more: str, code: int = 0) -> str:
    return cli("train", f"run_dir={run}", f"model.path={model}", *BASE, *more, cwd=ROOT, check_code=code).stderr


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> tuple[Path, str]:
    run = tmp_path_factory.mktemp("guard") / "run"
    return run, train(run, small_model)


def test_limits_are_reported_and_the_best_model_kept_them(unbroken: tuple[Path, str]) -> None:
    run, said = unbroken
    lines = [line for line in metrics_of(run) if "eval/kl" in line]
    assert "guard/kl" not in lines[0] and all(line["guard/unfinished"] == 0 for line in lines[1:])
    assert [line["guard/kl"] for line in lines[1:]] == [float(line["eval/kl"] > 0.5) for line in lines[1:]]
    over = [line["step"] for line in lines[1:] if line["guard/kl"]]
    assert over, "this large learning rate exceeds a limit"
    assert said.count("guard: after step") == len(over)
    assert all(f"guard: after step {step} the divergence from the reference [nats] is" in said for step in over)
    best = read_json(run / "summary.json")["metrics"]["best"]
    healthy = [line for line in lines[1:] if line["step"] not in over]
    assert best.get("step") == (max(healthy, key=lambda line: line["eval/reward"])["step"] if healthy else None)


def test_the_win_rate_is_against_the_policy_before_training(unbroken: tuple[Path, str]) -> None:
    run, _ = unbroken
    before = read_groups(run / "rounds" / "before.parquet")
    lines = [line for line in metrics_of(run) if "eval/win_rate" in line]
    rewards = [[reply.reward for reply in group.completions] for group in before]
    assert np.mean(rewards) == pytest.approx(lines[0]["eval/reward"])
    assert {name: lines[0][f"eval/{name}"] for name in ("win_rate", "win_rate_low", "win_rate_high")} == win_rate(
        rewards,  # type: ignore[arg-type]
        rewards,  # type: ignore[arg-type]
        range(len(before)),
    )
    assert all(line["eval/win_rate"] * 8 % 1 == 0 for line in lines) and len(lines) == 4
    assert any(line["eval/win_rate"] != 0.5 for line in lines)


def test_samples_of_each_round_lie_beside_it_and_go_to_the_tracker(unbroken: tuple[Path, str]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, _ = unbroken
    pages = [(run / "rounds" / f"{number:04d}" / "samples.md").read_text() for number in range(6)]
    (first, *_) = read_groups(run / "rounds" / "0002" / "shard-00.parquet")
    assert pages[2] == sample_page([first], 1, "Round 2") and len(set(pages)) == 6
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    shown = events.Tensors("rollout/samples/text_summary")
    assert [event.step for event in shown] == [1, 2, 3, 4, 5, 6]
    assert [event.tensor_proto.string_val[0].decode() for event in shown] == pages


@pytest.mark.slow
def test_a_guard_stops_in_good_order_and_a_looser_one_goes_on(
    unbroken: tuple[Path, str], small_model: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    said = train(run, small_model, "guard.kl=1e-6", "guard.stop=true", code=GATE_NO)
    assert "guard.stop=true: saving step 2" in said and "Traceback" not in said and "failed" not in said
    assert read_json(run / "summary.json")["status"] == "stopped" and not (run / "model").exists()
    train(run, small_model)
    lines, expected = metrics_of(run), metrics_of(unbroken[0])
    assert lines[2]["guard/kl"] == 1
    for line in (lines[2], expected[2]):
        line.pop("guard/kl")
    assert lines == expected


@pytest.mark.proof  # test_held_out.py kills such a run as well
def test_killed_and_gone_on_it_compares_with_the_same_replies(
    unbroken: tuple[Path, str], small_model: Path, tmp_path: Path
) -> None:
    kill = "+callbacks.kill={_target_: tests.support.killer.Kill, event: step_end, step: 3}"
    train(tmp_path / "run", small_model, kill, code=137)
    train(tmp_path / "run", small_model)
    assert_bitwise_equal(tmp_path / "run", unbroken[0])


@pytest.mark.slow
def test_a_guard_stops_after_the_last_step_too(small_model: Path, tmp_path: Path) -> None:
    train(
        tmp_path / "run", small_model, "guard.kl=1e-6", "guard.stop=true", "max_steps=2", "eval.every=2", code=GATE_NO
    )
    assert not (tmp_path / "run" / "model").exists()
    said = train(tmp_path / "run", small_model, "guard.kl=1e-6", "max_steps=2", "eval.every=2")
    assert "every evaluation exceeded a limit of guard: model/ holds the last weights" in said


@pytest.mark.slow
def test_without_the_replies_before_training_it_says_so(small_model: Path, tmp_path: Path) -> None:
    touch = "+callbacks.touch={_target_: tests.support.killer.Touch, event: step_end, step: 3}"
    train(tmp_path / "run", small_model, touch, code=75)
    (tmp_path / "run" / "rounds" / "before.parquet").unlink()
    assert "but eval/win_rate needs it" in train(tmp_path / "run", small_model, code=USER_ERROR)
