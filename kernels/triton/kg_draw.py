"""Uniform integers by Philox4x64-10 with NumPy's counters; the batch's counters are read from the device."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gnnaccel.kernels.aot import KernelSpec
from gnnaccel.kernels.triton._tuning import tuned


@triton.jit
def _round(c0, c1, c2, c3, k0, k1):
    m0 = tl.full(c0.shape, 0xD2E7470EE14C6C93, tl.uint64)
    m1 = tl.full(c0.shape, 0xCA5A826395121157, tl.uint64)
    return tl.umulhi(m1, c2) ^ c1 ^ k0, c2 * m1, tl.umulhi(m0, c0) ^ c3 ^ k1, c0 * m0


@triton.jit(do_not_specialize=["seed", "stream", "part", "bound"])
def kg_draw_kernel(at, out, n, seed, stream, part, bound, BLOCK: tl.constexpr):
    o = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    zero = tl.zeros([BLOCK], tl.int64)
    # four words a counter; NumPy counts on before it makes the first
    c0, c1 = (o // 4 + 1).to(tl.uint64), (zero + part).to(tl.uint64)
    c2, c3 = (zero + tl.load(at + 1)).to(tl.uint64), (zero + tl.load(at)).to(tl.uint64)
    k0, k1 = (zero + seed).to(tl.uint64), (zero + stream).to(tl.uint64)
    for _ in tl.static_range(10):
        c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0, k1)
        k0 += tl.full([BLOCK], 0x9E3779B97F4A7C15, tl.uint64)
        k1 += tl.full([BLOCK], 0xBB67AE8584CAA73B, tl.uint64)
    which = o % 4
    word = tl.where(which == 0, c0, tl.where(which == 1, c1, tl.where(which == 2, c2, c3)))
    drawn = tl.umulhi(word, (zero + bound).to(tl.uint64))
    tl.store(out + o, drawn.to(tl.int64), mask=o < n)


def kg_draw_fwd(at: Tensor, n: int, bound: int, seed: int, stream: int, part: int) -> Tensor:
    out = torch.empty(n, dtype=torch.int64, device=at.device)
    if n:
        sizes = tuned("kg_draw", at.device)
        kg_draw_kernel[(triton.cdiv(n, sizes["BLOCK"]),)](at, out, n, seed, stream, part, bound, **sizes)
    return out


KERNELS = [
    KernelSpec(
        "kg_draw",
        kg_draw_kernel,
        {"at": "*i64", "out": "*i64", "n": "i32", **dict.fromkeys(("seed", "stream", "part", "bound"), "i64")},
        {"BLOCK": tuned("kg_draw")["BLOCK"]},
    )
]
