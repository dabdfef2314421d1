from collections import Counter
from itertools import pairwise

import pytest
import torch

from gnnaccel.train.schedule import batch_bounds, chunk_shift


def test_shift_is_a_uniform_multiple_of_the_chunk():
    draws = Counter(chunk_shift(600, 4, seed=3, epoch=epoch) for epoch in range(4000))
    assert sorted(draws) == [0, 150, 300, 450]
    assert all(900 < n < 1100 for n in draws.values())  # 1000 +- 3.6 sigma


def test_shift_is_a_function_of_seed_and_epoch():
    def series(seed):
        return [chunk_shift(100, 50, seed=seed, epoch=epoch) for epoch in range(40)]

    assert series(0) == series(0)
    assert series(0) != series(1)
    assert {chunk_shift(100, 1, seed=0, epoch=epoch) for epoch in range(20)} == {0}


@pytest.mark.parametrize(("batch_size", "chunks"), [(100, 3), (100, 0), (2, 4)])
def test_chunks_must_divide_the_batch(batch_size, chunks):
    with pytest.raises(ValueError, match=rf"divide batch_size \({batch_size}\), got {chunks}"):
        chunk_shift(batch_size, chunks, seed=0, epoch=0)


def test_bounds_by_hand():
    t = torch.arange(20)
    assert batch_bounds(t, slice(2, 20), 5) == [2, 7, 12, 17, 20]
    assert batch_bounds(t, slice(2, 20), 5, shift=3) == [2, 5, 10, 15, 20]
    assert batch_bounds(t, slice(2, 4), 5, shift=3) == [2, 4]
    assert batch_bounds(t, slice(4, 4), 5) == [4]
    # one event a batch
    assert batch_bounds(t, slice(0, 3), 1) == [0, 1, 2, 3]


def test_events_of_one_time_stay_together_in_any_grid():
    t = torch.tensor([0, 1, 1, 1, 2, 3, 3, 4, 5, 5])
    assert batch_bounds(t, slice(0, 10), 2) == [0, 4, 7, 10]
    assert batch_bounds(t, slice(0, 10), 2, shift=1) == [0, 1, 4, 7, 10]
    assert batch_bounds(t, slice(0, 10), 2, shift=1, whole_times=False) == [0, 1, 3, 5, 7, 9, 10]
    # ties that reach beyond the part are cut with it
    assert batch_bounds(t, slice(0, 3), 2) == [0, 3]
    for shift in range(4):
        bounds = batch_bounds(t, slice(0, 10), 4, shift=shift)
        assert bounds[0] == 0
        assert bounds[-1] == 10
        assert all(a < b for a, b in pairwise(bounds))
        assert all(t[b - 1] < t[b] for b in bounds[1:-1])
