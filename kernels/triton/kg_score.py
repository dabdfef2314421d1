"""Distances of query rows from candidate rows, and their gradients: tiles of differences in registers, never in memory.

Products are left to torch's matrix product. Rows are cut into slabs of BLOCK_K columns; of complex rows a slab holds that many
real and as many imaginary parts.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gnnaccel.kernels.aot import KernelSpec
from gnnaccel.kernels.triton._tuning import tuned, without_warps

# as in ops/_kg_compare.py; 0 is the product
L1, L2, MODULUS = tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)


@triton.jit
def _difference(a, b, o_a, o_b, m_a, m_b, o_k, m_k, stride, ACC: tl.constexpr):
    """[BLOCK_A, BLOCK_B, BLOCK_K]"""
    b_a = tl.load(a + o_a[:, None] * stride + o_k[None, :], mask=m_a[:, None] & m_k[None, :], other=0.0).to(ACC)
    b_b = tl.load(b + o_b[:, None] * stride + o_k[None, :], mask=m_b[:, None] & m_k[None, :], other=0.0).to(ACC)
    return b_a[:, None, :] - b_b[None, :, :]


@triton.jit
def kg_compare_fwd_kernel(
    q,
    n,
    out,
    S,
    N,
    K,
    blocks_s,
    blocks_n,
    KIND: tl.constexpr,
    GAMMA: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    pid = tl.program_id(0)
    i_c = (pid // blocks_n // blocks_s).to(tl.int64)
    o_s = pid // blocks_n % blocks_s * BLOCK_S + tl.arange(0, BLOCK_S)
    o_n = pid % blocks_n * BLOCK_N + tl.arange(0, BLOCK_N)
    m_s, m_n = o_s < S, o_n < N
    r_s, r_n = i_c * S + o_s, i_c * N + o_n
    stride = K * 2 if KIND == MODULUS else K
    b_sum = tl.zeros([BLOCK_S, BLOCK_N], ACC)
    for k in range(0, K, BLOCK_K):
        o_k = k + tl.arange(0, BLOCK_K)
        m_k = o_k < K
        b_x = _difference(q, n, r_s, r_n, m_s, m_n, o_k, m_k, stride, ACC)
        if KIND == L1:
            b_sum += tl.sum(tl.abs(b_x), axis=2)
        elif KIND == L2:
            b_sum += tl.sum(b_x * b_x, axis=2)
        else:
            b_y = _difference(q, n, r_s, r_n, m_s, m_n, o_k + K, m_k, stride, ACC)
            b_sum += tl.sum(tl.sqrt(b_x * b_x + b_y * b_y), axis=2)
    if KIND == L2:
        b_sum = tl.sqrt(b_sum)
    b_score = tl.full([], GAMMA, ACC) - b_sum
    tl.store(out + r_s[:, None] * N + o_n[None, :], b_score.to(out.dtype.element_ty), mask=m_s[:, None] & m_n[None, :])


@triton.jit
def kg_compare_bwd_kernel(
    grad,
    a,
    b,
    da,
    A,
    B,
    K,
    stride_a,
    stride_b,
    blocks_a,
    blocks_k,
    KIND: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_A: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Gradient in the A rows of `a` of the sum of grad times gamma less the distance; for L2 grad is divided by it before.

    Of the queries, with the candidates as `b`, or the other way round, with grad's strides exchanged.
    """
    pid = tl.program_id(0)
    i_c = (pid // blocks_k // blocks_a).to(tl.int64)
    o_a = pid // blocks_k % blocks_a * BLOCK_A + tl.arange(0, BLOCK_A)
    o_k = pid % blocks_k * BLOCK_K + tl.arange(0, BLOCK_K)
    m_a, m_k = o_a < A, o_k < K
    r_a = i_c * A + o_a
    stride = K * 2 if KIND == MODULUS else K
    b_dx = tl.zeros([BLOCK_A, BLOCK_K], ACC)
    b_dy = tl.zeros([BLOCK_A, BLOCK_K], ACC)
    for j in range(0, B, BLOCK_B):
        o_b = j + tl.arange(0, BLOCK_B)
        m_b = o_b < B
        r_b = i_c * B + o_b
        p_g = grad + i_c * A * B + o_a.to(tl.int64)[:, None] * stride_a + o_b.to(tl.int64)[None, :] * stride_b
        b_g = tl.load(p_g, mask=m_a[:, None] & m_b[None, :], other=0.0).to(ACC)[:, :, None]
        b_x = _difference(a, b, r_a, r_b, m_a, m_b, o_k, m_k, stride, ACC)
        if KIND == L1:
            b_dx -= tl.sum(tl.where(b_x > 0, b_g, tl.where(b_x < 0, -b_g, b_g * b_x)), axis=1)
        elif KIND == L2:
            b_dx -= tl.sum(b_g * b_x, axis=1)
        else:
            b_y = _difference(a, b, r_a, r_b, m_a, m_b, o_k + K, m_k, stride, ACC)
            b_d = b_x * b_x + b_y * b_y
            b_w = tl.where(b_d == 0, 0.0, b_g * tl.rsqrt(tl.where(b_d == 0, 1.0, b_d)))
            b_dx -= tl.sum(b_w * b_x, axis=1)
            b_dy -= tl.sum(b_w * b_y, axis=1)
    p_a, m = da + r_a[:, None] * stride + o_k[None, :], m_a[:, None] & m_k[None, :]
    tl.store(p_a, b_dx.to(da.dtype.element_ty), mask=m)
    if KIND == MODULUS:
        tl.store(p_a + K, b_dy.to(da.dtype.element_ty), mask=m)


def _backward_sizes(kind: int, device: torch.device | None = None) -> dict[str, int]:
    return tuned("kg_score_bwd_modulus" if kind == MODULUS.value else "kg_score_bwd", device)  # two parts of everything


def _columns(D: int, kind: int) -> int:
    return D // 2 if kind == MODULUS.value else D


def _acc(q: Tensor) -> tl.dtype:
    return tl.float64 if q.dtype == torch.float64 else tl.float32


def kg_distances(q: Tensor, n: Tensor, kind: int, gamma: float, dtype: torch.dtype) -> Tensor:
    """gamma less the distances, `[C, S, N]`, as `dtype`."""
    (C, S, D), N = q.shape, n.shape[1]
    out = torch.empty((C, S, N), dtype=dtype, device=q.device)
    sizes = tuned("kg_score_fwd", q.device)
    blocks_s, blocks_n = triton.cdiv(S, sizes["BLOCK_S"]), triton.cdiv(N, sizes["BLOCK_N"])
    if out.numel():
        kg_compare_fwd_kernel[(C * blocks_s * blocks_n,)](
            q, n, out, S, N, _columns(D, kind), blocks_s, blocks_n, KIND=kind, GAMMA=gamma, ACC=_acc(q), **sizes
        )
    return out


def _gradient(grad: Tensor, a: Tensor, b: Tensor, kind: int, acc: tl.dtype) -> Tensor:
    """Of the rows `a` [C, A, D] from grad [C, A, B], which may be transposed."""
    C, A, D = a.shape
    B, K = b.shape[1], _columns(D, kind)
    da = torch.empty_like(a)
    blocks = _backward_sizes(kind, a.device)
    blocks_a, blocks_k = triton.cdiv(A, blocks["BLOCK_A"]), triton.cdiv(K, blocks["BLOCK_K"])
    if da.numel():
        kg_compare_bwd_kernel[(C * blocks_a * blocks_k,)](
            grad, a, b, da, A, B, K, grad.stride(1), grad.stride(2), blocks_a, blocks_k, KIND=kind, ACC=acc, **blocks
        )
    return da


def kg_distance_gradients(grad: Tensor, q: Tensor, n: Tensor, kind: int) -> tuple[Tensor, Tensor]:
    """Gradients in `q` and `n`; grad `[C, S, N]`, contiguous. No atomics: each program owns what it writes."""
    if kind == L2.value:
        d = -kg_distances(q, n, kind, 0.0, q.dtype)
        grad = torch.where(d > 0, grad.to(q.dtype) / d, 0.0)
    return _gradient(grad, q, n, kind, _acc(q)), _gradient(grad.transpose(1, 2), n, q, kind, _acc(q))


_SIGNATURE = dict.fromkeys(("q", "n", "out", "grad", "a", "b", "da"), "*fp32")
_SIGNATURE |= dict.fromkeys(("S", "N", "K", "A", "B", "blocks_s", "blocks_n", "blocks_a", "blocks_k"), "i32")
_SIGNATURE |= dict.fromkeys(("stride_a", "stride_b"), "i32")
_KINDS = {"l1": L1.value, "l2": L2.value, "modulus": MODULUS.value}
KERNELS = [
    *(
        KernelSpec(
            f"kg_compare_fwd_{name}",
            kg_compare_fwd_kernel,
            _SIGNATURE,
            {"KIND": kind, "GAMMA": 12.0, "ACC": tl.float32, **without_warps(tuned("kg_score_fwd"))},
        )
        for name, kind in _KINDS.items()
    ),
    *(
        KernelSpec(
            f"kg_compare_bwd_{name}",
            kg_compare_bwd_kernel,
            _SIGNATURE,
            {"KIND": kind, "ACC": tl.float32, **without_warps(_backward_sizes(kind))},
        )
        for name, kind in _KINDS.items()
    ),
]
