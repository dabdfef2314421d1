"""Device functions and launch rules that the attention kernels share. Tiles are [BLOCK_K slots, BLOCK_H heads, columns]."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from gnnaccel.kernels.triton._seed import seed_of
from gnnaccel.kernels.triton._tuning import tuned


@triton.jit
def part(base, stride, o_h, o_d, m_h, n, ACC: tl.constexpr):
    """A [BLOCK_H, BLOCK_D] part of a [H, F] row."""
    return tl.load(base + o_h[:, None] * stride + o_d[None, :], mask=m_h[:, None] & (o_d < n)[None, :], other=0.0).to(
        ACC
    )


@triton.jit
def put(base, stride, o_h, o_d, m_h, n, value):
    tl.store(
        base + o_h[:, None] * stride + o_d[None, :],
        value.to(base.dtype.element_ty),
        mask=m_h[:, None] & (o_d < n)[None, :],
    )


@triton.jit
def dot(x, q):
    """[BLOCK_K, BLOCK_D] and [BLOCK_H, BLOCK_D] to [BLOCK_K, BLOCK_H]."""
    return tl.sum(x[:, None, :] * q[None, :, :], axis=2)


@triton.jit
def mix(p, x):
    """[BLOCK_K, BLOCK_H] and [BLOCK_K, BLOCK_D] to [BLOCK_H, BLOCK_D]."""
    return tl.sum(p[:, :, None] * x[:, None, :], axis=0)


@triton.jit
def back(p, q, e, u):
    """dx [BLOCK_K, BLOCK_D]: what each neighbour's row gets from all heads."""
    return tl.sum(p[:, :, None] * q[None, :, :] + e[:, :, None] * u[None, :, :], axis=1)


