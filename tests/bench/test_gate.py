"""Comparing by parts, as on a GPU, is comparing at once."""

import math

import pytest
import torch

from gnnaccel.bench import gate


def at_once(a, b):
    a, b = a.double(), b.double()
    return (a - b).abs()[a != b].amax().item() if (a != b).any() else 0.0, b[b.isfinite()].abs().max().item()


def assert_same(got, want):
    assert all(g == w or (math.isnan(g) and math.isnan(w)) for g, w in zip(got, want, strict=True)), (got, want)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("part", [1, 7, 60, 1000])
def test_floats(dtype, part):
    gen = torch.Generator().manual_seed(part)
    b = torch.randn(5, 3, 4, generator=gen, dtype=torch.float64)
    a = (b + 1e-3 * torch.randn(b.shape, generator=gen, dtype=torch.float64)).to(dtype)
    for x, y in ((a, b), (a.transpose(0, 2), b.transpose(0, 2)), (a[0, 0, 0], b[1, 1, 1])):
        assert_same(gate.furthest(x, y, part), at_once(x, y))
    for odd in (math.nan, math.inf, -math.inf):
        for at in (0, 31, 59):
            x, y = a.clone(), b.clone()
            x.view(-1)[at] = odd
            assert_same(gate.furthest(x, b, part), at_once(x, b))
            y.view(-1)[at] = odd
            assert_same(gate.furthest(a, y, part), at_once(a, y))
            assert_same(gate.furthest(x, y, part), at_once(x, y))


def test_integers():
    a = torch.arange(50).reshape(5, 10)
    b = a.clone()
    b[[0, 2, 4], [0, 5, 9]] += 1
    assert [gate.differing(a.T, b.T, part) for part in (1, 7, 50, 100)] == [3] * 4
    assert gate.differing(a.bool(), b.bool(), 7) == 1


def test_nothing():
    empty = torch.empty(0, 3)
    assert gate.furthest(empty, empty, 4) == (0.0, 0.0)
    assert gate.differing(empty.long(), empty.long(), 4) == 0
    assert gate._disagreement(empty, empty, None) is None


def test_a_result_that_is_no_number_is_red_wherever_it_is(monkeypatch):
    monkeypatch.setattr(gate.furthest, "__defaults__", (4,))
    want = torch.ones(11)
    for at in range(11):
        got = want.clone()
        got[at] = math.nan
        assert gate._disagreement(got, want, None) is not None
        assert gate._disagreement(want, got, None) is not None
        assert gate._disagreement(got, got, None) is not None
    assert gate._disagreement(want, want.double(), None) is None


def test_an_infinite_value_must_be_where_it_is_expected_and_excuses_no_other(monkeypatch):
    monkeypatch.setattr(gate.furthest, "__defaults__", (4,))
    want = torch.ones(11)
    want[3] = math.inf  # as of candidates that are left out
    assert gate._disagreement(want, want.double(), None) is None
    for at, value in ((3, 1.0), (3, -math.inf), (5, math.inf), (5, 2.0), (9, 1.01)):
        got = want.clone()
        got[at] = value
        assert gate._disagreement(got, want, None) is not None
