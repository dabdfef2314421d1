"""Time encodings and rows as promises: whatever is done with one gives what its values give, gradients included."""

import copy
import io
import pickle

import pytest
import torch
import torch.utils.checkpoint
from torch.nn import functional as F

from gnnaccel.ops import time_encode
from gnnaccel.pyg import TransformerConv
from gnnaccel.pyg._promises import EventRows, Promise, edge_parts, encoded_times, event_rows
from gnnaccel.pyg.nn.models.tgn import TimeEncoder

F64 = torch.float64
N, T, FEATURES = 7, 3, 2


def parts(features=True, n=N):
    """Features, times, frequencies and phases; all but times require grad. Features may be "rows": a table and ids, without."""
    gen = torch.Generator().manual_seed(0)
    t = torch.rand(n, generator=gen, dtype=F64) * 20
    w, b = (torch.randn(T, generator=gen, dtype=F64, requires_grad=True) for _ in range(2))
    if features == "rows":
        table = torch.randn(2 * n, FEATURES, generator=gen, dtype=F64)
        return (table, torch.randint(0, 2 * n, (n,), generator=gen)), t, w, b
    f = torch.randn(n, FEATURES, generator=gen, dtype=F64, requires_grad=True) if features else None
    return f, t, w, b


def promise(f, t, w, b):
    times = encoded_times(t, w, b)
    if f is None:
        return times
    return torch.cat([times, event_rows(f[0])[f[1]] if isinstance(f, tuple) else f], dim=1)


def dense(f, t, w, b):
    times = time_encode(t, w, b)
    if f is None:
        return times
    return torch.cat([times, f[0][f[1]] if isinstance(f, tuple) else f], dim=1)


def leaves(f, t, w, b):
    return [f, w, b] if isinstance(f, torch.Tensor) else [w, b]


def is_promise(x):
    return type(x) is Promise and x.values is None


def test_encoder_gives_a_promise():
    encoder = TimeEncoder(T).double()
    t = torch.rand(N, dtype=F64)
    for given in (t, t.unsqueeze(1)):
        out = encoder(given)
        assert is_promise(out)
        want = (t.unsqueeze(1) * encoder.lin.weight[:, 0] + encoder.lin.bias).cos()
        torch.testing.assert_close(out + 0, want)
    assert type(encoder(torch.arange(N))) is torch.Tensor
    assert type(encoder(t.float())) is torch.Tensor
    assert type(encoder(t.clone().requires_grad_())) is torch.Tensor


@pytest.mark.parametrize("features", [False, True, "rows"])
def test_what_it_is_without_values(features):
    p = parts(features)
    x, want = promise(*p), dense(*p)
    assert x.shape == want.shape and x.size() == want.size() and x.size(1) == want.shape[1]
    assert (x.dtype, x.device, x.dim(), x.ndim, len(x)) == (F64, want.device, 2, 2, N)
    assert x.layout == want.layout and not x.is_cuda
    assert is_promise(x)


USES = {
    "add": lambda x: x + 1,
    "right": lambda x: 2 * x,
    "of_two": lambda x: x * x,
    "row": lambda x: x[2],
    "slice": lambda x: x[1:5, 1:],
    "index": lambda x: x[torch.tensor([3, 3, 0])],
    "mask": lambda x: x[torch.arange(N) % 2 == 0],
    "method": lambda x: x.sum(0),
    "function": lambda x: torch.sin(x),
    "linear": lambda x: F.linear(x, torch.eye(x.shape[1], dtype=F64)),
    "matmul": lambda x: torch.ones(2, N, dtype=F64) @ x,
    "view": lambda x: x.view(-1),
    "transposed": lambda x: x.T,
    "clone": lambda x: x.clone(),
    "contiguous": lambda x: x.contiguous(),
    "to": lambda x: x.to(torch.float32),
    "unbind": lambda x: torch.stack(list(x)),
    "cat_dim_0": lambda x: torch.cat([x, torch.ones_like(x + 0)]),
    "cat_dim_0_of_two": lambda x: torch.cat([x, x], dim=0),
    "cat_features_first": lambda x: torch.cat([torch.ones(N, 2, dtype=F64), x], dim=1),
    "cat_three": lambda x: torch.cat([x, torch.ones(N, 1, dtype=F64), torch.ones(N, 2, dtype=F64)], dim=1),
    "cat_other_dtype": lambda x: torch.cat([x, torch.ones(N, 2)], dim=1),
    "cat_alone": lambda x: torch.cat([x], dim=1),
    "cat_of_two": lambda x: torch.cat([x, x], dim=1),
    "hstack": lambda x: torch.hstack([x, torch.ones(N, 2, dtype=F64)]),
    "stack": lambda x: torch.stack([x, x]),
    "where": lambda x: torch.where(x > 0, x, 0),
    "layer": lambda x: torch.nn.LayerNorm(x.shape[1], dtype=F64)(x),
}


