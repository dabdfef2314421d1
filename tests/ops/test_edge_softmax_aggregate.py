import pytest
import torch

import gnnaccel as ga
from gnnaccel.baselines.reference.edge_softmax_aggregate import edge_softmax_aggregate as reference
from tests.harness import DEVICE, F32, F64, INTERPRET, Case, check_op, served_by, threads
from tests.ops.test_gather_aggregate import make as make_block

I32, I64 = torch.int32, torch.int64


def make(S, H, D, R, K, *, size=1.0, slope=0.2, dropout=0.0, seed=0, **block):
    def build(gen):
        args = make_block(S, 1, R, K, **block)(gen)
        roots = len(args["indptr"]) - 1 if "indptr" in args else R
        return {
            "x": torch.rand((S, H, D), generator=gen, dtype=F64) - 0.5,
            "src_logit": size * torch.randn((S, H), generator=gen, dtype=F64),
            "dst_logit": size * torch.randn((roots, H), generator=gen, dtype=F64),
            **{name: args.get(name) for name in ("nbr", "count", "indptr")},
            "negative_slope": slope,
            "dropout": dropout,
            "seed": seed,
        }

    return build


CASES = [
    Case("no_roots", make(3, 2, 4, 0, 2)),
    Case("no_slots", make(3, 2, 4, 3, 0)),
    Case("no_sources", make(0, 2, 4, 3, 2, padded=2.0)),
    Case("no_heads", make(3, 0, 4, 3, 2)),
    Case("no_columns", make(3, 2, 0, 3, 2)),
    Case("one", make(1, 1, 1, 1, 1, counts=False)),
    Case("all_empty", make(5, 2, 3, 4, 3, padded=2.0)),
    Case("odd", make(5, 3, 7, 6, 5, padded=0.2)),
    Case("one_head", make(5, 1, 8, 6, 5, ids_dtype=I32, count_dtype=I64)),
    Case("holes", make(6, 2, 5, 7, 4, holes=0.4)),
    Case("csr", make(6, 2, 5, 7, 4, csr=True, ids_dtype=I32)),
    Case("csr_empty", make(6, 2, 5, 3, 4, csr=True, padded=2.0)),
    Case("other_slope", make(6, 2, 5, 7, 4, slope=0.01)),
    Case("dropout", make(6, 2, 3, 7, 9, dropout=0.4, seed=5)),
    Case("csr_dropout", make(6, 3, 5, 7, 4, csr=True, holes=0.2, dropout=0.3, seed=2**40 + 1)),
    Case("hub", make(9, 2, 5, 5, 3, csr=True, hub=80)),
    Case("cora_layer", make(60, 8, 8, 50, 6, csr=True, hub=100), small=False),
    Case("many", make(300, 4, 33, 400, 10, padded=0.1, dropout=0.5), small=False),
    Case("hub_of_many", make(50, 3, 20, 100, 10, csr=True, hub=3000), small=False),
]


def longest(args):
    ids = args["nbr"]
    return max(ids.shape[-1], int(torch.bincount(ids.clamp(0, 10_000).flatten()).max()), 1) if ids.numel() else 1


TestEdgeSoftmaxAggregate = check_op(
    op=ga.edge_softmax_aggregate,
    reference=reference,
    cases=CASES,
    schemas=["edge_softmax_aggregate", "edge_softmax_aggregate_backward"],
    cast=["x", "src_logit", "dst_logit"],
    grad=["x", "src_logit", "dst_logit"],
    length=longest,
)


def test_by_hand():
    """Weights 1/4 and 3/4: logits ln 1 and ln 3, the first from the leaky side."""
    x = torch.tensor([[[4.0, 0.0]], [[8.0, 100.0]], [[9.0, 9.0]]])
    src = torch.tensor([[-1.0], [torch.log(torch.tensor(3.0)) - 1.0], [5.0]])
    nbr, count = torch.tensor([[0, 1, 2], [7, 7, 7]]), torch.tensor([2, 0])
    out = ga.edge_softmax_aggregate(x, src, torch.tensor([[1.0], [0.0]]), nbr, count)
    torch.testing.assert_close(out, torch.tensor([[[7.0, 75.0]], [[0.0, 0.0]]]))


@pytest.mark.interpret
def test_large_logits():
    x = torch.tensor([[[1.0]], [[3.0]]], device=DEVICE)
    src = torch.tensor([[1e30], [-1e30]], device=DEVICE)
    dst, nbr = torch.zeros((2, 1), device=DEVICE), torch.tensor([[0, 1], [1, 1]], device=DEVICE)
    with served_by("CUDA") if INTERPRET else threads(1):
        assert ga.edge_softmax_aggregate(x, src, dst, nbr).flatten().tolist() == [1.0, 3.0]


def test_dropout_keeps_its_rate_and_follows_its_seed():
    x, zero = torch.ones(1, 2, 1), torch.zeros(1, 2)
    nbr = torch.zeros((1, 20_000), dtype=I64)
    outs = [ga.edge_softmax_aggregate(x, zero, zero, nbr, dropout=0.3, seed=s) for s in (0, 0, 1)]
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])
    for out in outs:
        torch.testing.assert_close(out, torch.ones(1, 2, 1), rtol=0, atol=0.03)


