import pytest
import torch
from torch import nn

import gnnaccel as ga
from gnnaccel.baselines.reference.memory_update import memory_update as reference
from gnnaccel.ops._library import HAS_CPP
from tests.harness import BF16, DEVICE, F16, F32, INTERPRET, Case, check_op, threads

POSITIONAL = ["mail", "dt", "memory", "time_w", "time_b", "w_ih", "w_hh", "b_ih", "b_hh"]
FLOATS = [name for name in POSITIONAL if name != "dt"]


def make(
    U,
    Dm,
    T,
    D,
    cell="gru",
    N=None,
    rows_dtype=torch.int64,
    dt_dtype=torch.int64,
    strided=False,
    repeat=False,
    zero=False,
):
    """N None: no `rows`, row u is node u."""

    def build(gen):
        def randn(*shape):
            return torch.randn(*shape, generator=gen, dtype=torch.float64)

        G, count = (3 if cell == "gru" else 1) * D, U if N is None else N
        mail, memory = randn(count, Dm), randn(count, D)
        if strided:
            mail, memory = mail.T.contiguous().T, memory.T.contiguous().T
        dt = torch.randint(0, 50, (U,), generator=gen) * (0 if zero else 1)
        args = {
            "mail": mail,
            "dt": dt.to(dt_dtype),
            "memory": memory,
            "time_w": torch.rand(T, generator=gen, dtype=torch.float64),
            "time_b": torch.rand(T, generator=gen, dtype=torch.float64),
            "w_ih": 0.3 * randn(G, Dm + T),
            "w_hh": 0.3 * randn(G, D),
            "b_ih": 0.3 * randn(G),
            "b_hh": 0.3 * randn(G),
            "cell": cell,
        }
        if N is not None:
            pick = torch.randint(0, max(N // 3, 1) if repeat else N, (U,), generator=gen)
            args["rows"] = pick.to(rows_dtype)
        return args

    return build


CASES = [
    Case("no_rows", make(0, 3, 2, 4)),
    Case("no_rows_of_a_table", make(0, 3, 2, 4, N=5)),
    Case("one", make(1, 1, 1, 1)),
    Case("odd", make(7, 5, 3, 9)),
    Case("no_mail", make(4, 0, 3, 5)),
    Case("no_time", make(4, 3, 0, 5)),
    Case("no_time_whole_tile", make(33, 3, 0, 12), small=False),
    Case("table", make(6, 5, 3, 7, N=11)),
    Case("table_int32", make(6, 5, 3, 7, N=11, rows_dtype=torch.int32)),
    Case("repeated_rows", make(9, 5, 3, 7, N=11, repeat=True)),
    Case("zero_dt", make(5, 3, 4, 6, zero=True)),
    Case("float64_dt", make(5, 3, 4, 6, dt_dtype=torch.float64)),
    Case("strided", make(6, 5, 4, 8, N=9, strided=True)),
    Case("rnn", make(7, 5, 3, 9, cell="rnn")),
    Case("rnn_table", make(9, 5, 3, 7, N=11, cell="rnn", repeat=True)),
    # more rows than are packed at once; several panels, ragged everywhere. Few columns with many rows: torch's own elementwise
    # functions, which the fallback uses, change bits at the seams between threads
    Case("several_blocks", make(1101, 61, 10, 14, N=300), small=False),
    Case("several_panels", make(101, 172, 20, 50, N=300), small=False),
]

# time_w: each row's term is weighed by dt (up to 50), so terms cancel: allow for their size, not the sum's
TestMemoryUpdate = check_op(
    op=ga.memory_update,
    reference=reference,
    cases=CASES,
    schemas=["memory_update", "memory_update_backward"],
    cast=FLOATS,
    grad=FLOATS,
    length=lambda args: args["w_ih"].shape[1] + args["dt"].shape[0],
    tolerance={F32: 32.0, F16: 8.0, BF16: 8.0},
    overload_args=lambda args: (*(args[k] for k in POSITIONAL), args.get("rows"), args["cell"] == "gru", True),
)
cpp_only = pytest.mark.skipif(not HAS_CPP or INTERPRET or DEVICE != "cpu", reason="a promise of the CPU extension")


def of_module(module, x_mail, dt, memory, time_w, time_b, **kwargs):
    weights = (module.weight_ih, module.weight_hh, module.bias_ih, module.bias_hh)
    return ga.memory_update(x_mail, dt, memory, time_w, time_b, *weights, **kwargs)


@pytest.mark.parametrize(("cell", "cls"), [("gru", nn.GRUCell), ("rnn", nn.RNNCell)])
def test_is_torchs_cell(cell, cls):
    torch.manual_seed(0)
    module = cls(12, 8, dtype=torch.float64)
    mail, memory, dt = torch.randn(20, 7).double(), torch.randn(20, 8).double(), torch.arange(6)
    rows, time_w, time_b = torch.tensor([3, 19, 0, 7, 3, 4]), torch.rand(5).double(), torch.rand(5).double()
    x = torch.cat([mail[rows], ga.time_encode(dt, time_w, time_b)], dim=1)
    want = module(x, memory[rows])
    got = of_module(module, mail, dt, memory, time_w, time_b, cell=cell, rows=rows)
    torch.testing.assert_close(got, want, atol=1e-12, rtol=0)


def test_by_hand():
    # all weights 0: r = z = 1/2, n = tanh(b_in + b_hn / 2)
    zero = torch.zeros(3, 2)
    b = torch.tensor([0.0, 0.0, 0.5])
    out = ga.memory_update(
        torch.ones(1, 1),
        torch.tensor([4]),
        torch.tensor([[2.0]]),
        torch.ones(1),
        torch.zeros(1),
        zero,
        zero[:, :1],
        b,
        b,
    )
    torch.testing.assert_close(out, torch.tensor([[0.5 * torch.tanh(torch.tensor(0.75)).item() + 0.5 * 2.0]]))


def big(seed=0, cell="gru", Dm=172, T=100, D=100, U=257, N=400):
    args = make(U, Dm, T, D, cell=cell, N=N)(torch.Generator().manual_seed(seed))
    return {k: v.float() if k in FLOATS else v for k, v in args.items()}


@cpp_only
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("cell", ["gru", "rnn"])
def test_a_row_does_not_know_the_others(cell, dtype):
    """Same bits for a node whichever others are in the call, in whatever order, on any number of threads."""
    args = big(cell=cell)
    args = {k: v.to(dtype) if k in FLOATS else v for k, v in args.items()}
    whole = ga.memory_update(**args)
    gen = torch.Generator().manual_seed(1)
    for size in (1, 2, 3, 5, 7, 8, 9, 31, 32, 33, 100, 256):
        pick = torch.randperm(257, generator=gen)[:size]
        for n in (1, 2):
            with threads(n):
                part = ga.memory_update(**{**args, "rows": args["rows"][pick], "dt": args["dt"][pick]})
            assert torch.equal(part, whole[pick])
    direct = {"mail": args["mail"][args["rows"]], "memory": args["memory"][args["rows"]], "rows": None}
    assert torch.equal(ga.memory_update(**{**args, **direct}), whole)


@cpp_only
@pytest.mark.parametrize("cell", ["gru", "rnn"])
def test_threads_change_no_bit_of_a_long_call(cell):
    runs = []
    for n in (1, 2, 3):
        with threads(n):
            args = big(cell=cell, U=2500)
            leaves = [args[k].requires_grad_() for k in FLOATS]
            out = ga.memory_update(**args)
            runs.append([out.detach(), *torch.autograd.grad(out.sin().sum(), leaves)])
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], run, strict=True))


