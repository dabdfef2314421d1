import pytest
import torch

from gnnaccel.baselines.reference.apply_messages import apply_messages as reference
from gnnaccel.ops._apply_messages import CLEAN, FRESH, PENDING, apply_messages
from gnnaccel.ops._library import HAS_CPP
from tests.harness import BF16, DEVICE, F16, F32, F64, INTERPRET, Case, check_op, served_by, threads

TABLES = ["memory", "last_update", "status", "other", "time", "raw"]
WEIGHTS = ["time_w", "time_b", "w_ih", "w_hh", "b_ih", "b_hh"]
FLOATS = ["memory", "raw", *WEIGHTS]
CPP = pytest.mark.skipif(not HAS_CPP or INTERPRET or DEVICE != "cpu", reason="a promise of the CPU extension")


def make(U, D, F, T, N=11, status=None, strided=False, repeated=False, start=0):
    """`status`: that of every node, or None for one of each in turn."""

    def build(gen):
        def randn(*shape):
            return torch.randn(*shape, generator=gen, dtype=torch.float64)

        def integers(*shape, high=50):
            return torch.randint(0, max(high, 1), shape, generator=gen)

        memory, raw = randn(N, D), randn(N, F)
        if strided:
            memory, raw = memory.T.contiguous().T, raw.T.contiguous().T
        last = integers(N) + start
        return {
            "memory": memory,
            "last_update": last,
            "status": torch.arange(N).remainder(3).byte() if status is None else torch.full((N,), status).byte(),
            "other": integers(N, high=N),
            "time": last + integers(N),
            "raw": raw,
            "nodes": integers(U, high=N) if repeated else torch.randperm(N, generator=gen)[:U],
            "time_w": torch.rand(T, generator=gen, dtype=torch.float64),
            "time_b": torch.rand(T, generator=gen, dtype=torch.float64),
            "w_ih": 0.3 * randn(3 * D, 2 * D + F + T),
            "w_hh": 0.3 * randn(3 * D, D),
            "b_ih": 0.3 * randn(3 * D),
            "b_hh": 0.3 * randn(3 * D),
        }

    return build


TestApplyMessages = check_op(
    op=apply_messages,
    reference=reference,
    cases=[
        Case("no_nodes", make(0, 4, 3, 2)),
        Case("no_table", make(0, 4, 3, 2, N=0)),
        Case("one_fresh", make(1, 1, 1, 1, N=1, status=FRESH)),
        Case("one_pending", make(1, 1, 1, 1, N=1, status=PENDING)),
        Case("one_clean", make(1, 1, 1, 1, N=1, status=CLEAN)),
        Case("odd", make(7, 9, 5, 3)),
        Case("all_fresh", make(5, 4, 3, 2, status=FRESH)),
        Case("all_pending", make(5, 4, 3, 2, status=PENDING)),
        Case("all_clean", make(5, 4, 3, 2, status=CLEAN)),
        Case("any_other_is_clean", make(5, 4, 3, 2, status=200)),
        Case("no_raw_message", make(9, 5, 0, 3)),
        Case("no_time", make(9, 5, 3, 0)),
        Case("neither", make(9, 5, 0, 0)),
        Case("repeated_nodes", make(20, 5, 4, 3, repeated=True)),
        # a difference of two such times is exact, a float32 of one is not
        Case("unix_times", make(9, 5, 3, 2, start=1_700_000_000)),
        Case("strided", make(9, 8, 5, 4, strided=True)),
        Case("several_blocks", make(901, 14, 33, 10, N=1000), small=False),
        Case("several_panels", make(101, 50, 72, 20, N=300), small=False),
    ],
    schemas=["apply_messages", "apply_messages_backward"],
    cast=FLOATS,
    grad=WEIGHTS,
    length=lambda args: args["w_ih"].shape[1] + args["nodes"].shape[0],
    # as memory_update's
    tolerance={F32: 32.0, F16: 8.0, BF16: 8.0},
    overload_args=lambda args: (*args.values(), True),
)


def call(U=260, D=50, F=40, T=30, N=400, dtype=torch.float32, **kwargs):
    args = make(U, D, F, T, N=N, **kwargs)(torch.Generator().manual_seed(0))
    args = {k: v.to(dtype) if k in FLOATS else v for k, v in args.items()}
    return {k: v.to(DEVICE) for k, v in args.items()}


