import math

import pytest
import torch

import gnnaccel as ga
from gnnaccel.baselines.peers.temporal_attention import project, projected
from gnnaccel.baselines.reference.temporal_attention import dropout_mask, philox4x32
from gnnaccel.baselines.reference.temporal_attention import temporal_attention as reference
from gnnaccel.ops._library import HAS_CPP
from gnnaccel.ops.temporal_attention import SLOPES
from tests.harness import BF16, F16, F32, INTERPRET, Case, check_op, served_by, threads

NAMES = ("u", "c", "node_table", "edge_table", "time_w", "time_b")


def make(
    R=3,
    K=4,
    H=2,
    dims=(3, 2, 2),
    tables=(6, 9),
    counts=None,
    rows=torch.int64,
    dt=torch.int64,
    strided=False,
    hub=False,
    activation="leaky_relu",
    **options,
):
    def build(gen):
        def normal(*shape):
            return torch.randn(shape, generator=gen, dtype=torch.float64)

        (Dn, De, T), (U, E) = dims, tables
        F = Dn + De + T
        # K, K - 3, ... modulo K + 1: full, partial and empty roots
        count = (K - 3 * torch.arange(R)) % (K + 1) if counts is None else torch.tensor(counts)
        dead = torch.arange(K) >= count[:, None]

        def row(n):
            ids = torch.zeros(R, K, dtype=torch.int64) if hub else torch.randint(0, max(n, 1), (R, K), generator=gen)
            return ids.masked_fill(dead, -1).to(rows)

        # logits of both signs in a root, so that LeakyReLU matters
        u = 2 * normal(R, H, F) / math.sqrt(max(F, 1))
        args = {
            "u": u.permute(1, 0, 2).contiguous().permute(1, 0, 2) if strided else u,
            "c": 0.3 * normal(R, H),
            "node_table": normal(U, Dn),
            "edge_table": normal(E, De) if De else None,
            "nbr_row": row(U),
            "edge_row": row(E),
            "dt": (torch.rand(R, K, generator=gen, dtype=torch.float64) * 20).masked_fill(dead, 0).to(dt),
            "count": count.to(torch.int32),
            "time_w": normal(T),
            "time_b": normal(T),
        }
        return {**args, "activation": activation, **options}

    return build


CASES = [
    Case("no_roots", make(R=0)),
    Case("no_roots_dropout", make(R=0, dropout=0.4, seed=5)),
    Case("no_slots", make(K=0)),
    Case("one", make(R=1, K=1, H=1, dims=(1, 1, 1), tables=(1, 1), counts=[1])),
    Case("all_padded", make(counts=[0, 0, 0], tables=(0, 0))),
    Case("scaled", make(counts=[4, 0, 2], scale=0.7)),
    Case("dropout", make(dropout=0.4, seed=(7 << 33) + 5, K=6, counts=[6, 5, 3])),
    Case("no_edges", make(dims=(3, 0, 2))),
    Case("no_time", make(dims=(3, 2, 0))),
    Case("only_edges", make(dims=(0, 3, 0))),
    Case("three_heads", make(H=3, dims=(5, 7, 4), dt=torch.float64)),
    Case("int32_rows", make(rows=torch.int32, dt=torch.float32)),
    Case("strided", make(strided=True)),
    Case("hub", make(R=5, K=3, hub=True)),
    Case(
        "several_chunks",
        make(R=131, K=11, dims=(20, 35, 17), tables=(40, 300), dropout=0.1, seed=3),
        small=False,
    ),
]


def as_schema(args):
    options = {"scale": 1.0, "activation": "none", "dropout": 0.0, "seed": 0, "deterministic": True}
    options = {**options, **{k: args[k] for k in options if k in args}}
    options["activation"] = SLOPES[options["activation"]]
    return (*[v for k, v in args.items() if k not in options], *options.values())


# gradients add up one term a neighbour, each a product of two dot products of length F; those of time_w weigh it by dt.
TestTemporalAttention = check_op(
    op=ga.temporal_attention,
    reference=reference,
    cases=CASES,
    schemas=["temporal_attention", "temporal_attention_backward"],
    cast=NAMES,
    grad=NAMES,
    length=lambda args: max(args["nbr_row"].numel() + args["u"].shape[2], 1),
    tolerance={F32: 32.0, F16: 8.0, BF16: 8.0},
    overload_args=as_schema,
)