@pytest.mark.parametrize("features", [False, True, "rows"])
@pytest.mark.parametrize("use", USES)
def test_uses(use, features):
    p = parts(features)
    got, want = USES[use](promise(*p)), USES[use](dense(*p))
    assert type(got) is torch.Tensor
    torch.testing.assert_close(got, want, rtol=0, atol=0)
    a, b = (
        torch.autograd.grad((out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum(), leaves(*p))
        for out in (got, want)
    )
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("features", [False, True, "rows"])
def test_uses_without_gradients(features):
    p = parts(features)
    want = dense(*p).detach()
    assert torch.equal(promise(*p).detach(), want)
    assert not promise(*p).detach().requires_grad
    assert torch.equal(promise(*p).data, want)
    assert (promise(*p).detach().numpy() == want.numpy()).all()
    assert promise(*p).tolist() == want.tolist()
    assert repr(promise(*p)) == repr(dense(*p))
    assert str(promise(*p)) == str(dense(*p))
    assert f"{promise(*p)[0, 0].item():.3f}" == f"{want[0, 0].item():.3f}"
    with torch.no_grad():
        assert torch.equal(promise(*p) + 0, want)
        assert (promise(*p).numpy() == want.numpy()).all()


def test_it_requires_grad_as_its_values_do():
    f, t, w, b = parts()
    assert promise(f, t, w, b).requires_grad
    assert promise(f.detach(), t, w.detach(), b).requires_grad
    assert promise(f, t, w.detach(), b.detach()).requires_grad
    assert not promise(None, t, w.detach(), b.detach()).requires_grad
    with torch.no_grad():
        assert not promise(f, t, w, b).requires_grad


@pytest.mark.parametrize("features", [False, True, "rows"])
def test_copies(features):
    p = parts(features)
    want = dense(*p)
    x = promise(*p)
    with torch.no_grad():
        still = promise(*p)
    # as of any tensor that is no leaf
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(want)
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(x)
    assert torch.equal(copy.deepcopy(still), want)
    file = io.BytesIO()
    torch.save(x, file)
    file.seek(0)
    for other in (pickle.loads(pickle.dumps(x)), torch.load(file), pickle.loads(pickle.dumps(still))):
        assert type(other) is torch.Tensor
        assert torch.equal(other, want)


@pytest.mark.parametrize("dim", [1, -1])
def test_cat_with_features_is_another_promise(dim):
    f, t, w, b = parts()
    x = promise(None, t, w, b)
    for joined in (torch.cat([x, f], dim=dim), torch.cat((x, f), dim), torch.cat(tensors=[x, f], dim=dim)):
        assert is_promise(joined) and is_promise(x)
        assert joined.shape == (N, T + FEATURES)
        assert torch.equal(joined + 0, dense(f, t, w, b))
        grads = [torch.autograd.grad((out * out).sum(), [f, w, b]) for out in (joined, dense(f, t, w, b))]
        assert all(torch.equal(a, c) for a, c in zip(*grads, strict=True))


def test_cat_that_cannot_be_raises_as_ever():
    _, t, w, b = parts()
    for other in (torch.ones(N + 1, 2, dtype=F64), torch.ones(N, dtype=F64)):
        with pytest.raises(RuntimeError, match=r"[Tt]ensors must|Sizes of tensors"):
            torch.cat([promise(None, t, w, b), other], dim=1)


def test_made_with_grad_used_without():
    p = parts()
    x = promise(*p)
    with torch.no_grad():
        assert not (x + 1).requires_grad
    grads = [torch.autograd.grad((out * out).sum(), leaves(*p)) for out in (x, dense(*p))]
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_made_without_grad_used_with():
    f, t, w, b = parts()
    with torch.no_grad():
        x = promise(None, t, w, b)
    assert not (x * 2).requires_grad
    with torch.no_grad():
        x = promise(None, t, w, b)
    joined = torch.cat([x, f], dim=1)
    got = torch.autograd.grad((joined * joined).sum(), [f, w], allow_unused=True)
    torch.testing.assert_close(got[0], 2 * f)
    assert got[1] is None


@pytest.mark.parametrize(("features", "which"), [(True, i) for i in range(4)] + [("rows", i) for i in range(5)])
def test_changed_in_place(features, which):
    p = parts(features)
    early, late = promise(*p), promise(*p)
    want = dense(*p).detach()
    assert torch.equal((early + 0).detach(), want)
    changed = [x for part in p for x in (part if isinstance(part, tuple) else (part,))]
    with torch.no_grad():
        changed[which].add_(1)
    assert torch.equal((early + 0).detach(), want)
    uses = (lambda x: x + 1, lambda x: x.sum(), edge_parts, repr)
    for use in uses:
        with pytest.raises(RuntimeError, match="changed in place before what was computed from them was used"):
            use(late)


def test_cat_after_a_change_in_place():
    f, t, w, b = parts()
    x = promise(None, t, w, b)
    t.add_(1)
    with pytest.raises(RuntimeError, match="changed in place before what was computed from them was used"):
        torch.cat([x, f], dim=1)


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, g):
        return 2 * g


