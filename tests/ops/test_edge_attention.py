import math

import pytest
import torch

from gnnaccel.baselines.reference.edge_attention import edge_attention as reference
from gnnaccel.ops._edge_attention import edge_attention
from gnnaccel.ops._library import HAS_CPP
from tests.harness import BF16, DEVICE, F16, F32, F64, INTERPRET, Case, check_op, served_by, threads
from tests.ops.test_temporal_attention import make as make_block

WEIGHTS = ("wq", "bq", "wk", "bk", "wv", "bv", "ws", "bs", "we")
NAMES = ("node_table", "root_table", *WEIGHTS, "edge_table", "time_w", "time_b")
BLOCK = ("edge_table", "nbr_row", "edge_row", "dt", "count", "time_w", "time_b")
CPP = pytest.mark.skipif(not HAS_CPP or INTERPRET or DEVICE != "cpu", reason="a promise of the C++ kernel")


def make(d=2, H=2, R=3, own=False, dim_root=3, strided=False, hub=False, tables=(6, 9), options=None, **block):
    """`own`: roots have a table of their own; else root r is row r of the node table. `hub`: most neighbours are row 0."""

    def build(gen):
        args = make_block(H=H, R=R, tables=tables if own else (R, tables[1]), **block)(gen)
        D, Dn = H * d, args["node_table"].shape[1]
        Dq, columns = dim_root if own else Dn, args["u"].shape[2] - Dn

        def normal(*shape):
            values = torch.randn(shape, generator=gen, dtype=torch.float64) / math.sqrt(max(shape[-1], 1))
            return values.T.contiguous().T if strided and values.dim() == 2 else values

        if hub:
            args["nbr_row"][:, 1:].clamp_(max=0)
        return {
            "node_table": args["node_table"],
            "root_table": normal(R, Dq) * math.sqrt(Dq) if own else None,
            "wq": 2 * normal(D, Dq),
            "bq": normal(D),
            "wk": 2 * normal(D, Dn),
            "bk": normal(D),
            "wv": normal(D, Dn),
            "bv": normal(D),
            "ws": normal(D, Dq),
            "bs": normal(D),
            "we": normal(D, columns),
            **{name: args[name] for name in BLOCK},
            "heads": H,
            **{"dropout": 0.0, "seed": 0, "time_first": False, **(options or {})},
        }

    return build


def some(R, every, n=4):
    """Counts: n for one root in `every`, 0 for the others."""
    return [n if r % every == 0 else 0 for r in range(R)]


DROPOUT = {"dropout": 0.4, "seed": (7 << 33) + 5}
CASES = [
    Case("no_roots", make(R=0)),
    Case("no_roots_dropout", make(R=0, options=DROPOUT)),
    Case("no_slots", make(K=0)),
    Case("one", make(R=1, K=1, H=1, d=5, dims=(1, 1, 1), tables=(1, 1), counts=[1])),
    Case("no_neighbours", make(counts=[0, 0, 0], tables=(2, 0))),
    Case("no_neighbours_own_table", make(own=True, counts=[0, 0, 0], tables=(0, 0))),
    Case("time_first", make(options={"time_first": True})),
    Case("dropout", make(options=DROPOUT, R=6, K=6, d=4)),
    Case("own_table", make(own=True)),
    Case("own_table_dropout_time_first", make(own=True, R=7, K=3, options={**DROPOUT, "time_first": True})),
    Case("no_edge_features", make(dims=(3, 0, 2))),
    Case("no_time", make(dims=(4, 3, 0), options={"time_first": True})),
    Case("nodes_only", make(dims=(3, 0, 0))),
    Case("edges_only", make(own=True, dims=(0, 3, 2))),
    Case("no_columns_of_roots", make(own=True, dim_root=0)),
    Case("three_heads", make(H=3, d=5, dims=(5, 7, 4), dt=torch.float64)),
    Case("int32_rows", make(rows=torch.int32, dt=torch.float32)),
    Case("strided", make(strided=True, own=True)),
    Case("hub", make(R=5, K=3, hub=True)),
    # rows of 16 columns with the one of the bias: nothing is padded
    Case("whole_vectors", make(R=19, d=16, dims=(5, 6, 4), options={"time_first": True})),
    # blocks of roots without a neighbour among and behind the others
    Case("nobody_has_neighbours", make(R=150, counts=[0] * 150), small=False),
    Case("some_have_neighbours", make(R=200, counts=some(200, 3), own=True), small=False),
    Case("few_have_neighbours", make(R=200, counts=some(200, 40)), small=False),
    Case(
        "several_blocks",
        make(
            R=150, K=9, d=19, dims=(33, 35, 17), tables=(40, 300),
            options={"dropout": 0.1, "seed": 9, "time_first": True},
        ),
        small=False,
    ),
]  # fmt: skip

