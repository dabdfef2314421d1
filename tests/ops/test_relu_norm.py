import os
import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from gnnaccel.baselines.reference.relu_norm import dropout_mask, philox4x32
from gnnaccel.baselines.reference.relu_norm import relu_norm as reference
from gnnaccel.ops import _philox
from gnnaccel.ops._library import HAS_CPP
from gnnaccel.ops._relu_norm import dropout_factors, relu_norm
from tests.harness import DEVICE, INTERPRET, Case, check_op, threads


def make(R, D, strided=False, negative=False, **options):
    def build(gen):
        x = torch.randn(R, D, generator=gen, dtype=torch.float64)
        # away from ReLU's corner, where differences are not derivatives
        x = x + 0.05 * torch.sign(x)
        if negative:
            x[: (R + 1) // 2] = -x[: (R + 1) // 2].abs()
        return {
            "x": x.T.contiguous().T if strided else x,
            "weight": torch.randn(D, generator=gen, dtype=torch.float64) + 1,
            "bias": torch.randn(D, generator=gen, dtype=torch.float64),
            **options,
        }

    return build


SEED = (7 << 33) + 5

TestReluNorm = check_op(
    op=relu_norm,
    reference=reference,
    cases=[
        Case("no_rows", make(0, 5, dropout=0.3)),
        Case("no_columns", make(3, 0)),
        Case("one", make(1, 1)),
        Case("one_column", make(4, 1, dropout=0.3, seed=1)),
        Case("odd", make(3, 7)),
        Case("dropout", make(5, 11, dropout=0.3, seed=SEED)),
        Case("negative_seed", make(2, 6, dropout=0.3, seed=-3)),
        # where one value is left of a row its gradient cancels but for eps
        Case("most_dropped", make(4, 9, dropout=0.9, seed=2, eps=0.5)),
        Case("negative_rows", make(4, 6, negative=True)),
        Case("strided", make(4, 6, strided=True, dropout=0.3, seed=4)),
        Case("large_eps", make(3, 8, eps=0.5)),
        Case("several_chunks", make(331, 37), small=False),
        Case("several_chunks_dropout", make(331, 37, dropout=0.3, seed=SEED), small=False),
        Case("wide", make(9, 1030, dropout=0.1, seed=3), small=False),
    ],
    schemas=["relu_norm", "relu_norm_backward"],
    cast=["x", "weight", "bias"],
    grad=["x", "weight", "bias"],
    length=lambda args: args["x"].shape[0] + args["x"].shape[1],
    overload_args=lambda a: (
        a["x"],
        a["weight"],
        a["bias"],
        a.get("dropout", 0.0),
        a.get("seed", 0),
        a.get("eps", 1e-5),
    ),
)


def tensors(R, D, dtype=torch.float32):
    gen = torch.Generator().manual_seed(0)
    shapes = ((R, D), (D,), (D,))
    return tuple(torch.randn(s, generator=gen).to(DEVICE, dtype).requires_grad_() for s in shapes)


def results(x, weight, bias, **options):
    y = relu_norm(x, weight, bias, **options)
    g = torch.cos(torch.arange(y.numel(), dtype=torch.float64)).view(y.shape).to(y)
    return y.detach(), *torch.autograd.grad(y, (x, weight, bias), g)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("D", [1, 4, 100, 133])
def test_is_torchs_layer_norm_of_relu(D, dtype):
    x, w, b = tensors(77, D, dtype)
    got = results(x, w, b)
    y = F.layer_norm(torch.relu(x), (D,), w, b)
    g = torch.cos(torch.arange(y.numel(), dtype=torch.float64)).view(y.shape).to(y)
    for a, e in zip(got, (y, *torch.autograd.grad(y, (x, w, b), g)), strict=True):
        # one column: all are 0 or the bias, and torch's gradient of x is rounding noise times 1 / sqrt(eps)
        torch.testing.assert_close(a, e, atol=1e-10 if dtype == torch.float64 else 2e-4, rtol=2e-5)


def test_golden():
    """Worked by hand: relu gives (0, 4, 0, 4), of mean 2 and deviation 2."""
    x = torch.tensor([[-1.0, 4.0, -7.0, 4.0]], dtype=torch.float64, device=DEVICE)
    w = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64, device=DEVICE)
    y = relu_norm(x, w, torch.ones_like(w), eps=1e-30)
    assert torch.allclose(y.cpu(), torch.tensor([[0.0, 3.0, -2.0, 5.0]], dtype=torch.float64))


