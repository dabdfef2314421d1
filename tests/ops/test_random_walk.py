import math

import pytest
import torch

import gnnaccel as ga
from gnnaccel.baselines.peers.random_walk import PROVIDERS
from gnnaccel.baselines.reference.random_walk import random_walk as reference
from gnnaccel.ops import random_walk
from tests.harness import DEVICE, F64, INTERPRET, Case, check_op, threads

if INTERPRET:
    pytest.skip("the kernel is CUDA C++: tests/kernels/test_cuda.py runs it on the host", allow_module_level=True)


def csr(src, dst, N, ids=torch.int32, shuffled=None):
    """Rows of in-neighbours; ascending, or in any order."""
    order = torch.argsort(src, stable=True) if shuffled is None else torch.randperm(len(src), generator=shuffled)
    order = order[torch.argsort(dst[order], stable=True)]
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(dst, minlength=N).cumsum(0)])
    return indptr, src[order].to(ids)


def make(N=12, M=40, walks=9, length=7, ids=torch.int32, starts=torch.int64, hub=False, shuffled=False, **options):
    """Loops, repeated edges, dead ends; some walks are padding."""

    def build(gen):
        src, dst = torch.randint(0, max(N - 2, 1), (2, M), generator=gen)
        if hub:
            dst[::2] = 0
            src[1::2] = 0
        indptr, nbr = csr(src, dst, N, ids, gen if shuffled else None)
        start = torch.randint(-1, N, (walks,), generator=gen).to(starts)
        return {"indptr": indptr, "nbr": nbr, "start": start, "length": length, "sorted_rows": not shuffled, **options}

    return build


CASES = [
    Case("no_walks", make(walks=0)),
    Case("no_steps", make(length=0)),
    Case("no_nodes", make(N=0, M=0, walks=3)),
    Case("no_edges", make(M=0)),
    Case("one", make(N=1, M=1, walks=1, length=1)),
    Case("uniform", make(seed=2**40 + 3, epoch=5)),
    Case("restart", make(restart=0.4, seed=-7, walk_offset=2**32 - 4)),
    Case("wide_ids", make(ids=torch.int64, starts=torch.int32)),
    Case("near_home", make(p=0.2, q=3.0)),
    Case("far_away", make(p=5.0, q=0.25, restart=0.1, ids=torch.int64)),
    Case("back_or_not", make(p=3.0, length=20)),
    Case("unsorted", make(p=4.0, q=0.5, shuffled=True)),
    # a step back or away is next to impossible: rows get weighed
    Case("rejections", make(N=9, M=20, p=1e9, q=1e8, length=12)),
    Case("hub", make(N=40, M=500, walks=150, length=9, hub=True, p=2.0, q=0.5), small=False),
    Case("several_blocks", make(N=300, M=2000, walks=333, length=11, restart=0.05), small=False),
]

# integers: the same for every dtype, so one will do
TestRandomWalk = check_op(
    op=random_walk,
    reference=reference,
    cases=CASES,
    schemas=["random_walk"],
    dtypes=[F64],
    overload_args=lambda a: (
        *(a[n] for n in ("indptr", "nbr", "start", "length")),
        *(2**30, 2**32, 2**31, 2**29, a["sorted_rows"], 3, 1, 5),
    ),
)


def ring(n):
    """Node v's row holds v + 1 alone."""
    v = torch.arange(n)
    return csr((v + 1) % n, v, n)


def test_a_ring_leaves_no_choice():
    for options in ({}, {"p": 9.0, "q": 0.1}):
        walk = random_walk(*ring(5), torch.tensor([0, 3, -1]), 6, **options)
        assert walk.tolist() == [[0, 1, 2, 3, 4, 0, 1], [3, 4, 0, 1, 2, 3, 4], [-1] * 7]
        assert walk.dtype == torch.int32


