"""Dropout by Philox: a program takes a tile of rows and columns."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gnnaccel.kernels.aot import KernelSpec
from gnnaccel.kernels.triton._seed import seed_of
from gnnaccel.kernels.triton._tuning import tuned

#: 0x64726F70: the fourth word of the counters.
STREAM = tl.constexpr(0x64726F70)
_DEFAULT = tuned("dropout")


@triton.jit(do_not_specialize=["seed"])
def dropout_kernel(
    x,
    y,
    R,
    D,
    seed,
    THRESHOLD: tl.constexpr,
    SCALE: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    o_r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    o_g = tl.program_id(1) * (BLOCK_D // 4) + tl.arange(0, BLOCK_D // 4)
    o_d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    zero = tl.zeros([BLOCK_R, BLOCK_D // 4], tl.int32)
    low = (o_r & 0x7FFFFFFF).to(tl.int32)
    low = tl.where(((o_r >> 31) & 1) != 0, low | -2147483648, low)
    high = (o_r >> 32).to(tl.int32)
    # one draw for four columns
    seed = seed_of(seed)
    w0, w1, w2, w3 = tl.philox(seed, zero + low[:, None], zero + o_g[None, :], zero + high[:, None], zero + STREAM)
    b_word = (tl.interleave(tl.interleave(w0, w2), tl.interleave(w1, w3)) >> 8).to(tl.int32)
    at = o_r[:, None] * D + o_d[None, :]
    m = (o_r < R)[:, None] & (o_d < D)[None, :]
    b_x = tl.load(x + at, mask=m, other=0.0).to(ACC)
    b_y = b_x * tl.where(b_word < THRESHOLD, tl.full([], 0.0, ACC), tl.full([], SCALE, ACC))
    tl.store(y + at, b_y.to(y.dtype.element_ty), mask=m)


def dropout_fwd(x: Tensor, rate: float, seed: int) -> Tensor:
    (R, D), y = x.shape, torch.empty_like(x)
    if x.numel():
        sizes = tuned("dropout", x.device)
        dropout_kernel[(triton.cdiv(R, sizes["BLOCK_R"]), triton.cdiv(D, sizes["BLOCK_D"]))](
            x,
            y,
            R,
            D,
            seed,
            # compile-time: a run-time float is a float32
            THRESHOLD=int(rate * 2**24),
            SCALE=1.0 / (1.0 - rate),
            ACC=tl.float64 if x.dtype == torch.float64 else tl.float32,
            **sizes,
        )
    return y


KERNELS = [
    KernelSpec(
        "dropout",
        dropout_kernel,
        {"x": "*fp32", "y": "*fp32", "R": "i32", "D": "i32", "seed": "i64"},
        {
            "THRESHOLD": int(0.1 * 2**24),
            "SCALE": 1 / 0.9,
            "ACC": tl.float32,
            "BLOCK_R": _DEFAULT["BLOCK_R"],
            "BLOCK_D": _DEFAULT["BLOCK_D"],
        },
    )
]