@triton.jit
def keep(seed, THRESHOLD: tl.constexpr, KEEP_SCALE: tl.constexpr, i_r, o_k, o_h, ACC: tl.constexpr):
    """Dropout factors [BLOCK_K, BLOCK_H]; Philox4x32-10 with counter (root, head, slot // 4) as in baselines/cpp."""
    seed = seed_of(seed)
    zero = o_k[:, None] * 0 + o_h[None, :] * 0
    low = (i_r & 0x7FFFFFFF).to(tl.int32)
    low = tl.where((i_r >> 31) & 1 != 0, low | -2147483648, low)
    w0, w1, w2, w3 = tl.philox(
        seed, zero + low, zero + o_h[None, :], zero + (o_k // 4)[:, None], zero + (i_r >> 32).to(tl.int32)
    )
    word = (zero + o_k[:, None]) % 4
    b = tl.where(word == 0, w0, tl.where(word == 1, w1, tl.where(word == 2, w2, w3)))
    return tl.where((b >> 8).to(tl.int32) >= THRESHOLD, tl.full([], KEEP_SCALE, ACC), tl.full([], 0.0, ACC))


@triton.jit
def frequencies(time_w, time_b, o_t, T):
    """Frequencies and phases [BLOCK_T] in float64, zero past T."""
    b_w = tl.load(time_w + o_t, mask=o_t < T, other=0.0).to(tl.float64)
    return b_w, tl.load(time_b + o_t, mask=o_t < T, other=0.0).to(tl.float64)


@triton.jit
def online_softmax(
    b_l,
    m_k,
    b_max,
    b_sum,
    b_s,
    seed,
    i_r,
    o_k,
    o_h,
    SCALE: tl.constexpr,
    SLOPE: tl.constexpr,
    THRESHOLD: tl.constexpr,
    KEEP_SCALE: tl.constexpr,
    DROPOUT: tl.constexpr,
    ACC: tl.constexpr,
):
    """Take in the logits [BLOCK_K, BLOCK_H] of one tile of slots.

    The tile's weights under the new maximum, after dropout; the factor by which sums under the old maximum fade; and the
    maximum, the normaliser and the sum of the weights so far, [BLOCK_H] each.
    """
    b_v = SCALE * b_l
    b_v = tl.where(m_k[:, None], tl.where(b_v > 0, b_v, SLOPE * b_v), float("-inf"))
    b_top = tl.maximum(b_max, tl.max(b_v, axis=0))
    # -inf until the first slot that is not empty
    b_shift = tl.where(b_top == float("-inf"), 0.0, b_top)
    b_fade = tl.exp(b_max - b_shift)
    b_p = tl.exp(b_v - b_shift[None, :])
    b_sum = b_sum * b_fade + tl.sum(b_p, axis=0)
    if DROPOUT:
        b_p *= keep(seed, THRESHOLD, KEEP_SCALE, i_r, o_k, o_h, ACC)
    return b_p, b_fade, b_top, b_sum, b_s * b_fade + tl.sum(b_p, axis=0)


@triton.jit
def normaliser(logit, K, o_a, o_h, m_a, m_h, SCALE: tl.constexpr, SLOPE: tl.constexpr):
    """Maximum and normaliser [BLOCK_H] of a root's stored logits, all slots at once: 0 and 1 where none is live."""
    b_v = SCALE * tl.load(logit + o_h[None, :] * K + o_a[:, None], mask=m_a[:, None] & m_h[None, :], other=0.0)
    b_v = tl.where(m_a[:, None], tl.where(b_v > 0, b_v, SLOPE * b_v), float("-inf"))
    b_top = tl.max(b_v, axis=0)
    b_top = tl.where(b_top == float("-inf"), 0.0, b_top)
    b_sum = tl.sum(tl.exp(b_v - b_top[None, :]), axis=0)
    return b_top, tl.where(b_sum > 0, b_sum, 1.0)


@triton.jit
def weights(
    logit,
    K,
    b_dp,
    b_top,
    b_sum,
    seed,
    i_r,
    o_k,
    o_h,
    m_kh,
    SCALE: tl.constexpr,
    SLOPE: tl.constexpr,
    THRESHOLD: tl.constexpr,
    KEEP_SCALE: tl.constexpr,
    DROPOUT: tl.constexpr,
    ACC: tl.constexpr,
):
    """Weights [BLOCK_K, BLOCK_H] from stored logits, before and after dropout.

    Then `b_dp`, the gradient by the weights after dropout, turned into that by the weights before it; and the activation's
    slope at the logits.
    """
    b_v = SCALE * tl.load(logit + o_h[None, :] * K + o_k[:, None], mask=m_kh, other=0.0)
    b_slope = tl.where(b_v > 0, tl.full([], 1.0, ACC), tl.full([], SLOPE, ACC))
    b_p = tl.where(m_kh, tl.exp(b_v * b_slope - b_top[None, :]) / b_sum[None, :], 0.0)
    b_kept = b_p
    if DROPOUT:
        b_keep = keep(seed, THRESHOLD, KEEP_SCALE, i_r, o_k, o_h, ACC)
        b_kept = b_p * b_keep
        b_dp *= b_keep
    return b_p, b_kept, b_dp, b_slope


def pow2(n: int, least: int = 1) -> int:
    return max(triton.next_power_of_2(max(n, 1)), least)


def roots(device: torch.device | None = None) -> int:
    """Roots of a program of the backward pass."""
    return tuned("attention", device)["ROOTS"]


def blocks(K: int, H: int, Dn: int, De: int, T: int, device: torch.device | None = None) -> dict[str, int]:
    """Tile sizes. A [K, H, columns] tile of 2048 elements with 4 warps keeps three programs a multiprocessor, no spills."""
    sizes = tuned("attention", device)
    n, e, t, h = pow2(Dn, 16), pow2(De, 16), pow2(T, 16), pow2(H)
    widest = h * max(n, e, t)
    return {
        "BLOCK_K": min(pow2(K), max(sizes["TILE"] // widest, 1), sizes["SLOTS"]),
        "BLOCK_H": h,
        "BLOCK_N": n,
        "BLOCK_E": e,
        "BLOCK_T": t,
        "num_warps": sizes["num_warps"] if widest <= 1024 else sizes["WIDE_WARPS"],
    }


def dense_last(t: Tensor) -> Tensor:
    return t if t.stride(-1) == 1 or t.shape[-1] <= 1 else t.contiguous()


def acc_type(dtype: torch.dtype) -> tl.dtype:
    return tl.float64 if dtype == torch.float64 else tl.float32


def options(dtype: torch.dtype, scale: float, slope: float, dropout: float) -> dict[str, Any]:
    # compile-time: a run-time float is a float32
    return {
        "SCALE": scale,
        "SLOPE": slope,
        "THRESHOLD": int(dropout * 2**24),
        "KEEP_SCALE": 1.0 / (1.0 - dropout),
        "DROPOUT": dropout > 0,
        "ACC": acc_type(dtype),
    }


def forward_results(u: Tensor, K: int) -> tuple[Tensor, Tensor, Tensor]:
    """z and s to be filled, and logits, zero where no kernel writes."""
    acc = torch.float64 if u.dtype == torch.float64 else torch.float32
    return u.new_empty(u.shape), u.new_empty(u.shape[:2]), u.new_zeros((*u.shape[:2], K), dtype=acc)


def backward_results(u: Tensor, T: int, programs: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """du and dc to be filled, and each program's part of the gradients of the frequencies and phases."""
    partial_w, partial_b = (u.new_empty((programs, T), dtype=torch.float64) for _ in range(2))
    return u.new_empty(u.shape), u.new_empty(u.shape[:2]), partial_w, partial_b