def test_same_as_temporal_attention():
    """Its mask, and its function where x has one head: the query is the vector of the sources' logits."""
    args = make(40, 1, 6, 30, 7, dropout=0.4, seed=3)(torch.Generator().manual_seed(0))
    a, nbr, count = torch.randn(6, dtype=F64), args["nbr"], args["count"]
    x = args["x"]
    got = ga.edge_softmax_aggregate(x, x @ a, args["dst_logit"], nbr, count, dropout=0.4, seed=3)
    z, _ = ga.temporal_attention(
        a.expand(30, 1, 6), args["dst_logit"], x[:, 0], None, nbr, nbr, torch.zeros(nbr.shape), count,
        torch.zeros(0), torch.zeros(0), activation="leaky_relu", dropout=0.4, seed=3,
    )  # fmt: skip
    torch.testing.assert_close(got, z)


def test_padded_and_csr_agree_bitwise():
    args = make(50, 2, 17, 60, 8)(torch.Generator().manual_seed(0))
    nbr, count = args["nbr"], args["count"]
    rows = [args[name].to(F32) for name in ("x", "src_logit", "dst_logit")]
    live = torch.arange(8) < count[:, None]
    indptr = torch.cat([torch.zeros(1, dtype=I64), count.long().cumsum(0)])
    a = ga.edge_softmax_aggregate(*rows, nbr, count, dropout=0.2)
    assert torch.equal(a, ga.edge_softmax_aggregate(*rows, nbr[live], indptr=indptr, dropout=0.2))


def test_once_differentiable():
    x, a, b = torch.rand(4, 2, 3, requires_grad=True), torch.rand(4, 2), torch.rand(1, 2)
    out = ga.edge_softmax_aggregate(x, a, b, torch.tensor([[1, 2]]))
    (grad,) = torch.autograd.grad(out.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once differentiable"):
        grad.sum().backward()


X, SRC, DST = torch.zeros(3, 2, 4), torch.zeros(3, 2), torch.zeros(5, 2)
NBR, COUNT = torch.zeros((5, 6), dtype=I64), torch.full((5,), 6)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"x": X.long()}, TypeError, "x must be float64, float32, float16 or bfloat16, got torch.int64"),
        ({"x": X[0]}, ValueError, r"x must be \[S, H, D\], got \[2, 4\]"),
        ({"src_logit": SRC.double()}, TypeError, "src_logit must be torch.float32 like x, got torch.float64"),
        ({"src_logit": SRC[:2]}, ValueError, r"src_logit must be \[3, 2\], got \[2, 2\]"),
        ({"dst_logit": DST.half()}, TypeError, "dst_logit must be torch.float32 like x, got torch.float16"),
        ({"dst_logit": DST[:4]}, ValueError, r"dst_logit must be \[5, 2\], got \[4, 2\]"),
        ({"nbr": NBR.float()}, TypeError, "nbr must be int32 or int64, got torch.float32"),
        ({"nbr": NBR[0]}, ValueError, r"nbr must be \[R, K\] without indptr, got \[6\]"),
        ({"count": COUNT[:3]}, ValueError, r"count must be \[5\] like nbr, got \[3\]"),
        ({"dropout": 1.0}, ValueError, r"dropout must be in \[0, 1\), got 1.0"),
    ],
)
def test_errors(change, error, match):
    args = {"x": X, "src_logit": SRC, "dst_logit": DST, "nbr": NBR, "count": COUNT, **change}
    with pytest.raises(error, match=f"edge_softmax_aggregate: {match}"):
        ga.edge_softmax_aggregate(**args)


@pytest.mark.skipif(INTERPRET or DEVICE != "cpu", reason="values are checked on CPU")
@pytest.mark.parametrize("fallback", [False, True], ids=["cpp", "fallback"])
def test_values_out_of_range(fallback):
    nbr = torch.arange(30).remainder(3)
    with served_by("CompositeExplicitAutograd") if fallback else threads(2):
        bad = nbr.clone()
        bad[17] = 3
        with pytest.raises(ValueError, match=r"nbr must be below 3 \(rows of the table\), got 3"):
            ga.edge_softmax_aggregate(X, SRC, DST, bad.view(5, 6))
        with pytest.raises(ValueError, match=r"count must be in \[0, 6\], got 7"):
            ga.edge_softmax_aggregate(X, SRC, DST, nbr.view(5, 6), COUNT + 1)
        with pytest.raises(ValueError, match="indptr must begin with 0 and end with 30"):
            ga.edge_softmax_aggregate(X, SRC, DST, nbr, indptr=torch.tensor([0, 5, 9, 9, 20, 29]))
        with pytest.raises(ValueError, match="indptr must not decrease"):
            ga.edge_softmax_aggregate(X, SRC, DST, nbr, indptr=torch.tensor([0, 5, 9, 8, 20, 30]))