# softmax alone does not see a constant: the gradient of c is zero, and only rounding is left to compare
PLAIN = [
    Case("plain", make(counts=[4, 0, 2], activation="none")),
    Case("plain_dropout", make(R=4, K=7, activation="none", dropout=0.3, seed=-5)),
]
TestWithoutActivation = check_op(
    op=ga.temporal_attention,
    reference=reference,
    cases=PLAIN,
    schemas=["temporal_attention", "temporal_attention_backward"],
    cast=NAMES,
    grad=[name for name in NAMES if name != "c"],
    length=lambda args: max(args["nbr_row"].numel() + args["u"].shape[2], 1),
    tolerance={F32: 32.0, F16: 8.0, BF16: 8.0},
    overload_args=as_schema,
)


def call(args, op=ga.temporal_attention, **changes):
    return op(**{**args, **changes})


def case(seed=0, **kw):
    return make(**kw)(torch.Generator().manual_seed(seed))


def test_by_hand():
    """One root, one head, two neighbours whose logits are 0 and ln 3, so p = (1/4, 3/4)."""
    args = {
        "u": torch.tensor([[[math.log(3.0), 0.0, 0.0]]], dtype=torch.float64),
        "c": torch.zeros(1, 1, dtype=torch.float64),
        "node_table": torch.tensor([[9.0], [0.0], [1.0]], dtype=torch.float64),
        "edge_table": torch.tensor([[4.0], [8.0]], dtype=torch.float64),
        "nbr_row": torch.tensor([[1, 2, -1]]),
        "edge_row": torch.tensor([[0, 1, -1]]),
        "dt": torch.tensor([[0, 2, 0]]),
        "count": torch.tensor([2], dtype=torch.int32),
        "time_w": torch.tensor([math.pi / 2], dtype=torch.float64),
        "time_b": torch.zeros(1, dtype=torch.float64),
    }
    z, s = ga.temporal_attention(**args)
    # node: 3/4 * 1;  edge: 1/4 * 4 + 3/4 * 8;  time: 1/4 * cos 0 + 3/4 * cos pi
    torch.testing.assert_close(z, torch.tensor([[[0.75, 7.0, -0.5]]], dtype=torch.float64))
    torch.testing.assert_close(s, torch.ones(1, 1, dtype=torch.float64))


def test_philox_matches_the_published_vectors():
    """Known answers of Random123 (kat_vectors, philox4x32 10)."""
    assert philox4x32((0, 0, 0, 0), (0, 0)) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    ones = 2**32 - 1
    assert philox4x32((ones,) * 4, (ones,) * 2) == (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)


def test_dropout_keeps_its_rate_and_depends_on_the_seed():
    args = case(R=64, K=32, H=2, counts=[32] * 64, tables=(50, 50))
    s = {seed: call(args, u=args["u"] * 0, c=args["c"] * 0, dropout=0.25, seed=seed)[1] for seed in (1, 2)}
    assert abs(s[1].mean().item() - 1.0) < 0.03
    assert not torch.equal(s[1], s[2])
    kept = (s[1] * 32 * 0.75).round().sum().item() / (64 * 2 * 32)
    assert abs(kept - 0.75) < 0.02


