"""Appending and truncating while other threads sample, each answer against the events of one moment."""

import copy
import itertools
import pickle
import threading

import numpy as np
import pytest
import torch

import gnnaccel as ga
from tests.harness import INTERPRET, served_by

pytestmark = pytest.mark.skipif(INTERPRET, reason="not about Triton")

FANOUT = 7


def stream(n, nodes, seed=0, late=0):
    """Events with ties, a hub, and, in the last part, `late` new nodes."""
    rng = np.random.default_rng(seed)
    top = np.where(np.arange(n) < n // 2, nodes, nodes + late)
    src = (rng.random(n) ** 3 * top).astype(np.int64)
    dst = (rng.random(n) * top).astype(np.int64)
    return src, dst, np.cumsum(rng.integers(0, 3, n))


class Oracle:
    """Which events a root has had when `b` of all events have happened."""

    def __init__(self, src, dst, t):
        self.src, self.dst, self.t = src, dst, t
        e = np.arange(len(src))
        loop = src == dst
        node = np.concatenate([src, dst[~loop]])
        eid = np.concatenate([e, e[~loop]])
        self.base = len(src) + 1
        self.key = np.sort(node * self.base + eid)  # of each (node, event)

    def newest(self, nodes, b):
        """Ids of the last `FANOUT` events of each node below `b`, newest first, -1 beyond."""
        end, start = (np.searchsorted(self.key, nodes * self.base + x) for x in (b, 0))
        at = end[:, None] - 1 - np.arange(FANOUT)
        return np.where(at >= start[:, None], self.key[np.maximum(at, 0)] % self.base, -1)

    def check(self, nodes, block, boundaries):
        eid = block.eid.numpy().astype(np.int64)
        # later events that touch no root change no answer
        b = boundaries[np.searchsorted(boundaries, eid.max(), side="right")] if (eid >= 0).any() else 0
        assert np.array_equal(eid, self.newest(nodes, b))
        real = eid >= 0
        assert np.array_equal(block.count.numpy(), real.sum(1))
        at = np.where(real, eid, 0)
        other = np.where(self.src[at] == nodes[:, None], self.dst[at], self.src[at])
        assert np.array_equal(block.nbr.numpy(), np.where(real, other, -1))
        assert np.array_equal(block.t.numpy(), np.where(real, self.t[at], 0))


def sampled(graph, nodes):
    times = torch.full((len(nodes),), 1 << 40)
    return ga.temporal_sample(graph, torch.from_numpy(nodes), times, FANOUT)


@pytest.mark.parametrize("readers", [1, 3])
def test_append_while_sampling(readers):
    n, first = 100_000, 1000
    src, dst, t = stream(n, 500, late=3000)
    oracle = Oracle(src, dst, t)
    sizes = np.random.default_rng(1).integers(1, 600, n)
    boundaries = np.unique(np.minimum(np.concatenate([[first], first + np.cumsum(sizes)]), n))
    g = ga.TemporalGraph.from_events(src[:first], dst[:first], t[:first])
    stop, wrong, calls = threading.Event(), [], [0] * readers

    def read(who):
        rng = np.random.default_rng(10 + who)
        try:
            while not stop.is_set() or calls[who] == 0:
                before = g.num_events
                nodes = rng.integers(0, g.num_nodes, rng.integers(1, 900))
                block = sampled(g, nodes)
                oracle.check(nodes, block, boundaries)
                assert (block.eid[:, 0].numpy() >= oracle.newest(nodes, before)[:, 0]).all()
                assert int(block.eid.max()) < g.num_events
                calls[who] += 1
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=read, args=(i,)) for i in range(readers)]
    for thread in threads:
        thread.start()
    for lo, hi in itertools.pairwise(boundaries):
        g.append(src[lo:hi], dst[lo:hi], t[lo:hi])
        if wrong:
            break
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[0]
    assert min(calls) > 0
    whole = ga.TemporalGraph.from_events(src, dst, t)
    for name in ("indptr", "nbr", "eid", "t"):
        assert torch.equal(getattr(g.compact(), name), getattr(whole, name))


@pytest.mark.parametrize("readers", [0, 2])
def test_truncate_is_append_undone(readers):
    """What-if loops: append, look, take back; threads that sample see one of the two graphs."""
    n, first = 4000, 2000
    src, dst, t = stream(n, 60)
    truth = Oracle(src, dst, t)
    g = ga.TemporalGraph.from_events(src[:1500], dst[:1500], t[:1500])
    g.append(src[1500:first], dst[1500:first], t[1500:first])
    g.append([70], [70], [t[first - 1]])  # nodes stay
    g.truncate(first)
    assert g.num_nodes == 71
    stop, wrong = threading.Event(), []

    def read(who):
        rng = np.random.default_rng(who)
        try:
            while not stop.is_set():
                nodes = rng.integers(0, 60, 300)
                truth.check(nodes, sampled(g, nodes), np.array([first, n]))
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=read, args=(i,)) for i in range(readers)]
    for thread in threads:
        thread.start()
    nodes = np.arange(60)
    for _ in range(30):
        g.append(src[first:], dst[first:], t[first:])
        assert np.array_equal(sampled(g, nodes).eid.numpy(), truth.newest(nodes, n))
        g.truncate(first)
        assert np.array_equal(sampled(g, nodes).eid.numpy(), truth.newest(nodes, first))
        assert g.last_time == t[first - 1]
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[0]
    assert len(g.nbr) < 40 * g.num_entries, "what cut rows leave is collected"
    whole = ga.TemporalGraph.from_events(src[:first], dst[:first], t[:first], num_nodes=71)
    assert torch.equal(g.compact().eid, whole.eid)
    assert torch.equal(g.compact().indptr, whole.indptr)


