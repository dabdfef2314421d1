"""Rows of a table by id, and the sum of rows by id (deterministic by sorting, or with atomics when asked).

Triton loads 128 bits at a time only where it can prove rows aligned, which it tries for sizes divisible by 16. Feature sizes
like 100 and 172 are not, so sizes are passed in units of UNIT elements.
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
def gather_rows_fwd_kernel(
    table,
    ids,
    scale,
    out,
    n,
    units,
    stride_units,
    num_rows,
    UNIT: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    F, stride = units * UNIT, stride_units * UNIT
    o_n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    o_f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    m_n, m_f = o_n < n, o_f < F
    b_id = tl.load(ids + o_n, mask=m_n, other=-1).to(tl.int64)
    m_id = (b_id >= 0) & (b_id < num_rows)
    # [BLOCK_N, BLOCK_F]
    b_x = tl.load(table + b_id[:, None] * stride + o_f[None, :], mask=m_id[:, None] & m_f[None, :], other=0)
    if HAS_SCALE:
        b_x = b_x.to(ACC) * tl.load(scale + b_id, mask=m_id, other=0.0).to(ACC)[:, None]
    tl.store(out + o_n[:, None] * F + o_f[None, :], b_x.to(out.dtype.element_ty), mask=m_n[:, None] & m_f[None, :])


@triton.jit
def gather_rows_bwd_kernel(
    grad,
    ids,
    order,
    out,
    n,
    units,
    num_rows,
    UNIT: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    """ids sorted, `order` their positions before sorting. The program at the first of equal ids adds them all up."""
    F = units * UNIT
    i = tl.program_id(0).to(tl.int64)
    o_f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    m_f = o_f < F
    id = tl.load(ids + i).to(tl.int64)
    before = tl.load(ids + i - 1, mask=i > 0, other=-1).to(tl.int64)
    if (id >= 0) & (id < num_rows) & (id != before):
        b_acc = tl.zeros((BLOCK_F,), ACC)
        o_e = i + tl.arange(0, BLOCK_E)
        m_e = tl.load(ids + o_e, mask=o_e < n, other=-1).to(tl.int64) == id
        while tl.max(m_e.to(tl.int32), axis=0) > 0:
            b_at = tl.load(order + o_e, mask=m_e, other=0)
            # [BLOCK_E, BLOCK_F]
            b_g = tl.load(grad + b_at[:, None] * F + o_f[None, :], mask=m_e[:, None] & m_f[None, :], other=0.0)
            b_acc += tl.sum(b_g.to(ACC), axis=0)
            o_e += BLOCK_E
            m_e = tl.load(ids + o_e, mask=o_e < n, other=-1).to(tl.int64) == id
        tl.store(out + id * F + o_f, b_acc.to(out.dtype.element_ty), mask=m_f)


@triton.jit
def gather_rows_bwd_atomic_kernel(
    grad, ids, out, n, units, num_rows, UNIT: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_F: tl.constexpr
):
    """Only with deterministic=False."""
    F = units * UNIT
    o_n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    o_f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    b_id = tl.load(ids + o_n, mask=o_n < n, other=-1).to(tl.int64)
    m = ((b_id >= 0) & (b_id < num_rows))[:, None] & (o_f < F)[None, :]
    b_g = tl.load(grad + o_n[:, None] * F + o_f[None, :], mask=m, other=0.0)
    tl.atomic_add(out + b_id[:, None] * F + o_f[None, :], b_g.to(out.dtype.element_ty), mask=m, sem="relaxed")


_FWD, _BWD = tuned("gather_rows_fwd"), tuned("gather_rows_bwd")
BLOCK_N, BLOCK_E, BLOCK_F = _FWD["BLOCK_N"], _BWD["BLOCK_E"], _FWD["BLOCK_F"]  # of the default


def _acc(*dtypes: torch.dtype) -> tl.dtype:
    return tl.float64 if torch.float64 in dtypes else tl.float32


def _unit(*sizes: int) -> int:
    return math.gcd(16, *sizes)


def gather_rows_fwd(out: Tensor, table: Tensor, ids: Tensor, scale: Tensor | None) -> None:
    n, F = ids.numel(), table.shape[1]
    if out.numel() == 0:
        return
    unit, blocks = _unit(F, table.stride(0)), tuned("gather_rows_fwd", ids.device)
    gather_rows_fwd_kernel[(triton.cdiv(n, blocks["BLOCK_N"]), triton.cdiv(F, blocks["BLOCK_F"]))](
        table,
        ids,
        scale,
        out,
        n,
        F // unit,
        table.stride(0) // unit,
        table.shape[0],
        UNIT=unit,
        HAS_SCALE=scale is not None,
        ACC=_acc(out.dtype),
        **blocks,
    )


def gather_rows_bwd(grad: Tensor, ids: Tensor, num_rows: int, dtype: torch.dtype, deterministic: bool) -> Tensor:
    n, F = ids.numel(), grad.shape[-1]
    unit, blocks = _unit(F), tuned("gather_rows_bwd", ids.device)
    if deterministic:
        out = torch.zeros((num_rows, F), dtype=dtype, device=grad.device)
        if n and out.numel():
            ids, order = ids.reshape(-1).sort(stable=True)
            gather_rows_bwd_kernel[(n, triton.cdiv(F, blocks["BLOCK_F"]))](
                grad,
                ids,
                order,
                out,
                n,
                F // unit,
                num_rows,
                UNIT=unit,
                ACC=_acc(grad.dtype, dtype),
                **blocks,
            )
        return out
    acc = torch.float64 if torch.float64 in (grad.dtype, dtype) else torch.float32
    out = torch.zeros((num_rows, F), dtype=acc, device=grad.device)
    if n and out.numel():
        gather_rows_bwd_atomic_kernel[(triton.cdiv(n, BLOCK_N), triton.cdiv(F, BLOCK_F))](
            grad, ids, out, n, F // unit, num_rows, UNIT=unit, BLOCK_N=BLOCK_N, BLOCK_F=BLOCK_F
        )
    return out.to(dtype)


_POINTERS = {"float32": "*fp32", "float16": "*fp16", "bfloat16": "*bf16", "int8": "*i8"}
_SIZES = {"n": "i32", "units": "i32", "num_rows": "i32"}
# as for F = 100 and 172
KERNELS = [
    KernelSpec(
        f"gather_rows_fwd_{name}",
        gather_rows_fwd_kernel,
        {"table": pointer, "ids": "*i64", "scale": "*fp32", "out": "*fp32", "stride_units": "i32", **_SIZES},
        {"UNIT": 4, "HAS_SCALE": name == "int8", "ACC": tl.float32, "BLOCK_N": BLOCK_N, "BLOCK_F": BLOCK_F},
        vector_loads=name == "float32",
    )
    for name, pointer in _POINTERS.items()
] + [
    KernelSpec(
        "gather_rows_bwd",
        gather_rows_bwd_kernel,
        {"grad": "*fp32", "ids": "*i64", "order": "*i64", "out": "*fp32", **_SIZES},
        {"UNIT": 4, "ACC": tl.float32, "BLOCK_E": BLOCK_E, "BLOCK_F": _BWD["BLOCK_F"]},
        vector_loads=True,
    ),
    KernelSpec(
        "gather_rows_bwd_atomic",
        gather_rows_bwd_atomic_kernel,
        {"grad": "*fp32", "ids": "*i64", "out": "*fp32", **_SIZES},
        {"UNIT": 4, "BLOCK_N": BLOCK_N, "BLOCK_F": BLOCK_F},
    ),
]
