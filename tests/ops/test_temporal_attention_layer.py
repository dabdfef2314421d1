import math

import pytest
import torch

from gnnaccel.baselines.reference.temporal_attention_layer import temporal_attention_layer as reference
from gnnaccel.ops._library import HAS_CPP
from gnnaccel.ops._temporal_attention_layer import temporal_attention_layer
from tests.harness import BF16, DEVICE, F16, F32, F64, INTERPRET, Case, check_op, served_by, threads
from tests.ops.test_temporal_attention import make as make_block

WEIGHTS = ("wq", "bq", "wk", "bk", "wv", "bv", "wo", "bo", "norm_weight", "norm_bias")
NAMES = ("node_table", "root_table", *WEIGHTS, "edge_table", "time_w", "time_b")
BLOCK = ("edge_table", "nbr_row", "edge_row", "dt", "count", "time_w", "time_b")
CPP = pytest.mark.skipif(not HAS_CPP or INTERPRET or DEVICE != "cpu", reason="a promise of the C++ kernel")


def make(d=2, H=2, roots="shared", dim_root=3, options=None, strided=False, **block):
    """`roots`: "shared" (rows of the node table, repeated), "own" (a table of as many rows), "rows" (a table, repeated)."""

    def build(gen):
        args = make_block(H=H, **block)(gen)
        R, D, (U, Dn) = len(args["count"]), H * d, args["node_table"].shape
        F, T = args["u"].shape[2], len(args["time_w"])
        Dq = Dn if roots == "shared" else dim_root
        rows = {"shared": U, "own": R, "rows": max(R // 2, 1)}[roots]

        def normal(*shape):
            values = torch.randn(shape, generator=gen, dtype=torch.float64) / math.sqrt(max(shape[-1], 1))
            return values.T.contiguous().T if strided and values.dim() == 2 else values

        row = torch.randint(0, max(rows, 1), (R,), generator=gen)
        return {
            "node_table": args["node_table"],
            "root_table": None if roots == "shared" else normal(rows, Dq) * math.sqrt(Dq),
            "root_row": None if roots == "own" else row.to(args["nbr_row"].dtype),
            "wq": 2 * normal(D, Dq + T),
            "bq": normal(D),
            "wk": 2 * normal(D, F),
            "bk": normal(D),
            "wv": normal(D, F),
            "bv": normal(D),
            "wo": normal(D, D + Dq),
            "bo": normal(D),
            "norm_weight": 1 + normal(D),
            "norm_bias": normal(D),
            **{name: args[name] for name in BLOCK},
            "heads": H,
            **{"dropout": 0.0, "seed": 0, "eps": 1e-5, **(options or {})},
        }

    return build


SEED = (7 << 33) + 5
CASES = [
    Case("no_roots", make(R=0)),
    Case("no_slots", make(K=0)),
    Case("one", make(R=1, K=1, H=1, d=5, dims=(1, 1, 1), tables=(1, 1), counts=[1])),
    Case("no_neighbours", make(counts=[0, 0, 0], tables=(2, 0))),
    Case("dropout", make(options={"dropout": 0.4, "seed": SEED}, R=6, K=6, d=4)),
    Case("epsilon", make(options={"eps": 0.1})),
    Case("own_table", make(roots="own")),
    Case("own_table_repeated", make(roots="rows", R=7, K=3, options={"dropout": 0.2, "seed": 3})),
    Case("no_edges", make(dims=(3, 0, 2))),
    Case("no_time", make(dims=(3, 2, 0))),
    Case("only_edges", make(dims=(0, 3, 0))),
    Case("fewer_edges_than_nodes", make(dims=(0, 3, 2), tables=(40, 2))),
    Case("three_heads", make(H=3, d=5, dims=(5, 7, 4), dt=torch.float64)),
    Case("int32_rows", make(rows=torch.int32, dt=torch.float32)),
    Case("strided", make(strided=True)),
    Case("hub", make(R=5, K=3, hub=True)),
    # rows of 16 columns with the one of the bias: nothing is padded
    Case("whole_vectors", make(R=19, d=16, dims=(5, 6, 4))),
    Case(
        "several_blocks",
        make(R=150, K=9, d=19, dims=(33, 35, 17), tables=(40, 300), options={"dropout": 0.1, "seed": 9}),
        small=False,
    ),
]

# gradients of weights add up one term a neighbour, those of time_w weigh it by dt (up to 20), and a normalisation of few
# columns divides by a small deviation; without the extension, intermediate results are rounded to the half type too
TestTemporalAttentionLayer = check_op(
    op=temporal_attention_layer,
    reference=reference,
    cases=CASES,
    schemas=["temporal_attention_layer", "temporal_attention_layer_backward"],
    cast=NAMES,
    grad=NAMES,
    length=lambda args: max(args["nbr_row"].numel() + args["wk"].shape[1], 1),
    tolerance={F64: 256.0, F32: 64.0, F16: 32.0, BF16: 32.0},
)


def case(**options):
    return make(**options)(torch.Generator().manual_seed(0))


def as_float(args):
    return {k: v.float().requires_grad_() if k in NAMES and v is not None else v for k, v in args.items()}


def gradients(args):
    out = temporal_attention_layer(**args)
    return torch.autograd.grad(out.sin().sum(), [args[k] for k in NAMES if args[k] is not None])


@CPP
@pytest.mark.parametrize("R", [64, 65, 1500])
@pytest.mark.parametrize("roots", ["shared", "rows"])
def test_many_roots_agree_with_the_fallback(R, roots):
    """More blocks than groups of sums, blocks with and without a remainder, rows whose roots straddle blocks."""
    options = {"dropout": 0.1, "seed": 2}
    args = case(R=R, K=8, d=50, dims=(100, 20, 30), tables=(60, 400), roots=roots, options=options)
    args = {k: v.requires_grad_() if k in NAMES and v is not None else v for k, v in args.items()}
    ours = gradients(args)
    with served_by("CompositeExplicitAutograd"):
        theirs = gradients(args)
    names = [k for k in NAMES if args[k] is not None]
    for name, a, b in zip(names, ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-8, msg=lambda m, name=name: f"{name}: {m}")


@CPP
@pytest.mark.parametrize("roots", ["shared", "own"])
def test_a_roots_bits_depend_on_nothing_else(roots):
    args = as_float(case(R=140, K=10, d=50, dims=(100, 33, 20), tables=(15, 200), roots=roots))
    out = temporal_attention_layer(**args)
    of_roots = ("root_row" if roots == "shared" else "root_table", "nbr_row", "edge_row", "dt", "count")
    for rows in (slice(17, 18), slice(60, 97), slice(0, 140)):
        part = {k: v[rows] if k in of_roots else v for k, v in args.items()}
        for n in (1, 2, 3):
            with threads(n):
                assert torch.equal(temporal_attention_layer(**part), out[rows])


@CPP
def test_gradients_do_not_depend_on_threads():
    args = as_float(case(R=733, K=9, d=50, dims=(100, 33, 20), tables=(90, 200), options={"dropout": 0.1}))
    runs = []
    for n in (1, 2, 3, 7):
        with threads(n):
            runs.append(gradients(args))
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


def test_only_what_is_asked_gets_a_gradient():
    for roots in ("rows", "shared"):
        args = case(roots=roots)
        given = [k for k in NAMES if args[k] is not None]
        every = {k: v.clone().requires_grad_() if k in given else v for k, v in args.items()}
        want = dict(zip(given, gradients(every), strict=True))
        for name in {"node_table", "root_table", "edge_table", "wq"} & set(given):
            leaves = {**args, name: args[name].clone().requires_grad_()}
            temporal_attention_layer(**leaves).sin().sum().backward()
            assert torch.equal(leaves[name].grad, want[name]), (roots, name)


def test_padding_is_not_looked_at():
    args = case(counts=[2, 0, 3])
    dead = torch.arange(4) >= args["count"][:, None]
    changed = {k: args[k].masked_fill(dead, 2**40 + 7) for k in ("nbr_row", "edge_row", "dt")}
    assert torch.equal(temporal_attention_layer(**args), temporal_attention_layer(**{**args, **changed}))


def test_half_edge_table_with_float_rows():
    args = as_float(case(dims=(3, 8, 4)))
    half = args["edge_table"].detach().half().requires_grad_()
    full = half.detach().float().requires_grad_()
    grads = []
    for table in (half, full):
        out = temporal_attention_layer(**{**args, "edge_table": table})
        grads.append(torch.autograd.grad(out.sin().sum(), table)[0])
    assert grads[0].dtype == torch.float16
    torch.testing.assert_close(grads[0].float(), grads[1], atol=2e-3, rtol=2e-3)


def test_double_backward_raises():
    args = case()
    table = args["node_table"].requires_grad_()
    (grad,) = torch.autograd.grad(temporal_attention_layer(**args).sin().sum(), table, create_graph=True)
    with pytest.raises(RuntimeError, match="once differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (
            {"node_table": torch.zeros(6, 3)},
            TypeError,
            "root_table must be torch.float32 like node_table, got torch.float64",
        ),
        (
            {"node_table": torch.zeros(6, 3, dtype=torch.int32)},
            TypeError,
            "node_table must be floating, got torch.int32",
        ),
        ({"root_table": torch.zeros(3, dtype=F64)}, ValueError, r"root_table must be \[rows, Dq\], got \[3\]"),
        ({"root_row": torch.zeros(3)}, ValueError, r"root_row must be int32 or int64 \[R\], got torch.float32 \[3\]"),
        ({"root_row": torch.zeros(4, dtype=torch.int64)}, ValueError, r"nbr_row must be \[R, K\] with R of root_row"),
        ({"wk": torch.zeros(4, 7)}, TypeError, "wk must be torch.float64 like node_table, got torch.float32"),
        ({"wv": torch.zeros(4, 8, dtype=F64)}, ValueError, r"wv must be \[4, 7\], got \[4, 8\]"),
        ({"wo": torch.zeros(4, 4, dtype=F64)}, ValueError, r"wo must be \[4, 7\], got \[4, 4\]"),
        ({"bk": torch.zeros(3, dtype=F64)}, ValueError, r"bk must be \[4\], got \[3\]"),
        ({"heads": 3}, ValueError, "heads must divide the 4 rows of wq, got 3"),
        ({"eps": 0.0}, ValueError, "eps must be above 0, got 0.0"),
        ({"dropout": -0.1}, ValueError, r"dropout must be in \[0, 1\), got -0.1"),
    ],
)
def test_errors(change, error, match):
    with pytest.raises(error, match="temporal_attention_layer: " + match):
        temporal_attention_layer(**{**case(roots="rows"), **change})


@CPP
@pytest.mark.parametrize(("name", "value"), [("root_row", 6), ("root_row", -1), ("nbr_row", 6), ("count", 5)])
def test_rows_out_of_range(name, value):
    args = case()
    args[name].view(-1)[0] = value
    with pytest.raises(ValueError, match=rf"{name} must be in \[0, "):
        temporal_attention_layer(**args)
