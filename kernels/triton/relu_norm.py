"""LayerNorm(ReLU(dropout(x))) * weight + bias and its gradients: a program takes whole rows, a few at a time."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gnnaccel.kernels.aot import KernelSpec
from gnnaccel.kernels.triton._seed import seed_of
from gnnaccel.kernels.triton._tuning import tuned

#: 0xEE6F726D as int32: the fourth word of the counters.
STREAM = tl.constexpr(0xEE6F726D - 2**32)


@triton.jit
def _words(seed, o_r, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr):
    """Random words [BLOCK_R, BLOCK_D]: Philox4x32-10 with counter (row low, column // 4, row high, STREAM), one draw for
    four columns."""
    o_g = tl.arange(0, BLOCK_D // 4)
    zero = tl.zeros([BLOCK_R, BLOCK_D // 4], tl.int32)
    low = (o_r & 0x7FFFFFFF).to(tl.int32)
    low = tl.where(((o_r >> 31) & 1) != 0, low | -2147483648, low)
    high = (o_r >> 32).to(tl.int32)
    seed = seed_of(seed)
    w0, w1, w2, w3 = tl.philox(seed, zero + low[:, None], zero + o_g[None, :], zero + high[:, None], zero + STREAM)
    return tl.interleave(tl.interleave(w0, w2), tl.interleave(w1, w3))


@triton.jit
def _rectified(
    x,
    seed,
    o_r,
    o_d,
    m,
    D,
    THRESHOLD: tl.constexpr,
    SCALE: tl.constexpr,
    DROPOUT: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """relu(dropout(x)) [BLOCK_R, BLOCK_D], 0 outside; NaN stays NaN."""
    b_x = tl.load(x + o_r[:, None] * D + o_d[None, :], mask=m, other=0.0).to(ACC)
    b_zero = tl.zeros([BLOCK_R, BLOCK_D], ACC)
    b_h = tl.where(b_x <= 0, b_zero, b_x)
    if DROPOUT:
        b_word = (_words(seed, o_r, BLOCK_R, BLOCK_D) >> 8).to(tl.int32)
        b_h = tl.where(b_word < THRESHOLD, b_zero, b_h * tl.full([], SCALE, ACC))
    return b_h


@triton.jit(do_not_specialize=["seed"])
def relu_norm_fwd_kernel(
    x,
    weight,
    bias,
    y,
    mean,
    rstd,
    R,
    D,
    seed,
    EPS: tl.constexpr,
    THRESHOLD: tl.constexpr,
    SCALE: tl.constexpr,
    DROPOUT: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    o_r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    o_d = tl.arange(0, BLOCK_D)
    m_r, m_d = o_r < R, o_d < D
    m = m_r[:, None] & m_d[None, :]
    b_h = _rectified(x, seed, o_r, o_d, m, D, THRESHOLD, SCALE, DROPOUT, ACC, BLOCK_R, BLOCK_D)
    b_mean = tl.sum(b_h, axis=1) / D
    b_c = tl.where(m, b_h - b_mean[:, None], tl.zeros([BLOCK_R, BLOCK_D], ACC))
    b_rstd = 1.0 / tl.sqrt(tl.sum(b_c * b_c, axis=1) / D + tl.full([], EPS, ACC))
    b_w = tl.load(weight + o_d, mask=m_d, other=0.0).to(ACC)
    b_b = tl.load(bias + o_d, mask=m_d, other=0.0).to(ACC)
    b_y = b_c * b_rstd[:, None] * b_w[None, :] + b_b[None, :]
    tl.store(y + o_r[:, None] * D + o_d[None, :], b_y.to(y.dtype.element_ty), mask=m)
    tl.store(mean + o_r, b_mean, mask=m_r)
    tl.store(rstd + o_r, b_rstd, mask=m_r)


@triton.jit(do_not_specialize=["seed"])
def relu_norm_bwd_kernel(
    grad,
    x,
    weight,
    mean,
    rstd,
    dx,
    partial_w,
    partial_b,
    R,
    D,
    seed,
    steps,
    THRESHOLD: tl.constexpr,
    SCALE: tl.constexpr,
    DROPOUT: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    i_p = tl.program_id(0).to(tl.int64)
    o_d = tl.arange(0, BLOCK_D)
    m_d = o_d < D
    b_w = tl.load(weight + o_d, mask=m_d, other=0.0).to(ACC)
    b_dw = tl.zeros([BLOCK_D], ACC)
    b_db = tl.zeros([BLOCK_D], ACC)
    b_zero = tl.zeros([BLOCK_R, BLOCK_D], ACC)
    for i in range(0, steps):
        o_r = (i_p * steps + i) * BLOCK_R + tl.arange(0, BLOCK_R)
        m_r = o_r < R
        m = m_r[:, None] & m_d[None, :]
        b_h = _rectified(x, seed, o_r, o_d, m, D, THRESHOLD, SCALE, DROPOUT, ACC, BLOCK_R, BLOCK_D)
        b_mean = tl.load(mean + o_r, mask=m_r, other=0.0)
        b_rstd = tl.load(rstd + o_r, mask=m_r, other=0.0)
        b_dy = tl.load(grad + o_r[:, None] * D + o_d[None, :], mask=m, other=0.0).to(ACC)
        b_n = tl.where(m, (b_h - b_mean[:, None]) * b_rstd[:, None], b_zero)
        b_g = b_dy * b_w[None, :]
        b_0 = tl.sum(b_g, axis=1) / D
        b_1 = tl.sum(b_g * b_n, axis=1) / D
        b_d = (b_g - b_0[:, None] - b_n * b_1[:, None]) * (b_rstd * tl.full([], SCALE, ACC))[:, None]
        b_d = tl.where(b_h <= 0, b_zero, b_d)
        tl.store(dx + o_r[:, None] * D + o_d[None, :], b_d.to(dx.dtype.element_ty), mask=m)
        b_dw += tl.sum(b_dy * b_n, axis=0)
        b_db += tl.sum(b_dy, axis=0)
    tl.store(partial_w + i_p * D + o_d, b_dw, mask=m_d)
    tl.store(partial_b + i_p * D + o_d, b_db, mask=m_d)


MAX_COLUMNS, MAX_PARTIALS = 4096, 1024


def _acc(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _blocks(x: Tensor) -> dict[str, int]:
    D = x.shape[1]
    if D > MAX_COLUMNS:
        raise ValueError(f"relu_norm: x must have at most {MAX_COLUMNS} columns on CUDA, got {D}")
    block = max(triton.next_power_of_2(D), 4)
    sizes = tuned("relu_norm", x.device)
    # 16 elements a thread
    warps = max(block // 512, sizes["num_warps"])
    return {"BLOCK_R": max(sizes["TILE"] // block, 1), "BLOCK_D": block, "num_warps": warps}


def _options(x: Tensor, dropout: float) -> dict[str, object]:
    # compile-time: a run-time float is a float32
    return {
        "THRESHOLD": int(dropout * 2**24),
        "SCALE": 1.0 / (1.0 - dropout),
        "DROPOUT": dropout > 0,
        "ACC": tl.float64 if x.dtype == torch.float64 else tl.float32,
        **_blocks(x),
    }


def relu_norm_fwd(
    x: Tensor, weight: Tensor, bias: Tensor, dropout: float, seed: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    R, D = x.shape
    y = torch.empty_like(x)
    mean = torch.empty(R, dtype=_acc(x), device=x.device)
    rstd = torch.empty_like(mean)
    if x.numel() == 0:
        return y, mean.zero_(), rstd.fill_(eps**-0.5)
    options = _options(x, dropout)
    grid = (triton.cdiv(R, options["BLOCK_R"]),)
    relu_norm_fwd_kernel[grid](x, weight, bias, y, mean, rstd, R, D, seed, EPS=eps, **options)
    return y, mean, rstd


def relu_norm_bwd(
    grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor, dropout: float, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    R, D = x.shape
    dx = torch.empty_like(x)
    if x.numel() == 0:
        return dx, torch.zeros_like(weight), torch.zeros_like(weight)
    options = _options(x, dropout)
    # one partial sum a program, added up in a fixed order by torch: no atomics, same bits every run
    blocks = triton.cdiv(R, options["BLOCK_R"])
    steps = triton.cdiv(blocks, MAX_PARTIALS)
    programs = triton.cdiv(blocks, steps)
    partial_w = torch.empty((programs, D), dtype=_acc(x), device=x.device)
    partial_b = torch.empty_like(partial_w)
    relu_norm_bwd_kernel[(programs,)](
        grad, x, weight, mean, rstd, dx, partial_w, partial_b, R, D, seed, steps, **options
    )
    return dx, partial_w.sum(0).to(weight.dtype), partial_b.sum(0).to(weight.dtype)


_SIGNATURE = dict.fromkeys(
    ("x", "weight", "bias", "y", "mean", "rstd", "grad", "dx", "partial_w", "partial_b"), "*fp32"
)
_SIGNATURE |= {"R": "i32", "D": "i32", "seed": "i64", "steps": "i32"}
_TILE = {"THRESHOLD": int(0.1 * 2**24), "SCALE": 1 / 0.9, "DROPOUT": True, "ACC": tl.float32}
_TILE |= {"BLOCK_R": tuned("relu_norm")["TILE"] // 128, "BLOCK_D": 128}
_PLAIN = {**_TILE, "THRESHOLD": 0, "SCALE": 1.0, "DROPOUT": False}
_WIDE = {**_TILE, "BLOCK_R": 1, "BLOCK_D": MAX_COLUMNS}
KERNELS = [
    KernelSpec("relu_norm_fwd", relu_norm_fwd_kernel, _SIGNATURE, {**_PLAIN, "EPS": 1e-5}),
    KernelSpec("relu_norm_fwd_dropout", relu_norm_fwd_kernel, _SIGNATURE, {**_TILE, "EPS": 1e-5}),
    KernelSpec("relu_norm_fwd_keyed", relu_norm_fwd_kernel, {**_SIGNATURE, "seed": "*i64"}, {**_TILE, "EPS": 1e-5}),
    KernelSpec("relu_norm_fwd_wide", relu_norm_fwd_kernel, _SIGNATURE, {**_WIDE, "EPS": 1e-5}, num_warps=8),
    KernelSpec("relu_norm_bwd", relu_norm_bwd_kernel, _SIGNATURE, _PLAIN),
    KernelSpec("relu_norm_bwd_dropout", relu_norm_bwd_kernel, _SIGNATURE, _TILE),
    KernelSpec("relu_norm_bwd_keyed", relu_norm_bwd_kernel, {**_SIGNATURE, "seed": "*i64"}, _TILE),
    KernelSpec("relu_norm_bwd_wide", relu_norm_bwd_kernel, _SIGNATURE, _WIDE, num_warps=8),
]
