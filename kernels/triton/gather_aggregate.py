"""Sum, mean and maximum of rows by id. Gradients of the table are sums by id again: over the transposed block, sorted by row.

Sizes are passed in units of UNIT elements, as in `gather_rows`.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from gnnaccel.kernels.aot import KernelSpec
from gnnaccel.kernels.triton._tuning import tuned


@triton.jit
def span(start, count, i_r, K, CSR: tl.constexpr, HAS_COUNT: tl.constexpr):
    """First position of a root's neighbours, and the end."""
    if CSR:
        return tl.load(start + i_r), tl.load(start + i_r + 1)
    else:
        if HAS_COUNT:
            n = tl.load(count + i_r).to(tl.int64)
        else:
            n = tl.zeros([], tl.int64) + K
        return i_r * K, i_r * K + n


@triton.jit
def _rows(table, nbr, scale, o_e, end, o_f, F, stride, num_rows, HAS_SCALE: tl.constexpr, ACC: tl.constexpr):
    """Rows [BLOCK_K, BLOCK_F] of the neighbours at o_e, zero where there is none, and whether there is one."""
    b_id = tl.load(nbr + o_e, mask=o_e < end, other=-1).to(tl.int64)
    m_e = (b_id >= 0) & (b_id < num_rows)
    m = m_e[:, None] & (o_f < F)[None, :]
    b_x = tl.load(table + b_id[:, None] * stride + o_f[None, :], mask=m, other=0).to(ACC)
    if HAS_SCALE:
        b_x *= tl.load(scale + b_id, mask=m_e, other=0.0).to(ACC)[:, None]
    return b_x, m_e, b_id