def test_a_dead_end_ends_a_walk():
    indptr, nbr = torch.tensor([0, 1, 2, 2]), torch.tensor([1, 2])
    assert random_walk(indptr, nbr, torch.tensor([0, 2]), 4).tolist() == [[0, 1, 2, -1, -1], [2, -1, -1, -1, -1]]


def frequencies(indptr, nbr, before, at, n, **options):
    """How often walks that came from `before` to `at` went where: of walks that happened to go so."""
    walk = random_walk(indptr, nbr, torch.full((n,), before), 2, **options).long()
    walk = walk[walk[:, 1] == at]
    return torch.bincount(walk[:, 2], minlength=len(indptr) - 1), len(walk)


@pytest.mark.parametrize(("p", "q"), [(1.0, 1.0), (0.25, 4.0), (4.0, 0.5), (200.0, 300.0), (1.0, 2.0)])
def test_steps_have_node2vecs_probabilities(p, q):
    # 1's row: back to 0, the node 2 that is in 0's row, twice 3, which is not, and itself
    indptr, nbr = csr(torch.tensor([1, 2, 0, 2, 3, 3, 1]), torch.tensor([0, 0, 1, 1, 1, 1, 1]), 4)
    weight = torch.tensor([1 / p, 1.0, 1.0, 2 / q])  # 1 is in 0's row as well
    want = weight / weight.sum()
    seen, n = frequencies(indptr, nbr, 0, 1, 40_000, p=p, q=q, sorted_rows=True, seed=4)
    assert n > 15_000
    error = (seen / n - want).abs()
    assert (error < 5 * (want * (1 - want) / n).sqrt() + 1e-9).all(), (seen / n, want)


def test_weighing_a_row_has_the_same_probabilities():
    """A row without a likely entry: nearly every walk is drawn from the whole row."""
    indptr, nbr = csr(torch.tensor([1, 0, 2, 3]), torch.tensor([0, 1, 1, 1]), 4)
    p, q = 3000.0, 1000.0
    weight = torch.tensor([1 / p, 0, 1 / q, 1 / q])
    want = weight / weight.sum()
    seen, n = frequencies(indptr, nbr, 0, 1, 30_000, p=p, q=q, sorted_rows=True)
    assert n == 30_000
    assert ((seen / n - want).abs() < 5 * (want * (1 - want) / n).sqrt() + 1e-9).all()


def test_restarts_come_as_often_as_they_should():
    n, share = 50_000, 0.3
    walk = random_walk(*ring(50), torch.zeros(n, dtype=torch.int64), 3, restart=share)
    for step in (1, 2, 3):
        assert abs((walk[:, step] == 0).double().mean() - share) < 5 * math.sqrt(share * (1 - share) / n)


def test_every_entry_of_a_row_is_as_likely():
    n, degree = 60_000, 7
    indptr, nbr = csr(torch.arange(degree), torch.zeros(degree, dtype=torch.int64), degree)
    seen = torch.bincount(random_walk(indptr, nbr, torch.zeros(n, dtype=torch.int64), 1)[:, 1], minlength=degree)
    assert ((seen / n - 1 / degree).abs() < 5 * math.sqrt(1 / degree / n)).all()


def test_walks_are_keyed_by_their_number():
    args = make(N=50, M=400, walks=200, length=9, restart=0.1, p=0.5, q=2.0)(torch.Generator().manual_seed(0))
    args = {name: x.to(DEVICE) if torch.is_tensor(x) else x for name, x in args.items()}
    whole = random_walk(**args)
    for begin, end in ((0, 70), (70, 199)):
        part = random_walk(**{**args, "start": args["start"][begin:end], "walk_offset": begin})
        assert torch.equal(part, whole[begin:end])
    # a shorter walk is the beginning of a longer one
    assert torch.equal(random_walk(**{**args, "length": 4}), whole[:, :5])
    assert not torch.equal(random_walk(**args, epoch=1), whole)
    assert not torch.equal(random_walk(**args, seed=1), whole)