def gradients(args):
    leaves = [args[k].requires_grad_() for k in WEIGHTS]
    out, times = apply_messages(**args)
    return [out.detach(), times, *torch.autograd.grad(out.sin().sum(), leaves)]


def test_by_hand():
    """Weights of zeros: r = z = 1/2 and n = tanh(b_n)."""
    args = make(3, 1, 0, 0, N=3)(torch.Generator())
    args |= {k: torch.zeros_like(args[k]) for k in ("w_ih", "w_hh", "b_hh")}
    n = 0.25
    args["b_ih"] = torch.tensor([0.0, 0.0, torch.atanh(torch.tensor(n, dtype=F64))], dtype=F64)
    args["memory"] = torch.tensor([[7.0], [3.0], [5.0]], dtype=F64)
    args |= {"last_update": torch.tensor([1, 2, 3]), "time": torch.tensor([10, 20, 30]), "nodes": torch.arange(3)}
    out, times = apply_messages(**args)
    torch.testing.assert_close(out, torch.tensor([[n / 2], [n / 2 + 3 / 2], [5.0]], dtype=F64))
    assert times.tolist() == [1, 20, 3]


@CPP
@pytest.mark.parametrize("status", [None, FRESH, PENDING, CLEAN])
@pytest.mark.parametrize("U", [1, 64, 1500])
def test_many_nodes_agree_with_the_fallback(U, status):
    args = call(U=U, D=20, F=30, N=1600, dtype=F64, status=status)
    ours = gradients(args)
    with served_by("CompositeExplicitAutograd"):
        theirs = gradients(args)
    for name, a, b in zip(["out", "times", *WEIGHTS], ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9, msg=lambda m, name=name: f"{name}: {m}")


@CPP
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_bits_do_not_depend_on_threads(dtype):
    args = call(U=700, N=900, dtype=dtype)
    runs = []
    for n in (1, 2, 3, 7):
        with threads(n):
            runs.append(gradients(args))
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


@pytest.mark.parametrize("key", ["CPU", "CompositeExplicitAutograd"])
def test_tables_may_be_overwritten_before_backward(key):
    with served_by(key):
        args = call(U=90, N=100)
        want = gradients(args)
        leaves = [args[k] for k in WEIGHTS]
        out, times = apply_messages(**args)
        for name in TABLES:
            args[name].fill_(3)
        args["nodes"].zero_()
        grads = torch.autograd.grad(out.sin().sum(), leaves)
    assert all(torch.equal(a, b) for a, b in zip([out, times, *grads], want, strict=True))


@pytest.mark.parametrize("key", ["CPU", "CompositeExplicitAutograd"])
def test_what_has_no_meaning_is_not_looked_at(key):
    """Memory of fresh nodes, other ends and times of all but pending nodes, and what is left of raw messages."""
    args = call(U=90, N=100, dtype=F64)
    ends = torch.zeros(100, dtype=torch.bool).index_fill_(0, args["other"][args["status"] == PENDING], True)
    changed = {k: v.clone() for k, v in args.items()}
    changed["memory"][(args["status"] == FRESH) & ~ends] = 1e30
    rest = args["status"] != PENDING
    changed["other"][rest], changed["time"][rest], changed["raw"][rest] = -(2**40), 2**60, 1e30
    with served_by(key):
        for a, b in zip(gradients(args), gradients(changed), strict=True):
            assert torch.equal(a, b)


def test_rows_are_copies_and_tables_stay():
    args = call(U=20)
    before = {k: args[k].clone() for k in TABLES}
    out, times = apply_messages(**args)
    out.zero_()
    times.zero_()
    assert all(torch.equal(args[k], v) for k, v in before.items())


def test_no_grad_saves_nothing_and_changes_no_bit():
    args = call()
    args["w_ih"].requires_grad_()
    out, times = apply_messages(**args)
    assert out.requires_grad and not times.requires_grad
    with torch.no_grad():
        assert torch.equal(apply_messages(**args)[0], out)