def test_truncate_of_unsorted_events_and_errors():
    g = ga.TemporalGraph.from_events([0, 1], [1, 2], [5, 3])
    for bad in (1, 3, -1):
        with pytest.raises(ValueError, match=rf"truncate: num_events must be between 2 .* and 2, got {bad}"):
            g.truncate(bad)
    g.truncate(2)
    assert g.indptr.tolist() == [0, 1, 3, 4], "nothing to do keeps the graph compact"
    g.append([1, 4], [2, 4], [6, 7])
    g.truncate(3)
    assert (g.num_events, g.num_nodes, g.last_time) == (3, 5, 6)
    g.truncate(2)
    assert g.last_time == 5
    with pytest.raises(ValueError, match="not be earlier than the last event, got 4 after 5"):
        g.append([0], [1], [4])
    g.append([0], [1], [5])
    assert g.compact().eid.tolist() == [0, 2, 1, 0, 2, 1]


def test_the_row_table_is_copied_only_while_it_is_read():
    g = ga.TemporalGraph.from_events([0, 1], [1, 2], [0, 0])
    for i in range(3):
        g.append([0], [1], [i])
    tables = [g._table.data_ptr(), g._spare.table.data_ptr()]
    for i in range(3, 9):
        g.append([i % 3], [2], [i])
        assert g._table.data_ptr() == tables[i % 2 == 1]
    held = g.view
    want = [a.clone() for a in held[:2]]
    g.append([0], [1], [9])
    assert g._table.data_ptr() in tables
    g.append([0], [1], [9])
    assert g._table.data_ptr() not in tables
    g.append([0], [1], [9])
    assert all(torch.equal(a, b) for a, b in zip(held[:2], want, strict=True))


def test_a_slice_of_a_view_stays_as_it_was():
    """Also after the array that it was taken from is gone."""
    gen = torch.Generator().manual_seed(4)
    g = ga.TemporalGraph.from_events([0], [1], [0], num_nodes=20)
    for i in range(6):
        src, dst = torch.randint(0, 20, (2, 30), generator=gen)
        g.append(src, dst, torch.full((30,), i))
        slices = [(x[3:9], x[3:9].clone()) for x in (g.view.row_start, g.view.row_end)]
        for j in range(1, 4):
            g.append(src, dst, torch.full((30,), i))
            assert all(torch.equal(part, copy) for part, copy in slices), (i, j)


def test_an_append_that_fails_midway_changes_nothing(monkeypatch):
    src, dst, t = stream(400, 20)
    g = ga.TemporalGraph.from_events(src[:100], dst[:100], t[:100])
    g.append(src[100:200], dst[100:200], t[100:200])

    def fail(*args):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(g, "_publish", fail)
        with pytest.raises(MemoryError):
            g.append(src[:50], dst[:50], t[200:250])
    g.append(src[200:], dst[200:], t[200:])
    whole = ga.TemporalGraph.from_events(src, dst, t)
    assert torch.equal(g.compact().eid, whole.eid)
    assert torch.equal(g.compact().nbr, whole.nbr)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda g: pickle.loads(pickle.dumps(g))])
def test_copies_are_independent(copied):
    g = ga.TemporalGraph.from_events([0, 1], [1, 2], [0, 0])
    g.append([0], [1], [1])
    g.append([0], [1], [2])
    other = copied(g)
    other.append([2], [2], [3])
    g.append([1], [1], [4])
    assert other.compact().eid.tolist() == [0, 2, 3, 0, 1, 2, 3, 1, 4]
    assert g.compact().eid.tolist() == [0, 2, 3, 0, 1, 2, 3, 4, 1]


def test_compiled_sampling_sees_appended_events():
    src, dst, t = (torch.from_numpy(x) for x in stream(600, 30))
    g = ga.TemporalGraph.from_events(src[:100], dst[:100], t[:100], num_nodes=40)

    def ask(nodes, times):
        block = ga.temporal_sample(g, nodes, times, 3)
        return block.eid + 0, block.count

    compiled = torch.compile(ask, fullgraph=True, dynamic=True, backend="aot_eager")
    nodes, times = torch.arange(30), torch.full((30,), 1 << 40)
    for at in range(100, 600, 100):
        g.append(src[at : at + 100], dst[at : at + 100], t[at : at + 100])
        for a, b in zip(compiled(nodes, times), ask(nodes, times), strict=True):
            assert torch.equal(a, b)


def test_plain_torch_samples_one_view():
    with served_by("CompositeExplicitAutograd"):
        test_append_while_sampling(1)


def test_an_interrupted_append_does_not_stop_the_next(monkeypatch):
    r = torch.arange(300)
    graph = ga.TemporalGraph.from_events(r % 3, (r + 1) % 3, r)
    graph.append([0], [1], [300])

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(graph, "_publish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            graph.append(r % 3, (r + 1) % 3, torch.full((300,), 400))
    graph.append([0], [1], [500])
    whole = ga.TemporalGraph.from_events(
        torch.cat([r % 3, torch.tensor([0, 0])]), torch.cat([(r + 1) % 3, torch.tensor([1, 1])]), [*range(301), 500]
    )
    for a, b in zip((graph.compact().indptr, graph.compact().t), (whole.indptr, whole.t), strict=True):
        assert torch.equal(a, b)
