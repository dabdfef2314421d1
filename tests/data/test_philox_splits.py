from __future__ import annotations

import numpy as np
import pytest
import torch

from gnnaccel.data import TemporalEvents, chronological_split, inductive_mask
from gnnaccel.data.philox import below, philox4x32, uint64_below

# Random123's kat_vectors: counter, key, result
KAT = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> list[int]:
    return [int(x, 16) for x in text.split()]


@pytest.mark.parametrize(("counter", "key", "want"), KAT)
def test_known_answers(counter: str, key: str, want: str) -> None:
    k0, k1 = words(key)
    got = philox4x32(np.array(words(counter), np.uint64)[:, None].repeat(3, 1), (k0, k1))
    assert got.T.tolist() == [words(want)] * 3


def test_chunks_are_seamless() -> None:
    c = np.arange(4 * 40_000, dtype=np.uint64).reshape(4, -1)
    whole = philox4x32(c, (1, 2))
    assert np.array_equal(whole[:, 16_380:16_390], philox4x32(c[:, 16_380:16_390], (1, 2)))


def test_bounded_draws() -> None:
    top = np.array([2**32 - 1], np.uint64)
    for bound in (1, 2, 1000, 2**31 - 1):
        assert uint64_below(top, top, bound).item() == bound - 1 and uint64_below(0 * top, top, bound).item() == 0
    x = below(10, np.arange(20_000), 5, seed=3)
    assert x.shape == (20_000, 5) and x.min() == 0 and x.max() == 9
    expected = x.size / 10
    chi2 = ((np.bincount(x.ravel()) - expected) ** 2 / expected).sum()
    assert chi2 < 33.7  # 9 degrees of freedom, p = 1e-4


def test_draws_depend_on_the_key_only() -> None:
    ids = np.array([5, 2**40, 7])
    a = below(10**6, ids, 7, seed=2**40 + 1, epoch=3, stream=1)
    assert np.array_equal(below(10**6, ids[::-1], 3, seed=2**40 + 1, epoch=3, stream=1), a[::-1, :3])
    for other in ({"seed": 1}, {"epoch": 4}, {"stream": 2}):
        assert not np.array_equal(below(10**6, ids, 7, **{"seed": 2**40 + 1, "epoch": 3, "stream": 1, **other}), a)
    with pytest.raises(ValueError, match="epoch"):
        below(2, ids, 1, seed=0, epoch=1 << 24)


def test_split_shares_and_types() -> None:
    for t in (torch.arange(100), np.arange(100.0)):
        s = chronological_split(t)
        assert (s.train, s.val, s.test) == (slice(0, 70), slice(70, 85), slice(85, 100))
    e = TemporalEvents("x", torch.zeros(10, dtype=torch.int64), torch.ones(10, dtype=torch.int64), torch.arange(10))
    assert chronological_split(e, 0.2, 0.2).test == slice(8, 10)


@pytest.mark.parametrize("seed", range(5))
def test_split_equals_the_quantile_rule_and_keeps_ties(seed: int) -> None:
    t = np.sort(np.random.default_rng(seed).integers(0, 40, 500))
    s = chronological_split(t)
    a, b = np.quantile(t, [0.7, 0.85])
    assert s.train.stop == (t <= a).sum() and s.val.stop == (t <= b).sum() and s.test.stop == 500
    for cut in (s.train.stop, s.val.stop):
        assert t[cut - 1] < t[cut]


def test_split_is_exact_where_floats_are_not() -> None:
    # Neighbours that float64 cannot tell apart
    t = 2**60 + np.arange(100)
    assert chronological_split(t).train == slice(0, 70)


@pytest.mark.parametrize(
    ("t", "kw", "text"),
    [
        ([], {}, "train part must have events"),
        ([1, 2], {}, "part must have events"),
        ([3] * 50, {}, "val part must have events"),
        ([1] * 40 + [2] * 50, {}, "must have events"),
        (range(9), {"val": 0.5, "test": 0.5}, "sum < 1"),
        (range(9), {"val": 0.0}, "must be > 0"),
        ([2, 1, 3], {}, "time order"),
        ([[1, 2]], {}, "vector"),
    ],
)
def test_split_errors(t, kw: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        chronological_split(np.array(t), **kw)


def test_inductive_mask() -> None:
    src = torch.tensor([0, 1, 0, 4, 1, 4, 0, 1, 0, 5])
    dst = torch.tensor([2, 3, 2, 2, 3, 2, 3, 3, 6, 2])
    e = TemporalEvents("x", src, dst, torch.arange(10))
    s = chronological_split(e, 0.3, 0.3)
    assert s.train.stop == 4 and s.val.stop == 7  # 4 is seen in training, 5 and 6 are not
    assert inductive_mask(e, s).tolist() == [False] * 8 + [True, True]


def test_normal_rows():
    from gnnaccel.data.philox import normal_rows

    many = normal_rows(0, 5000, 13, seed=3, stream=2)
    assert many.dtype == np.float32
    assert np.array_equal(normal_rows(1234, 3, 13, seed=3, stream=2), many[1234:1237])
    assert not np.array_equal(normal_rows(0, 3, 13, seed=4, stream=2), many[:3])
    assert not np.array_equal(normal_rows(0, 3, 13, seed=3, stream=1), many[:3])
    x = many.astype(np.float64)
    assert abs(x.mean()) < 0.02
    assert abs(x.var() - 1) < 0.02
    assert abs((x**4).mean() - 3) < 0.1
    assert np.abs(np.corrcoef(x.T) - np.eye(13)).max() < 0.06
    assert normal_rows(0, 0, 4, seed=0).shape == (0, 4)
    assert normal_rows(0, 4, 0, seed=0).shape == (4, 0)
