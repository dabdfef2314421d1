from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gnnaccel.data import NegativeSampler, TemporalEvents, synthetic_events


def events(rows: list[tuple[int, int, int]]) -> TemporalEvents:
    src, dst, t = (torch.tensor(x) for x in zip(*sorted(rows, key=lambda r: r[2]), strict=True))
    return TemporalEvents("x", src, dst, t, num_nodes=12)


def positives(e: TemporalEvents, i: int) -> set[int]:
    same = (e.src == e.src[i]) & (e.t == e.t[i])
    return set(e.dst[same].tolist())


def history(e: TemporalEvents, i: int) -> set[int]:
    return set(e.dst[(e.src == e.src[i]) & (e.t < e.t[i])].tolist()) - positives(e, i)


rows = st.lists(st.tuples(st.integers(0, 3), st.integers(4, 11), st.integers(0, 5)), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(rows)
def test_against_definitions(r: list[tuple[int, int, int]]) -> None:
    e = events([*r, (0, 4, 9), (1, 5, 9), (2, 6, 10), (3, 7, 10), (3, 8, 10)])
    pool = set(e.destinations.tolist())
    possible = [i for i in range(len(e)) if pool - positives(e, i)]
    random = NegativeSampler(e, "random", seed=1).sample(possible, 60)
    past = NegativeSampler(e, "historical", seed=1).sample(possible, 60)
    for k, i in enumerate(possible):
        assert set(random[k].tolist()) <= pool - positives(e, i)
        want = history(e, i)
        got = set(past[k].tolist())
        if want:
            assert got <= want
        else:
            assert got <= pool - positives(e, i)


def test_every_candidate_comes_up_equally_often() -> None:
    # Source 0: past 4, 4, 4, 5, 6, 7 (then 5 and 6 tied at the event), so 4 and 7 remain; 8..11 are in the pool only
    e = events(
        [(0, 4, 0), (0, 4, 1), (0, 4, 2), (0, 5, 2), (0, 6, 3), (0, 7, 4), (1, 8, 4), (1, 9, 5), (0, 5, 6), (0, 6, 6)]
    )
    n = 20_000
    for strategy, want in (("random", {4, 7, 8, 9}), ("historical", {4, 7})):
        x = NegativeSampler(e, strategy, seed=5).sample([8], n)[0]
        ids, count = x.unique(return_counts=True)
        assert set(ids.tolist()) == want
        assert (count - n / len(want)).abs().max() < 5 * (n / len(want)) ** 0.5


@pytest.mark.parametrize("strategy", ["random", "historical"])
def test_draws_do_not_depend_on_the_batch(strategy: str) -> None:
    e = synthetic_events(2000)
    s = NegativeSampler(e, strategy, seed=3)
    whole = s.sample(slice(None), 5, epoch=2)
    assert whole.shape == (2000, 5) and whole.dtype == torch.int64
    order = torch.randperm(2000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.cat([s.sample(b, 5, epoch=2) for b in order.split(77)]), whole[order])
    assert torch.equal(s.sample(slice(10, 20), 3, epoch=2), whole[10:20, :3])
    assert torch.equal(NegativeSampler(e, strategy, seed=3).sample(np.arange(50), 5, epoch=2), whole[:50])
    assert not torch.equal(s.sample(slice(None), 5, epoch=3), whole)
    assert not torch.equal(NegativeSampler(e, strategy, seed=4).sample(slice(None), 5, epoch=2), whole)
    assert s.sample([], 4).shape == (0, 4)


def test_historical_is_mostly_historical() -> None:
    e = synthetic_events(3000)
    x = NegativeSampler(e, "historical", seed=0).sample(slice(2500, 3000), 4)
    seen = [v in history(e, 2500 + i) for i, row in enumerate(x.tolist()) for v in row if history(e, 2500 + i)]
    assert all(seen) and len(seen) > 1000


def test_pool_alone_and_pool_argument() -> None:
    e = synthetic_events(500)
    some = e.destinations[::3]
    x = NegativeSampler(e, seed=1, pool=some).sample(slice(None), 8)
    assert torch.isin(x, some).all() and not (x == e.dst[:, None]).any()
    alone = NegativeSampler(some, seed=1)
    true = some[torch.arange(500) % len(some)]
    y = alone.sample(torch.arange(500), 8, positives=true)
    assert torch.isin(y, some).all() and not (y == true[:, None]).any()
    assert alone.sample([1], 400).unique().numel() > len(some) // 2
    # A positive outside the pool excludes nothing
    assert torch.equal(alone.sample([1], 8, positives=torch.tensor([10**6])), alone.sample([1], 8))
    assert torch.equal(alone.sample(slice(3, 9), 2), alone.sample(np.arange(3, 9), 2))


def test_errors() -> None:
    e = synthetic_events(100)
    s = NegativeSampler(e)
    pool = e.destinations
    for call, text in [
        (lambda: NegativeSampler(e, "rand"), "strategy must be one of random, historical, got 'rand'"),
        (lambda: NegativeSampler(pool, "historical"), "must be TemporalEvents"),
        (lambda: NegativeSampler(torch.tensor([3, 3])), "at least 2 destination"),
        (lambda: s.sample([0], 0), "n must be >= 1"),
        (lambda: s.sample([100]), r"must be in \[0, 100\), got 100..100"),
        (lambda: s.sample([-1]), "must be in"),
        (lambda: s.sample([0.5]), "must be integers"),
        (lambda: s.sample([0], positives=torch.tensor([1])), "positives must be None"),
        (lambda: NegativeSampler(pool).sample([1, 2], positives=torch.tensor([1])), "positives must have shape"),
        (lambda: NegativeSampler(pool).sample(slice(None)), "must have an end"),
        (lambda: s.sample([0], epoch=-1), "epoch must be"),
    ]:
        with pytest.raises(ValueError, match=text):
            call()
    full = events([(0, 4, 1), (0, 5, 1), (1, 4, 2)])
    with pytest.raises(ValueError, match="event 0 has no negative"):
        NegativeSampler(full).sample([0])
    assert NegativeSampler(full).sample([2]).tolist() == [[5]]