# what does not ask a tensor's class what to do with it
DIRECT = {
    "function": Double.apply,
    "op": lambda x: torch.ops.gnnaccel.gather_rows(x, torch.tensor([1, 1, 0]), None, F64, True),
    "aten": lambda x: torch.ops.aten.mul(x, 2),
}


@pytest.mark.parametrize("features", [False, True, "rows"])
@pytest.mark.parametrize("use", DIRECT)
def test_direct_calls_have_gradients_or_raise(use, features):
    p = parts(features)
    want = torch.autograd.grad(DIRECT[use](dense(*p)).sin().sum(), leaves(*p))
    try:
        got = torch.autograd.grad(DIRECT[use](promise(*p)).sin().sum(), leaves(*p))
    except RuntimeError as error:
        assert "rows that were not formed yet" in str(error)
        got = torch.autograd.grad(DIRECT[use](promise(*p).clone()).sin().sum(), leaves(*p))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_gradients_that_end_in_a_promise_are_not_lost():
    """Not even where the parts are part of the graph in another way too."""
    f, t, w, b = parts()
    for differentiate in (lambda loss: loss.backward(), lambda loss: torch.autograd.grad(loss, [w], allow_unused=True)):
        with pytest.raises(RuntimeError, match=r"rows that were not formed yet; pass a clone\(\) of them"):
            differentiate(Double.apply(promise(f, t, w, b)).sum() + w.sum() + f.sum())


@pytest.mark.parametrize("features", [False, True, "rows"])
def test_inference_mode(features):
    """Its tensors count no changes in place, so that values are made at once."""
    nodes, edges, edge_index = graph(hub=False)
    conv = TransformerConv(DIM, 5, edge_dim=T + FEATURES * bool(features)).double()
    x = torch.randn(nodes, DIM, dtype=F64)
    want = conv(x, edge_index, dense(*parts(features, edges))).detach()
    with torch.inference_mode():
        p = parts(features, edges)
        attr = promise(*p)
        assert torch.equal(attr + 0, dense(*p))
        p[1].add_(1)
        torch.testing.assert_close(conv(x, edge_index, attr), want)
    # parts from outside, used inside
    p = parts(features, edges)
    with torch.inference_mode():
        torch.testing.assert_close(conv(x, edge_index, promise(*p)), want)


def test_rows_of_events():
    table = torch.randn(9, 2, dtype=F64)
    rows, ids = event_rows(table), torch.tensor([3, 3, 0, 8])
    assert type(rows) is EventRows and torch.equal(rows + 0, table) and type(rows + 0) is torch.Tensor
    x = rows[ids]
    assert is_promise(x) and x.shape == (4, 2) and x.dtype == F64 and x.device == table.device
    assert is_promise(x.to("cpu")) and x.to(torch.device("cpu")) is x
    assert not x.requires_grad
    for use in (
        lambda x: x + 1,
        lambda x: x[1:],
        lambda x: x.numpy(),
        lambda x: x.to(torch.float32),
        torch.Tensor.clone,
    ):
        got, want = use(rows[ids]), use(table[ids])
        assert type(got) is type(want) and (got == want).all()
    # these are not made of rows, or not without a look at them
    for index in (2, slice(1, 3), ids[:0], ids - 4, ids.int(), table[:, 0] > 0, (ids, 0), ids.view(2, 2), None, [1, 2]):
        got = rows[index]
        assert type(got) is torch.Tensor and torch.equal(got, table[index])
    with pytest.raises(IndexError):
        rows[ids + 1]
    leaf = table.clone().requires_grad_()
    assert type(event_rows(leaf)) is torch.Tensor
    rows[ids[:1]] = 5.0
    assert (table[3] == 5).all()
    x = event_rows(table)[ids]
    table.zero_()
    with pytest.raises(RuntimeError, match="changed in place before what was computed from them was used"):
        x.sum()


def test_function_without_gradients_takes_it():
    p = parts()
    with torch.no_grad():
        assert torch.equal(Double.apply(promise(*p)), 2 * dense(*p))