# the softmax does not see bk, so its gradient is zero and only rounding is left to compare: a test of its own below.
# Gradients of weights add up one term an edge, those of time_w weigh it by dt (up to 20); without the extension, intermediate
# results are rounded to the half type too
TestEdgeAttention = check_op(
    op=edge_attention,
    reference=reference,
    cases=CASES,
    schemas=["edge_attention", "edge_attention_backward"],
    cast=NAMES,
    grad=[name for name in NAMES if name != "bk"],
    length=lambda args: max(args["nbr_row"].numel() + args["wk"].shape[1] + args["we"].shape[1], 1),
    tolerance={F64: 256.0, F32: 64.0, F16: 32.0, BF16: 32.0},
)


def case(**options):
    return make(**options)(torch.Generator().manual_seed(0))


def given(args):
    return [k for k in NAMES if args[k] is not None]


def with_grad(args, dtype=torch.float64):
    return {k: v.to(dtype).requires_grad_() if k in given(args) else v for k, v in args.items()}


def gradients(args, weigh=torch.sin):
    return torch.autograd.grad(weigh(edge_attention(**args)).sum(), [args[k] for k in given(args)])


def assert_gradients_close(args, ours, theirs):
    for name, a, b in zip(given(args), ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-8, msg=lambda m, name=name: f"{name}: {m}")


def test_by_hand():
    """Two edges with logits 0 and log 3: weights 1/4 and 3/4."""
    one, none = torch.ones(1, 1, dtype=F64), torch.zeros(1, dtype=F64)
    table = torch.tensor([[1.0], [0.0], [math.log(3)]], dtype=F64)
    out = edge_attention(
        table, one, one, none, one, none, one, none, 10 * one, none + 2, one[:, :0], None,
        torch.tensor([[1, 2, -1]]), torch.tensor([[0, 0, -1]]), torch.zeros(1, 3, dtype=F64),
        torch.tensor([2], dtype=torch.int32), none[:0], none[:0], heads=1,
    )  # fmt: skip
    torch.testing.assert_close(out, torch.tensor([[0.75 * math.log(3) + 12]], dtype=F64))


def test_gradient_of_the_key_bias_is_zero():
    for key in ("CPU", "CompositeExplicitAutograd"):
        with served_by(key):
            args = with_grad(case(R=6, K=6, d=4))
            grad = gradients(args)[given(args).index("bk")]
        assert grad.abs().max() < 1e-13
    # dropout is after the softmax: zero all the same
    args = with_grad(case(R=6, K=6, d=4, options=DROPOUT))
    assert gradients(args)[given(args).index("bk")].abs().max() < 1e-13


@CPP
@pytest.mark.parametrize("R", [64, 65, 1500])
@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
@pytest.mark.parametrize("neighbours", ["most", "few"])
def test_many_roots_agree_with_the_fallback(R, own, neighbours):
    """More blocks than groups of sums, blocks with and without a remainder, with and without neighbours."""
    options = {"dropout": 0.1, "seed": 2, "time_first": R == 65}
    counts = None if neighbours == "most" else some(R, 11, 8)
    args = case(R=R, K=8, d=25, dims=(50, 20, 30), tables=(60, 400), own=own, counts=counts, options=options)
    args = with_grad(args)
    ours = gradients(args)
    with served_by("CompositeExplicitAutograd"):
        theirs = gradients(args)
        out = edge_attention(**args)
    torch.testing.assert_close(edge_attention(**args), out, atol=1e-11, rtol=1e-11)
    assert_gradients_close(args, ours, theirs)


@CPP
@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
def test_roots_without_neighbours_that_nobody_looks_at(own):
    """Blocks of such roots are left out where their gradients are zero; one that is not is not."""
    R = 400
    args = with_grad(case(R=R, own=own, counts=some(R, 4)))
    bare = torch.arange(R) % 4 != 0
    last = torch.zeros(R, dtype=torch.bool)
    last[R - 1] = True
    for looked_at in (~bare, ~bare | last, last, torch.zeros_like(bare), bare):

        def weigh(out, seen=looked_at):
            return out[seen].sin()

        ours = gradients(args, weigh)
        with served_by("CompositeExplicitAutograd"):
            theirs = gradients(args, weigh)
        assert_gradients_close(args, ours, theirs)


@CPP
@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
def test_a_roots_bits_depend_on_nothing_else(own):
    block = {"K": 10, "d": 50, "dims": (100, 33, 20), "tables": (140, 200)}
    args = {k: v.detach() if k in NAMES and v is not None else v for k, v in case(R=140, own=own, **block).items()}
    args = {k: v.float() if k in given(args) else v for k, v in args.items()}
    out = edge_attention(**args)
    if not own:
        # the same rows, apart from their table
        args = {**args, "root_table": args["node_table"].clone()}
        assert torch.equal(edge_attention(**args), out)
    for rows in (slice(17, 18), slice(60, 97), slice(0, 140)):
        part = {k: v[rows] if k in ("root_table", "nbr_row", "edge_row", "dt", "count") else v for k, v in args.items()}
        for n in (1, 2, 3):
            with threads(n):
                assert torch.equal(edge_attention(**part), out[rows])