@triton.jit
def gather_aggregate_sum_kernel(
    table,
    nbr,
    start,
    count,
    weight,
    scale,
    out,
    units,
    stride_units,
    num_rows,
    K,
    B,
    UNIT: tl.constexpr,
    CSR: tl.constexpr,
    HAS_COUNT: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    MEAN: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    F, stride = units * UNIT, stride_units * UNIT
    i_r = tl.program_id(0).to(tl.int64)
    o_f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    o_b = tl.program_id(2) * BLOCK_B + tl.arange(0, BLOCK_B)
    begin, end = span(start, count, i_r, K, CSR, HAS_COUNT)
    b_acc = tl.zeros((BLOCK_B, BLOCK_F), ACC)
    b_n = tl.zeros((BLOCK_K,), tl.int32)
    for k in range(begin, end, BLOCK_K):
        o_e = k + tl.arange(0, BLOCK_K)
        b_x, m_e, _ = _rows(table, nbr, scale, o_e, end, o_f, F, stride, num_rows, HAS_SCALE, ACC)
        b_n += m_e.to(tl.int32)
        if HAS_WEIGHT:
            b_w = tl.load(weight + o_e[:, None] * B + o_b[None, :], mask=m_e[:, None] & (o_b < B)[None, :], other=0.0)
            b_acc += tl.sum(b_w.to(ACC)[:, :, None] * b_x[:, None, :], axis=0)
        else:
            b_acc += tl.sum(b_x, axis=0)[None, :]
    if MEAN:
        b_acc /= tl.maximum(tl.sum(b_n, axis=0), 1).to(ACC)
    p_out = out + (i_r * B + o_b)[:, None] * F + o_f[None, :]
    tl.store(p_out, b_acc.to(out.dtype.element_ty), mask=(o_b < B)[:, None] & (o_f < F)[None, :])


@triton.jit
def gather_aggregate_max_kernel(
    table,
    nbr,
    start,
    count,
    scale,
    out,
    slot,
    units,
    stride_units,
    num_rows,
    K,
    UNIT: tl.constexpr,
    CSR: tl.constexpr,
    HAS_COUNT: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    F, stride = units * UNIT, stride_units * UNIT
    i_r = tl.program_id(0).to(tl.int64)
    o_f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    m_f = o_f < F
    begin, end = span(start, count, i_r, K, CSR, HAS_COUNT)
    b_top = tl.zeros((BLOCK_F,), ACC)
    b_slot = tl.full((BLOCK_F,), -1, tl.int32)
    for e in range(begin, end):
        b_id = tl.zeros((BLOCK_F,), tl.int64) + tl.load(nbr + e)
        m = m_f & (b_id >= 0) & (b_id < num_rows)
        b_x = tl.load(table + b_id * stride + o_f, mask=m, other=0).to(ACC)
        if HAS_SCALE:
            b_x *= tl.load(scale + b_id, mask=m, other=0.0).to(ACC)
        # the first slot, a larger value, or the first NaN
        m_take = m & ((b_slot < 0) | (b_x > b_top) | ((b_x != b_x) & (b_top == b_top)))
        b_top = tl.where(m_take, b_x, b_top)
        b_slot = tl.where(m_take, (e - begin).to(tl.int32), b_slot)
    tl.store(out + i_r * F + o_f, b_top.to(out.dtype.element_ty), mask=m_f)
    tl.store(slot + i_r * F + o_f, b_slot, mask=m_f)


@triton.jit
def gather_aggregate_max_bwd_kernel(
    grad,
    root,
    place,
    start,
    slot,
    out,
    units,
    UNIT: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    """Gradient of one row of the table: of the columns in which it was the maximum."""
    F = units * UNIT
    i_u = tl.program_id(0).to(tl.int64)
    o_f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    m_f = o_f < F
    end = tl.load(start + i_u + 1)
    b_acc = tl.zeros((BLOCK_F,), ACC)
    for e in range(tl.load(start + i_u), end, BLOCK_K):
        o_e = e + tl.arange(0, BLOCK_K)
        m_e = o_e < end
        b_root = tl.load(root + o_e, mask=m_e, other=0)
        b_place = tl.load(place + o_e, mask=m_e, other=0)
        o, m = b_root[:, None] * F + o_f[None, :], m_e[:, None] & m_f[None, :]
        b_slot = tl.load(slot + o, mask=m, other=-1)
        b_g = tl.load(grad + o, mask=m & (b_slot == b_place[:, None]), other=0.0)
        b_acc += tl.sum(b_g.to(ACC), axis=0)
    tl.store(out + i_u * F + o_f, b_acc.to(out.dtype.element_ty), mask=m_f)


@triton.jit
def gather_aggregate_weight_kernel(
    grad,
    table,
    nbr,
    start,
    count,
    scale,
    share,
    out,
    units,
    stride_units,
    num_rows,
    K,
    B,
    UNIT: tl.constexpr,
    CSR: tl.constexpr,
    HAS_COUNT: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    """Gradient of a root's weights: the products of its gradient with its neighbours' rows."""
    F, stride = units * UNIT, stride_units * UNIT
    i_r = tl.program_id(0).to(tl.int64)
    o_b = tl.program_id(1) * BLOCK_B + tl.arange(0, BLOCK_B)
    m_b = o_b < B
    begin, end = span(start, count, i_r, K, CSR, HAS_COUNT)
    b_share = tl.load(share + i_r)
    for k in range(begin, end, BLOCK_K):
        o_e = k + tl.arange(0, BLOCK_K)
        b_dw = tl.zeros((BLOCK_K, BLOCK_B), ACC)
        for f in range(0, F, BLOCK_F):
            o_f = f + tl.arange(0, BLOCK_F)
            b_x, _, _ = _rows(table, nbr, scale, o_e, end, o_f, F, stride, num_rows, HAS_SCALE, ACC)
            p_g = grad + (i_r * B + o_b)[:, None] * F + o_f[None, :]
            b_g = tl.load(p_g, mask=m_b[:, None] & (o_f < F)[None, :], other=0.0).to(ACC)
            b_dw += tl.sum(b_x[:, None, :] * b_g[None, :, :], axis=2)
        m = (o_e < end)[:, None] & m_b[None, :]
        tl.store(out + o_e[:, None] * B + o_b[None, :], (b_dw * b_share).to(out.dtype.element_ty), mask=m)


_DEFAULT = tuned("gather_aggregate")
BLOCK_K, BLOCK_F, TILE, MEAN, MAX = _DEFAULT["BLOCK_K"], _DEFAULT["BLOCK_F"], 4096, 1, 2  # of the default


def _unit(*sizes: int) -> int:
    return math.gcd(16, *sizes)


def _acc(*dtypes: torch.dtype) -> tl.dtype:
    return tl.float64 if torch.float64 in dtypes else tl.float32


def _tiles(B: int, device: torch.device | None = None) -> dict[str, int]:
    block, sizes = min(triton.next_power_of_2(max(B, 1)), 8), tuned("gather_aggregate", device)
    # [BLOCK_K, BLOCK_B, BLOCK_F] lies in registers
    most = max(TILE // (sizes["BLOCK_F"] * block), 1)
    return {**sizes, "BLOCK_B": block, "BLOCK_K": min(most, sizes["BLOCK_K"])}


def _constants(B: int) -> dict[str, int]:
    return {k: v for k, v in _tiles(B).items() if k != "num_warps"}


def _dense(t: Tensor) -> Tensor:
    return t if t.shape[1] <= 1 or t.stride(1) == 1 else t.contiguous()


def _sum(
    table: Tensor,
    nbr: Tensor,
    start: Tensor | None,
    count: Tensor | None,
    weight: Tensor | None,
    scale: Tensor | None,
    out: Tensor,
    K: int,
    B: int,
    mean: bool,
    acc: tl.dtype,
) -> None:
    R, F = out.shape[0], out.shape[-1]
    unit, tiles = _unit(F, table.stride(0)), _tiles(B, nbr.device)
    gather_aggregate_sum_kernel[(R, triton.cdiv(F, tiles["BLOCK_F"]), triton.cdiv(B, tiles["BLOCK_B"]))](
        table,
        nbr,
        start,
        count,
        weight,
        scale,
        out,
        F // unit,
        table.stride(0) // unit,
        table.shape[0],
        K,
        B,
        UNIT=unit,
        CSR=start is not None,
        HAS_COUNT=count is not None,
        HAS_WEIGHT=weight is not None,
        HAS_SCALE=scale is not None,
        MEAN=mean,
        ACC=acc,
        **tiles,
    )


def _contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if t is None else t.contiguous() for t in tensors]


def gather_aggregate_fwd(
    table: Tensor,
    nbr: Tensor,
    count: Tensor | None,
    weight: Tensor | None,
    indptr: Tensor | None,
    scale: Tensor | None,
    reduce: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    R, F = nbr.shape[0] if indptr is None else indptr.shape[0] - 1, table.shape[1]
    K = nbr.shape[1] if indptr is None else 0
    bases = () if weight is None or weight.dim() == nbr.dim() else (weight.shape[-1],)
    out = torch.empty((R, *bases, F), dtype=dtype, device=nbr.device)
    slot = torch.empty((R, F) if reduce == MAX else (0,), dtype=torch.int32, device=nbr.device)
    if out.numel() == 0:
        return out, slot
    table, nbr, acc = _dense(table), nbr.contiguous(), _acc(table.dtype, dtype)
    count, weight, indptr, scale = _contiguous(count, weight, indptr, scale)
    if reduce != MAX:
        _sum(table, nbr, indptr, count, weight, scale, out, K, bases[0] if bases else 1, reduce == MEAN, acc)
        return out, slot
    unit = _unit(F, table.stride(0))
    gather_aggregate_max_kernel[(R, triton.cdiv(F, BLOCK_F))](
        table,
        nbr,
        indptr,
        count,
        scale,
        out,
        slot,
        F // unit,
        table.stride(0) // unit,
        table.shape[0],
        K,
        UNIT=unit,
        CSR=indptr is not None,
        HAS_COUNT=count is not None,
        HAS_SCALE=scale is not None,
        ACC=acc,
        BLOCK_F=BLOCK_F,
    )
    return out, slot


class Transposed:
    """Edges by neighbour, in the order of the roots; `start [N + 1]`, and for each edge its root, slot and position."""

    def __init__(self, nbr: Tensor, count: Tensor | None, indptr: Tensor | None, N: int) -> None:
        device, M = nbr.device, nbr.numel()
        live = (nbr >= 0) & (nbr < N)
        if indptr is None:
            R, K = nbr.shape
            if count is not None:
                live &= torch.arange(K, device=device) < count.unsqueeze(1)
            root = torch.arange(R, device=device).repeat_interleave(K, output_size=M)
            self.number = live.sum(1)
            slot = torch.arange(M, device=device) - root * K
        else:
            R = indptr.shape[0] - 1
            root = torch.repeat_interleave(torch.arange(R, device=device), indptr.diff(), output_size=M)
            before = torch.cat([indptr.new_zeros(1), live.cumsum(0)])
            self.number = before[indptr[1:]] - before[indptr[:-1]]
            slot = torch.arange(M, device=device) - indptr[root]
        key, self.at = torch.where(live, nbr.long(), N).reshape(-1).sort(stable=True)
        self.start = torch.searchsorted(key, torch.arange(N + 1, device=device))
        self.root, self.slot = root[self.at], slot[self.at]


def gather_aggregate_bwd(
    grad: Tensor,
    table: Tensor,
    nbr: Tensor,
    count: Tensor | None,
    weight: Tensor | None,
    indptr: Tensor | None,
    scale: Tensor | None,
    slot: Tensor,
    reduce: int,
    need_table: bool,
    need_weight: bool,
) -> tuple[Tensor, Tensor]:
    N, F = table.shape
    R, K = nbr.shape[0] if indptr is None else indptr.shape[0] - 1, nbr.shape[1] if indptr is None else 0
    B = 1 if weight is None or weight.dim() == nbr.dim() else weight.shape[-1]
    need_weight = need_weight and weight is not None
    d_table = torch.zeros((N, F) if need_table else (0,), dtype=table.dtype, device=nbr.device)
    d_weight = grad.new_zeros(0) if not need_weight or weight is None else torch.zeros_like(weight).contiguous()
    if grad.numel() == 0 or nbr.numel() == 0 or N == 0:
        return d_table, d_weight
    acc = _acc(grad.dtype, table.dtype)
    acc_dtype = torch.float64 if acc == tl.float64 else torch.float32
    table, grad, nbr = _dense(table), grad.contiguous(), nbr.contiguous()
    count, indptr, scale = _contiguous(count, indptr, scale)
    edges = Transposed(nbr, count, indptr, N)
    share = torch.ones(R, dtype=acc_dtype, device=nbr.device)
    if reduce == MEAN:
        share /= edges.number.clamp(min=1)
    if need_table and reduce == MAX:
        unit = _unit(F)
        gather_aggregate_max_bwd_kernel[(N, triton.cdiv(F, BLOCK_F))](
            grad,
            edges.root,
            edges.slot,
            edges.start,
            slot.contiguous(),
            d_table,
            F // unit,
            UNIT=unit,
            ACC=acc,
            BLOCK_K=BLOCK_K,
            BLOCK_F=BLOCK_F,
        )
    elif need_table:
        factor, row, start = share[edges.root].unsqueeze(1), edges.root, edges.start
        if weight is not None:
            factor = factor * weight.reshape(-1, B)[edges.at].to(acc_dtype)
        if B > 1:  # an edge is B neighbours there: one of each basis
            row = (row.unsqueeze(1) * B + torch.arange(B, device=row.device)).reshape(-1)
            start = start * B
        _sum(grad.view(R * B, F), row, start, None, factor.contiguous(), None, d_table, 0, 1, False, acc)
    if need_weight:
        unit, tiles = _unit(F, table.stride(0)), _tiles(B, nbr.device)
        gather_aggregate_weight_kernel[(R, triton.cdiv(B, tiles["BLOCK_B"]))](
            grad,
            table,
            nbr,
            indptr,
            count,
            scale,
            share,
            d_weight,
            F // unit,
            table.stride(0) // unit,
            N,
            K,
            B,
            UNIT=unit,
            CSR=indptr is not None,
            HAS_COUNT=count is not None,
            HAS_SCALE=scale is not None,
            ACC=acc,
            **tiles,
        )
    return d_table, d_weight


_BLOCK = {"nbr": "*i64", "start": "*i64", "count": "*i32", "scale": "*fp32"}
_SIZES = {"units": "i32", "stride_units": "i32", "num_rows": "i32", "K": "i32", "B": "i32"}
_PADDED = {"UNIT": 4, "CSR": False, "HAS_COUNT": True, "ACC": tl.float32}
KERNELS = [
    KernelSpec(
        f"gather_aggregate_{name}",
        gather_aggregate_sum_kernel,
        {"table": pointer, **_BLOCK, "weight": "*fp32", "out": "*fp32", **_SIZES},
        {**_PADDED, "CSR": B > 1, "HAS_WEIGHT": B > 1, "HAS_SCALE": name == "int8", "MEAN": True, **_constants(B)},
        vector_loads=name == "mean",
    )
    for name, pointer, B in (("mean", "*fp32", 1), ("half", "*fp16", 1), ("int8", "*i8", 1), ("bases", "*fp32", 4))
] + [
    KernelSpec(
        "gather_aggregate_max",
        gather_aggregate_max_kernel,
        {"table": "*fp32", **_BLOCK, "out": "*fp32", "slot": "*i32", **_SIZES},
        {**_PADDED, "HAS_SCALE": False, "BLOCK_F": BLOCK_F},
    ),
    KernelSpec(
        "gather_aggregate_max_bwd",
        gather_aggregate_max_bwd_kernel,
        {"grad": "*fp32", "root": "*i64", "place": "*i64", "start": "*i64", "slot": "*i32", "out": "*fp32", **_SIZES},
        {"UNIT": 4, "ACC": tl.float32, "BLOCK_K": BLOCK_K, "BLOCK_F": BLOCK_F},
        vector_loads=True,
    ),
    KernelSpec(
        "gather_aggregate_weight",
        gather_aggregate_weight_kernel,
        {"grad": "*fp32", "table": "*fp32", **_BLOCK, "share": "*fp32", "out": "*fp32", **_SIZES},
        {**_PADDED, "HAS_SCALE": False, **_constants(1)},
        vector_loads=True,
    ),
]
