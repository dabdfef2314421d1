import math

import pytest
import torch

from gnnaccel.baselines.reference.temporal_attention_projected import temporal_attention_projected as reference
from gnnaccel.ops._library import HAS_CPP
from gnnaccel.ops._temporal_attention_projected import temporal_attention_projected
from tests.harness import BF16, DEVICE, F16, F32, Case, check_op, served_by, threads
from tests.ops.test_temporal_attention import as_schema
from tests.ops.test_temporal_attention import make as make_absorbed

WEIGHTS = ("wk", "bk", "wv", "bv")
NAMES = ("q", *WEIGHTS, "node_table", "edge_table", "time_w", "time_b")


def make(d=2, strided=False, **options):
    def build(gen):
        args = make_absorbed(**options)(gen)
        R, H, F = args.pop("u").shape
        del args["c"]

        def normal(*shape):
            return torch.randn(shape, generator=gen, dtype=torch.float64) / math.sqrt(max(shape[-1], 1))

        q = 2 * normal(R, H, d)
        if strided:
            q = q.permute(1, 0, 2).contiguous().permute(1, 0, 2)
        bias = [0.5 * torch.randn(H * d, generator=gen, dtype=torch.float64) for _ in range(2)]
        return {"q": q, "wk": normal(H * d, F), "bk": bias[0], "wv": normal(H * d, F), "bv": bias[1], **args}

    return build


CASES = [
    Case("no_roots", make(R=0)),
    Case("no_slots", make(K=0)),
    Case("one", make(R=1, K=1, H=1, d=1, dims=(1, 1, 1), tables=(1, 1), counts=[1])),
    Case("all_padded", make(counts=[0, 0, 0], tables=(0, 0))),
    Case("scaled", make(counts=[4, 0, 2], scale=0.7)),
    Case("dropout", make(dropout=0.4, seed=(7 << 33) + 5, K=6, counts=[6, 5, 3])),
    Case("no_edges", make(dims=(3, 0, 2))),
    Case("no_time", make(dims=(3, 2, 0))),
    Case("three_heads", make(H=3, d=5, dims=(5, 7, 4), dt=torch.float64)),
    Case("int32_rows", make(rows=torch.int32, dt=torch.float32)),
    Case("strided", make(strided=True)),
    Case("hub", make(R=5, K=3, hub=True)),
    # rows of 16 columns with the bias: nothing is padded
    Case("whole_vectors", make(R=19, d=16, dims=(5, 6, 4))),
    Case("several_chunks", make(R=80, K=9, d=19, dims=(33, 35, 17), tables=(40, 300), dropout=0.1), small=False),
]

# the gradients of the weights add up one term a neighbour; those of time_w weigh it by dt (up to 20)
TestTemporalAttentionProjected = check_op(
    op=temporal_attention_projected,
    reference=reference,
    cases=CASES,
    schemas=["temporal_attention_projected", "temporal_attention_projected_backward"],
    cast=NAMES,
    grad=NAMES,
    length=lambda args: max(args["nbr_row"].numel() + args["wk"].shape[1], 1),
    # without the extension u, z and their gradients are rounded to the half type on the way
    tolerance={F32: 32.0, F16: 16.0, BF16: 16.0},
    overload_args=as_schema,
)


def case(**options):
    return make(**options)(torch.Generator().manual_seed(0))


def as_float(args):
    return {k: v.float().requires_grad_() if k in NAMES and v is not None else v for k, v in args.items()}


def gradients(args):
    out = temporal_attention_projected(**args)
    return torch.autograd.grad(out.sin().sum(), [args[k] for k in NAMES if args[k] is not None])


@pytest.mark.skipif(not HAS_CPP or DEVICE != "cpu", reason="compares the C++ kernel with the fallback")
@pytest.mark.parametrize("R", [64, 65, 1500])
def test_many_roots_agree_with_the_fallback(R):
    """More tasks than groups of partial sums, and blocks of roots with and without a remainder."""
    args = case(R=R, K=8, d=50, dims=(100, 20, 30), tables=(300, 400), dropout=0.1)
    args = {k: v.requires_grad_() if k in NAMES else v for k, v in args.items()}
    ours = gradients(args)
    with served_by("CompositeExplicitAutograd"):
        theirs = gradients(args)
    for name, a, b in zip(NAMES, ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-9, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.skipif(not HAS_CPP or DEVICE != "cpu", reason="a promise of the C++ kernel")
def test_a_roots_bits_depend_on_nothing_else():
    args = as_float(case(R=140, K=10, d=50, dims=(100, 33, 20), tables=(15, 200)))
    out = temporal_attention_projected(**args)
    for rows in (slice(17, 18), slice(60, 97), slice(0, 140)):
        part = {k: v[rows] if k in ("q", "nbr_row", "edge_row", "dt", "count") else v for k, v in args.items()}
        for n in (1, 2, 3):
            with threads(n):
                assert torch.equal(temporal_attention_projected(**part), out[rows])


@pytest.mark.skipif(not HAS_CPP or DEVICE != "cpu", reason="a promise of the C++ kernel")
def test_gradients_do_not_depend_on_threads():
    args = as_float(case(R=333, K=9, d=50, dims=(100, 33, 20), tables=(15, 200)))
    runs = []
    for n in (1, 2, 3):
        with threads(n):
            runs.append(gradients(args))
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


def test_double_backward_raises():
    args = case()
    q = args["q"].requires_grad_()
    (grad,) = torch.autograd.grad(temporal_attention_projected(**args).sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="once differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"q": torch.zeros(3, 4)}, ValueError, r"temporal_attention_projected: q must be \[R, H, d\], got \[3, 4\]"),
        ({"q": torch.zeros(3, 2, 2, dtype=torch.int32)}, TypeError, "q must be floating, got torch.int32"),
        ({"wk": torch.zeros(4, 7)}, TypeError, "wk must be torch.float64 like q, got torch.float32"),
        ({"wv": torch.zeros(4, 8, dtype=torch.float64)}, ValueError, r"wv must be \[4, 7\], got \[4, 8\]"),
        ({"bk": torch.zeros(3, dtype=torch.float64)}, ValueError, r"bk must be \[4\], got \[3\]"),
        ({"dropout": -0.1}, ValueError, r"dropout must be in \[0, 1\), got -0.1"),
    ],
)
def test_errors(change, error, match):
    with pytest.raises(error, match=match):
        temporal_attention_projected(**{**case(), **change})
