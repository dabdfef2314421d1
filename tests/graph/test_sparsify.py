"""Thinned graphs against a plain loop."""

import pytest
import torch

import gnnaccel as ga
from gnnaccel.graph.sparsify import sparsify

N, M = 40, 300


@pytest.fixture
def graph():
    gen = torch.Generator().manual_seed(0)
    src, dst = torch.randint(N, (M,), generator=gen), torch.randint(N - 3, (M,), generator=gen)
    weight = torch.randint(1, 4, (M,), generator=gen).float()  # with ties
    return ga.Graph.from_edges(src, dst, N, relation=torch.randint(3, (M,), generator=gen), weight=weight)


def features():
    x = torch.randn(N, 5, generator=torch.Generator().manual_seed(1))
    x[4] = 0
    return x


def scores(graph, by, x):
    """Of each entry of the rows, in their order."""
    if by == "weight":
        return graph.weight.tolist()
    dst = torch.repeat_interleave(torch.arange(N), graph.indptr.diff())
    a, b = x[graph.nbr.long()].double(), x[dst].double()
    return (torch.nn.functional.normalize(a, dim=1) * torch.nn.functional.normalize(b, dim=1)).sum(1).tolist()


@pytest.mark.parametrize("keep", [1, 3, 1000])
@pytest.mark.parametrize("by", ["similarity", "weight"])
def test_the_best_of_each_row_stay_in_order(graph, by, keep):
    x = features()
    score, want = scores(graph, by, x), []
    for v in range(N):
        entries = range(int(graph.indptr[v]), int(graph.indptr[v + 1]))
        want += sorted(sorted(entries, key=lambda i: (-round(score[i], 5), i))[:keep])
    thin = sparsify(graph, keep, by=by, x=x, chunk=64)
    for name in ("nbr", "eid", "relation", "weight"):
        assert torch.equal(getattr(thin, name), getattr(graph, name)[want]), name
    assert torch.equal(thin.indptr.diff(), graph.indptr.diff().clamp(max=keep))
    assert (thin.num_nodes, thin.num_relations) == (N, 3)


def test_int8_rows_need_no_scale(graph):
    x = features()
    table, _ = ga.quantize_rows(x)
    exact = sparsify(graph, 2, x=table.float())
    assert torch.equal(sparsify(graph, 2, x=table).eid, exact.eid)


def test_random_edges_are_of_the_seed(graph):
    a, b, c = (sparsify(graph, 2, by="random", seed=s) for s in (5, 5, 6))
    assert torch.equal(a.eid, b.eid) and not torch.equal(a.eid, c.eid)
    assert torch.equal(a.indptr.diff(), graph.indptr.diff().clamp(max=2))
    assert set(a.eid.tolist()) <= set(graph.eid.tolist())


def test_random_edges_are_drawn_evenly():
    star = ga.Graph.from_edges(torch.arange(1, 11), torch.zeros(10, dtype=torch.int64), 11)
    seen = torch.zeros(11)
    for seed in range(400):
        seen[sparsify(star, 3, by="random", seed=seed).nbr.long()] += 1
    assert seen[0] == 0 and bool(((seen[1:] - 120).abs() < 46).all()), seen  # five standard deviations


def test_a_thinned_row_is_sampled(graph):
    thin = sparsify(graph, 2, by="weight")
    block = ga.neighbor_sample(thin, torch.arange(N), None, strategy="all")
    assert int(block.count.max()) == 2 and set(block.eid[block.nbr >= 0].tolist()) == set(thin.eid.tolist())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"keep": 0}, "keep must be at least 1, got 0"),
        ({"keep": 2}, f"x must have a row for each of {N} nodes, got None"),
        ({"keep": 2, "x": torch.zeros(7, 2)}, f"x must have a row for each of {N} nodes, got 7 rows"),
        ({"keep": 2, "by": "weight"}, "for a graph without weights, got weight"),
        ({"keep": 2, "by": "degree"}, "by must be similarity, weight or random, got 'degree'"),
    ],
)
def test_errors(options, said):
    plain = ga.Graph.from_edges(torch.tensor([0, 1]), torch.tensor([1, 2]), N)
    with pytest.raises(ValueError, match=f"sparsify: .*{said}"):
        sparsify(plain, **options)


def test_no_edges():
    empty = torch.empty(0, dtype=torch.int64)
    thin = sparsify(ga.Graph.from_edges(empty, empty, 3), 2, x=torch.ones(3, 2))
    assert thin.num_edges == 0 and thin.indptr.tolist() == [0, 0, 0, 0]