def test_of_a_graph():
    src, dst = torch.tensor([1, 2, 3, 3, 0]), torch.tensor([0, 1, 2, 1, 3])
    g = ga.Graph.from_edges(src, dst).to(DEVICE)
    start = torch.arange(4, device=DEVICE)
    walk = ga.random_walk(g, start, 30, p=0.5, seed=3)
    edges = {(d, s) for s, d in zip(src.tolist(), dst.tolist(), strict=True)}
    steps = walk.unfold(1, 2, 1).reshape(-1, 2).tolist()
    assert {tuple(s) for s in steps} == edges  # against the edges
    assert {tuple(s) for s in ga.random_walk(g.reverse(), start, 30).unfold(1, 2, 1).reshape(-1, 2).tolist()} == {
        (s, d) for d, s in edges
    }


def test_of_a_typed_graph():
    """Its rows are not ascending: the same probabilities as without types, found another way."""
    gen = torch.Generator().manual_seed(0)
    src, dst = torch.randint(0, 30, (2, 300), generator=gen)
    typed = ga.Graph.from_edges(src, dst, 30, relation=torch.randint(0, 3, (300,), generator=gen))
    start = torch.arange(30)
    got = ga.random_walk(typed, start, 9, p=0.25, q=2.0)
    want = reference(typed.indptr, typed.nbr, start, 9, p=0.25, q=2.0)
    with threads(1):
        assert torch.equal(got.long().cpu(), want)


@pytest.mark.parametrize("name", PROVIDERS)
def test_peers_walk_along_the_rows(name):
    args = make(N=30, M=200, walks=50, length=6)(torch.Generator().manual_seed(0))
    walk = PROVIDERS[name](args["indptr"], args["nbr"], args["start"].clamp(min=0), 6)
    assert walk.shape == (50, 7)
    rows = [set(r.tolist()) for r in args["nbr"].tensor_split(args["indptr"][1:-1])]
    for v, w in walk.unfold(1, 2, 1).reshape(-1, 2).tolist():
        assert w in rows[v] or not rows[v]


START = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"length": -1}, ValueError, r"random_walk: length must be in \[0, 2\*\*31\), got -1"),
        ({"length": 1.0}, TypeError, "length must be an int, got 1.0"),
        ({"start": START + 4}, ValueError, r"start must be in \[-1, 5\), got 5 at position 1"),
        ({"start": START - 2}, ValueError, r"start must be in \[-1, 5\), got -2 at position 0"),
        ({"start": START.float()}, TypeError, "start must be int64 or int32, got torch.float32"),
        ({"start": START[None]}, ValueError, r"start must be \[S\], got \[1, 2\]"),
        ({"nbr": ring(5)[1] + 1}, ValueError, r"nbr must be in \[0, 5\), got 5 at position 3"),
        ({"indptr": ring(5)[0].int()}, TypeError, "indptr must be int64, got torch.int32"),
        ({"indptr": torch.zeros(0).long()}, ValueError, r"indptr must be \[N \+ 1\], got \[0\]"),
        ({"p": 0}, ValueError, "p must be above 0 and finite, got 0"),
        ({"q": -1.0}, ValueError, "q must be above 0 and finite, got -1.0"),
        ({"p": math.nan}, ValueError, "p must be above 0 and finite, got nan"),
        ({"restart": 1.0}, ValueError, r"restart must be in \[0, 1\), got 1.0"),
        ({"restart": -0.1}, ValueError, r"restart must be in \[0, 1\), got -0.1"),
        ({"walk_offset": -1}, ValueError, "walk_offset must be at least 0, got -1"),
    ],
)
def test_errors(change, error, match):
    indptr, nbr = ring(5)
    args = {"indptr": indptr, "nbr": nbr, "start": START, "length": 9, **change}
    with pytest.raises(error, match=match):
        random_walk(**args)
