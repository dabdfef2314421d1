"""Convolutions against dense formulas in float64, over hops and over whole graphs."""

import pytest
import torch

import gnnaccel as ga
from gnnaccel.graph.hops import HopBlock
from gnnaccel.graph.whole import graph_rows
from gnnaccel.nn.conv import GATConv, RGCNConv, SAGEConv, TableRows

N, F, D = 11, 6, 4


@pytest.fixture
def graph():
    gen = torch.Generator().manual_seed(0)
    src, dst = torch.randint(N, (40,), generator=gen), torch.randint(N - 2, (40,), generator=gen)
    return ga.Graph.from_edges(src, dst, N, relation=torch.randint(3, (40,), generator=gen), num_relations=3)


def features(dtype=torch.float64):
    return torch.randn(N, F, generator=torch.Generator().manual_seed(1), dtype=dtype)


def hop(graph, R):
    """All neighbours of the first R nodes, as a padded block whose sources are all nodes."""
    degree = graph.indptr.diff()[:R]
    K = int(degree.max()) + 1  # a column more than anybody fills
    row = torch.full((R, K), -1, dtype=torch.int32)
    relation = torch.zeros((R, K), dtype=torch.int16)
    for v in range(R):
        part = slice(int(graph.indptr[v]), int(graph.indptr[v + 1]))
        row[v, : degree[v]] = graph.nbr[part].int()
        relation[v, : degree[v]] = graph.relation[part]
    return HopBlock(row=row, count=degree.int(), num_src=N, eid=None, relation=relation, weight=None)


def neighbors(graph, v):
    part = slice(int(graph.indptr[v]), int(graph.indptr[v + 1]))
    return graph.nbr[part].tolist(), graph.relation[part].tolist()


def dense_sage(conv, x, graph, R):
    out = []
    for v in range(R):
        near = neighbors(graph, v)[0]
        rows = x[near]
        a = torch.zeros(F, dtype=x.dtype)
        if near:
            a = {"mean": rows.mean(0), "sum": rows.sum(0), "max": rows.max(0).values}[conv.reduce]
        out.append(conv.self.weight @ x[v] + conv.self.bias + conv.neighbor.weight @ a)
    return torch.stack(out)


def dense_gat(conv, x, graph, R):
    h = (x @ conv.linear.weight.T).view(N, conv.heads, conv.width)
    out = []
    for v in range(R):
        near = [v, *neighbors(graph, v)[0]]
        logit = torch.nn.functional.leaky_relu((h[near] * conv.src).sum(-1) + (h[v] * conv.dst).sum(-1), 0.2)
        z = (logit.softmax(0).unsqueeze(-1) * h[near]).sum(0)
        out.append((z.flatten() if conv.concat else z.mean(0)) + conv.bias)
    return torch.stack(out)


def dense_rgcn(conv, x, graph, R):
    B = conv.num_bases
    V = conv.bases.weight.view(conv.dim_out, B, F)
    out = []
    for v in range(R):
        total = conv.self.weight @ x[v] + conv.self.bias
        near, kinds = neighbors(graph, v)
        for u, r in zip(near, kinds, strict=True):
            W = sum(conv.mix[r, b] * V[:, b] for b in range(B))
            total = total + W @ x[u] / kinds.count(r)
        out.append(total)
    return torch.stack(out)


CASES = {
    "sage mean": (lambda: SAGEConv(F, D), dense_sage),
    "sage sum": (lambda: SAGEConv(F, D, reduce="sum"), dense_sage),
    "sage max": (lambda: SAGEConv(F, D, reduce="max"), dense_sage),
    "sage wider": (lambda: SAGEConv(F, 9), dense_sage),
    "gat": (lambda: GATConv(F, D, 3), dense_gat),
    "gat averaged": (lambda: GATConv(F, D, 2, concat=False), dense_gat),
    "rgcn": (lambda: RGCNConv(F, D, 3), dense_rgcn),
    "rgcn bases": (lambda: RGCNConv(F, D, 3, num_bases=2), dense_rgcn),
}


@pytest.mark.parametrize("name", CASES)
def test_dense_formula_and_gradients(name, graph):
    torch.manual_seed(3)
    make, dense = CASES[name]
    conv = make().double()
    for R, block in ((7, hop(graph, 7)), (N, graph_rows(graph))):
        x = features().requires_grad_()
        got, want = conv(x, block), dense(conv, x, graph, R)
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
        g = torch.randn(got.shape, dtype=got.dtype, generator=torch.Generator().manual_seed(4))
        leaves = [x, *(p for p in conv.parameters() if p.requires_grad)]
        for a, b in zip(torch.autograd.grad(got, leaves, g), torch.autograd.grad(want, leaves, g), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_a_part_of_a_graph_has_the_rows_of_the_whole(name, graph):
    torch.manual_seed(3)
    conv, x = CASES[name][0]().double(), features()
    whole = conv(x, graph_rows(graph))
    projected = conv.project(x) if conv.projects else None
    for a, b in ((0, 4), (4, 5), (5, N)):
        got = conv(x, graph_rows(graph, a, b), dst=x[a:b], projected=projected)
        torch.testing.assert_close(got, whole[a:b], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["float", "int8"])
def test_rows_of_a_table_are_read_in_place(name, kind, graph):
    torch.manual_seed(3)
    conv = CASES[name][0]()
    table = torch.randn(3 * N, F, generator=torch.Generator().manual_seed(2))
    ids = torch.randperm(3 * N, generator=torch.Generator().manual_seed(5))[:N]
    scale = None
    if kind == "int8":
        table, scale = ga.quantize_rows(table)
    x = table[ids].float() if scale is None else table[ids].float() * scale[ids, None]
    block = hop(graph, 7)
    torch.testing.assert_close(conv(TableRows(table, ids, scale), block), conv(x, block), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_same_bits_for_one_and_two_threads(name):
    gen = torch.Generator().manual_seed(0)
    n = 3000
    graph = ga.Graph.from_edges(
        torch.randint(n, (20000,), generator=gen),
        torch.randint(n, (20000,), generator=gen),
        n,
        relation=torch.randint(3, (20000,), generator=gen),
        num_relations=3,
    )
    x = torch.randn(n, F, generator=gen)
    torch.manual_seed(3)
    conv = CASES[name][0]()
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            leaf = x.clone().requires_grad_()
            out = conv(leaf, graph_rows(graph))
            grads = torch.autograd.grad(out.square().sum(), [leaf, *(p for p in conv.parameters() if p.requires_grad)])
            found.append((out, *grads))
    finally:
        torch.set_num_threads(before)
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_attention_dropout_is_of_the_seed(graph):
    conv, x = GATConv(F, D, 3, dropout=0.5), features(torch.float32)
    a, b, c = (conv(x, graph_rows(graph), seed=s) for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)
    conv.eval()
    assert torch.equal(conv(x, graph_rows(graph), seed=1), conv(x, graph_rows(graph), seed=2))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: SAGEConv(3, 4, reduce="median"), "reduce must be mean, sum or max, got 'median'"),
        (lambda: GATConv(3, 4, dropout=1.0), r"dropout must be in \[0, 1\), got 1.0"),
        (lambda: RGCNConv(3, 4, 0), "num_relations must be at least 1, got 0"),
        (lambda: RGCNConv(3, 4, 2, num_bases=3), r"num_bases must be in \[1, 2\] \(num_relations\), got 3"),
    ],
)
def test_errors(make, said):
    with pytest.raises(ValueError, match=said):
        make()
