import pytest
import torch

import gnnaccel as ga
from gnnaccel.baselines.reference.memory_read import memory_read as reference
from gnnaccel.ops._library import HAS_CPP
from gnnaccel.ops._memory_read import memory_read
from tests.harness import BF16, DEVICE, F16, F32, INTERPRET, Case, check_op, threads

WEIGHTS = ["time_w", "time_b", "w_ih", "w_hh", "b_ih", "b_hh"]
STATE = ["mail", "mail_time", "has_mail", "memory", "last_update", "nodes"]
FLOATS = ["mail", "memory", *WEIGHTS]


def make(
    U,
    M,
    T,
    D,
    N=11,
    cell="gru",
    pending=0.6,
    times=torch.int64,
    ids=torch.int64,
    strided=False,
    start=0,
):
    def build(gen):
        def randn(*shape):
            return torch.randn(*shape, generator=gen, dtype=torch.float64)

        G = (3 if cell == "gru" else 1) * D
        mail, memory = randn(N, M), randn(N, D)
        if strided:
            mail, memory = mail.T.contiguous().T, memory.T.contiguous().T
        last = torch.randint(0, 50, (N,), generator=gen) + start
        nodes = torch.randperm(N, generator=gen)[:U]
        return {
            "mail": mail,
            "mail_time": (last + torch.randint(0, 50, (N,), generator=gen)).to(times),
            "has_mail": torch.rand(N, generator=gen) < pending,
            "memory": memory,
            "last_update": last.to(times),
            "nodes": nodes.to(ids),
            "time_w": torch.rand(T, generator=gen, dtype=torch.float64),
            "time_b": torch.rand(T, generator=gen, dtype=torch.float64),
            "w_ih": 0.3 * randn(G, M + T),
            "w_hh": 0.3 * randn(G, D),
            "b_ih": 0.3 * randn(G),
            "b_hh": 0.3 * randn(G),
            "cell": cell,
        }

    return build


TestMemoryRead = check_op(
    op=memory_read,
    reference=reference,
    cases=[
        Case("no_nodes", make(0, 3, 2, 4)),
        Case("no_table", make(0, 3, 2, 4, N=0)),
        Case("one", make(1, 1, 1, 1, N=1, pending=1.1)),
        Case("odd", make(7, 5, 3, 9)),
        Case("nobody_pending", make(5, 3, 2, 4, pending=-1)),
        Case("all_pending", make(5, 3, 2, 4, pending=1.1)),
        Case("no_mail_columns", make(4, 0, 3, 5)),
        Case("no_time", make(4, 3, 0, 5)),
        Case("int32", make(6, 5, 3, 7, ids=torch.int32)),
        Case("float64_times", make(6, 5, 3, 7, times=torch.float64)),
        # a difference of two such times is exact, a float32 of one is not
        Case("unix_times", make(6, 5, 3, 7, start=1_700_000_000)),
        Case("strided", make(6, 5, 4, 8, strided=True)),
        Case("rnn", make(7, 5, 3, 9, cell="rnn")),
        Case("several_blocks", make(901, 61, 10, 14, N=1000), small=False),
        Case("several_panels", make(101, 172, 20, 50, N=300), small=False),
    ],
    schemas=["memory_read", "memory_read_backward"],
    cast=FLOATS,
    grad=WEIGHTS,
    length=lambda args: args["w_ih"].shape[1] + args["nodes"].shape[0],
    # as memory_update's
    tolerance={F32: 32.0, F16: 8.0, BF16: 8.0},
    overload_args=lambda args: (*(args[k] for k in STATE + WEIGHTS), args["cell"] == "gru", True),
)


def call(U=260, N=400, dtype=torch.float32, **kwargs):
    args = make(U, 172, 100, 100, N=N, **kwargs)(torch.Generator().manual_seed(0))
    args = {k: v.to(dtype) if k in FLOATS else v for k, v in args.items()}
    return {k: v.to(DEVICE) if isinstance(v, torch.Tensor) else v for k, v in args.items()}


