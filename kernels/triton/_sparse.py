"""Device functions and launch rules that the sparse optimisers share. Ids are sorted, stably; the program at the first of
equal ids updates the row, and adds its gradients in the order of their positions. No atomics."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from gnnaccel.kernels.triton._tuning import tuned

#: 0x726F756E: the fourth word of the counters.
STREAM = tl.constexpr(0x726F756E)

NEAREST, BFLOAT16, FLOAT16 = 0, 1, 2
#: Columns at a time; longer rows are read block by block, their gradients twice.


@triton.jit
def number(bits, ACC: tl.constexpr):
    """A float of the host, whose float64 comes as an integer: a run-time float would be a float32."""
    return (tl.zeros([], tl.int64) + bits).to(tl.float64, bitcast=True).to(ACC)


@triton.jit
def first_of_row(ids, p, num_rows):
    """The row at position p, and whether p is the first of its positions. Rows out of range have none."""
    row = tl.load(ids + p).to(tl.int64)
    before = tl.load(ids + p - 1, mask=p > 0, other=-1).to(tl.int64)
    return row, (row != before) & (row >= 0) & (row < num_rows)


@triton.jit
def gradient(grad, order, q, stride, o_d, m, ACC: tl.constexpr):
    at = tl.load(order + q)
    return tl.load(grad + at * stride + o_d, mask=m, other=0.0).to(ACC)


@triton.jit
def penalty(b_w, factor, NORM: tl.constexpr):
    """factor |w|^(NORM - 1) sign(w)"""
    if NORM == 1:
        b_p = tl.where(b_w > 0, 1.0, tl.where(b_w < 0, -1.0, b_w)).to(b_w.dtype)
    else:
        b_p = b_w
        for _ in tl.static_range(2, NORM):
            b_p *= tl.abs(b_w)
    return b_p * factor


@triton.jit
def total(grad, order, p, end, stride, o_d, m, b_w, factor, NORM: tl.constexpr, ACC: tl.constexpr):
    """Sum of the gradients at sorted positions p to end, with a penalty for each."""
    b_g = tl.zeros(o_d.shape, ACC)
    q = p
    while q < end:
        b_g += gradient(grad, order, q, stride, o_d, m, ACC)
        q += 1
    if NORM > 0:
        b_g += penalty(b_w, factor * (end - p).to(ACC), NORM)
    return b_g


@triton.jit
def put(table, row, D, o_d, m, b_w, i_d, seed, ROUND: tl.constexpr, BLOCK: tl.constexpr):
    """Columns i_d to i_d + BLOCK of a row, rounded to nearest, or up or down by a word of (seed, row, column)."""
    if ROUND > 0:
        o_g = i_d // 4 + tl.arange(0, BLOCK // 4)
        zero = tl.zeros([BLOCK // 4], tl.int32)
        low = (row & 0x7FFFFFFF).to(tl.int32)
        low = tl.where(((row >> 31) & 1) != 0, low | -2147483648, low)
        w0, w1, w2, w3 = tl.philox(seed, zero + low, zero + o_g, zero + (row >> 32).to(tl.int32), zero + STREAM)
        b_word = tl.interleave(tl.interleave(w0, w2), tl.interleave(w1, w3))
        b_bits = b_w.to(tl.int32, bitcast=True)
        b_size = b_bits & 0x7FFFFFFF
        if ROUND == 1:
            b_up = (b_size + (b_word >> 16).to(tl.int32)) & -65536
        else:
            b_add = (b_word >> 19).to(tl.int32)
            b_up = (b_size + b_add) & -8192
            # below 2^-14 halfs are multiples of 2^-24
            b_small = tl.where(b_size < 947912704, b_size, 0).to(tl.float32, bitcast=True)
            b_steps = (b_small * 16777216.0 + b_add.to(tl.float32) * 0.0001220703125).to(tl.int32).to(tl.float32)
            b_up = tl.where(b_size < 947912704, (b_steps * 5.9604644775390625e-08).to(tl.int32, bitcast=True), b_up)
        b_up = tl.where(b_size < 2139095040, b_up | (b_bits & -2147483648), b_bits)
        b_w = b_up.to(tl.float32, bitcast=True)
    tl.store(table + row * D + o_d, b_w.to(table.dtype.element_ty), mask=m)


def bits(value: float) -> int:
    return struct.unpack("q", struct.pack("d", value))[0]


def accumulate(table: Tensor) -> tl.dtype:
    return tl.float64 if table.dtype == torch.float64 else tl.float32


def rounding(table: Tensor, seed: int | None) -> int:
    return NEAREST if seed is None else {torch.bfloat16: BFLOAT16, torch.float16: FLOAT16}.get(table.dtype, NEAREST)


def block(D: int, device: torch.device | None = None) -> int:
    return min(tuned("sparse_rows", device)["BLOCK"], max(16, triton.next_power_of_2(D)))


@dataclass
class Sorted:
    """Occurrences in order of id: ids, positions, where the equal ids of each end, and the gradients by position."""

    ids: Tensor
    order: Tensor
    end: Tensor
    grad: Tensor
    run: Tensor | None = None  # where the equal ids of the same list end


def sort_rows(ids: Sequence[Tensor], grad: Sequence[Tensor], runs: bool = False) -> Sorted:
    every = torch.cat(list(ids)) if len(ids) > 1 else ids[0]
    values, order = torch.sort(every, stable=True)
    rows = torch.cat(list(grad)) if len(grad) > 1 else grad[0]
    if rows.stride(1) != 1:
        rows = rows.contiguous()
    end = torch.searchsorted(values, values, right=True)
    if not runs or len(ids) == 1:
        return Sorted(values, order, end, rows, end)
    trace = torch.cat([torch.full_like(i, k, dtype=torch.int64) for k, i in enumerate(ids)])
    # positions grow with the list, so that these are sorted too
    key = values.long() * len(ids) + trace[order]
    return Sorted(values, order, end, rows, torch.searchsorted(key, key, right=True))
