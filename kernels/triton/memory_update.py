"""Memory updater: one pass that gathers and encodes, two products, one pass through the gates; and the same backwards.

The products are torch's (cuBLAS): they follow the user's float32 matmul precision, and at a few hundred rows a hand-written
`tl.dot` has nothing to win. What surrounds them is bound by memory and launches, and is fused into one kernel a side.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gnnaccel.kernels.aot import KernelSpec
from gnnaccel.kernels.triton._time import cos_turns, turns
from gnnaccel.kernels.triton._tuning import tuned
from gnnaccel.kernels.triton.time_encode import time_encode_bwd


@triton.jit
def memory_update_gather_kernel(
    mail,
    dt,
    memory,
    w,
    b,
    rows,
    x,
    h,
    U,
    Dm,
    T,
    D,
    stride_mail,
    stride_memory,
    ROWS: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_U: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    """x[u] = [mail[rows[u]] | cos(dt[u] w + b)], h[u] = memory[rows[u]]; columns of [mail | time | memory] by program."""
    o_u = tl.program_id(0).to(tl.int64) * BLOCK_U + tl.arange(0, BLOCK_U)
    m_u = o_u < U
    i_f = tl.program_id(1)
    n_mail, n_time = tl.cdiv(Dm, BLOCK_F), tl.cdiv(T, BLOCK_F)
    b_row = tl.load(rows + o_u, mask=m_u, other=0).to(tl.int64) if ROWS else o_u
    if i_f < n_mail:
        o_f = i_f * BLOCK_F + tl.arange(0, BLOCK_F)
        m = m_u[:, None] & (o_f < Dm)[None, :]
        b_m = tl.load(mail + b_row[:, None] * stride_mail + o_f[None, :], mask=m, other=0.0)
        tl.store(x + o_u[:, None] * (Dm + T) + o_f[None, :], b_m, mask=m)
    elif i_f < n_mail + n_time:
        o_f = (i_f - n_mail) * BLOCK_F + tl.arange(0, BLOCK_F)
        m_f = o_f < T
        b_dt = tl.load(dt + o_u, mask=m_u, other=0).to(tl.float64)
        b_w = tl.load(w + o_f, mask=m_f, other=0.0).to(tl.float64)
        b_b = tl.load(b + o_f, mask=m_f, other=0.0).to(tl.float64)
        b_phi = cos_turns(turns(b_dt[:, None], b_w[None, :], b_b[None, :]), ACC)
        at = x + o_u[:, None] * (Dm + T) + Dm + o_f[None, :]
        tl.store(at, b_phi.to(x.dtype.element_ty), mask=m_u[:, None] & m_f[None, :])
    else:
        o_f = (i_f - n_mail - n_time) * BLOCK_F + tl.arange(0, BLOCK_F)
        m = m_u[:, None] & (o_f < D)[None, :]
        b_h = tl.load(memory + b_row[:, None] * stride_memory + o_f[None, :], mask=m, other=0.0)
        tl.store(h + o_u[:, None] * D + o_f[None, :], b_h, mask=m)


@triton.jit
def _sigmoid(v):
    return 1.0 / (1.0 + tl.exp(-v))


@triton.jit
def _tanh(v):
    """Without cancellation near 0: (1 - e) / (1 + e) with e = exp(-2|v|), or the series below 1/64."""
    e = tl.exp(-2.0 * tl.abs(v))
    large = (1.0 - e) / (1.0 + e)
    large = tl.where(v < 0, -large, large)
    v2 = v * v
    small = v * (1.0 - v2 * (0.3333333333333333 - v2 * (0.13333333333333333 - v2 * 0.05396825396825397)))
    return tl.where(tl.abs(v) < 0.015625, small, large)


@triton.jit
def memory_update_gates_fwd_kernel(
    gi,
    gh,
    h,
    out,
    saved,
    n,
    D,
    GRU: tl.constexpr,
    SAVE: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    o = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m = o < n
    o_u, o_d = o // D, o % D
    if GRU:
        p_i, p_h, p_s = gi + o_u * 3 * D + o_d, gh + o_u * 3 * D + o_d, saved + o_u * 4 * D + o_d
        b_r = _sigmoid(tl.load(p_i, mask=m, other=0.0).to(ACC) + tl.load(p_h, mask=m, other=0.0).to(ACC))
        b_z = _sigmoid(tl.load(p_i + D, mask=m, other=0.0).to(ACC) + tl.load(p_h + D, mask=m, other=0.0).to(ACC))
        b_hn = tl.load(p_h + 2 * D, mask=m, other=0.0).to(ACC)
        b_n = _tanh(tl.load(p_i + 2 * D, mask=m, other=0.0).to(ACC) + b_r * b_hn)
        b_h = tl.load(h + o, mask=m, other=0.0).to(ACC)
        b_out = b_n + b_z * (b_h - b_n)
        if SAVE:
            tl.store(p_s, b_r, mask=m)
            tl.store(p_s + D, b_z, mask=m)
            tl.store(p_s + 2 * D, b_n, mask=m)
            tl.store(p_s + 3 * D, b_hn, mask=m)
    else:
        b_out = _tanh(tl.load(gi + o, mask=m, other=0.0).to(ACC) + tl.load(gh + o, mask=m, other=0.0).to(ACC))
        if SAVE:
            tl.store(saved + o, b_out, mask=m)
    tl.store(out + o, b_out.to(out.dtype.element_ty), mask=m)


@triton.jit
def memory_update_gates_bwd_kernel(
    grad,
    saved,
    h,
    di,
    dh,
    direct,
    n,
    D,
    GRU: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """di, dh: gradients of both products' results; direct: the part of the gradient of h that no product carries."""
    o = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m = o < n
    o_u, o_d = o // D, o % D
    b_g = tl.load(grad + o, mask=m, other=0.0).to(ACC)
    ty = di.dtype.element_ty
    if GRU:
        p_i, p_h, p_s = di + o_u * 3 * D + o_d, dh + o_u * 3 * D + o_d, saved + o_u * 4 * D + o_d
        b_r = tl.load(p_s, mask=m, other=0.0)
        b_z = tl.load(p_s + D, mask=m, other=0.0)
        b_n = tl.load(p_s + 2 * D, mask=m, other=0.0)
        b_hn = tl.load(p_s + 3 * D, mask=m, other=0.0)
        b_h = tl.load(h + o, mask=m, other=0.0).to(ACC)
        b_dn = b_g * (1.0 - b_z) * (1.0 - b_n * b_n)
        b_dr = (b_dn * b_hn * b_r * (1.0 - b_r)).to(ty)
        b_dz = (b_g * (b_h - b_n) * b_z * (1.0 - b_z)).to(ty)
        tl.store(p_i, b_dr, mask=m)
        tl.store(p_h, b_dr, mask=m)
        tl.store(p_i + D, b_dz, mask=m)
        tl.store(p_h + D, b_dz, mask=m)
        tl.store(p_i + 2 * D, b_dn.to(ty), mask=m)
        tl.store(p_h + 2 * D, (b_dn * b_r).to(ty), mask=m)
        tl.store(direct + o, b_g * b_z, mask=m)
    else:
        b_s = tl.load(saved + o, mask=m, other=0.0)
        b_d = (b_g * (1.0 - b_s * b_s)).to(ty)
        tl.store(di + o, b_d, mask=m)
        tl.store(dh + o, b_d, mask=m)


