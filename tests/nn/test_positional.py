import math
import sys

import pytest
import torch

import gnnaccel as ga
from gnnaccel.nn import laplacian_pe, random_walk_pe
from tests.harness import threads


def ring(n):
    v = torch.arange(n)
    return ga.Graph.from_edges(v, (v + 1) % n, add_reverse=True)


def some(N=40, M=120, seed=0):
    gen = torch.Generator().manual_seed(seed)
    src, dst = torch.randint(0, N - 2, (2, M), generator=gen)
    return ga.Graph.from_edges(src, dst, N, add_reverse=True)


def powers(graph, steps):
    """Diagonals of the powers of D^-1 A, dense."""
    N = graph.num_nodes
    src, dst = graph.edges()
    A = torch.zeros(N, N, dtype=torch.float64).index_put(
        (dst.long(), src.long()), torch.ones(1).double(), accumulate=True
    )
    P = A / A.sum(1, keepdim=True).clamp(min=1)
    out, power = [], P
    for _ in range(steps):
        out.append(power.diagonal())
        power = power @ P
    return torch.stack(out, 1)


def test_a_ring_by_hand():
    # back after 2 steps: 1/2; after 4: 6/16; never after an odd number
    want = torch.tensor([0, 1 / 2, 0, 6 / 16, 0, 20 / 64]).expand(9, 6)
    torch.testing.assert_close(random_walk_pe(ring(9), 6), want)


def test_exact_is_the_diagonal_of_powers(monkeypatch):
    graph = some()
    want = powers(graph, 5).float()
    torch.testing.assert_close(random_walk_pe(graph, 5), want)
    monkeypatch.setattr("gnnaccel.nn.positional._BLOCK", 280)  # several blocks
    torch.testing.assert_close(random_walk_pe(graph, 5), want)


def test_sampled_is_near_the_diagonal(monkeypatch):
    graph, walks = some(), 4000
    want = powers(graph, 4)
    got = random_walk_pe(graph, 4, method="sampled", walks=walks, seed=2)
    bound = 5 * (want * (1 - want) / walks).sqrt() + 1e-6
    assert ((got - want).abs() <= bound).all()
    monkeypatch.setattr("gnnaccel.nn.positional._BLOCK", 5 * walks * 5)  # the same walks, in several blocks
    assert torch.equal(random_walk_pe(graph, 4, method="sampled", walks=walks, seed=2), got)
    monkeypatch.setattr("gnnaccel.nn.positional._EXACT", 0)
    assert torch.equal(random_walk_pe(graph, 4, walks=walks, seed=2), got)


@pytest.mark.parametrize("method", ["exact", "sampled"])
def test_walks_keep_their_bits_on_two_threads(method):
    runs = []
    for n in (1, 2):
        with threads(n):
            runs.append(random_walk_pe(some(300, 2000), 6, method=method, walks=20))
    assert torch.equal(*runs)


def test_no_nodes():
    empty = ga.Graph.from_edges(torch.zeros(0).long(), torch.zeros(0).long(), 0)
    assert random_walk_pe(empty, 3).shape == (0, 3)


def laplacian(graph):
    N = graph.num_nodes
    src, dst = graph.edges()
    A = torch.zeros(N, N, dtype=torch.float64)
    A[dst.long(), src.long()] = A[src.long(), dst.long()] = 1
    A.fill_diagonal_(0)
    root = A.sum(1).clamp(min=1).rsqrt()
    return torch.eye(N, dtype=torch.float64) - root[:, None] * A * root


@pytest.mark.parametrize("dense", [True, False])
def test_eigenvectors_are_those_of_the_laplacian(dense, monkeypatch):
    pytest.importorskip("scipy")
    if not dense:
        monkeypatch.setattr("gnnaccel.nn.positional._DENSE", 0)
    graph, k = some(60, 400, seed=1), 5
    got = laplacian_pe(graph, k).double()
    values, vectors = torch.linalg.eigh(laplacian(graph)[:58, :58])  # the last two nodes have no edge
    want = vectors[:, 1 : k + 1] * math.sqrt(58)
    assert values[1] > 1e-3
    for j in range(k):
        sign = torch.sign((got[:58, j] * want[:, j]).sum())
        torch.testing.assert_close(got[:58, j], sign * want[:, j], rtol=1e-4, atol=1e-5)
        assert got[got[:, j].abs().argmax(), j] > 0
    assert (got[58:] == 0).all()


def test_pieces_have_their_own_eigenvectors():
    pytest.importorskip("scipy")
    whole = some(30, 90, seed=3)
    src, dst = whole.edges()
    pair = torch.tensor([60]), torch.tensor([61])
    both = ga.Graph.from_edges(
        torch.cat([src.long(), src.long() + 30, pair[0]]), torch.cat([dst.long(), dst.long() + 30, pair[1]]), 63
    )
    alone, together = laplacian_pe(whole, 3), laplacian_pe(both, 3)
    torch.testing.assert_close(together[:30].abs(), alone.abs(), rtol=1e-3, atol=1e-4)
    assert torch.equal(together[:30], together[30:60])
    # two nodes: one eigenvector, (1, -1); a node alone has none
    assert together[60:].tolist() == [[1, 0, 0], [-1, 0, 0], [0, 0, 0]]


def test_eigenvectors_are_the_same_again():
    pytest.importorskip("scipy")
    assert torch.equal(laplacian_pe(some(500, 3000), 4), laplacian_pe(some(500, 3000), 4))


def test_without_scipy_there_is_a_word(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.sparse", None)
    with pytest.raises(ImportError, match="laplacian_pe: needs SciPy; pip install scipy"):
        laplacian_pe(ring(4), 1)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: random_walk_pe(ring(4), 0), "random_walk_pe: steps must be at least 1, got 0"),
        (lambda: random_walk_pe(ring(4), 2, walks=0), "walks must be at least 1, got 0"),
        (lambda: random_walk_pe(ring(4), 2, method="fast"), "method must be one of auto, exact, sampled, got 'fast'"),
        (lambda: laplacian_pe(ring(4), 0), "laplacian_pe: k must be at least 1, got 0"),
    ],
)
def test_errors(call, match):
    with pytest.raises(ValueError, match=match):
        call()
