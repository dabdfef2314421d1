import math

import pytest
import torch

import gnnaccel as ga
from gnnaccel.baselines.reference.time_encode import time_encode as reference
from tests.harness import BF16, F16, F32, Case, check_op


def make(shape, T, dt_dtype=torch.int64, span=100.0, strided=False):
    def build(gen):
        dt = torch.rand(shape, generator=gen, dtype=torch.float64) * span
        w = torch.rand(T, generator=gen, dtype=torch.float64)
        b = torch.rand(T, generator=gen, dtype=torch.float64)
        if strided:
            dt = dt.T
        return {"dt": dt.to(dt_dtype), "w": w, "b": b}

    return build


CASES = [
    Case("no_rows", make((0,), 4)),
    Case("no_frequencies", make((3,), 0)),
    Case("one", make((1,), 1)),
    Case("scalar_dt", make((), 5)),
    Case("odd", make((7, 3), 5, torch.float64)),
    Case("float32_dt", make((5,), 3, torch.float32)),
    Case("strided", make((3, 4), 6, torch.float64, strided=True)),
    Case("several_chunks", make((1031,), 33), small=False),
]

# the gradient in w weighs each row by dt (up to 100), so its terms cancel: allow for their size, not the sum's
TestTimeEncode = check_op(
    op=ga.time_encode,
    reference=reference,
    cases=CASES,
    schemas=["time_encode", "time_encode_backward"],
    cast=["w", "b"],
    grad=["w", "b"],
    length=lambda args: max(args["dt"].numel(), 1),
    tolerance={F32: 32.0, F16: 8.0, BF16: 8.0},
)


def test_by_hand():
    w = torch.tensor([0.0, math.pi, math.pi / 2], dtype=torch.float64)
    b = torch.tensor([0.0, 0.0, math.pi / 2], dtype=torch.float64)
    got = ga.time_encode(torch.tensor([0, 1, 3]), w, b)
    want = torch.tensor([[1, 1, 0], [1, -1, -1], [1, -1, 1]], dtype=torch.float64)
    torch.testing.assert_close(got, want, atol=1e-12, rtol=0)


@pytest.mark.parametrize("seconds", [10**6, 10**9, 1_700_000_000])
def test_unix_seconds_keep_their_fraction_of_a_turn(seconds):
    """A float32 angle at 1e9 has a spacing of 64 radians; ours must still tell neighbouring seconds apart."""
    dt = seconds + torch.arange(50)
    w = torch.linspace(0.1, 1.0, 7)
    b = torch.zeros(7)
    torch.testing.assert_close(ga.time_encode(dt, w, b).double(), reference(dt, w, b), atol=1e-6, rtol=0)


def test_double_backward_raises():
    w, b = torch.rand(3, requires_grad=True), torch.rand(3, requires_grad=True)
    (grad,) = torch.autograd.grad(ga.time_encode(torch.arange(4), w, b).sum(), w, create_graph=True)
    with pytest.raises(RuntimeError, match="once differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (
            {"dt": torch.arange(3, dtype=torch.int32)},
            TypeError,
            "dt must be int64, float64 or float32, got torch.int32",
        ),
        ({"w": torch.arange(2)}, TypeError, "w must be floating, got torch.int64"),
        ({"b": torch.rand(2, dtype=torch.float64)}, TypeError, "b must have the dtype of w"),
        ({"w": torch.rand(2, 2)}, ValueError, r"w must be \[T\], got \[2, 2\]"),
        ({"b": torch.rand(3)}, ValueError, r"b must be \[2\] like w, got \[3\]"),
        ({"dt": torch.rand(3, requires_grad=True)}, ValueError, "dt must not require grad"),
    ],
)
def test_errors(change, error, match):
    args = {"dt": torch.arange(3), "w": torch.rand(2), "b": torch.rand(2), **change}
    with pytest.raises(error, match=match):
        ga.time_encode(**args)
