"""Batches of several hops: what the draws of the inner ones hang on."""

import pytest
import torch

import gnnaccel as ga
from gnnaccel.graph.batch import Sampling, _Points, build_batch

PERIODS = {"tgat": Sampling((4, 3), "uniform"), "dysat": Sampling((4, 3), "uniform", window=40, snapshots=3)}


def stream(time, n=600, nodes=12):
    gen = torch.Generator().manual_seed(2)
    src, dst = torch.randint(0, nodes, (2, n), generator=gen)
    t = torch.randint(0, 120, (n,), generator=gen).sort().values
    return ga.TemporalGraph.from_events(src, dst, (t / 7 if time == torch.float64 else t).to(time))


def samples(batch, chain):
    """Events drawn in the inner hop: {(position of root, slot): event ids}."""
    inner, outer = batch.chains[chain]
    return inner.block.eid[outer.nbr_row.clamp(min=0)], inner.block.eid[outer.root_row], outer.block.eid


@pytest.mark.parametrize("time", [torch.int64, torch.float64])
@pytest.mark.parametrize("semantics", ["strict", "by_event_id"])
@pytest.mark.parametrize("sampling", PERIODS.values(), ids=PERIODS)
def test_a_batch_mate_changes_no_other_draws(sampling, semantics, time):
    """Other roots at the front: the rest keep the events of both hops, though every row of the inner one has moved."""
    g = stream(time)
    gen = torch.Generator().manual_seed(3)
    roots = torch.randint(0, 12, (40,), generator=gen)
    times = torch.full((40,), 110).to(time) / (7 if time == torch.float64 else 1)
    times = times.to(time)
    ids = torch.full((40,), 500) if semantics == "by_event_id" else None
    others = roots.clone()
    others[:10] = (roots[:10] + 5) % 12
    a, b = (build_batch(g, r, times, sampling, semantics=semantics, seed=1, event_ids=ids) for r in (roots, others))
    drawn = 0
    for chain in range(sampling.snapshots):
        for x, y in zip(samples(a, chain), samples(b, chain), strict=True):
            assert torch.equal(x[10:], y[10:])
        drawn += int((a.chains[chain][0].block.count == sampling.fanouts[1]).sum())
    assert drawn > 0, "nothing was left to chance"
    c = build_batch(g, roots, times, sampling, semantics=semantics, seed=1, batch=1, event_ids=ids)
    assert not torch.equal(a.chains[-1][0].block.eid, c.chains[-1][0].block.eid[: len(a.chains[-1][0].block.eid)])


def test_one_hop_draws_by_place():
    g = stream(torch.int64)
    roots, times = torch.arange(12), torch.full((12,), 100)
    block = build_batch(g, roots, times, Sampling((4,), "uniform"), seed=5, epoch=1, batch=2).block
    assert torch.equal(block.eid, ga.temporal_sample(g, roots, times, 4, "uniform", seed=5, epoch=1, batch=2).eid)


@pytest.mark.parametrize("time", [torch.int64, torch.float64])
def test_keys_of_pairs(time):
    """Distinct for distinct (node, time, event id), in every part of their 64 bits; -0.0 is 0.0."""
    node, t = torch.arange(100).repeat_interleave(200), torch.arange(200).repeat(100)
    plain = _Points(node, t.to(time), None).draw_keys()
    keys = torch.cat([plain, _Points(node, t.to(time), t).draw_keys(), _Points(node, t.to(time), t + 1).draw_keys()])
    assert keys.dtype == torch.int64
    assert len(keys.unique()) == len(keys)
    for shift in range(0, 64, 8):
        byte = torch.bincount(keys >> shift & 255, minlength=256).double()
        mean = len(keys) / 256
        assert ((byte - mean) ** 2 / mean).sum() < 350, "far beyond the 0.1% point of chi-square"
    if time == torch.float64:
        zero = torch.tensor([0.0, -0.0], dtype=time)
        assert len(_Points(torch.tensor([3, 3]), zero, None).draw_keys().unique()) == 1


@pytest.mark.parametrize("hop_time", ["edge", "root"])
@pytest.mark.parametrize("time", [torch.int64, torch.float64])
@pytest.mark.parametrize(
    ("mode", "start"),
    [("strict", 0), ("inclusive", 0), ("by_event_id", 0), *(("before_batch", s) for s in (250, 400, 505))],
)
def test_no_event_is_in_two_snapshots(mode, start, time, hop_time):
    """About five events a time, a batch that begins long before, amid and after the borders of 16: against the definition."""
    gen = torch.Generator().manual_seed(4)
    src, dst = torch.randint(0, 12, (2, 600), generator=gen)
    t = torch.randint(0, 120, (600,), generator=gen).sort().values.to(time) / (4 if time == torch.float64 else 1)
    t, width, fanout = t.to(time), (4.0 if time == torch.float64 else 16), 600
    g = ga.TemporalGraph.from_events(src, dst, t)
    event = torch.where(torch.arange(12) % 2 == 0, 503, 330)
    batch = build_batch(
        g,
        torch.arange(12),
        t[event],
        Sampling((fanout, fanout), window=width, snapshots=3, hop_time=hop_time),
        semantics=mode,
        event_ids=event if mode == "by_event_id" else None,
        batch_start=(t[start].item(), start) if mode == "before_batch" else None,
    )
    e, total = torch.arange(600), 0
    for node in range(12):
        seen = []
        for j, (inner, outer) in enumerate(reversed(batch.chains)):
            at = t[event[node]] - j * width
            known = (t >= at - width) & (t < at)
            if j == 0 and mode != "strict":
                known |= (t == at) & (e < (event[node] if mode == "by_event_id" else 600))
            if mode == "before_batch":
                known &= e < start
            n = int(outer.block.count[node])
            got = outer.block.eid[node, :n].tolist()
            assert set(got) == set(e[known & ((src == node) | (dst == node))].tolist())
            more = inner.block.eid[outer.nbr_row[node, :n]] if hop_time == "root" else outer.block.eid[:0]
            seen.append({*got, *more[more >= 0].tolist()})
        assert sum(map(len, seen)) == len(set.union(*seen))
        total += sum(map(len, seen[1:]))
    assert total > 0
