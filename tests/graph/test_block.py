import pytest
import torch

import gnnaccel as ga
from gnnaccel.graph import TimeSemantics


@pytest.fixture
def chain():
    """0-1 at 1, 1-2 at 2, 2-3 at 3, and 3-4, 2-5 again at 3."""
    return ga.TemporalGraph.from_events([0, 1, 2, 3, 2], [1, 2, 3, 4, 5], [1, 2, 3, 3, 3])


def filled(block):
    return [sorted(r[:c]) for r, c in zip(block.nbr.tolist(), block.count.tolist(), strict=True)]


def test_edge_time_walks_back_in_time(chain):
    first, second, third = ga.temporal_sample_hops(chain, torch.tensor([3]), torch.tensor([4]), (2, 2, 3))
    assert filled(first) == [[2, 4]]
    # before the events at 3: node 2 has met node 1, node 4 nobody
    assert [*zip(first.nbr.flatten().tolist(), filled(second), strict=True)] == [(4, []), (2, [1])]
    assert second.nbr.shape == (2, 2)
    assert third.nbr.shape == (4, 3)
    assert filled(third) == [[], [], [0], []]


def test_root_time(chain):
    semantics = TimeSemantics(hop_time="root")
    first, second = ga.temporal_sample_hops(chain, torch.tensor([3]), torch.tensor([4]), (2, 3), semantics=semantics)
    assert [*zip(first.nbr.flatten().tolist(), filled(second), strict=True)] == [(4, [3]), (2, [1, 3, 5])]
    assert second.dt.tolist() == [[1, 0, 0], [1, 1, 2]]


def test_by_event_id_goes_on_from_the_event(chain):
    args = (chain, torch.tensor([2]), torch.tensor([3]), (3, 3))
    options = {"event_ids": torch.tensor([4]), "semantics": "by_event_id"}
    first, second = ga.temporal_sample_hops(*args, **options)
    assert first.eid.tolist() == [[2, 1, -1]]
    assert second.eid.tolist() == [[-1, -1, -1], [0, -1, -1], [-1, -1, -1]]
    options["semantics"] = TimeSemantics("by_event_id", "root")
    _, second = ga.temporal_sample_hops(*args, **options)
    assert second.eid.tolist() == [[3, 2, -1], [1, 0, -1], [-1, -1, -1]]


def test_before_batch_keeps_its_bound(chain):
    options = {"batch_start": (3, 3), "semantics": TimeSemantics("before_batch", "root")}
    first, second = ga.temporal_sample_hops(chain, torch.tensor([3]), torch.tensor([9]), (2, 2), **options)
    assert first.eid.tolist() == [[2, -1]]
    assert second.eid.tolist() == [[2, 1], [-1, -1]]


@pytest.mark.parametrize("time", [torch.int64, torch.float64])
@pytest.mark.parametrize("strategy", ["recent", "uniform"])
def test_every_hop_is_a_sample_of_its_own(time, strategy):
    gen = torch.Generator().manual_seed(0)
    src, dst = torch.randint(0, 30, (2, 500), generator=gen)
    t = torch.rand(500, generator=gen, dtype=torch.float64) * 100
    g = ga.TemporalGraph.from_events(src, dst, t.to(time))
    nodes, times = torch.arange(30), torch.full((30,), 60, dtype=time)
    blocks = ga.temporal_sample_hops(g, nodes, times, [3, 4], strategy, seed=5, epoch=1, batch=2)
    again = ga.temporal_sample(
        g, blocks[0].nbr.flatten(), blocks[0].t.flatten(), 4, strategy, seed=5, epoch=1, batch=2, hop=1
    )
    assert torch.equal(blocks[1].eid, again.eid)
    parent = blocks[0].t.flatten()[:, None]
    assert ((blocks[1].t < parent) | (blocks[1].nbr < 0)).all()
    assert torch.equal(blocks[1].t[blocks[1].nbr >= 0], t.to(time)[blocks[1].eid[blocks[1].nbr >= 0].long()])


def test_window_holds_for_every_hop(chain):
    first, second = ga.temporal_sample_hops(chain, torch.tensor([3]), torch.tensor([4]), (2, 2), window=1)
    assert filled(first) == [[2, 4]]
    assert filled(second) == [[], [1]]
