import math

import pytest
import torch

import gnnaccel as ga
from gnnaccel.baselines.peers.mailbox_attention import project
from gnnaccel.baselines.peers.temporal_attention import attend
from gnnaccel.baselines.reference.mailbox_attention import mailbox_attention as reference
from gnnaccel.baselines.reference.temporal_attention import dropout_mask
from gnnaccel.ops._library import HAS_CPP
from gnnaccel.ops.temporal_attention import SLOPES
from tests.harness import BF16, F16, F32, Case, check_op, served_by, threads

FLOATS = ("u", "c", "mail", "time_w", "time_b")
LEAVES = ("u", "c", "time_w", "time_b")


def make(
    P=4,
    N=5,
    S=3,
    M=3,
    T=2,
    H=2,
    filled=None,
    nodes=None,
    ids=torch.int64,
    time=torch.int64,
    start=0,
    flat=False,
    strided=False,
    activation="leaky_relu",
    **options,
):
    """`filled`: mails of each node, or "gaps" for slots that were filled in no order."""

    def build(gen):
        def normal(*shape):
            return torch.randn(shape, generator=gen, dtype=torch.float64)

        if filled == "gaps":
            has = torch.rand(N, S, generator=gen) < 0.5
            has[:2] = torch.tensor([[False, True, False, True], [True, False, False, True]])[:, :S]
        else:
            # S, S - 2, ... modulo S + 1: full, partial and empty mailboxes
            count = (S - 2 * torch.arange(N)) % (S + 1) if filled is None else torch.tensor(filled)
            has = torch.arange(S) < count.unsqueeze(1)
        F = M + T
        u = 2 * normal(P, H, F) / math.sqrt(max(F, 1))  # logits of both signs, so that LeakyReLU matters
        sent = start + torch.rand(N, S, generator=gen, dtype=torch.float64) * 20
        args = {
            "u": u.permute(1, 0, 2).contiguous().permute(1, 0, 2) if strided else u,
            "c": 0.3 * normal(P, H),
            "mail": normal(N, S, M) * has.unsqueeze(-1),
            "mail_time": (sent * has).to(time),
            "has_mail": has,
            "nodes": (torch.randint(0, N, (P,), generator=gen) if nodes is None else torch.tensor(nodes)).to(ids),
            "times": (start + 20 + torch.rand(P, generator=gen, dtype=torch.float64) * 20).to(time),
            "time_w": normal(T),
            "time_b": normal(T),
        }
        if flat:
            args |= {k: args[k].squeeze(1) for k in ("mail", "mail_time", "has_mail")}
        return {**args, "activation": activation, **options}

    return build


CASES = [
    Case("no_rows", make(P=0)),
    Case("no_nodes", make(P=0, N=0, nodes=[])),
    Case("one", make(P=1, N=1, S=1, M=1, T=1, H=1, filled=[1], nodes=[0])),
    Case("no_mail", make(filled=[0] * 5)),
    Case("partly_filled", make(filled=[1, 0, 3, 2, 1], nodes=[4, 1, 2, 3])),
    Case("full_rings", make(filled=[3] * 5, time=torch.float64)),
    Case("gaps", make(S=4, filled="gaps", nodes=[0, 1, 2, 0])),
    Case("one_slot_flat", make(S=1, flat=True, filled=[1, 0, 1, 1, 0], nodes=[0, 1, 2, 3])),
    Case("repeated_nodes", make(P=6, nodes=[2, 2, 0, 2, 0, 0], ids=torch.int32)),
    Case("three_heads_odd", make(P=3, S=5, M=7, T=5, H=3, filled=[5, 4, 1, 3, 0])),
    Case("no_time", make(T=0)),
    Case("only_time", make(M=0)),
    Case("strided", make(strided=True)),
    Case("scaled", make(scale=0.7)),
    Case("dropout", make(S=6, dropout=0.4, seed=(7 << 33) + 5, filled=[6, 5, 3, 0, 6])),
    Case("dropout_gaps", make(S=4, filled="gaps", dropout=0.5, seed=-3)),
    Case("several_chunks", make(P=131, N=40, S=11, M=35, T=17, dropout=0.1, seed=3), small=False),
]