@pytest.mark.parametrize("activation", ["none", "leaky_relu"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("edges", [True, False])
def test_equals_the_projected_form(activation, dropout, edges):
    """Outputs and the gradients of everything, in float64, against keys and values of every neighbour."""
    R, K, H, d, Dq = 13, 6, 2, 4, 5
    dims = (3, 5 if edges else 0, 4)
    args = case(R=R, K=K, H=H, dims=dims, tables=(8, 30))
    F = sum(dims)
    gen = torch.Generator().manual_seed(1)

    def leaf(*shape):
        return torch.randn(shape, generator=gen, dtype=torch.float64, requires_grad=True)

    h = leaf(R, Dq)
    weights = {"wq": leaf(H * d, Dq), "wk": leaf(H * d, F), "bk": leaf(H * d), "wv": leaf(H * d, F), "bv": leaf(H * d)}
    tables = {
        k: args[k].requires_grad_() for k in ("node_table", "edge_table", "time_w", "time_b") if args[k] is not None
    }
    block = {k: args[k] for k in ("nbr_row", "edge_row", "dt", "count")}
    q = (h @ weights["wq"].T).view(R, H, d)
    seed = 11
    mask = dropout_mask(R, H, K, dropout, seed)

    key = weights["wk"].view(H, d, F)
    z, s = ga.temporal_attention(
        torch.einsum("rhd,hdf->rhf", q, key),
        torch.einsum("rhd,hd->rh", q, weights["bk"].view(H, d)),
        tables["node_table"],
        tables.get("edge_table"),
        **block,
        time_w=tables["time_w"],
        time_b=tables["time_b"],
        scale=0.5,
        activation=activation,
        dropout=dropout,
        seed=seed,
    )
    ours = torch.einsum("rhf,hdf->rhd", z, weights["wv"].view(H, d, F)) + s.unsqueeze(-1) * weights["bv"].view(H, d)

    keys, values = project(
        tables["node_table"],
        tables.get("edge_table"),
        **block,
        time_w=tables["time_w"],
        time_b=tables["time_b"],
        wk=weights["wk"],
        bk=weights["bk"],
        wv=weights["wv"],
        bv=weights["bv"],
    )
    theirs = projected(q, keys, values, block["count"], scale=0.5, activation=activation, mask=mask)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-10)
    leaves = [h, *weights.values(), *tables.values()]
    out = torch.randn(ours.shape, generator=gen, dtype=torch.float64)
    for a, b in zip(
        torch.autograd.grad(ours, leaves, out, retain_graph=True), torch.autograd.grad(theirs, leaves, out), strict=True
    ):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=1e-9)


def test_padding_is_not_looked_at():
    args = case(counts=[2, 0, 3])
    dead = torch.arange(4) >= args["count"][:, None]
    changed = {k: args[k].masked_fill(dead, 2**40 + 7) for k in ("nbr_row", "edge_row", "dt")}
    for a, b in zip(call(args), call(args, **changed), strict=True):
        assert torch.equal(a, b)


def test_roots_do_not_see_each_other():
    """The bits of a root's result do not depend on which other roots are in the call."""
    args = {k: v.float() if k in NAMES else v for k, v in case(R=40, K=10, dims=(10, 17, 10)).items()}
    z, s = call(args)
    alone = {k: v[17:29] if k in ("u", "c", "nbr_row", "edge_row", "dt", "count") else v for k, v in args.items()}
    z2, s2 = call(alone)
    assert torch.equal(z[17:29], z2)
    assert torch.equal(s[17:29], s2)


def test_half_edge_table_with_float_rows():
    args = {k: v.float() if k in NAMES else v for k, v in case(dims=(3, 8, 4)).items()}
    half = args["edge_table"].half().requires_grad_()
    full = half.detach().float().requires_grad_()
    z, _ = call(args, edge_table=half)
    z2, _ = call(args, edge_table=full)
    torch.testing.assert_close(z, z2)
    (g,), (g2,) = (torch.autograd.grad(z.sum(), half), torch.autograd.grad(z2.sum(), full))
    assert g.dtype == torch.float16
    torch.testing.assert_close(g.float(), g2, atol=2e-3, rtol=2e-3)


def test_tables_without_grad_get_none():
    args = case()
    u = args["u"].requires_grad_()
    z, _ = call(args)
    z.sum().backward()
    assert u.grad is not None
    assert args["node_table"].grad is None


def test_large_times_keep_their_fraction_of_a_turn():
    args = {k: v.float() if k in NAMES else v for k, v in case(counts=[4, 4, 4]).items()}
    args["dt"] = 1_700_000_000 + torch.arange(12).view(3, 4)
    want, _ = reference(**args)
    torch.testing.assert_close(call(args)[0].double(), want, atol=1e-5, rtol=0)


