"""Losses of query rows against candidates and their gradients, in the shape of flash attention: scores in registers.

The forward kernel goes over the candidates of a tile of rows once and keeps, for each row, the largest score and sums relative
to it. The backward kernel makes the scores anew, once for the queries and once, the roles exchanged, for the candidates; a
program adds to rows that are its own, without atomics. Excluded candidates are bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gnnaccel.kernels.aot import KernelSpec
from gnnaccel.kernels.triton._tuning import tuned
from gnnaccel.kernels.triton.kg_score import L1, L2, MODULUS, _acc, _columns, _difference

# terms of a score y: log(1 + exp y); max(0, y); exp y
SOFT, HINGE, EXPONENTIAL = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
DOT = tl.constexpr(0)


@triton.jit
def _scores(
    a, b, r_a, r_b, m_a, m_b, K, KIND: tl.constexpr, GAMMA: tl.constexpr, ACC: tl.constexpr, BLOCK_K: tl.constexpr
):
    """[BLOCK_A, BLOCK_B]"""
    stride = K * 2 if KIND == MODULUS else K
    b_sum = tl.zeros([r_a.shape[0], r_b.shape[0]], ACC)
    for k in range(0, K, BLOCK_K):
        o_k = k + tl.arange(0, BLOCK_K)
        m_k = o_k < K
        if KIND == DOT:
            b_a = tl.load(a + r_a[:, None] * stride + o_k[None, :], mask=m_a[:, None] & m_k[None, :], other=0.0)
            b_b = tl.load(b + r_b[None, :] * stride + o_k[:, None], mask=m_b[None, :] & m_k[:, None], other=0.0)
            b_sum += tl.dot(b_a.to(ACC), b_b.to(ACC), input_precision="ieee", out_dtype=ACC)
        else:
            b_x = _difference(a, b, r_a, r_b, m_a, m_b, o_k, m_k, stride, ACC)
            if KIND == L1:
                b_sum += tl.sum(tl.abs(b_x), axis=2)
            elif KIND == L2:
                b_sum += tl.sum(b_x * b_x, axis=2)
            else:
                b_y = _difference(a, b, r_a, r_b, m_a, m_b, o_k + K, m_k, stride, ACC)
                b_sum += tl.sum(tl.sqrt(b_x * b_x + b_y * b_y), axis=2)
    return b_sum


@triton.jit
def _candidates(bits, words, r_q, r_n, m, HAS_BITS: tl.constexpr):
    """Whether candidate r_n, a number in its chunk, is one of row r_q."""
    if HAS_BITS:
        b_word = tl.load(bits + r_q * words + r_n // 32, mask=m, other=0)
        m = m & (((b_word >> (r_n % 32).to(tl.int32)) & 1) == 0)
    return m


@triton.jit
def _terms(b_y, TERM: tl.constexpr):
    """Of y the term and its slope; 0 both for -inf."""
    if TERM == SOFT:
        b_e = tl.exp(-tl.abs(b_y))
        # log(1 + e), to the last digit for small e too
        b_u = 1 + b_e
        b_more = tl.where(b_u == 1, b_e, tl.log(b_u) * (b_e / tl.where(b_u == 1, 1.0, b_u - 1)))
        b_t = tl.where(b_y > 0, b_y, 0.0) + b_more
        b_s = tl.where(b_y > 0, 1.0, b_e) / b_u
    else:
        b_t = tl.where(b_y < 0, 0.0, b_y)
        b_s = tl.where(b_y > 0, 1.0, 0.0)
    return b_t, b_s


@triton.jit
def kg_loss_fwd_kernel(
    q,
    n,
    shift,
    top,
    mass,
    terms,
    slopes,
    bits,
    S,
    N,
    K,
    words,
    blocks,
    KIND: tl.constexpr,
    TERM: tl.constexpr,
    WEIGHTED: tl.constexpr,
    GAMMA: tl.constexpr,
    TEMPERATURE: tl.constexpr,
    HAS_BITS: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_A: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Sums over the candidates of each row. `top` comes in as the least largest score."""
    pid = tl.program_id(0)
    i_c = (pid // blocks).to(tl.int64)
    o_s = pid % blocks * BLOCK_A + tl.arange(0, BLOCK_A)
    m_s = o_s < S
    r_s = i_c * S + o_s
    b_shift = tl.load(shift + r_s, mask=m_s, other=0.0)
    b_top = tl.load(top + r_s, mask=m_s, other=0.0)
    b_mass = tl.zeros([BLOCK_A], ACC)
    b_terms = tl.zeros([BLOCK_A], ACC)
    b_slopes = tl.zeros([BLOCK_A], ACC)
    for j in range(0, N, BLOCK_B):
        o_n = j + tl.arange(0, BLOCK_B)
        m_n = o_n < N
        b_sum = _scores(q, n, r_s, i_c * N + o_n, m_s, m_n, K, KIND, GAMMA, ACC, BLOCK_K)
        if KIND == L2:
            b_sum = tl.sqrt(b_sum)
        b_x = b_sum if KIND == DOT else tl.full([], GAMMA, ACC) - b_sum
        m = _candidates(bits, words, r_s[:, None], o_n[None, :], m_s[:, None] & m_n[None, :], HAS_BITS)
        b_x = tl.where(m, b_x, float("-inf"))
        if TERM == EXPONENTIAL or WEIGHTED:
            b_new = tl.maximum(b_top, tl.max(b_x, axis=1))
            # rows without any candidate so far
            b_at = tl.where(b_new == float("-inf"), 0.0, b_new)
            b_before = tl.exp((b_top - b_at) * TEMPERATURE)
            b_p = tl.exp((b_x - b_at[:, None]) * TEMPERATURE)
            b_top = b_new
            b_mass = b_mass * b_before + tl.sum(b_p, axis=1)
        if TERM != EXPONENTIAL:
            b_t, b_s = _terms(b_x + b_shift[:, None], TERM)
            if WEIGHTED:
                b_terms = b_terms * b_before + tl.sum(b_p * b_t, axis=1)
                b_slopes = b_slopes * b_before + tl.sum(b_p * b_s, axis=1)
            else:
                b_terms += tl.sum(b_t, axis=1)
                b_slopes += tl.sum(b_s, axis=1)
    tl.store(top + r_s, b_top, mask=m_s)
    tl.store(mass + r_s, b_mass, mask=m_s)
    tl.store(terms + r_s, b_terms, mask=m_s)
    tl.store(slopes + r_s, b_slopes, mask=m_s)


@triton.jit
def kg_loss_bwd_kernel(
    a,
    b,
    da,
    shift,
    top,
    factor,
    bits,
    A,
    B,
    K,
    words,
    blocks,
    KIND: tl.constexpr,
    TERM: tl.constexpr,
    WEIGHTED: tl.constexpr,
    GAMMA: tl.constexpr,
    TEMPERATURE: tl.constexpr,
    HAS_BITS: tl.constexpr,
    ACC: tl.constexpr,
    QUERIES: tl.constexpr,
    BLOCK_A: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Adds to da the gradients of the rows `a`: queries, with the candidates as `b`, or the other way round."""
    pid = tl.program_id(0)
    i_c = (pid // blocks).to(tl.int64)
    o_a = pid % blocks * BLOCK_A + tl.arange(0, BLOCK_A)
    m_a = o_a < A
    r_a = i_c * A + o_a
    stride = K * 2 if KIND == MODULUS else K
    for j in range(0, B, BLOCK_B):
        o_b = j + tl.arange(0, BLOCK_B)
        m_b = o_b < B
        r_b = i_c * B + o_b
        b_sum = _scores(a, b, r_a, r_b, m_a, m_b, K, KIND, GAMMA, ACC, BLOCK_K)
        if KIND == L2:
            b_sum = tl.sqrt(b_sum)
        b_x = b_sum if KIND == DOT else tl.full([], GAMMA, ACC) - b_sum
        m = m_a[:, None] & m_b[None, :]
        # [BLOCK_A, 1] or [1, BLOCK_B]: what belongs to queries
        if QUERIES:
            r_q, m_q = r_a[:, None], m_a[:, None]
            m = _candidates(bits, words, r_q, o_b[None, :], m, HAS_BITS)
        else:
            r_q, m_q = r_b[None, :], m_b[None, :]
            m = _candidates(bits, words, r_q, o_a[:, None], m, HAS_BITS)
        b_x = tl.where(m, b_x, float("-inf"))
        b_g = tl.load(factor + r_q, mask=m_q, other=0.0)
        if TERM == EXPONENTIAL or WEIGHTED:
            b_g = b_g * tl.exp((b_x - tl.load(top + r_q, mask=m_q, other=0.0)) * TEMPERATURE)
        if TERM != EXPONENTIAL:
            _, b_s = _terms(b_x + tl.load(shift + r_q, mask=m_q, other=0.0), TERM)
            b_g = b_g * b_s
        if KIND == L2:
            b_g = tl.where(b_sum == 0, 0.0, b_g / tl.where(b_sum == 0, 1.0, b_sum))
        for k in range(0, K, BLOCK_K):
            o_k = k + tl.arange(0, BLOCK_K)
            m_k = o_k < K
            p_a, m_p = da + r_a[:, None] * stride + o_k[None, :], m_a[:, None] & m_k[None, :]
            b_da = tl.load(p_a, mask=m_p, other=0.0)
            if KIND == DOT:
                b_b = tl.load(b + r_b[:, None] * stride + o_k[None, :], mask=m_b[:, None] & m_k[None, :], other=0.0)
                b_da += tl.dot(b_g, b_b.to(ACC), input_precision="ieee", out_dtype=ACC)
            else:
                b_w = b_g[:, :, None]
                b_d = _difference(a, b, r_a, r_b, m_a, m_b, o_k, m_k, stride, ACC)
                if KIND == L1:
                    b_da -= tl.sum(tl.where(b_d > 0, b_w, tl.where(b_d < 0, -b_w, b_w * b_d)), axis=1)
                elif KIND == L2:
                    b_da -= tl.sum(b_w * b_d, axis=1)
                else:
                    b_y = _difference(a, b, r_a, r_b, m_a, m_b, o_k + K, m_k, stride, ACC)
                    b_r = b_d * b_d + b_y * b_y
                    b_w = tl.where(b_r == 0, 0.0, b_w * tl.rsqrt(tl.where(b_r == 0, 1.0, b_r)))
                    b_da -= tl.sum(b_w * b_d, axis=1)
                    b_db = tl.load(p_a + K, mask=m_p, other=0.0)
                    tl.store(p_a + K, b_db - tl.sum(b_w * b_y, axis=1), mask=m_p)
            tl.store(p_a, b_da, mask=m_p)
        # the next tile reads what this one wrote
        tl.debug_barrier()


def _blocks(kind: int, device: torch.device | None = None) -> dict[str, int]:
    # a modulus has two parts of everything
    return tuned(
        f"kg_loss_{'product' if kind == DOT.value else 'modulus' if kind == MODULUS.value else 'distance'}", device
    )


def _constants(kind: int) -> dict[str, int]:
    return {k: v for k, v in _blocks(kind).items() if k != "num_warps"}


def exclusion_bits(
    indptr: Tensor | None, position: Tensor | None, B: int, N: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Bits `[B, ceil(N / 32)]` of the excluded, int32 (empty without), and how many candidates each row has."""
    count = torch.full((B,), N, dtype=torch.int64, device=device)
    if indptr is None or position is None:
        return torch.zeros((0,), dtype=torch.int32, device=device), count
    row = torch.repeat_interleave(torch.arange(B, device=device), indptr.diff(), output_size=position.numel())
    key = torch.unique(row * N + position)
    words = triton.cdiv(N, 32)
    bits = torch.zeros(B * words, dtype=torch.int64, device=device)
    one = torch.ones_like(key)
    # different powers of two: a sum of integers in any order is their union
    bits.index_add_(0, key // max(N, 1) * words + key % max(N, 1) // 32, one << (key % max(N, 1) % 32))
    count.index_add_(0, key // max(N, 1), -one)
    # the sign bit is the 32nd
    return torch.where(bits >= 1 << 31, bits - (1 << 32), bits).to(torch.int32).view(B, words), count


def kg_loss_sums(
    q: Tensor,
    n: Tensor,
    shift: Tensor,
    top: Tensor,
    bits: Tensor,
    kind: int,
    term: int,
    gamma: float,
    temperature: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over the candidates `[B]`: of weights, of terms and of their slopes; `top` becomes the largest score.

    q `[C, S, D]` and n `[C, N, D]`; `temperature` 0: all weights 1. Weights are relative to the largest.
    """
    (C, S, D), N = q.shape, n.shape[1]
    mass, terms, slopes = (torch.zeros_like(shift) for _ in range(3))
    blocks = _blocks(kind, q.device)
    grid = triton.cdiv(S, blocks["BLOCK_A"])
    relative = temperature != 0
    if C * S:
        kg_loss_fwd_kernel[(C * grid,)](
            q, n, shift, top, mass, terms, slopes, bits, S, N, _columns(D, kind), bits.shape[-1], grid,
            KIND=kind, TERM=term, WEIGHTED=relative and term != EXPONENTIAL.value, GAMMA=gamma, TEMPERATURE=temperature,
            HAS_BITS=bits.numel() > 0, ACC=_acc(q), **blocks,
        )  # fmt: skip
    return mass, terms, slopes


def kg_loss_gradients(
    a: Tensor,
    b: Tensor,
    queries: bool,
    shift: Tensor,
    top: Tensor,
    factor: Tensor,
    bits: Tensor,
    kind: int,
    term: int,
    gamma: float,
    temperature: float,
) -> Tensor:
    """Gradients of the rows `a`, in the dtype of `shift`; `queries`: of the queries, else of the candidates."""
    (C, A, D), B = a.shape, b.shape[1]
    da = torch.zeros(a.shape, dtype=shift.dtype, device=a.device)
    blocks = _blocks(kind, a.device)
    grid = triton.cdiv(A, blocks["BLOCK_A"])
    relative = temperature != 0
    if C * A * B:
        kg_loss_bwd_kernel[(C * grid,)](
            a, b, da, shift, top, factor, bits, A, B, _columns(D, kind), bits.shape[-1], grid,
            KIND=kind, TERM=term, WEIGHTED=relative and term != EXPONENTIAL.value, GAMMA=gamma, TEMPERATURE=temperature,
            HAS_BITS=bits.numel() > 0, ACC=_acc(shift), QUERIES=queries, **blocks,
        )  # fmt: skip
    return da


_SIGNATURE = dict.fromkeys(("q", "n", "a", "b", "da", "shift", "top", "factor", "mass", "terms", "slopes"), "*fp32") | {
    "bits": "*i32"
}
_SIGNATURE |= dict.fromkeys(("S", "N", "K", "A", "B", "words", "blocks"), "i32")
_FIXED = {"GAMMA": 12.0, "TEMPERATURE": 1.0, "HAS_BITS": True, "ACC": tl.float32}
_KINDS = {"dot": DOT.value, "l1": L1.value, "l2": L2.value, "modulus": MODULUS.value}
KERNELS = [
    spec
    for name, kind in _KINDS.items()
    for spec in (
        KernelSpec(
            f"kg_loss_fwd_{name}",
            kg_loss_fwd_kernel,
            _SIGNATURE,
            {"KIND": kind, "TERM": SOFT.value, "WEIGHTED": True, **_FIXED, **_constants(kind)},
        ),
        KernelSpec(
            f"kg_loss_bwd_{name}",
            kg_loss_bwd_kernel,
            _SIGNATURE,
            {
                "KIND": kind,
                "TERM": SOFT.value,
                "WEIGHTED": True,
                "QUERIES": kind != L1.value,
                **_FIXED,
                **_constants(kind),
            },
        ),
    )
]
