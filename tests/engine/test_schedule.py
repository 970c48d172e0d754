"""Tests of the data order: every row once per epoch, and the same order for the same seed after any history."""

import pytest

from psychocounsel.engine.schedule import DataOrder, RoundOrder, step_seed


@pytest.mark.parametrize(("rows", "batch", "epochs"), [(10, 3, 2), (7, 7, 1), (5, 8, 3), (100, 32, 1.5)])
def test_every_row_once_an_epoch(rows: int, batch: int, epochs: float) -> None:
    order = DataOrder(rows, batch, epochs, None, seed=1)
    stream = [index for step in range(order.steps) for index in order.indices(step)]
    assert len(stream) == round(rows * epochs)
    for start in range(0, len(stream) - rows + 1, rows):
        assert sorted(stream[start : start + rows]) == list(range(rows))
    if epochs >= 2:
        assert stream[:rows] != stream[rows : 2 * rows], "each epoch has its own shuffle"
    assert all(len(order.indices(step)) == batch for step in range(order.steps - 1))


def test_order_depends_on_the_seed_alone() -> None:
    first, same, other = (DataOrder(50, 8, 2, None, seed) for seed in (1, 1, 2))
    assert [first.indices(step) for step in range(first.steps)] == [same.indices(step) for step in range(same.steps)]
    assert first.indices(0) != other.indices(0)
    assert DataOrder(50, 8, 9, None, 1).indices(4) == first.indices(4), "more epochs do not change the earlier steps"


def test_max_steps_alone_decides_the_length() -> None:
    order = DataOrder(10, 4, None, 7, 1)
    assert order.steps == 7
    stream = [index for step in range(7) for index in order.indices(step)]
    assert len(stream) == 28, "every step is full, across borders of epochs"
    assert all(sorted(stream[start : start + 10]) == list(range(10)) for start in (0, 10))
    assert RoundOrder(10, 4, 4, 2, None, 9, 1).steps == 9
    assert RoundOrder(10, 4, 4, 2, None, 9, 1).rounds == 5


def test_max_steps_ends_early_and_visits_only_what_it_sees() -> None:
    order = DataOrder(50, 8, 3, 2, seed=1)
    assert order.steps == 2
    assert order.visited() == sorted({*order.indices(0), *order.indices(1)})
    assert DataOrder(50, 8, 0.1, None, seed=1).steps == 1
    assert DataOrder(50, 8, 1, 10**6, seed=1).steps == 7


def test_step_seeds_differ() -> None:
    assert len({step_seed(seed, step, rank) for seed in (1, 2) for step in range(10) for rank in range(4)}) == 80