def test_words_are_philox():
    """Known answers of Philox4x32-10 (Random123's kat_vectors), for the reference and the fallback."""
    low, ones = 0, 2**32 - 1
    answers = {
        low: (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
        ones: (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    }
    for word, want in answers.items():
        assert philox4x32((word,) * 4, (word,) * 2) == want
        got = _philox.philox4x32([torch.tensor(word)] * 4, word << 32 | word)
        assert tuple(int(w) for w in got) == want


def kept(R, D, dropout, seed):
    """What the op kept, from its gradient: bias-free rows of positive x keep their sign pattern."""
    x = torch.ones(R, D, device=DEVICE)
    x[:, 0] = 2
    y = relu_norm(x, torch.ones(D, device=DEVICE), torch.zeros(D, device=DEVICE), dropout=dropout, seed=seed)
    return y > y.min(dim=1, keepdim=True).values


def test_mask_is_the_references():
    for seed in (0, SEED, -1):
        want = dropout_mask(9, 203, 0.3, seed)
        assert torch.equal(dropout_factors(9, 203, 0.3, seed, torch.device("cpu")), want)
        assert torch.equal(kept(9, 203, 0.3, seed).cpu(), want > 0)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_mask_keeps_its_rate(rate):
    R, D = 400, 256
    mask = kept(R, D, rate, 3).double()
    deviation = (rate * (1 - rate)) ** 0.5
    assert abs(mask.mean().item() - (1 - rate)) < 5 * deviation / (R * D) ** 0.5
    assert (mask.mean(0) - (1 - rate)).abs().max() < 5 * deviation / R**0.5
    assert (mask.mean(1) - (1 - rate)).abs().max() < 5 * deviation / D**0.5
    # neighbours along rows and columns, and another seed, are uncorrelated
    centred = (mask - mask.mean()) / deviation
    other = (kept(R, D, rate, 4).double() - (1 - rate)) / deviation
    for a, b in ((centred[:, 1:], centred[:, :-1]), (centred[1:], centred[:-1]), (centred, other)):
        assert abs((a * b).mean().item()) < 5 / a.numel() ** 0.5


def test_attention_draws_other_numbers_from_the_same_seed():
    from gnnaccel.baselines.reference.temporal_attention import dropout_mask as attention_mask

    ours = dropout_mask(64, 64, 0.5, 9)
    theirs = attention_mask(64, 64, 64, 0.5, 9)[:, 0]
    assert 0.4 < (ours == theirs).double().mean() < 0.6


@pytest.mark.skipif(not HAS_CPP or INTERPRET or DEVICE != "cpu", reason="a promise of the CPU extension")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("D", [1, 100, 133])
def test_a_row_does_not_know_the_others(D, dtype):
    x, w, b = tensors(300, D, dtype)
    whole, whole_grad, *_ = results(x, w, b)
    g = torch.cos(torch.arange(whole.numel(), dtype=torch.float64)).view(whole.shape).to(whole)
    for size in (1, 2, 3, 8, 64, 65, 299):
        pick = torch.randperm(300)[:size]
        for n in (1, 2):
            with threads(n):
                part = x.detach()[pick].requires_grad_()
                y = relu_norm(part, w, b)
                (grad,) = torch.autograd.grad(y, part, g[pick])
            assert torch.equal(y, whole[pick])
            assert torch.equal(grad, whole_grad[pick])
    # with dropout a row's number counts: the first rows do not see those after them
    dropped, dropped_grad, *_ = results(x, w, b, dropout=0.3, seed=1)
    first = x.detach()[:70].requires_grad_()
    y = relu_norm(first, w, b, dropout=0.3, seed=1)
    assert torch.equal(y, dropped[:70])
    assert torch.equal(torch.autograd.grad(y, first, g[:70])[0], dropped_grad[:70])


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_bits_do_not_depend_on_threads(dropout):
    x, w, b = tensors(1800, 100)
    runs = []
    for n in (1, 2, 3):
        with threads(n):
            runs.append(results(x, w, b, dropout=dropout, seed=2))
    for run in runs[1:]:
        for a, e in zip(run, runs[0], strict=True):
            assert torch.equal(a, e)


def test_nan_stays():
    x, w, b = tensors(3, 8)
    with torch.no_grad():
        x[1, 2] = float("nan")
    y = relu_norm(x, w, b)
    assert y[1].isnan().all()
    assert y[[0, 2]].isfinite().all()


def test_no_draw_without_dropout():
    x, w, b = tensors(5, 9)
    assert torch.equal(relu_norm(x, w, b, seed=1), relu_norm(x, w, b, seed=2))


@pytest.mark.skipif(not HAS_CPP or INTERPRET or DEVICE != "cpu", reason="about the CPU extension")
@pytest.mark.parametrize("level", ["portable", "avx2", "avx512"])
def test_instruction_sets_draw_the_same(level):
    code = (
        "import torch\n"
        "from gnnaccel.ops._relu_norm import dropout_factors, relu_norm\n"
        "for D in (1, 7, 32, 203):\n"
        "    x = torch.ones(5, D).requires_grad_()\n"
        "    w = torch.ones(D)\n"
        "    y = relu_norm(torch.arange(1.0, D + 1).expand(5, D), w, w * 0, dropout=0.3, seed=-7)\n"
        "    f = dropout_factors(5, D, 0.3, -7, x.device)\n"
        "    want = torch.nn.functional.layer_norm(f.float() * torch.arange(1.0, D + 1), (D,))\n"
        "    torch.testing.assert_close(y, want, atol=1e-5, rtol=1e-5)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "GNNACCEL_SIMD": level})


X, ONES = torch.rand(4, 3), torch.ones(3)


@pytest.mark.parametrize(
    ("args", "options", "error", "match"),
    [
        ((torch.arange(3), ONES, ONES), {}, TypeError, "x must be floating, got torch.int64"),
        ((torch.rand(3), ONES, ONES), {}, ValueError, r"x must be \[R, D\], got \[3\]"),
        ((X, torch.ones(2), ONES), {}, ValueError, r"weight must be \[3\], got \[2\]"),
        ((X, ONES, torch.ones(3, 1)), {}, ValueError, r"bias must be \[3\], got \[3, 1\]"),
        ((X, ONES.double(), ONES), {}, TypeError, "weight must have the dtype of x .*, got torch.float64"),
        ((X, ONES, ONES), {"dropout": 1.0}, ValueError, r"dropout must be in \[0, 1\), got 1.0"),
        ((X, ONES, ONES), {"eps": 0.0}, ValueError, "eps must be above 0, got 0.0"),
    ],
)
def test_errors(args, options, error, match):
    with pytest.raises(error, match=match):
        relu_norm(*args, **options)