def composed(mail, mail_time, has_mail, memory, last_update, nodes, *weights, cell):
    """The same of public parts."""
    pending = has_mail[nodes].nonzero().squeeze(1)
    ids, last = nodes[pending], last_update[nodes]
    sent = mail_time[ids]
    new = ga.memory_update(mail, sent - last[pending], memory, *weights, cell=cell, rows=ids)
    return memory[nodes].index_copy(0, pending, new), last.index_copy(0, pending, sent)


@pytest.mark.skipif(not HAS_CPP or INTERPRET or DEVICE != "cpu", reason="a promise of the CPU extension")
@pytest.mark.parametrize("times", [torch.int64, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("cell", ["gru", "rnn"])
def test_same_bits_as_its_parts(cell, dtype, times):
    args = call(dtype=dtype, cell=cell, times=times)
    args.pop("cell")
    leaves = [args[k].requires_grad_() for k in WEIGHTS]
    for n in (1, 2, 3):
        with threads(n):
            got, want = (f(*args.values(), cell=cell) for f in (memory_read, composed))
            grads = [torch.autograd.grad(out.sin().sum(), leaves) for out, _ in (got, want)]
        assert all(torch.equal(a, b) for a, b in zip((*got, *grads[0]), (*want, *grads[1]), strict=True))


def test_no_grad_saves_nothing_and_changes_no_bit():
    args = call()
    args["w_ih"].requires_grad_()
    out, times = memory_read(**args)
    assert out.requires_grad and not times.requires_grad
    with torch.no_grad():
        assert torch.equal(memory_read(**args)[0], out)


def test_only_wanted_gradients():
    args = call(U=20)
    some = torch.autograd.grad(memory_read(**{**args, "b_hh": args["b_hh"].requires_grad_()})[0].sum(), args["b_hh"])
    leaves = [args[k].requires_grad_() for k in WEIGHTS]
    assert torch.equal(some[0], torch.autograd.grad(memory_read(**args)[0].sum(), leaves)[-1])


def test_tables_that_change_before_backward_are_refused():
    for name in STATE[:-1]:
        args = call(U=5)
        args["w_ih"].requires_grad_()
        out, _ = memory_read(**args)
        args[name].zero_()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            out.sum().backward()


def test_double_backward_raises():
    args = call(U=5)
    w = args["w_ih"].requires_grad_()
    (grad,) = torch.autograd.grad(memory_read(**args)[0].sum(), w, create_graph=True)
    with pytest.raises(RuntimeError, match="once differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"cell": "lstm"}, ValueError, "memory_read: cell must be 'gru' or 'rnn', got 'lstm'"),
        ({"memory": torch.zeros(5, 4, requires_grad=True)}, ValueError, "mail and memory must not require grad"),
        ({"mail": torch.zeros(4, 3)}, ValueError, r"memory_read: mail must be \[5, 3\], got \[4, 3\]"),
        ({"mail_time": torch.zeros(5)}, TypeError, "mail_time must be int64 or float64, got torch.float32"),
        ({"mail_time": torch.zeros(4).long()}, ValueError, r"mail_time must be \[5\], got \[4\]"),
        ({"last_update": torch.zeros(5).double()}, TypeError, "last_update must be torch.int64 like mail_time"),
        ({"has_mail": torch.zeros(5)}, TypeError, "has_mail must be bool, got torch.float32"),
        ({"has_mail": torch.zeros(5, 2).bool()}, ValueError, r"has_mail must be \[5\], got \[5, 2\]"),
        ({"nodes": torch.zeros(2)}, TypeError, "nodes must be int64 or int32, got torch.float32"),
        ({"nodes": torch.zeros(2, 1).long()}, ValueError, r"nodes must have one dimension, got \[2, 1\]"),
        ({"nodes": torch.tensor([1, 5])}, ValueError, r"nodes must be in \[0, 5\), got 5"),
        ({"nodes": torch.tensor([-1, 2])}, ValueError, r"nodes must be in \[0, 5\), got -1"),
    ],
)
def test_errors(change, error, match):
    args = make(2, 3, 2, 4, N=5)(torch.Generator().manual_seed(0))
    args = {k: v.float() if k in FLOATS else v for k, v in args.items()}
    with pytest.raises(error, match=match):
        memory_read(**{**args, **change})