def as_schema(args):
    options = {"scale": 1.0, "activation": "none", "dropout": 0.0, "seed": 0}
    options = {**options, **{k: args[k] for k in options if k in args}}
    options["activation"] = SLOPES[options["activation"]]
    tensors = {k: v for k, v in args.items() if k not in options}
    if tensors["mail"].dim() == 2:
        tensors |= {k: tensors[k].unsqueeze(1) for k in ("mail", "mail_time", "has_mail")}
    return (*tensors.values(), *options.values())


# gradients add up one term a mail, each a product of two dot products of length F; those of time_w weigh it by dt
TestMailboxAttention = check_op(
    op=ga.mailbox_attention,
    reference=reference,
    cases=CASES,
    schemas=["mailbox_attention", "mailbox_attention_backward"],
    cast=FLOATS,
    grad=LEAVES,
    length=lambda args: max(args["nodes"].numel() * args["mail"][0:1].numel() + args["u"].shape[2], 1),
    tolerance={F32: 32.0, F16: 8.0, BF16: 8.0},
    overload_args=as_schema,
)


# softmax alone does not see a constant: the gradient of c is zero, and only rounding is left to compare
TestWithoutActivation = check_op(
    op=ga.mailbox_attention,
    reference=reference,
    cases=[Case("plain", make(activation="none", dropout=0.3, seed=9))],
    schemas=["mailbox_attention", "mailbox_attention_backward"],
    cast=FLOATS,
    grad=[name for name in LEAVES if name != "c"],
    length=lambda args: args["nodes"].numel() * args["mail"][0:1].numel() + args["u"].shape[2],
    tolerance={F32: 32.0, F16: 8.0, BF16: 8.0},
    overload_args=as_schema,
)


def case(seed=0, dtype=torch.float64, **kw):
    args = make(**kw)(torch.Generator().manual_seed(seed))
    return {k: v.to(dtype) if k in FLOATS else v for k, v in args.items()}


def test_by_hand():
    """One head; slot 0 is empty, and the logits of slots 1 and 2 are 0 and ln 3, so p = (1/4, 3/4)."""
    args = {
        "u": torch.tensor([[[math.log(3.0), 0.0, 0.0]]] * 2, dtype=torch.float64),
        "c": torch.zeros(2, 1, dtype=torch.float64),
        "mail": torch.tensor([[[7.0, 7.0]] * 3, [[9.0, 9.0], [0.0, 4.0], [1.0, 8.0]]], dtype=torch.float64),
        "mail_time": torch.tensor([[0, 0, 0], [0, 10, 8]]),
        "has_mail": torch.tensor([[False] * 3, [False, True, True]]),
        "nodes": torch.tensor([1, 0]),
        "times": torch.tensor([10, 10]),
        "time_w": torch.tensor([math.pi / 2], dtype=torch.float64),
        "time_b": torch.zeros(1, dtype=torch.float64),
    }
    z, s = ga.mailbox_attention(**args)
    # mail: 3/4 * 1 and 1/4 * 4 + 3/4 * 8;  time: 1/4 * cos 0 + 3/4 * cos pi
    torch.testing.assert_close(z, torch.tensor([[[0.75, 7.0, -0.5]], [[0.0] * 3]], dtype=torch.float64))
    torch.testing.assert_close(s, torch.tensor([[1.0], [0.0]], dtype=torch.float64))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_equals_the_projected_form(dropout):
    """Outputs and the gradients of everything, in float64, against keys and values of every mail."""
    P, H, d, D, M, T = 13, 2, 4, 5, 6, 3
    args = case(P=P, N=8, S=4, M=M, T=T, filled="gaps")
    gen = torch.Generator().manual_seed(1)

    def leaf(*shape):
        return torch.randn(shape, generator=gen, dtype=torch.float64, requires_grad=True)

    memory = leaf(P, D)
    w = {"wq": leaf(H * d, D), "wk": leaf(H * d, M + T), "bk": leaf(H * d), "wv": leaf(H * d, M + T), "bv": leaf(H * d)}
    time = {k: args[k].requires_grad_() for k in ("time_w", "time_b")}
    state = {k: args[k] for k in ("mail", "mail_time", "has_mail", "nodes", "times")}
    q = (memory @ w["wq"].T).view(P, H, d)
    seed = 11

    z, s = ga.mailbox_attention(
        torch.einsum("phd,hdf->phf", q, w["wk"].view(H, d, -1)),
        torch.einsum("phd,hd->ph", q, w["bk"].view(H, d)),
        **state,
        **time,
        activation="leaky_relu",
        dropout=dropout,
        seed=seed,
    )
    ours = torch.einsum("phf,hdf->phd", z, w["wv"].view(H, d, -1)) + s.unsqueeze(-1) * w["bv"].view(H, d)
    live = state["has_mail"][state["nodes"]]
    mails = {k: v for k, v in state.items() if k != "has_mail"}
    keys, values = project(**mails, **time, **{k: w[k] for k in ("wk", "bk", "wv", "bv")})
    mask = dropout_mask(P, H, 4, dropout, seed)
    theirs = attend(q, keys, values, live, mask=mask)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-10)
    leaves, out = [memory, *w.values(), *time.values()], torch.randn(ours.shape, generator=gen, dtype=torch.float64)
    for a, b in zip(
        torch.autograd.grad(ours, leaves, out, retain_graph=True), torch.autograd.grad(theirs, leaves, out), strict=True
    ):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=1e-9)