NODES, EDGES, DIM = 13, 40, 6


def graph(hub):
    gen = torch.Generator().manual_seed(0)
    nodes, edges = (200, 300) if hub else (NODES, EDGES)
    edge_index = torch.randint(0, nodes - 2, (2, edges), generator=gen)
    if hub:
        edge_index[1, : edges * 3 // 4] = 1
    return nodes, edges, edge_index


OPTIONS = [
    {},
    {"heads": 2},
    {"heads": 2, "beta": True},
    {"heads": 2, "concat": False},
    {"heads": 2, "root_weight": False},
    {"heads": 2, "bias": False},
    {"heads": 2, "dropout": 0.3},
    {"heads": 2, "flow": "target_to_source"},
    {"heads": 2, "edge_dim": -1},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("features", [False, True, "rows"])
@pytest.mark.parametrize("how", ["train", "eval", "hub", "weights"])
def test_transformer_conv(how, features, options):
    torch.manual_seed(0)
    nodes, edges, edge_index = graph(hub=how == "hub")
    conv = TransformerConv(DIM, 5, **{"edge_dim": T + FEATURES * bool(features), **options}).double()
    conv.train(how != "eval")
    x = torch.randn(nodes, DIM, dtype=F64, requires_grad=True)
    p = parts(features, edges)
    more = {"return_attention_weights": True} if how == "weights" else {}
    results = []
    for attr in (promise(*p), dense(*p)):
        torch.manual_seed(1)
        out = conv(x, edge_index, attr, **more)
        if more:
            out = torch.cat([out[0].flatten(), out[1][1].flatten()])
        assert type(out) is torch.Tensor
        inputs = [x, *leaves(*p), *conv.parameters()]
        weigh = torch.linspace(-1, 1, out.numel(), dtype=F64).view(out.shape)
        grads = torch.autograd.grad((out * weigh).sum(), inputs, allow_unused=True)
        results.append([out, *(torch.zeros_like(i) if g is None else g for i, g in zip(inputs, grads, strict=True))])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
    assert all(g.any() for g in results[0][1 : 2 + len(leaves(*p))])


def test_transformer_conv_with_values_that_are_there():
    p, (nodes, _, edge_index) = parts(n=EDGES), graph(hub=False)
    conv = TransformerConv(DIM, 5, edge_dim=T + FEATURES).double()
    x, attr = torch.randn(nodes, DIM, dtype=F64), promise(*p)
    attr.sum()
    grads = [torch.autograd.grad(conv(x, edge_index, a).sin().sum(), leaves(*p)) for a in (attr, dense(*p))]
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_transformer_conv_in_autocast(dtype):
    """In bfloat16 the projections are rounded, edge by edge, whichever form the encoding has."""
    encoder = TimeEncoder(T)
    nodes, edges, edge_index = graph(hub=False)
    conv = TransformerConv(DIM, 5, edge_dim=T + FEATURES)
    x, t, f = torch.randn(nodes, DIM), torch.rand(edges), torch.randn(edges, FEATURES)
    results = []
    for form in (lambda e: e, lambda e: e.clone()):
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            out = conv(x, edge_index, torch.cat([form(encoder(t)), f], dim=1))
        results.append([out, *torch.autograd.grad(out.float().sin().sum(), list(encoder.parameters()))])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reentrant", [False, True])
def test_transformer_conv_in_a_checkpoint(reentrant):
    p, (nodes, _, edge_index) = parts(n=EDGES), graph(hub=False)
    conv = TransformerConv(DIM, 5, edge_dim=T + FEATURES).double()
    x = torch.randn(nodes, DIM, dtype=F64, requires_grad=True)

    def grads(attr):
        out = torch.utils.checkpoint.checkpoint(conv, x, edge_index, attr, use_reentrant=reentrant)
        return torch.autograd.grad(out.sin().sum(), [x, *leaves(*p)]) if not reentrant else out.sin().sum().backward()

    if reentrant:  # a `torch.autograd.Function`
        with pytest.raises(RuntimeError, match="rows that were not formed yet"):
            grads(promise(*p))
        return
    for a, b in zip(grads(promise(*p)), grads(promise(*p).clone()), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_transformer_conv_names_a_wrong_width():
    conv = TransformerConv(DIM, 5, edge_dim=T).double()
    nodes, edges, edge_index = graph(hub=False)
    with pytest.raises(ValueError, match=rf"edge_attr must be \[{edges}, {T}\], got \[{edges}, {T + FEATURES}\]"):
        conv(torch.randn(nodes, DIM, dtype=F64), edge_index, promise(*parts(n=edges)))
