"""Two micro-batches at once in one process: reproducible, on the same weights, and only where this is possible."""

import threading
import time
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import nn

from psychocounsel.algo.dpo import DPO
from psychocounsel.engine.step import Stepper, metrics_of
from psychocounsel.model.cpu import Queues, micro_batches_at_once
from psychocounsel.model.packed import Policy
from tests.support.harness import check, compose, make_stepper, random_groups, small_lm

pytestmark = pytest.mark.usefixtures("in_process_training")


@pytest.fixture
def two_threads() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def train(at_once: int, dtype: torch.dtype = torch.float32, steps: int = 3) -> tuple[Stepper, list[dict[str, float]]]:
    stepper = make_stepper(small_lm(), DPO(), 60, dtype, "zero=0", at_once=at_once)
    lines = []
    for seed in range(steps):
        stepper.main.train(True)
        metrics = metrics_of(stepper.accumulate(random_groups(7, seed=seed), train=True)[0])
        lines.append(metrics | {"norm": stepper.main.step(1e-3)})
    return stepper, lines


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_in_two_lanes_is_training_in_one(dtype: torch.dtype, two_threads: None) -> None:
    """After some steps, each lane has the optimizer's updated weights."""
    one, expected = train(1, dtype)
    stepper, lines = train(2, dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for line, wanted in zip(lines, expected, strict=True):
        assert line == pytest.approx(wanted, rel=tolerance, abs=tolerance)
    assert lines[0]["loss"] != pytest.approx(lines[2]["loss"], rel=0.01), "the loss changes"
    groups = random_groups(5, seed=9)
    stepper.main.train(False)
    apart = [piece for row in stepper.per_token(groups) for piece in row]
    one.main.train(False)
    together = [piece for row in one.per_token(groups) for piece in row]
    for mine, other in zip(apart, together, strict=True):
        assert mine == pytest.approx(other, rel=tolerance, abs=tolerance)


def test_two_lanes_give_the_same_bits_every_time(two_threads: None) -> None:
    (first, lines), (second, again) = train(2), train(2)
    assert lines == again
    for mine, other in zip(first.main.module.parameters(), second.main.module.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_both_lanes_work_at_once_and_on_all_groups(two_threads: None) -> None:
    stepper = make_stepper(small_lm(), DPO(), 60, torch.float32, "zero=0", at_once=2)
    groups = random_groups(9)
    parts = [[members for members, _ in stepper.micro_batches(groups, lane)] for lane in (0, 1)]
    assert sorted(index for lane in parts for members in lane for index in members) == list(range(9))
    assert len(parts[0]) == len(parts[1]) > 1
    meeting = threading.Barrier(2, timeout=30)  # raises unless both lanes arrive
    assert sorted(Queues(2).run(lambda lane: meeting.wait() >= 0 and lane)) == [0, 1]


def test_an_error_in_a_lane_is_raised_once_the_other_has_ended(two_threads: None) -> None:
    queues, ended = Queues(2), []
    for failing in (0, 1):

        def work(lane: int, failing: int = failing) -> None:
            if lane == failing:
                raise ValueError(f"lane {lane}")
            threading.Event().wait(0.2)
            ended.append(lane)

        with pytest.raises(ValueError, match=f"lane {failing}"):
            queues.run(work)
        assert torch.get_num_threads() == 2, "the caller has all threads again"
    assert ended == [1, 0]


def test_a_lane_computes_with_half_of_the_threads_and_the_callers_gradient_mode(two_threads: None) -> None:
    queues = Queues(2)
    with torch.no_grad():
        assert queues.run(lambda lane: (torch.get_num_threads(), torch.is_grad_enabled())) == [(1, False)] * 2
    assert queues.run(lambda lane: torch.is_grad_enabled()) == [True, True]


def test_a_lane_that_computes_late_keeps_its_number_of_threads(two_threads: None) -> None:
    """The caller has set its own number again by the first operation of the other lane."""
    queues, caller = Queues(2), threading.current_thread().ident

    def late(lane: int) -> int:
        if threading.current_thread().ident != caller:
            time.sleep(0.3)
        return torch.get_num_threads()

    assert queues.run(late) == [1, 1]


@pytest.mark.parametrize(
    ("overrides", "changes", "at_once"),
    [
        ([], {}, 2),
        (["engine.two_lanes=false"], {}, 1),
        (["zero=1"], {}, 1),
        (["model.gradient_checkpointing=true"], {}, 1),
        ([], {"attention_dropout": 0.1}, 1),
    ],
)
def test_where_there_are_two_lanes(
    overrides: list[str], changes: dict[str, float], at_once: int, two_threads: None
) -> None:
    config = check(compose(["zero=0", *overrides]))
    assert count(config, Policy(small_lm(**changes), "m")) == at_once


def count(config: DictConfig, model: Policy) -> int:
    return micro_batches_at_once(config, model, model.drops, 1, torch.device("cpu"))


def test_one_lane_for_dropout_adapters_and_a_single_thread(two_threads: None) -> None:
    config = check(compose(["zero=0"]))
    model = Policy(small_lm(), "m")
    model.lm.extra = nn.Dropout(0.1)
    assert count(config, model) == 1
    model.lm.extra = nn.Dropout(0.0)
    assert count(config, model) == 2
    assert count(check(compose(["zero=0", "model.lora.rank=4"])), model) == 1
    torch.set_num_threads(1)
    assert count(config, model) == 1
