"""TransformerConv: both of its paths against each other, and against torch_geometric's in float64, gradients included."""

import pytest
import torch

from gnnaccel.pyg import TransformerConv

F64 = torch.float64


def graph(nodes=13, edges=40, dim_edge=4, shuffled=True, hub=False, seed=0):
    gen = torch.Generator().manual_seed(seed)
    edge_index = torch.randint(0, nodes, (2, edges), generator=gen)
    edge_index[1] = edge_index[1].clamp(max=nodes - 3)  # the last two have no edge
    if hub:
        edge_index[1, : edges * 3 // 4] = 1
    if not shuffled:
        edge_index = edge_index[:, torch.argsort(edge_index[1], stable=True)]
    attr = torch.randn(edges, dim_edge, generator=gen, dtype=F64, requires_grad=True) if dim_edge else None
    return edge_index, attr


def rows(nodes=13, dim=6, seed=1):
    gen = torch.Generator().manual_seed(seed)
    return torch.randn(nodes, dim, generator=gen, dtype=F64, requires_grad=True)


OPTIONS = [
    {},
    {"heads": 3},
    {"heads": 2, "concat": False},
    {"heads": 2, "beta": True},
    {"heads": 2, "concat": False, "beta": True},
    {"heads": 2, "bias": False},
    {"heads": 2, "root_weight": False},
    {"heads": 2, "edge_dim": None},
    {"heads": 2, "flow": "target_to_source"},
]


def run(conv, x, edge_index, attr, **kwargs):
    """Result, gradients of inputs and parameters, in the order of names."""
    out = conv(x, edge_index, attr, **kwargs)
    first = out[0] if isinstance(out, tuple) else out
    inputs = [t for t in (*(x if isinstance(x, tuple) else (x,)), attr) if t is not None]
    params = [p for _, p in sorted(conv.named_parameters())]
    weight = torch.linspace(-1, 1, first.numel(), dtype=F64).view(first.shape)
    return out, torch.autograd.grad((first * weight).sum(), inputs + params, allow_unused=True)


def assert_same(a, b):
    for x, y in zip(a, b, strict=True):
        x, y = (torch.zeros(()) if t is None or not t.any() else t for t in (x, y))
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-11, check_dtype=False)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("shape", [{}, {"shuffled": False}, {"hub": True, "nodes": 200, "edges": 300}], ids=str)
def test_torch_geometric(options, shape):
    theirs = pytest.importorskip("torch_geometric.nn").TransformerConv
    options = {"edge_dim": 4, **options}
    convs = []
    for cls in (theirs, TransformerConv):
        torch.manual_seed(0)
        convs.append(cls(6, 5, **options).double())
    for (name, p), (other, q) in zip(*(c.named_parameters() for c in convs), strict=False):
        assert name == other and torch.equal(p, q)
    edge_index, attr = graph(**{**shape, "dim_edge": options["edge_dim"]})
    x = rows(shape.get("nodes", 13))
    (a, grads), (b, own) = (run(c, x, edge_index, attr) for c in convs)
    assert_same([a, *grads], [b, *own])
    with_weights = [run(c, x, edge_index, attr, return_attention_weights=True) for c in convs]
    ((a, (_, alpha)), grads), ((b, (edges, beta)), own) = with_weights
    assert edges is edge_index
    assert_same([a, alpha, *grads], [b, beta, *own])


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_absorbed_is_projected(options):
    conv = TransformerConv(6, 5, **{"edge_dim": 4, **options}).double()
    edge_index, attr = graph(dim_edge=conv.edge_dim)
    a, grads = run(conv, rows(), edge_index, attr)
    (b, _), own = run(conv, rows(), edge_index, attr, return_attention_weights=False)
    assert_same([a, *grads], [b, *own])


def test_sources_and_targets_of_their_own():
    conv = TransformerConv((6, 3), 5, heads=2).double()
    edge_index = torch.tensor([[0, 8, 3, 8], [1, 0, 1, 1]])
    x = rows(9), rows(2, 3)
    a, grads = run(conv, x, edge_index, None)
    (b, _), own = run(conv, x, edge_index, None, return_attention_weights=True)
    assert a.shape == (2, 10)
    assert_same([a, *grads], [b, *own])


def test_lazy_sizes_and_state():
    conv = TransformerConv(-1, 4, heads=2, edge_dim=-1).double()
    edge_index, attr = graph()
    out = conv(rows(), edge_index, attr)
    other = TransformerConv(6, 4, heads=2, edge_dim=4).double()
    other.load_state_dict(conv.state_dict())
    assert torch.equal(other(rows(), edge_index, attr), out)


def test_no_edges():
    conv = TransformerConv(6, 4, heads=2, edge_dim=3).double()
    out = conv(rows(), torch.zeros((2, 0), dtype=torch.int64), torch.zeros((0, 3), dtype=F64))
    torch.testing.assert_close(out, conv.lin_skip(rows()))


def test_dropout_follows_torchs_seed():
    conv = TransformerConv(6, 4, heads=2, edge_dim=4, dropout=0.5).double()
    edge_index, attr = graph()
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(conv(rows(), edge_index, attr))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])
    conv.eval()
    assert torch.equal(conv(rows(), edge_index, attr), conv(rows(), edge_index, attr))


def test_dropout_keeps_the_mean():
    conv = TransformerConv(6, 4, edge_dim=4, dropout=0.4, root_weight=False).double()
    edge_index, attr = graph()
    torch.manual_seed(0)
    with torch.no_grad():
        mean = torch.stack([conv(rows(), edge_index, attr) for _ in range(3000)]).mean(0)
        torch.testing.assert_close(mean, conv.eval()(rows(), edge_index, attr), rtol=0, atol=0.15)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda c, x, e, a: c(x, e.float(), a), TypeError, "edge_index must be an int64 tensor"),
        (lambda c, x, e, a: c(x, [[0], [1]], a), TypeError, "edge_index must be an int64 tensor"),
        (lambda c, x, e, a: c(x, e), ValueError, "edge_attr must be given if edge_dim is, got None"),
        (lambda c, x, e, a: c(x, e, a[1:]), ValueError, r"edge_attr must be \[40, 4\], got \[39, 4\]"),
        (lambda c, x, e, a: TransformerConv(3, 3, aggr="max"), ValueError, "aggr must be 'add'"),
        (lambda c, x, e, a: TransformerConv(3, 3, flow="up"), ValueError, "flow must be 'source_to_target'"),
    ],
)
def test_errors(call, error, match):
    conv = TransformerConv(6, 4, edge_dim=4).double()
    with pytest.raises(error, match=f"TransformerConv: {match}"):
        call(conv, rows(), *graph())
