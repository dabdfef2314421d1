"""phi(dt) = cos(dt * w + b) and its gradient in w and b."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gnnaccel.kernels.aot import KernelSpec
from gnnaccel.kernels.triton._time import cos_turns, sin_turns, turns
from gnnaccel.kernels.triton._tuning import tuned


@triton.jit
def time_encode_fwd_kernel(dt, w, b, out, n, T, ACC: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr):
    o_n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    o_t = tl.program_id(1) * BLOCK_T + tl.arange(0, BLOCK_T)
    m_n, m_t = o_n < n, o_t < T
    b_dt = tl.load(dt + o_n, mask=m_n, other=0).to(tl.float64)
    b_w = tl.load(w + o_t, mask=m_t, other=0.0).to(tl.float64)
    b_b = tl.load(b + o_t, mask=m_t, other=0.0).to(tl.float64)
    # [BLOCK_N, BLOCK_T]
    b_out = cos_turns(turns(b_dt[:, None], b_w[None, :], b_b[None, :]), ACC)
    tl.store(out + o_n[:, None] * T + o_t[None, :], b_out.to(out.dtype.element_ty), mask=m_n[:, None] & m_t[None, :])


@triton.jit
def time_encode_bwd_kernel(
    grad, dt, w, b, partial_w, partial_b, n, T, ACC: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr
):
    i_n = tl.program_id(0).to(tl.int64)
    o_n = i_n * BLOCK_N + tl.arange(0, BLOCK_N)
    o_t = tl.program_id(1) * BLOCK_T + tl.arange(0, BLOCK_T)
    m_n, m_t = o_n < n, o_t < T
    b_dt = tl.load(dt + o_n, mask=m_n, other=0).to(tl.float64)
    b_w = tl.load(w + o_t, mask=m_t, other=0.0).to(tl.float64)
    b_b = tl.load(b + o_t, mask=m_t, other=0.0).to(tl.float64)
    m = m_n[:, None] & m_t[None, :]
    b_g = tl.load(grad + o_n[:, None] * T + o_t[None, :], mask=m, other=0.0).to(ACC)
    b_d = (-sin_turns(turns(b_dt[:, None], b_w[None, :], b_b[None, :]), ACC) * b_g).to(tl.float64)
    tl.store(partial_b + i_n * T + o_t, tl.sum(b_d, axis=0), mask=m_t)
    tl.store(partial_w + i_n * T + o_t, tl.sum(b_d * b_dt[:, None], axis=0), mask=m_t)


_DEFAULT = tuned("time_encode")
BLOCK_N, BLOCK_T = _DEFAULT["BLOCK_N"], _DEFAULT["BLOCK_T"]


def _acc(w: Tensor) -> tl.dtype:
    return tl.float64 if w.dtype == torch.float64 else tl.float32


def time_encode_fwd(dt: Tensor, w: Tensor, b: Tensor) -> Tensor:
    n, T = dt.numel(), w.shape[0]
    out = torch.empty((*dt.shape, T), dtype=w.dtype, device=w.device)
    if out.numel() == 0:
        return out
    sizes = tuned("time_encode", w.device)
    grid = (triton.cdiv(n, sizes["BLOCK_N"]), triton.cdiv(T, sizes["BLOCK_T"]))
    time_encode_fwd_kernel[grid](dt, w, b, out, n, T, ACC=_acc(w), **sizes)
    return out


def time_encode_bwd(grad: Tensor, dt: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    n, T = dt.numel(), w.shape[0]
    if n == 0 or T == 0:
        return torch.zeros_like(w), torch.zeros_like(b)
    # one partial sum a block, added up in a fixed order by torch: no atomics, same bits every run
    sizes = tuned("time_encode", w.device)
    blocks = triton.cdiv(n, sizes["BLOCK_N"])
    partial_w = torch.empty((blocks, T), dtype=torch.float64, device=w.device)
    partial_b = torch.empty_like(partial_w)
    time_encode_bwd_kernel[(blocks, triton.cdiv(T, sizes["BLOCK_T"]))](
        grad, dt, w, b, partial_w, partial_b, n, T, ACC=_acc(w), **sizes
    )
    return partial_w.sum(0).to(w.dtype), partial_b.sum(0).to(b.dtype)


_BLOCKS = {"ACC": tl.float32, "BLOCK_N": BLOCK_N, "BLOCK_T": BLOCK_T}
KERNELS = [
    KernelSpec(
        "time_encode_fwd",
        time_encode_fwd_kernel,
        {"dt": "*i64", "w": "*fp32", "b": "*fp32", "out": "*fp32", "n": "i32", "T": "i32"},
        _BLOCKS,
    ),
    KernelSpec(
        "time_encode_bwd",
        time_encode_bwd_kernel,
        {
            "grad": "*fp32",
            "dt": "*i64",
            "w": "*fp32",
            "b": "*fp32",
            "partial_w": "*fp64",
            "partial_b": "*fp64",
            "n": "i32",
            "T": "i32",
        },
        _BLOCKS,
    ),
]