def test_bits_do_not_depend_on_threads_with_many_columns():
    args = case(R=70, K=9, dims=(100, 33, 20), tables=(15, 200))
    args = {k: v.float().requires_grad_() if k in NAMES else v for k, v in args.items()}
    runs = []
    for n in (1, 2, 3):
        with threads(n):
            z, s = call(args)
            runs.append(torch.autograd.grad(z.sin().sum() + s.sum(), [args[k] for k in NAMES]))
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


@pytest.mark.interpret
@pytest.mark.skipif(not INTERPRET, reason="needs TRITON_INTERPRET=1")
def test_interpreted_atomics_agree():
    args = {k: v.requires_grad_() if k in NAMES else v for k, v in case(R=4, K=3, hub=True).items()}
    leaves = [args[k] for k in NAMES]
    with served_by("CUDA"):
        grads = [torch.autograd.grad(call(args, deterministic=d)[0].sin().sum(), leaves) for d in (True, False)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_double_backward_raises():
    args = case()
    u = args["u"].requires_grad_()
    (grad,) = torch.autograd.grad(call(args)[0].sum(), u, create_graph=True)
    with pytest.raises(RuntimeError, match="once differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"u": torch.zeros(3, 2, 7, dtype=torch.int64)}, TypeError, "u must be floating, got torch.int64"),
        ({"c": torch.zeros(3, 2)}, TypeError, "c must be torch.float64 like u, got torch.float32"),
        ({"node_table": torch.zeros(6, 3)}, TypeError, "node_table must be torch.float64 like u"),
        ({"edge_table": torch.zeros(9, 2, dtype=torch.int32)}, TypeError, "edge_table must be floating"),
        ({"nbr_row": torch.zeros(3, 4)}, TypeError, "nbr_row must be int32 or int64, got torch.float32"),
        ({"dt": torch.zeros(3, 4, dtype=torch.int32)}, TypeError, "dt must be int64, float64 or float32"),
        ({"count": torch.zeros(3, dtype=torch.int64)}, TypeError, "count must be int32, got torch.int64"),
        ({"time_b": torch.zeros(2)}, TypeError, "time_b must be torch.float64 like time_w"),
        ({"u": torch.zeros(3, 7, dtype=torch.float64)}, ValueError, r"u must be \[R, H, F\], got \[3, 7\]"),
        ({"u": torch.zeros(3, 2, 8, dtype=torch.float64)}, ValueError, r"u must be \[R, H, 7\].*got \[3, 2, 8\]"),
        ({"c": torch.zeros(3, 3, dtype=torch.float64)}, ValueError, r"c must be \[R, H\] of u, got \[3, 3\]"),
        ({"edge_row": torch.zeros(3, 5, dtype=torch.int64)}, ValueError, r"edge_row must be \[R, K\] like nbr_row"),
        ({"count": torch.zeros(4, dtype=torch.int32)}, ValueError, r"count must be \[R\] with R of u, got \[4\]"),
        ({"activation": "relu"}, ValueError, r"activation must be one of \['leaky_relu', 'none'\], got 'relu'"),
        ({"dropout": 1.0}, ValueError, r"dropout must be in \[0, 1\), got 1.0"),
        ({"dt": torch.zeros(3, 4, requires_grad=True)}, ValueError, "dt must be without grad"),
    ],
)
def test_errors(change, error, match):
    with pytest.raises(error, match=match):
        call(case(), **change)


@pytest.mark.skipif(not HAS_CPP, reason="the plain-torch fallback has torch's own errors")
@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("nbr_row", 6, r"nbr_row must be in \[0, 6\)"),
        ("nbr_row", -1, r"nbr_row must be in \[0, 6\)"),
        ("edge_row", 9, r"edge_row must be in \[0, 9\)"),
        ("count", 5, r"count must be in \[0, K\]"),
        ("count", -1, r"count must be in \[0, K\]"),
    ],
)
def test_bad_rows_raise_on_cpu(name, value, match):
    args = case(counts=[4, 4, 4])
    args[name] = args[name].clone().fill_(value)
    with pytest.raises(ValueError, match=match):
        call(args)
