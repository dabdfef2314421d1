"""Stacks of convolutions: blocks and whole graphs agree, inference layer by layer is the forward pass."""

import pytest
import torch

import gnnaccel as ga
from gnnaccel.graph.whole import graph_rows, row_chunks
from gnnaccel.models import GAT, MLP, RGCN, GraphSAGE, gnn
from gnnaccel.nn import conv
from gnnaccel.nn.conv import TableRows

MODELS = {
    "sage": lambda: GraphSAGE(6, 8, 3, 3),
    "sage layer norm": lambda: GraphSAGE(6, 8, 3, 2, norm="layer"),
    "sage max": lambda: GraphSAGE(6, 8, 3, 2, reduce="max"),
    "gat": lambda: GAT(6, 8, 3, 2, heads=4, heads_out=2),
    "rgcn": lambda: RGCN(6, 8, 3, 2, 2),
    "mlp": lambda: MLP(6, 8, 3, 2),
}


@pytest.fixture
def graph():
    gen = torch.Generator().manual_seed(0)
    src, dst = torch.randint(50, (300,), generator=gen), torch.randint(49, (300,), generator=gen)
    return ga.Graph.from_edges(src, dst, 50, relation=torch.randint(2, (300,), generator=gen), num_relations=2)


def rows():
    return torch.randn(50, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("name", MODELS)
def test_hops_of_all_neighbours_are_the_whole_graph(name, graph):
    torch.manual_seed(2)
    model, x = MODELS[name]().double().eval(), rows()
    layers = model.num_layers
    want = model(x, [graph_rows(graph)] * layers)
    seeds = torch.tensor([7, 3, 49, 20])
    hops = ga.sample_hops(graph, seeds, [-1] * layers)
    if name == "mlp":
        got = model(x[seeds], [None] * layers)
    else:
        got = model(x[hops.nodes], hops.layers)
    torch.testing.assert_close(got, want[seeds], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("edges", "per"), [(1, 50), (40, 7), (10**6, 10**6)])
def test_inference_layer_by_layer(name, edges, per, graph):
    torch.manual_seed(2)
    model, x = MODELS[name]().double(), rows()
    done = []
    got = model.infer(x, graph, edges=edges, rows=per, progress=done.append)
    assert model.training and sum(done) == 50 * model.num_layers
    want = model.eval()(x, [graph_rows(graph)] * model.num_layers)
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12)
    assert not got.requires_grad


def test_inference_from_an_int8_table(graph):
    torch.manual_seed(2)
    model = GraphSAGE(6, 8, 3, 2)
    x = rows().float()
    table, scale = ga.quantize_rows(x)
    got = model.infer(TableRows(table, None, scale), graph)
    torch.testing.assert_close(got, model.infer(table.float() * scale[:, None], graph), rtol=1e-5, atol=1e-5)


def test_chunks_cover_all_rows_once():
    indptr = torch.tensor([0, 3, 3, 10, 11, 11])
    assert row_chunks(indptr, 4, 100) == [(0, 2), (2, 3), (3, 5)]
    assert row_chunks(indptr, 100, 2) == [(0, 2), (2, 4), (4, 5)]
    assert row_chunks(torch.tensor([0]), 4, 4) == []


def test_no_nodes():
    graph = ga.Graph.from_edges(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64), 0)
    assert GraphSAGE(6, 8, 3).infer(torch.empty(0, 6), graph).shape == (0, 3)


def test_dropout_is_of_the_seed(graph):
    torch.manual_seed(2)
    model, x = GraphSAGE(6, 8, 3, dropout=0.5, dropout_in=0.2), rows().float()
    blocks = [graph_rows(graph)] * 2
    a, b, c = (model(x, blocks, s) for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)
    model.eval()
    assert torch.equal(model(x, blocks, 1), model(x, blocks, 2))


@pytest.mark.parametrize("name", ["sage", "sage-norm", "gat"])
def test_no_two_dropouts_share_a_seed(name, graph, monkeypatch):
    seeds = []

    def spy(module, function):
        real = getattr(module, function)

        def call(*args, **options):
            if function == "dropout":
                seeds.append(args[2])
            else:
                seeds.append(options["seed"])
            return real(*args, **options)

        monkeypatch.setattr(module, function, call)

    spy(gnn, "dropout")
    spy(gnn, "relu_norm")
    if name == "gat":
        spy(conv, "edge_softmax_aggregate")
        model = GAT(6, 8, 3, 4, heads=2, attention_dropout=0.5, dropout_in=0.5)
    else:
        model = GraphSAGE(6, 8, 3, 4, norm="layer" if name == "sage-norm" else "none", dropout_in=0.5)
    for step in (0, 1, 1 << 24):
        model(rows().float(), [graph_rows(graph)] * 4, step)
    each = 1 + 3 + 4 * (name == "gat")  # of the input, after each layer but the last, of attention
    assert len(seeds) == 3 * each == len(set(seeds)) and all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: GraphSAGE(6, 8, 3, 0), "layers must be at least 1, got 0"),
        (lambda: GraphSAGE(6, 8, 3, dropout=1.5), "dropout must be in"),
        (lambda: GraphSAGE(6, 8, 3, norm="batch"), "norm must be none, or layer"),
        (lambda: GAT(6, 10, 3, heads=4), r"heads must divide dim_hidden \(10\), got 4"),
        (lambda: GraphSAGE(6, 8, 3)(torch.zeros(1, 6), []), "blocks must be 2, one a layer, got 0"),
    ],
)
def test_errors(make, said):
    with pytest.raises(ValueError, match=said):
        make()
