"""Batches made one ahead in a thread: same order, same content, and errors and ends as without the thread."""

import threading
from collections.abc import Iterator

import pytest
import torch

from psychocounsel.algo.dpo import DPO
from psychocounsel.data.batch import one_ahead
from psychocounsel.engine.step import Stepper
from tests.support.harness import make_stepper, random_groups, small_lm


def nothing() -> None:
    pass


def test_items_come_in_order_each_made_while_the_last_one_is_in_use() -> None:
    made: list[int] = []
    second = threading.Event()

    def make() -> Iterator[int]:
        for number in range(4):
            made.append(number)
            if number == 1:
                second.set()
            yield number

    items = one_ahead(make(), nothing)
    assert next(items) == 0
    assert second.wait(30), "the next item is made before it is requested"
    assert len(made) == 2, "only the next item is made ahead"
    assert list(items) == [1, 2, 3]
    assert list(one_ahead(iter([]), nothing)) == []


def test_an_error_is_raised_where_its_item_would_come() -> None:
    def make() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("the third")

    got: list[int] = []
    with pytest.raises(ValueError, match="the third"):
        got.extend(one_ahead(make(), nothing))
    assert got == [1, 2]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_the_thread_ends_with_the_loop_that_is_left(error: type[BaseException]) -> None:
    threads: list[threading.Thread] = []

    def leave() -> None:
        for _ in one_ahead(iter(range(10**9)), lambda: threads.append(threading.current_thread())):
            raise error

    with pytest.raises(error):
        leave()
    (thread,) = threads
    thread.join(30)
    assert not thread.is_alive()


def stepper_of(ahead: bool) -> Stepper:
    torch.manual_seed(3)
    stepper = make_stepper(small_lm(), DPO(), 60, torch.float32, "zero=0")
    stepper.ahead = ahead
    return stepper


@pytest.mark.usefixtures("in_process_training")
def test_training_is_bitwise_the_same_with_batches_made_ahead() -> None:
    plain, ahead = stepper_of(False), stepper_of(True)
    groups = random_groups(9)
    pairs = list(zip(plain.micro_batches(groups), ahead.micro_batches(groups), strict=True))
    assert len(pairs) > 2
    for (members, batch), (same_members, same_batch) in pairs:
        assert members == same_members and torch.equal(batch.input_ids, same_batch.input_ids)
    for _ in range(2):
        assert plain.accumulate(groups, train=True)[0] == ahead.accumulate(groups, train=True)[0]
        assert plain.main.step(1e-2) == ahead.main.step(1e-2)
    for mine, other in zip(plain.main.module.parameters(), ahead.main.module.parameters(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.usefixtures("in_process_training")
def test_an_error_in_building_reaches_the_step_as_without_the_thread() -> None:
    said = []
    for ahead in (False, True):
        stepper, groups = stepper_of(ahead), random_groups(9)
        groups[-1].completions[0].ids = None  # type: ignore[assignment]
        with pytest.raises(TypeError) as caught:
            list(stepper.micro_batches(groups))
        said.append(str(caught.value))
    assert said[0] == said[1]