@CPP
@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
def test_bits_do_not_depend_on_threads(own):
    args = case(R=733, K=9, d=50, dims=(100, 33, 20), tables=(90, 200), own=own, options={"dropout": 0.1})
    args["count"][200:600] = 0
    args = with_grad(args, torch.float32)
    runs = []
    for n in (1, 2, 3, 7):
        with threads(n):
            runs.append([edge_attention(**args).detach(), *gradients(args)])
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


def test_only_what_is_asked_gets_a_gradient():
    for own in (False, True):
        args = case(own=own)
        want = dict(zip(given(args), gradients(with_grad({**args})), strict=True))
        args = {k: v.detach() if k in NAMES and v is not None else v for k, v in args.items()}
        for name in given(args):
            leaves = {**args, name: args[name].clone().requires_grad_()}
            edge_attention(**leaves).sin().sum().backward()
            torch.testing.assert_close(leaves[name].grad, want[name], rtol=0, atol=0, msg=name)
            assert all(leaves[k].grad is None for k in given(args) if k != name)


def test_padding_is_not_looked_at():
    args = case(counts=[2, 0, 3])
    dead = torch.arange(4) >= args["count"][:, None]
    changed = {k: args[k].masked_fill(dead, 2**40 + 7) for k in ("nbr_row", "edge_row", "dt")}
    results = []
    for given_args in (args, {**args, **changed}):
        leaves = with_grad({k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in given_args.items()})
        results.append([edge_attention(**leaves).detach(), *gradients(leaves)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_half_edge_table_with_float_rows():
    args = with_grad(case(dims=(3, 8, 4)), torch.float32)
    half = args["edge_table"].detach().half().requires_grad_()
    full = half.detach().float().requires_grad_()
    grads = []
    for table in (half, full):
        out = edge_attention(**{**args, "edge_table": table})
        grads.append(torch.autograd.grad(out.sin().sum(), table)[0])
    assert grads[0].dtype == torch.float16
    torch.testing.assert_close(grads[0].float(), grads[1], atol=2e-3, rtol=2e-3)


def test_double_backward_raises():
    args = case()
    table = args["node_table"].requires_grad_()
    (grad,) = torch.autograd.grad(edge_attention(**args).sin().sum(), table, create_graph=True)
    with pytest.raises(RuntimeError, match="once differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"node_table": torch.zeros(6, 3)}, TypeError, "root_table must be torch.float32 like node_table, got"),
        (
            {"node_table": torch.zeros(6, 3, dtype=torch.int32)},
            TypeError,
            "node_table must be floating, got torch.int32",
        ),
        ({"root_table": torch.zeros(3, dtype=F64)}, ValueError, r"root_table must be \[R, Dq\], got \[3\]"),
        ({"root_table": torch.zeros(4, 3, dtype=F64)}, ValueError, r"nbr_row must be \[R, K\] with R of roots"),
        ({"wk": torch.zeros(4, 3)}, TypeError, "wk must be torch.float64 like node_table, got torch.float32"),
        ({"wq": torch.zeros(4, 4, dtype=F64)}, ValueError, r"wq must be \[4, 3\], got \[4, 4\]"),
        ({"wv": torch.zeros(4, 8, dtype=F64)}, ValueError, r"wv must be \[4, 3\], got \[4, 8\]"),
        ({"ws": torch.zeros(4, 4, dtype=F64)}, ValueError, r"ws must be \[4, 3\], got \[4, 4\]"),
        ({"we": torch.zeros(4, 2, dtype=F64)}, ValueError, r"we must be \[4, 4\], got \[4, 2\]"),
        ({"bs": torch.zeros(3, dtype=F64)}, ValueError, r"bs must be \[4\], got \[3\]"),
        ({"heads": 3}, ValueError, "heads must divide the 4 rows of wq, got 3"),
        ({"heads": 0}, ValueError, "heads must divide the 4 rows of wq, got 0"),
        ({"dropout": -0.1}, ValueError, r"dropout must be in \[0, 1\), got -0.1"),
    ],
)
def test_errors(change, error, match):
    with pytest.raises(error, match="edge_attention: " + match):
        edge_attention(**{**case(own=True), **change})


@CPP
@pytest.mark.parametrize(("name", "value"), [("nbr_row", 3), ("nbr_row", -1), ("edge_row", 9), ("count", 5)])
def test_rows_out_of_range(name, value):
    args = case()
    args[name].view(-1)[0] = value
    with pytest.raises(ValueError, match=rf"{name} must be in \[0, "):
        edge_attention(**args)
