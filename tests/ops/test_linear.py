import os
import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from gnnaccel.ops._library import HAS_CPP
from gnnaccel.ops._linear import row_invariant_linear
from tests.harness import DEVICE, INTERPRET, Case, check_op, threads


def make(U, K, N, bias=True, strided=False):
    def build(gen):
        def randn(*shape):
            return torch.randn(*shape, generator=gen, dtype=torch.float64)

        x, weight = randn(U, K), randn(N, K)
        if strided:
            x, weight = x.T.contiguous().T, weight.T.contiguous().T
        return {"x": x, "weight": weight, "bias": randn(N) if bias else None}

    return build


def reference(x, weight, bias=None):
    y = (x.double()[..., None, :] * weight.double()).sum(-1)
    return y if bias is None else y + bias.double()


TestLinear = check_op(
    op=row_invariant_linear,
    reference=reference,
    cases=[
        Case("no_rows", make(0, 3, 4)),
        Case("no_inputs", make(3, 0, 4)),
        Case("no_outputs", make(3, 4, 0)),
        Case("one", make(1, 1, 1)),
        Case("odd", make(7, 5, 9)),
        Case("no_bias", make(6, 4, 3, bias=False)),
        Case("strided", make(6, 4, 8, strided=True)),
        Case("several_blocks", make(1077, 53, 37), small=False),
        Case("several_panels", make(130, 300, 113), small=False),
    ],
    schemas=["linear", "linear_backward"],
    cast=["x", "weight", "bias"],
    grad=["x", "weight", "bias"],
    length=lambda args: args["x"].shape[0] + args["x"].shape[1] + args["weight"].shape[0],
)


@pytest.mark.skipif(not HAS_CPP or INTERPRET or DEVICE != "cpu", reason="a promise of the CPU extension")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("K", "N"), [(200, 100), (100, 1), (472, 300), (5, 3)])
def test_a_row_does_not_know_the_others(K, N, dtype):
    torch.manual_seed(0)
    x, w, b = torch.randn(300, K, dtype=dtype), torch.randn(N, K, dtype=dtype), torch.randn(N, dtype=dtype)
    x.requires_grad_()
    whole = row_invariant_linear(x, w, b)
    g = torch.randn_like(whole)
    (whole_grad,) = torch.autograd.grad(whole, x, g)
    for size in (1, 2, 3, 4, 8, 13, 64, 65, 299):
        pick = torch.randperm(300)[:size]
        for n in (1, 2):
            with threads(n):
                part_x = x.detach()[pick].requires_grad_()
                part = row_invariant_linear(part_x, w, b)
                (grad,) = torch.autograd.grad(part, part_x, g[pick])
            assert torch.equal(part, whole[pick])
            assert torch.equal(grad, whole_grad[pick])


def test_leading_dimensions():
    x, w = torch.randn(2, 3, 4), torch.randn(5, 4)
    torch.testing.assert_close(row_invariant_linear(x, w), F.linear(x, w))
    assert row_invariant_linear(torch.zeros(2, 3, 0), torch.zeros(5, 0)).shape == (2, 3, 5)
    assert row_invariant_linear(x[0, 0], w).shape == (5,)


@pytest.mark.parametrize(
    ("args", "error", "match"),
    [
        ((torch.arange(3), torch.rand(2, 3)), TypeError, "x must be floating, got torch.int64"),
        ((torch.tensor(1.0), torch.rand(2, 3)), ValueError, "x must be .*, got a scalar"),
        ((torch.rand(4, 3), torch.rand(2, 4)), ValueError, r"weight must be \[N, 3\], got \[2, 4\]"),
        ((torch.rand(4, 3), torch.rand(2, 3), torch.rand(3)), ValueError, r"bias must be \[2\], got \[3\]"),
        ((torch.rand(4, 3), torch.rand(2, 3).double()), TypeError, "weight must have the dtype of x"),
    ],
)
def test_errors(args, error, match):
    with pytest.raises(error, match=match):
        row_invariant_linear(*args)


@pytest.mark.skipif(not HAS_CPP or INTERPRET or DEVICE != "cpu", reason="a promise of the CPU extension")
@pytest.mark.parametrize("level", ["avx2", "portable"])
def test_every_instruction_set(level):
    """The level is read once a process."""
    code = """
import torch
from gnnaccel.ops._linear import row_invariant_linear as f
torch.manual_seed(0)
for U, K, N in [(1, 1, 1), (7, 5, 9), (67, 130, 53)]:
    x, w, b = (torch.randn(*s).requires_grad_() for s in ((U, K), (N, K), (N,)))
    y = f(x, w, b)
    grads = torch.autograd.grad(y.sin().sum(), (x, w, b))
    xd, wd, bd = (t.detach().double().requires_grad_() for t in (x, w, b))
    yd = xd @ wd.T + bd
    wants = torch.autograd.grad(yd.sin().sum(), (xd, wd, bd))
    for got, want in zip((y, *grads), (yd, *wants)):
        assert (got.double() - want).abs().max() < 1e-3, (U, K, N)
    assert torch.equal(f(x[-1:], w, b), y[-1:])
"""
    env = {**os.environ, "GNNACCEL_SIMD": level}
    subprocess.run([sys.executable, "-c", code], env=env, check=True, timeout=120)