@pytest.mark.parametrize("key", ["CPU", "CompositeExplicitAutograd"])
def test_empty_slots_are_not_looked_at(key):
    args = case(P=9, S=4, filled="gaps", dtype=torch.float32)
    empty = ~args["has_mail"]
    changed = {
        "mail": args["mail"].masked_fill(empty.unsqueeze(-1), math.nan),
        "mail_time": args["mail_time"].masked_fill(empty, -(2**62)),
    }
    with served_by(key):
        for a, b in zip(ga.mailbox_attention(**args), ga.mailbox_attention(**{**args, **changed}), strict=True):
            assert torch.equal(a, b)


@pytest.mark.skipif(not HAS_CPP, reason="promised for the C++ kernel")
def test_a_row_depends_on_nothing_else():
    """Same bits alone, among other rows, in another order and for any number of threads; gradients of rows too."""
    args = case(P=70, N=20, S=10, M=33, T=20, dtype=torch.float32)
    per_row = ("u", "c", "nodes", "times")

    def run(rows, n):
        call = {k: v[rows] if k in per_row else v for k, v in args.items()}
        for k in LEAVES:
            call[k] = call[k].detach().requires_grad_()
        with threads(n):
            z, s = ga.mailbox_attention(**call)
            return z, s, *torch.autograd.grad(z.sin().sum() + s.sum(), [call[k] for k in LEAVES])

    everything = torch.arange(70)
    whole = run(everything, 1)
    for n in (2, 3):
        assert all(torch.equal(a, b) for a, b in zip(whole, run(everything, n), strict=True))
    some = torch.tensor([50, 3, 4, 17, 69])
    for a, b in zip(whole[:4], run(some, 2)[:4], strict=True):
        assert torch.equal(a[some], b)


@pytest.mark.parametrize("time", [torch.int64, torch.float64])
def test_large_times_keep_their_fraction_of_a_turn(time):
    """Mails of a Unix-second stream that are a second apart differ, at time spans of decades too."""
    args = case(P=4, filled=[3] * 5, start=1_700_000_000, time=time, dtype=torch.float32)
    args["times"] = args["times"] + 2**31
    want = reference(**args)
    for a, b in zip(ga.mailbox_attention(**args), want, strict=True):
        torch.testing.assert_close(a.double(), b, atol=2e-5, rtol=0)
    args["mail_time"] = args["mail_time"] + 1
    assert (ga.mailbox_attention(**args)[0].double() - want[0]).abs().max() > 0.01


