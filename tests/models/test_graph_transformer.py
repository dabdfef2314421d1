import math

import pytest
import torch
import torch.nn.functional as F

import gnnaccel as ga
from gnnaccel.models import GraphTransformer
from gnnaccel.nn import AttentionRows, GraphTransformerLayer, random_walk_pe
from tests.harness import threads


def some(N=20, M=50, seed=0):
    """Repeated edges, loops, a hub, nodes without neighbours."""
    gen = torch.Generator().manual_seed(seed)
    src, dst = torch.randint(0, N - 2, (2, M), generator=gen)
    dst[: M // 3] = 1
    return ga.Graph.from_edges(src, dst, N)


def neighbors(graph):
    src, dst = graph.edges()
    return {(d, s) for s, d in zip(src.tolist(), dst.tolist(), strict=True)}


def layer_of(dim=8, heads=2, k=3, **options):
    torch.manual_seed(0)
    layer = GraphTransformerLayer(dim, heads, k, **options).double()
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return layer


def dense(layer, h, pairs):
    """Attention over all nodes, with matrices [H, N, N]; `pairs` are neighbours."""
    N, H = len(h), layer.heads
    local = torch.zeros(N, N, dtype=h.dtype)
    for v, u in pairs:
        local[v, u] = 1
    q, k, v = (
        F.linear(h, w.weight, w.bias).view(N, H, -1).transpose(0, 1) for w in (layer.query, layer.key, layer.value)
    )
    kind = layer.kind[:, torch.where(local > 0, 2, 1)]  # every node is a similar one
    logit = q @ k.transpose(1, 2) / math.sqrt(h.shape[1] / H) + kind
    out = logit.softmax(-1) @ v
    return out.transpose(0, 1).reshape(N, -1) + F.linear(h, layer.own.weight, layer.own.bias)


@pytest.mark.parametrize("k", [20, 500])
def test_with_all_nodes_similar_it_is_dense_attention(k):
    graph, layer = some(), layer_of(k=k)
    h = torch.randn(20, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    got, want = layer.attend(h, AttentionRows.of(graph)), dense(layer, h, neighbors(graph))
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)
    weight = torch.randn_like(want)
    wanted = [
        h,
        *(p for name, p in layer.named_parameters() if name.split(".")[0] in ("query", "key", "value", "own", "kind")),
    ]
    for a, b in zip(torch.autograd.grad(got, wanted, weight), torch.autograd.grad(want, wanted, weight), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("k", [0, 1, 4, 20])
def test_a_node_attends_to_its_neighbours_and_k_more(k):
    graph, layer = some(), layer_of(k=k)
    h = torch.randn(20, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rows, similar = AttentionRows.of(graph), layer.similar(h)
    best = [set() for _ in range(20)]
    if k:
        scores = F.linear(h, layer.query.weight, layer.query.bias) @ F.linear(h, layer.key.weight, layer.key.bias).T
        best = [set(r) for r in scores.topk(k).indices.tolist()]
    near = [{u for v, u in neighbors(graph) if v == w} for w in range(20)]
    seen = set()
    for bucket in rows.buckets:
        nbr, kind, count = rows.with_similar(bucket, similar)
        assert nbr.shape[1] <= 2 * int(bucket.degree.min()) + k  # padding at most doubles a row
        for v, row, kinds, n in zip(bucket.nodes.tolist(), nbr.tolist(), kind.tolist(), count.tolist(), strict=True):
            seen.add(v)
            assert row[n:] == [-1] * (len(row) - n)
            assert len(set(row[:n])) == n <= len(near[v]) + k
            got = dict(zip(row[:n], kinds, strict=False))
            want = {u: 2 if u in near[v] and u in best[v] else 0 if u in near[v] else 1 for u in near[v] | best[v]}
            assert got == want
    assert seen == set(range(20))
    assert [int(p) for p in rows.place[torch.cat([b.nodes for b in rows.buckets])]] == list(range(20))


@pytest.mark.parametrize("graph", [some(), ga.Graph.from_edges(torch.zeros(0).long(), torch.zeros(0).long(), 20)])
@pytest.mark.parametrize("k", [0, 3])
def test_gradients(graph, k):
    layer = layer_of(dim=4, k=k)
    x = torch.randn(20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    rows, names = AttentionRows.of(graph), [name for name, _ in layer.named_parameters()]

    def call(x, *parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x, rows))

    assert torch.autograd.gradcheck(call, (x, *layer.parameters()), fast_mode=True)


def trained(model, graph, x, y, pe=None, steps=30, lr=0.01, part=None):
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for step in range(steps):
        optimizer.zero_grad()
        out = model(x, graph, pe, seed=step)
        part = torch.ones_like(y, dtype=torch.bool) if part is None else part
        F.cross_entropy(out[part], y[part]).backward()
        optimizer.step()
    return model


def communities(N=120, classes=3, seed=0):
    """Edges mostly within a class; features that hardly tell it."""
    gen = torch.Generator().manual_seed(seed)
    y = torch.arange(N) % classes
    src, dst = torch.randint(0, N, (2, 12 * N), generator=gen)
    kept = (y[src] == y[dst]) | (torch.rand(len(src), generator=gen) < 0.05)
    x = torch.randn(N, 8, generator=gen) + 0.8 * F.one_hot(y, 8)
    return ga.Graph.from_edges(src[kept], dst[kept], N, add_reverse=True), x, y


def test_it_learns_what_the_graph_tells():
    graph, x, y = communities()
    torch.manual_seed(0)
    part = torch.rand(120) < 0.5
    model = GraphTransformer(8, 16, 3, layers=2, heads=2, global_k=4, pe=4, dropout=0.1)
    pe = random_walk_pe(graph, 4)
    trained(model, graph, x, y, pe, steps=60, part=part)
    right = model.infer(x, graph, pe).argmax(1) == y
    assert model.training
    assert right[~part].double().mean() > 0.85


def test_similar_nodes_tell_what_neighbours_do_not():
    """Half of the nodes must find the node with their key and read its answer: no edge leads there. New ones each step."""
    graph = AttentionRows.of(ga.Graph.from_edges(torch.zeros(0).long(), torch.zeros(0).long(), 60))
    right = {}
    for k in (0, 6):
        torch.manual_seed(1)
        gen = torch.Generator().manual_seed(0)
        model = GraphTransformer(11, 32, 3, layers=1, heads=1, global_k=k, dropout=0.0)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        hits = []
        for _ in range(90):
            keys, y = 2 * torch.randn(30, 8, generator=gen), torch.randint(0, 3, (30,), generator=gen)
            asks, tells = (torch.cat([keys, part], 1) for part in (torch.zeros(30, 3), 3 * F.one_hot(y, 3)))
            out = model(torch.cat([asks, tells]), graph)[:30]
            hits.append((out.argmax(1) == y).double().mean().item())
            optimizer.zero_grad()
            F.cross_entropy(out, y).backward()
            optimizer.step()
        right[k] = sum(hits[-10:]) / 10
    assert right[0] < 0.5, right
    assert right[6] > 0.8, right


def test_bits_do_not_depend_on_threads():
    graph, x, y = communities(400)
    runs = []
    for n in (1, 2, 1):
        with threads(n):
            torch.manual_seed(0)
            model = GraphTransformer(8, 16, 3, heads=2, pe=3, dropout=0.3, attention_dropout=0.2, dropout_in=0.1)
            trained(model, graph, x, y, random_walk_pe(graph, 3), steps=3)
            runs.append([p.detach().clone() for p in model.parameters()])
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


def test_dropout_is_of_the_seed():
    graph, x, _ = communities()
    torch.manual_seed(0)
    model = GraphTransformer(8, 16, 3, dropout=0.3)
    assert torch.equal(model(x, graph, seed=3), model(x, AttentionRows.of(graph), seed=3))
    assert not torch.equal(model(x, graph, seed=3), model(x, graph, seed=4))
    model.eval()
    assert torch.equal(model(x, graph, seed=3), model(x, graph, seed=4))


GRAPH, X = some(), torch.zeros(20, 3)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: GraphTransformerLayer(6, 4), r"GraphTransformerLayer: dim must be a multiple of heads \(4\), got 6"),
        (lambda: GraphTransformerLayer(8, 4, -1), "global_k must be at least 0, got -1"),
        (lambda: GraphTransformerLayer(8, 4, dropout=1.0), r"dropout must be in \[0, 1\), got 1.0"),
        (lambda: GraphTransformer(3, 8, 2, layers=0), "GraphTransformer: layers must be at least 1, got 0"),
        (lambda: GraphTransformer(3, 8, 2, dropout_in=-1.0), r"dropout_in must be in \[0, 1\), got -1.0"),
        (lambda: GraphTransformer(3, 8, 2)(X[1:], GRAPH), r"x must be \[20, 3\], got \[19, 3\]"),
        (lambda: GraphTransformer(3, 8, 2, pe=4)(X, GRAPH), r"pe must be \[20, 4\], got None"),
        (lambda: GraphTransformer(3, 8, 2)(X, GRAPH, X), r"pe must be None, got \[20, 3\]"),
    ],
)
def test_errors(call, match):
    with pytest.raises(ValueError, match=match):
        call()
