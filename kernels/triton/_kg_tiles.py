"""Tiles of scores, which kernels of knowledge graphs share: one routine, so that equal rows get equal bits anywhere."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from gnnaccel.kernels.aot import KernelSpec
from gnnaccel.kernels.triton._tuning import tuned

# as in ops/_kg_compare.py
DOT, L1, L2, MODULUS = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)


@triton.jit
def rows_slab(x, r, m, o_k, m_k, stride, ACC: tl.constexpr):
    """[rows, BLOCK_K]"""
    return tl.load(x + r[:, None] * stride + o_k[None, :], mask=m[:, None] & m_k[None, :], other=0.0).to(ACC)


@triton.jit
def tile_scores(
    q,
    n,
    r_q,
    r_n,
    m_q,
    m_n,
    K,
    KIND: tl.constexpr,
    GAMMA: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """[BLOCK_S, BLOCK_N]: rows r_q of q against rows r_n of n; K columns, of complex rows K real and K imaginary parts."""
    stride = K * 2 if KIND == MODULUS else K
    b_sum = tl.zeros([BLOCK_S, BLOCK_N], ACC)
    for k in range(0, K, BLOCK_K):
        o_k = k + tl.arange(0, BLOCK_K)
        m_k = o_k < K
        b_q = rows_slab(q, r_q, m_q, o_k, m_k, stride, ACC)
        b_n = rows_slab(n, r_n, m_n, o_k, m_k, stride, ACC)
        if KIND == DOT:
            if ACC == tl.float64:
                b_sum += tl.sum(b_q[:, None, :] * b_n[None, :, :], axis=2)
            else:
                b_sum = tl.dot(b_q, tl.trans(b_n), b_sum, input_precision="ieee")
        else:
            b_x = b_q[:, None, :] - b_n[None, :, :]
            if KIND == L1:
                b_sum += tl.sum(tl.abs(b_x), axis=2)
            elif KIND == L2:
                b_sum += tl.sum(b_x * b_x, axis=2)
            else:
                b_q = rows_slab(q, r_q, m_q, o_k + K, m_k, stride, ACC)
                b_n = rows_slab(n, r_n, m_n, o_k + K, m_k, stride, ACC)
                b_y = b_q[:, None, :] - b_n[None, :, :]
                b_sum += tl.sum(tl.sqrt(b_x * b_x + b_y * b_y), axis=2)
    if KIND == L2:
        b_sum = tl.sqrt(b_sum)
    return b_sum if KIND == DOT else tl.full([], GAMMA, ACC) - b_sum


@triton.jit
def kg_project_rows_kernel(
    x,
    index,
    w,
    out,
    N,
    D,
    M,
    HAS_INDEX: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Rows of x by index, times w [D, M]."""
    o_s = tl.program_id(0).to(tl.int64) * BLOCK_S + tl.arange(0, BLOCK_S)
    o_n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    m_s, m_n = o_s < N, o_n < M
    r_s = tl.load(index + o_s, mask=m_s, other=0) if HAS_INDEX else o_s
    b_sum = tl.zeros([BLOCK_S, BLOCK_N], ACC)
    for k in range(0, D, BLOCK_K):
        o_k = k + tl.arange(0, BLOCK_K)
        m_k = o_k < D
        b_x = rows_slab(x, r_s, m_s, o_k, m_k, D, ACC)
        b_w = rows_slab(w, o_k.to(tl.int64), m_k, o_n, m_n, M, ACC)
        if ACC == tl.float64:
            b_sum += tl.sum(b_x[:, :, None] * b_w[None, :, :], axis=1)
        else:
            b_sum = tl.dot(b_x, b_w, b_sum, input_precision="ieee")
    tl.store(out + o_s[:, None] * M + o_n[None, :], b_sum, mask=m_s[:, None] & m_n[None, :])


def tiles(kind: int, dtype: torch.dtype, device: torch.device | None = None) -> dict[str, int]:
    """Products in float64 are sums as well: those tiles have three dimensions."""
    product = kind == DOT.value and dtype == torch.float32
    return tuned("kg_tiles_product" if product else "kg_tiles_difference", device)


def accumulator(dtype: torch.dtype) -> tl.dtype:
    return tl.float64 if dtype == torch.float64 else tl.float32


def columns(D: int, kind: int) -> int:
    return D // 2 if kind == MODULUS.value else D


def project_rows(x: Tensor, index: Tensor | None, w: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows of x [E, D], those of the index or all, times w [D, M], as float32 or float64."""
    N, (D, M) = len(x) if index is None else len(index), w.shape
    out = torch.empty((N, M), dtype=dtype, device=x.device)
    blocks = tiles(DOT.value, dtype, x.device)
    if out.numel():
        grid = (triton.cdiv(N, blocks["BLOCK_S"]), triton.cdiv(M, blocks["BLOCK_N"]))
        kg_project_rows_kernel[grid](
            x,
            index,
            w,
            out,
            N,
            D,
            M,
            HAS_INDEX=index is not None,
            ACC=accumulator(dtype),
            **blocks,
        )
    return out


SIGNATURE: dict[str, str] = dict.fromkeys(("q", "n", "x", "w", "out", "answers"), "*fp32")
SIGNATURE |= dict.fromkeys(("index", "answer_index", "drop_row", "drop_index", "drop_ptr"), "*i64")
SIGNATURE |= dict.fromkeys(("B", "N", "K", "D", "M", "splits"), "i32")


def specs(name: str, kernel: Any, signature: dict[str, str], **constants: Any) -> list[KernelSpec]:
    """A kernel of tiles, for each comparison."""
    kinds = {"dot": DOT.value, "l1": L1.value, "l2": L2.value, "modulus": MODULUS.value}
    found = []
    for title, kind in kinds.items():
        blocks = tiles(kind, torch.float32)
        constexprs = {"KIND": kind, "GAMMA": 12.0, "ACC": tl.float32, **blocks, **constants}
        warps = constexprs.pop("num_warps")
        found.append(KernelSpec(f"{name}_{title}", kernel, signature, constexprs, num_warps=warps))
    return found


_PRODUCTS = tiles(DOT.value, torch.float32)
PROJECT = KernelSpec(
    "kg_project_rows",
    kg_project_rows_kernel,
    SIGNATURE,
    {"HAS_INDEX": True, "ACC": tl.float32, **{k: v for k, v in _PRODUCTS.items() if k != "num_warps"}},
    num_warps=_PRODUCTS["num_warps"],
)