def test_half_mail_with_float_queries():
    args = case(M=8, dtype=torch.float32)
    half = {**args, "mail": args["mail"].half()}
    torch.testing.assert_close(
        ga.mailbox_attention(**half)[0], ga.mailbox_attention(**{**half, "mail": half["mail"].float()})[0]
    )


def test_mail_that_changes_before_backward_is_noticed():
    args = case()
    u = args["u"].requires_grad_()
    z, _ = ga.mailbox_attention(**args)
    args["mail"].zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()
    assert u.grad is None


def test_double_backward_raises():
    args = case()
    u = args["u"].requires_grad_()
    (grad,) = torch.autograd.grad(ga.mailbox_attention(**args)[0].sum(), u, create_graph=True)
    with pytest.raises(RuntimeError, match="once differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"u": torch.zeros(4, 2, 5, dtype=torch.int64)}, TypeError, "u must be floating, got torch.int64"),
        ({"u": torch.zeros(4, 5, dtype=torch.float64)}, ValueError, r"u must be \[P, H, F\], got \[4, 5\]"),
        ({"u": torch.zeros(4, 2, 6, dtype=torch.float64)}, ValueError, r"u must be \[P, H, 5\].*got \[4, 2, 6\]"),
        ({"c": torch.zeros(4, 2)}, TypeError, "c must be torch.float64 like u, got torch.float32"),
        ({"c": torch.zeros(4, 3, dtype=torch.float64)}, ValueError, r"c must be \[P, H\] of u, got \[4, 3\]"),
        ({"mail": torch.zeros(5, 3, 3, dtype=torch.int32)}, TypeError, "mail must be floating, got torch.int32"),
        ({"mail": torch.zeros(5)}, ValueError, r"mail must be \[N, S, M\] or \[N, M\], got \[5\]"),
        ({"mail": torch.zeros(5, 3, 3, requires_grad=True)}, ValueError, "mail must be without grad"),
        ({"mail_time": torch.zeros(5, 3)}, TypeError, "mail_time must be int64 or float64, got torch.float32"),
        (
            {"mail_time": torch.zeros(5, dtype=torch.int64)},
            ValueError,
            r"mail_time must be \[5, 3\] like mail, got \[5\]",
        ),
        ({"has_mail": torch.zeros(5, 3)}, TypeError, "has_mail must be bool, got torch.float32"),
        ({"has_mail": torch.zeros(5, 2, dtype=torch.bool)}, ValueError, r"has_mail must be \[5, 3\] like mail"),
        ({"nodes": torch.zeros(4)}, TypeError, "nodes must be int32 or int64, got torch.float32"),
        ({"nodes": torch.zeros(3, dtype=torch.int64)}, ValueError, r"nodes must be \[P\] with P of u, got \[3\]"),
        ({"nodes": torch.tensor([0, 5, 1, 1])}, ValueError, r"nodes must be in \[0, 5\), got 5"),
        ({"nodes": torch.tensor([0, -1, 1, 1])}, ValueError, r"nodes must be in \[0, 5\), got -1"),
        ({"times": torch.zeros(4)}, TypeError, "times must be torch.int64 like mail_time, got torch.float32"),
        ({"times": torch.zeros(4, 1, dtype=torch.int64)}, ValueError, r"times must be \[P\] with P of u, got \[4, 1\]"),
        ({"time_w": torch.zeros(2, dtype=torch.int64)}, TypeError, "time_w must be floating, got torch.int64"),
        ({"time_b": torch.zeros(2)}, TypeError, "time_b must be torch.float64 like time_w"),
        ({"time_b": torch.zeros(3, dtype=torch.float64)}, ValueError, r"time_b must be \[T\] like time_w, got \[3\]"),
        ({"activation": "relu"}, ValueError, r"activation must be one of \['leaky_relu', 'none'\], got 'relu'"),
        ({"dropout": 1.0}, ValueError, r"dropout must be in \[0, 1\), got 1.0"),
    ],
)
def test_errors(change, error, match):
    with pytest.raises(error, match=match):
        ga.mailbox_attention(**{**case(), **change})