def test_not_saved_cannot_be_differentiated():
    args = call(U=5)
    args["w_ih"].requires_grad_()
    out = torch.ops.gnnaccel.apply_messages(*args.values(), False)[0]
    with pytest.raises(RuntimeError, match=r"apply_messages was called with save=False: nothing to differentiate from"):
        out.sum().backward()


def test_only_wanted_gradients():
    args = call(U=20)
    leaves = {k: args[k].clone().requires_grad_() for k in WEIGHTS}
    want = torch.autograd.grad(apply_messages(**{**args, **leaves})[0].sum(), list(leaves.values()))
    for name, grad in zip(WEIGHTS, want, strict=True):
        one = args[name].clone().requires_grad_()
        apply_messages(**{**args, name: one})[0].sum().backward()
        assert torch.equal(one.grad, grad), name
        assert all(args[k].grad is None for k in WEIGHTS)


def test_double_backward_raises():
    args = call(U=5)
    w = args["w_ih"].requires_grad_()
    (grad,) = torch.autograd.grad(apply_messages(**args)[0].sum(), w, create_graph=True)
    with pytest.raises(RuntimeError, match="once differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"memory": torch.zeros(5, 4, requires_grad=True)}, ValueError, "memory and raw must not require grad"),
        ({"raw": torch.zeros(5, 3, requires_grad=True)}, ValueError, "memory and raw must not require grad"),
        ({"raw": torch.zeros(4, 3)}, ValueError, r"raw must be \[N, D\] and \[N, F\], got \[5, 4\], \[4, 3\]"),
        ({"raw": torch.zeros(5)}, ValueError, r"raw must be \[N, D\] and \[N, F\], got \[5, 4\], \[5\]"),
        ({"raw": torch.zeros(5, 3, dtype=F64)}, TypeError, "must have the dtype of memory .*, got torch.float64"),
        ({"memory": torch.zeros(5, 4).long()}, TypeError, "memory must be floating, got torch.int64"),
        ({"last_update": torch.zeros(5)}, TypeError, "last_update must be torch.int64, got torch.float32"),
        ({"time": torch.zeros(4).long()}, ValueError, r"time must be \[5\], got \[4\]"),
        ({"other": torch.zeros(5).int()}, TypeError, "other must be torch.int64, got torch.int32"),
        ({"status": torch.zeros(5).bool()}, TypeError, "status must be torch.uint8, got torch.bool"),
        ({"status": torch.zeros(5, 2).byte()}, ValueError, r"status must be \[5\], got \[5, 2\]"),
        ({"nodes": torch.zeros(2)}, TypeError, "nodes must be torch.int64, got torch.float32"),
        ({"nodes": torch.zeros(2, 1).long()}, ValueError, r"nodes must be \[U\], got \[2, 1\]"),
        ({"nodes": torch.tensor([1, 5])}, ValueError, r"nodes must be in \[0, 5\), got 5"),
        ({"nodes": torch.tensor([-1, 2])}, ValueError, r"nodes must be in \[0, 5\), got -1"),
        ({"w_ih": torch.zeros(12, 12)}, ValueError, r"w_ih must be \[12, 13\], got \[12, 12\]"),
        ({"w_hh": torch.zeros(12, 4, dtype=F64)}, TypeError, "w_hh must have the dtype of memory"),
    ],
)
@pytest.mark.parametrize("key", ["CPU", "CompositeExplicitAutograd"])
def test_errors(key, change, error, match):
    args = make(2, 4, 3, 2, N=5)(torch.Generator().manual_seed(0))
    args = {k: v.float() if k in FLOATS else v for k, v in args.items()}
    with served_by(key), pytest.raises(error, match=f"apply_messages: .*{match}"):
        apply_messages(**{**args, **change})


@pytest.mark.skipif(INTERPRET or DEVICE != "cpu", reason="checked on CPU")
@pytest.mark.parametrize("end", [-1, 5])
@pytest.mark.parametrize("key", ["CPU", "CompositeExplicitAutograd"])
def test_other_ends_out_of_range(key, end):
    args = make(5, 4, 3, 2, N=5, status=PENDING)(torch.Generator().manual_seed(0))
    args["other"][2] = end
    with served_by(key), pytest.raises(ValueError, match=rf"apply_messages: other must be in \[0, 5\), got {end}"):
        apply_messages(**args)