_GATHER, _GATES = tuned("memory_update_gather"), tuned("memory_update_gates")
BLOCK_U, BLOCK_F, BLOCK = _GATHER["BLOCK_U"], _GATHER["BLOCK_F"], _GATES["BLOCK"]  # of the default


def _acc(dtype: torch.dtype) -> tuple[torch.dtype, tl.dtype]:
    return (torch.float64, tl.float64) if dtype == torch.float64 else (torch.float32, tl.float32)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b; half types are not rounded before the gates."""
    if a.dtype in (torch.float16, torch.bfloat16):
        return torch.mm(a, b, out_dtype=torch.float32)
    return a @ b


def _gather(
    mail: Tensor, dt: Tensor, memory: Tensor, time_w: Tensor, time_b: Tensor, rows: Tensor | None
) -> tuple[Tensor, Tensor]:
    U, Dm, T, D = dt.shape[0], mail.shape[1], time_w.shape[0], memory.shape[1]
    mail = mail if mail.stride(1) == 1 else mail.contiguous()
    memory = memory if memory.stride(1) == 1 else memory.contiguous()
    x = torch.empty((U, Dm + T), dtype=memory.dtype, device=memory.device)
    h = torch.empty((U, D), dtype=memory.dtype, device=memory.device)
    blocks = tuned("memory_update_gather", memory.device)
    grid = (triton.cdiv(U, blocks["BLOCK_U"]), sum(triton.cdiv(n, blocks["BLOCK_F"]) for n in (Dm, T, D)))
    if grid[0] and grid[1]:
        memory_update_gather_kernel[grid](
            mail,
            dt.contiguous(),
            memory,
            time_w.contiguous(),
            time_b.contiguous(),
            dt if rows is None else rows.contiguous(),
            x,
            h,
            U,
            Dm,
            T,
            D,
            mail.stride(0),
            memory.stride(0),
            ROWS=rows is not None,
            ACC=_acc(memory.dtype)[1],
            **blocks,
        )
    return x, h


def memory_update_fwd(
    mail: Tensor,
    dt: Tensor,
    memory: Tensor,
    time_w: Tensor,
    time_b: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor,
    b_hh: Tensor,
    rows: Tensor | None,
    gru: bool,
    save: bool,
) -> tuple[Tensor, Tensor]:
    acc, tl_acc = _acc(memory.dtype)
    x, h = _gather(mail, dt, memory, time_w, time_b, rows)
    U, D = h.shape
    out = torch.empty_like(h)
    saved = torch.empty((U if save else 0, (4 if gru else 1) * D), dtype=acc, device=h.device)
    if out.numel() == 0:
        return out, saved
    gi, gh = _product(x, w_ih.T) + b_ih, _product(h, w_hh.T) + b_hh
    blocks = tuned("memory_update_gates", h.device)
    memory_update_gates_fwd_kernel[(triton.cdiv(U * D, blocks["BLOCK"]),)](
        gi, gh, h, out, saved, U * D, D, GRU=gru, SAVE=save, ACC=tl_acc, **blocks
    )
    return out, saved


def _scatter(table: Tensor, rows: Tensor | None, values: Tensor) -> Tensor:
    if rows is None:
        return values.to(table.dtype)
    # a stable sort, then sums within runs of equal rows: no atomics
    ids, order = torch.sort(rows.to(torch.int64), stable=True)
    ends = torch.searchsorted(ids, torch.arange(table.shape[0], device=ids.device), right=True)
    offsets = torch.cat([ends.new_zeros(1), ends])
    sums = torch.segment_reduce(values[order], "sum", offsets=offsets, unsafe=True, initial=0)
    return sums.to(table.dtype)


def memory_update_bwd(
    grad: Tensor,
    saved: Tensor,
    mail: Tensor,
    dt: Tensor,
    memory: Tensor,
    time_w: Tensor,
    time_b: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    rows: Tensor | None,
    gru: bool,
    grad_mail: bool,
    grad_memory: bool,
    grad_time: bool,
    grad_weights: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    acc, tl_acc = _acc(memory.dtype)
    x, h = _gather(mail, dt, memory, time_w, time_b, rows)
    (U, D), Dm = h.shape, mail.shape[1]
    di = torch.empty((U, w_ih.shape[0]), dtype=memory.dtype, device=h.device)
    dh = torch.empty_like(di)
    direct = torch.empty((U if gru else 0, D), dtype=acc, device=h.device)
    if U * D:
        blocks = tuned("memory_update_gates", h.device)
        memory_update_gates_bwd_kernel[(triton.cdiv(U * D, blocks["BLOCK"]),)](
            grad.contiguous(), saved.contiguous(), h, di, dh, direct, U * D, D, GRU=gru, ACC=tl_acc, **blocks
        )
    none = memory.new_empty
    out = [none(0) for _ in range(8)]
    if grad_mail:
        out[0] = _scatter(mail, rows, _product(di, w_ih[:, :Dm]))
    if grad_memory:
        through = _product(dh, w_hh)
        out[1] = _scatter(memory, rows, through + direct if gru else through)
    if grad_time:
        dphi = _product(di, w_ih[:, Dm:]).contiguous()
        out[2], out[3] = time_encode_bwd(dphi, dt.contiguous(), time_w.contiguous(), time_b.contiguous())
    if grad_weights:
        out[4] = _product(di.T, x).to(w_ih.dtype)
        out[5] = _product(dh.T, h).to(w_hh.dtype)
        out[6], out[7] = di.sum(0, dtype=acc).to(w_ih.dtype), dh.sum(0, dtype=acc).to(w_hh.dtype)
    return out[0], out[1], out[2], out[3], out[4], out[5], out[6], out[7]


_GATHER = {
    "mail": "*fp32",
    "dt": "*i64",
    "memory": "*fp32",
    "w": "*fp32",
    "b": "*fp32",
    "rows": "*i64",
    "x": "*fp32",
    "h": "*fp32",
    "U": "i32",
    "Dm": "i32",
    "T": "i32",
    "D": "i32",
    "stride_mail": "i32",
    "stride_memory": "i32",
}
_FWD = {"gi": "*fp32", "gh": "*fp32", "h": "*fp32", "out": "*fp32", "saved": "*fp32", "n": "i32", "D": "i32"}
_BWD = {
    "grad": "*fp32",
    "saved": "*fp32",
    "h": "*fp32",
    "di": "*fp32",
    "dh": "*fp32",
    "direct": "*fp32",
    "n": "i32",
    "D": "i32",
}


def _half(signature: dict[str, str]) -> dict[str, str]:
    """A half-precision specialisation: what is saved and what the products give stays fp32."""
    kept = ("saved", "direct", "gi", "gh")
    return {k: "*bf16" if v == "*fp32" and k not in kept else v for k, v in signature.items()}


_BLOCKS_GATHER = {"ROWS": True, "ACC": tl.float32, "BLOCK_U": BLOCK_U, "BLOCK_F": BLOCK_F}
_BLOCKS = {"ACC": tl.float32, "BLOCK": BLOCK}
KERNELS = [
    KernelSpec("memory_update_gather", memory_update_gather_kernel, _GATHER, _BLOCKS_GATHER),
    KernelSpec(
        "memory_update_gather_aligned",
        memory_update_gather_kernel,
        _GATHER,
        _BLOCKS_GATHER,
        aligned=("Dm", "T", "D", "stride_mail", "stride_memory"),
        vector_loads=True,
    ),
    KernelSpec("memory_update_gather_bf16", memory_update_gather_kernel, _half(_GATHER), _BLOCKS_GATHER),
    KernelSpec("memory_update_gather_direct", memory_update_gather_kernel, _GATHER, {**_BLOCKS_GATHER, "ROWS": False}),
    *(
        KernelSpec(
            f"memory_update_gates_fwd_{cell}{suffix}",
            memory_update_gates_fwd_kernel,
            signature,
            {**_BLOCKS, "GRU": cell == "gru", "SAVE": True},
        )
        for cell in ("gru", "rnn")
        for suffix, signature in (("", _FWD), ("_bf16", _half(_FWD)))
    ),
    *(
        KernelSpec(
            f"memory_update_gates_bwd_{cell}{suffix}",
            memory_update_gates_bwd_kernel,
            signature,
            {**_BLOCKS, "GRU": cell == "gru"},
        )
        for cell in ("gru", "rnn")
        for suffix, signature in (("", _BWD), ("_bf16", _half(_BWD)))
    ),
]
