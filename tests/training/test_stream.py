from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gristmill.training.stream import Columns, Order, Pictures, evaluation_batches, mixed, training_batches


@given(n=st.integers(1, 50), batch=st.integers(1, 70), seed=st.integers(0, 2**40), steps=st.integers(1, 20))
def test_batches_are_permutations_one_after_the_other(n, batch, seed, steps):
    rows = np.arange(100, 100 + n)
    order = Order(rows=rows, batch=batch, seed=seed)
    seen = np.concatenate([order.at(k) for k in range(steps)])
    assert len(seen) == steps * batch
    for start in range(0, len(seen) - n + 1, n):
        assert sorted(seen[start : start + n]) == rows.tolist()


def test_a_position_does_not_depend_on_what_was_asked_before():
    rows = np.arange(17)
    walked = Order(rows=rows, batch=5, seed=3)
    for k in range(30):
        walked.at(k)
    assert walked.at(11).tolist() == Order(rows=rows, batch=5, seed=3).at(11).tolist()


def test_seeds_differ():
    a, b = (Order(rows=np.arange(100), batch=50, seed=s).at(0).tolist() for s in (0, 1))
    assert a != b


def test_weights_decide_how_often_a_row_is_drawn():
    rows = np.arange(10, 20)
    weights = np.r_[np.full(5, 3.0), np.full(5, 1.0)]
    order = Order(rows=rows, batch=10, seed=0, weights=weights)
    counts = np.bincount(np.concatenate([order.epoch(e) for e in range(200)]) - 10, minlength=10)
    np.testing.assert_allclose(counts / 2000, weights / weights.sum(), atol=0.012)
    once = np.bincount(order.epoch(0) - 10, minlength=10)
    assert (np.abs(once - 10 * weights / weights.sum()) < 1).all()


def test_pictures_come_channels_first_in_channels_last_layout(tmp_path):
    squares = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    np.save(tmp_path / "squares.npy", squares)
    mapped = np.load(tmp_path / "squares.npy", mmap_mode="r")
    (x,) = Pictures(mapped, torch.device("cpu"))(np.array([5, 2]))
    assert x.shape == (2, 3, 4, 4)
    assert x.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(x.permute(0, 2, 3, 1).numpy(), squares[[5, 2]])


def test_columns_are_gathered_by_row_id():
    numbers = np.arange(8, dtype=np.float32).reshape(4, 2)
    columns = Columns(numbers, np.zeros((4, 0), np.int64), torch.device("cpu"))
    got, codes = columns(np.array([3, 1]))
    assert got.tolist() == [[6, 7], [2, 3]]
    assert codes.shape == (2, 0)


def test_evaluation_sees_every_row_once_in_order():
    columns = Columns(np.zeros((9, 1), np.float32), np.zeros((9, 0), np.int64), torch.device("cpu"))
    batches = list(evaluation_batches(np.arange(7), columns, 3))
    assert [len(b) for b in batches] == [3, 3, 1]
    assert torch.cat([b.rows for b in batches]).tolist() == list(range(7))


def test_training_batches_know_their_epoch():
    columns = Columns(np.zeros((6, 1), np.float32), np.zeros((6, 0), np.int64), torch.device("cpu"))
    order = Order(rows=np.arange(6), batch=4, seed=0)
    assert [b.epoch for b in training_batches(order, columns, 0, 4)] == [0, 0, 1, 2]


@pytest.mark.parametrize("pair", [((0, 1), (1, 0)), ((5,), (6,)), ((2**40,), (2**40 + 1,))])
def test_mixed_seeds_fit_32_bits_and_differ(pair):
    a, b = (mixed(*numbers) for numbers in pair)
    assert a != b
    assert 0 <= a < 2**32