@cpp_only
def test_no_grad_gives_the_same_bits():
    args = big()
    with torch.no_grad():
        want = ga.memory_update(**args)
    assert torch.equal(ga.memory_update(**{**args, "w_ih": args["w_ih"].requires_grad_()}).detach(), want)


def test_only_wanted_gradients():
    args = big(U=20)
    args["w_hh"].requires_grad_()
    (grad,) = torch.autograd.grad(ga.memory_update(**args).sum(), args["w_hh"])
    wanted = {**args, **{k: args[k].detach().requires_grad_() for k in FLOATS}}
    grads = torch.autograd.grad(ga.memory_update(**wanted).sum(), [wanted[k] for k in FLOATS])
    assert torch.equal(grad, dict(zip(FLOATS, grads, strict=True))["w_hh"])


def test_saturated_gates_are_finite():
    args = big(U=10)
    out = ga.memory_update(**{**args, "w_ih": 1e4 * args["w_ih"], "b_hh": 1e4 * args["b_hh"]})
    assert torch.isfinite(out).all()


def test_nan_in_a_mail_shows_in_its_row_only():
    args = big(U=10, N=10)
    args["rows"] = torch.arange(10)
    args["mail"][4, 0] = float("nan")
    assert torch.isnan(ga.memory_update(**args)).any(1).tolist() == [i == 4 for i in range(10)]


def test_double_backward_raises():
    args = big(U=5)
    w = args["w_ih"].requires_grad_()
    (grad,) = torch.autograd.grad(ga.memory_update(**args).sum(), w, create_graph=True)
    with pytest.raises(RuntimeError, match="once differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"cell": "lstm"}, ValueError, "cell must be 'gru' or 'rnn', got 'lstm'"),
        ({"memory": torch.zeros(5, 4, dtype=torch.int64)}, TypeError, "memory must be floating, got torch.int64"),
        ({"mail": torch.zeros(5, 3).double()}, TypeError, "mail must have the dtype of memory"),
        ({"dt": torch.zeros(2, dtype=torch.int32)}, TypeError, "dt must be int64, float64 or float32, got torch.int32"),
        ({"dt": torch.zeros(2, requires_grad=True)}, ValueError, "dt must not require grad"),
        ({"dt": torch.zeros(2, 1)}, ValueError, r"dt must have one dimension, got \[2, 1\]"),
        ({"memory": torch.zeros(5)}, ValueError, r"memory must have two dimensions, got \[5\]"),
        ({"rows": torch.zeros(2)}, TypeError, "rows must be int64 or int32, got torch.float32"),
        ({"rows": torch.tensor([1])}, ValueError, r"rows must be \[2\] like dt, got \[1\]"),
        ({"rows": None}, ValueError, r"memory must have one row for each dt \(2\) when rows is None, got 5"),
        ({"mail": torch.zeros(4, 3)}, ValueError, r"mail must be \[5, 3\], got \[4, 3\]"),
        ({"w_ih": torch.zeros(12, 4)}, ValueError, r"w_ih must be \[12, 5\], got \[12, 4\]"),
        ({"w_hh": torch.zeros(4, 4)}, ValueError, r"w_hh must be \[12, 4\], got \[4, 4\]"),
        ({"b_ih": torch.zeros(4)}, ValueError, r"b_ih must be \[12\], got \[4\]"),
        ({"time_b": torch.zeros(3)}, ValueError, r"time_b must be \[2\], got \[3\]"),
        ({"rows": torch.tensor([1, 5])}, ValueError, r"rows must be in \[0, 5\), got 5"),
        ({"rows": torch.tensor([-1, 2])}, ValueError, r"rows must be in \[0, 5\), got -1"),
    ],
)
def test_errors(change, error, match):
    args = make(2, 3, 2, 4, N=5)(torch.Generator().manual_seed(0))
    args = {k: v.float() if k in FLOATS else v for k, v in args.items()}
    with pytest.raises(error, match=match):
        ga.memory_update(**{**args, **change})
