"""Temporal attention with absorbed projections: one program a root, rows gathered from the tables into registers.

Tiles are [BLOCK_K neighbours, BLOCK_H heads, columns]; the three parts of a row (node, edge, time) are separate tiles, so each
is loaded with its own alignment and none is padded to the sum of the three.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gnnaccel.kernels.aot import KernelSpec
from gnnaccel.kernels.triton._attention import (
    acc_type,
    back,
    backward_results,
    blocks,
    dense_last,
    dot,
    forward_results,
    frequencies,
    mix,
    normaliser,
    online_softmax,
    options,
    part,
    pow2,
    put,
    roots,
    weights,
)
from gnnaccel.kernels.triton._time import cos_turns, sin_turns, turns
from gnnaccel.kernels.triton._tuning import tuned


@triton.jit
def _gather(table, rows, o_k, m_k, o_d, n, ACC: tl.constexpr):
    """Rows [BLOCK_K, BLOCK_D] of a table, zero in padded slots, and their row numbers."""
    b_row = tl.load(rows + o_k, mask=m_k, other=0).to(tl.int64)
    m = m_k[:, None] & (o_d < n)[None, :]
    return tl.load(table + b_row[:, None] * n + o_d[None, :], mask=m, other=0.0).to(ACC), b_row


@triton.jit
def _turns(dt, o_k, m_k, b_w, b_b, ACC: tl.constexpr):
    """Angles [BLOCK_K, BLOCK_T] in turns, reduced in float64; and the times [BLOCK_K], float64."""
    b_dt = tl.load(dt + o_k, mask=m_k, other=0).to(tl.float64)
    return turns(b_dt[:, None], b_w[None, :], b_b[None, :]).to(ACC), b_dt


@triton.jit(do_not_specialize=["seed"])
def temporal_attention_fwd_kernel(
    u,
    c,
    node_table,
    edge_table,
    nbr_row,
    edge_row,
    dt,
    count,
    time_w,
    time_b,
    z,
    s,
    logit,
    stride_ur,
    stride_uh,
    K,
    H,
    Dn,
    De,
    T,
    seed,
    SCALE: tl.constexpr,
    SLOPE: tl.constexpr,
    THRESHOLD: tl.constexpr,
    KEEP_SCALE: tl.constexpr,
    ACC: tl.constexpr,
    HAS_EDGE: tl.constexpr,
    DROPOUT: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    i_r = tl.program_id(0).to(tl.int64)
    n = tl.load(count + i_r)
    F = Dn + De + T
    o_h, o_n, o_e, o_t = tl.arange(0, BLOCK_H), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_E), tl.arange(0, BLOCK_T)
    m_h = o_h < H
    p_u, p_z = u + i_r * stride_ur, z + i_r * H * F
    b_un = part(p_u, stride_uh, o_h, o_n, m_h, Dn, ACC)
    b_ut = part(p_u + Dn + De, stride_uh, o_h, o_t, m_h, T, ACC)
    b_c = tl.load(c + i_r * H + o_h, mask=m_h, other=0.0).to(ACC)
    b_w, b_b = frequencies(time_w, time_b, o_t, T)
    b_zn = tl.zeros([BLOCK_H, BLOCK_N], dtype=ACC)
    b_zt = tl.zeros([BLOCK_H, BLOCK_T], dtype=ACC)
    if HAS_EDGE:
        b_ue = part(p_u + Dn, stride_uh, o_h, o_e, m_h, De, ACC)
        b_ze = tl.zeros([BLOCK_H, BLOCK_E], dtype=ACC)
    b_max = tl.full([BLOCK_H], float("-inf"), dtype=ACC)
    b_sum = tl.zeros([BLOCK_H], dtype=ACC)
    b_s = tl.zeros([BLOCK_H], dtype=ACC)
    for k in range(0, n, BLOCK_K):
        o_k = k + tl.arange(0, BLOCK_K)
        m_k = o_k < n
        b_xn, _ = _gather(node_table, nbr_row + i_r * K, o_k, m_k, o_n, Dn, ACC)
        b_turns, _ = _turns(dt + i_r * K, o_k, m_k, b_w, b_b, ACC)
        b_xt = cos_turns(b_turns, ACC)
        b_l = dot(b_xn, b_un) + dot(b_xt, b_ut) + b_c[None, :]
        if HAS_EDGE:
            b_xe, _ = _gather(edge_table, edge_row + i_r * K, o_k, m_k, o_e, De, ACC)
            b_l += dot(b_xe, b_ue)
        tl.store(logit + (i_r * H + o_h[None, :]) * K + o_k[:, None], b_l, mask=m_k[:, None] & m_h[None, :])
        b_p, b_fade, b_max, b_sum, b_s = online_softmax(
            b_l, m_k, b_max, b_sum, b_s, seed, i_r, o_k, o_h, SCALE, SLOPE, THRESHOLD, KEEP_SCALE, DROPOUT, ACC
        )
        b_zn = b_zn * b_fade[:, None] + mix(b_p, b_xn)
        b_zt = b_zt * b_fade[:, None] + mix(b_p, b_xt)
        if HAS_EDGE:
            b_ze = b_ze * b_fade[:, None] + mix(b_p, b_xe)
    b_inv = tl.where(b_sum > 0, 1.0 / tl.where(b_sum > 0, b_sum, 1.0), 0.0)
    put(p_z, F, o_h, o_n, m_h, Dn, b_zn * b_inv[:, None])
    put(p_z + Dn + De, F, o_h, o_t, m_h, T, b_zt * b_inv[:, None])
    if HAS_EDGE:
        put(p_z + Dn, F, o_h, o_e, m_h, De, b_ze * b_inv[:, None])
    tl.store(s + i_r * H + o_h, (b_s * b_inv).to(s.dtype.element_ty), mask=m_h)


@triton.jit(do_not_specialize=["seed"])
def temporal_attention_bwd_kernel(
    dz,
    ds,
    u,
    node_table,
    edge_table,
    nbr_row,
    edge_row,
    dt,
    count,
    time_w,
    time_b,
    logit,
    du,
    dc,
    d_node,
    d_edge,
    weight,
    partial_w,
    partial_b,
    stride_ur,
    stride_uh,
    stride_gr,
    stride_gh,
    R,
    K,
    H,
    Dn,
    De,
    T,
    seed,
    SCALE: tl.constexpr,
    SLOPE: tl.constexpr,
    THRESHOLD: tl.constexpr,
    KEEP_SCALE: tl.constexpr,
    ACC: tl.constexpr,
    HAS_EDGE: tl.constexpr,
    DROPOUT: tl.constexpr,
    STORE_WEIGHT: tl.constexpr,
    ATOMIC_NODE: tl.constexpr,
    ATOMIC_EDGE: tl.constexpr,
    ROOTS: tl.constexpr,
    BLOCK_KP: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    i_p = tl.program_id(0).to(tl.int64)
    F = Dn + De + T
    o_h, o_n, o_e, o_t = tl.arange(0, BLOCK_H), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_E), tl.arange(0, BLOCK_T)
    o_a = tl.arange(0, BLOCK_KP)
    m_h = o_h < H
    b_w, b_b = frequencies(time_w, time_b, o_t, T)
    b_dw = tl.zeros([BLOCK_T], dtype=tl.float64)
    b_db = tl.zeros([BLOCK_T], dtype=tl.float64)
    for i in range(0, tl.minimum(ROOTS, R - i_p * ROOTS)):
        i_r = i_p * ROOTS + i
        n = tl.load(count + i_r)
        p_u, p_g, p_d = u + i_r * stride_ur, dz + i_r * stride_gr, du + i_r * H * F
        b_gn = part(p_g, stride_gh, o_h, o_n, m_h, Dn, ACC)
        b_gt = part(p_g + Dn + De, stride_gh, o_h, o_t, m_h, T, ACC)
        b_ds = tl.load(ds + i_r * H + o_h, mask=m_h, other=0.0).to(ACC)
        b_dun = tl.zeros([BLOCK_H, BLOCK_N], dtype=ACC)
        b_dut = tl.zeros([BLOCK_H, BLOCK_T], dtype=ACC)
        b_dc = tl.zeros([BLOCK_H], dtype=ACC)
        if HAS_EDGE:
            b_ge = part(p_g + Dn, stride_gh, o_h, o_e, m_h, De, ACC)
            b_due = tl.zeros([BLOCK_H, BLOCK_E], dtype=ACC)
        p_l = logit + i_r * H * K
        b_top, b_sum = normaliser(p_l, K, o_a, o_h, o_a < n, m_h, SCALE, SLOPE)
        # sum_k p_k dp_k, the mean that the gradient of the softmax subtracts. A sweep of its own: z is not
        # kept for the backward pass, and in half precision dz . z would be a poor substitute
        b_mean = tl.zeros([BLOCK_H], dtype=ACC)
        for k in range(0, n, BLOCK_K):
            o_k = k + tl.arange(0, BLOCK_K)
            m_k = o_k < n
            b_xn, _ = _gather(node_table, nbr_row + i_r * K, o_k, m_k, o_n, Dn, ACC)
            b_turns, _ = _turns(dt + i_r * K, o_k, m_k, b_w, b_b, ACC)
            b_dp = dot(b_xn, b_gn) + dot(cos_turns(b_turns, ACC), b_gt) + b_ds[None, :]
            if HAS_EDGE:
                b_xe, _ = _gather(edge_table, edge_row + i_r * K, o_k, m_k, o_e, De, ACC)
                b_dp += dot(b_xe, b_ge)
            m_kh = m_k[:, None] & m_h[None, :]
            b_p, _, b_dp, _ = weights(
                p_l, K, b_dp, b_top, b_sum, seed, i_r, o_k, o_h, m_kh, SCALE, SLOPE, THRESHOLD, KEEP_SCALE, DROPOUT, ACC
            )
            b_mean += tl.sum(b_p * b_dp, axis=0)
        for k in range(0, n, BLOCK_K):
            o_k = k + tl.arange(0, BLOCK_K)
            m_k = o_k < n
            b_xn, b_nrow = _gather(node_table, nbr_row + i_r * K, o_k, m_k, o_n, Dn, ACC)
            b_turns, b_dt = _turns(dt + i_r * K, o_k, m_k, b_w, b_b, ACC)
            b_xt = cos_turns(b_turns, ACC)
            b_dp = dot(b_xn, b_gn) + dot(b_xt, b_gt) + b_ds[None, :]
            if HAS_EDGE:
                b_xe, b_erow = _gather(edge_table, edge_row + i_r * K, o_k, m_k, o_e, De, ACC)
                b_dp += dot(b_xe, b_ge)
            m_kh = m_k[:, None] & m_h[None, :]
            b_p, b_kept, b_dp, b_slope = weights(
                p_l, K, b_dp, b_top, b_sum, seed, i_r, o_k, o_h, m_kh, SCALE, SLOPE, THRESHOLD, KEEP_SCALE, DROPOUT, ACC
            )
            b_e = b_p * (b_dp - b_mean[None, :]) * SCALE * b_slope
            b_dc += tl.sum(b_e, axis=0)
            b_dun += mix(b_e, b_xn)
            b_dut += mix(b_e, b_xt)
            if HAS_EDGE:
                b_due += mix(b_e, b_xe)
            # u is loaded again where it is needed: held over the loop it would cost the registers of another tile
            b_ut = part(p_u + Dn + De, stride_uh, o_h, o_t, m_h, T, ACC)
            b_angle = (-sin_turns(b_turns, ACC) * back(b_kept, b_gt, b_e, b_ut)).to(tl.float64)
            b_db += tl.sum(b_angle, axis=0)
            b_dw += tl.sum(b_angle * b_dt[:, None], axis=0)
            if STORE_WEIGHT:
                p_w = weight + (i_r * K + o_k)[:, None] * 2 * H + o_h[None, :]
                tl.store(p_w, b_kept, mask=m_kh)
                tl.store(p_w + H, b_e, mask=m_kh)
            if ATOMIC_NODE:  # only when deterministic=False
                m = m_k[:, None] & (o_n < Dn)[None, :]
                b_un = part(p_u, stride_uh, o_h, o_n, m_h, Dn, ACC)
                tl.atomic_add(d_node + b_nrow[:, None] * Dn + o_n[None, :], back(b_kept, b_gn, b_e, b_un), mask=m)
            if HAS_EDGE and ATOMIC_EDGE:  # only when deterministic=False
                m = m_k[:, None] & (o_e < De)[None, :]
                b_ue = part(p_u + Dn, stride_uh, o_h, o_e, m_h, De, ACC)
                tl.atomic_add(d_edge + b_erow[:, None] * De + o_e[None, :], back(b_kept, b_ge, b_e, b_ue), mask=m)
        put(p_d, F, o_h, o_n, m_h, Dn, b_dun)
        put(p_d + Dn + De, F, o_h, o_t, m_h, T, b_dut)
        if HAS_EDGE:
            put(p_d + Dn, F, o_h, o_e, m_h, De, b_due)
        tl.store(dc + i_r * H + o_h, b_dc.to(dc.dtype.element_ty), mask=m_h)
    tl.store(partial_w + i_p * T + o_t, b_dw, mask=o_t < T)
    tl.store(partial_b + i_p * T + o_t, b_db, mask=o_t < T)


@triton.jit
def temporal_attention_table_kernel(
    dz,
    u,
    weight,
    order,
    start,
    grad,
    stride_ur,
    stride_uh,
    stride_gr,
    stride_gh,
    K,
    H,
    D,
    column,
    ACC: tl.constexpr,
    BLOCK_J: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Gradient of one row of a table: the sum over its occurrences, in the order of the roots."""
    i_row = tl.program_id(0).to(tl.int64)
    o_d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    m_d = o_d < D
    first, last = tl.load(start + i_row), tl.load(start + i_row + 1)
    b_acc = tl.zeros([BLOCK_D], dtype=ACC)
    for j in range(first, last, BLOCK_J):
        o_j = j + tl.arange(0, BLOCK_J)
        m_j = o_j < last
        b_slot = tl.load(order + o_j, mask=m_j, other=0).to(tl.int64)
        b_root = b_slot // K
        m = m_j[:, None] & m_d[None, :]
        for h in range(0, H):
            b_kept = tl.load(weight + b_slot * 2 * H + h, mask=m_j, other=0.0)
            b_e = tl.load(weight + b_slot * 2 * H + H + h, mask=m_j, other=0.0)
            o = column + o_d[None, :]
            b_g = tl.load(dz + b_root[:, None] * stride_gr + h * stride_gh + o, mask=m, other=0.0).to(ACC)
            b_u = tl.load(u + b_root[:, None] * stride_ur + h * stride_uh + o, mask=m, other=0.0).to(ACC)
            b_acc += tl.sum(b_kept[:, None] * b_g + b_e[:, None] * b_u, axis=0)
    tl.store(grad + i_row * D + o_d, b_acc.to(grad.dtype.element_ty), mask=m_d)


_TABLE = tuned("temporal_attention_table")


def temporal_attention_fwd(
    u: Tensor,
    c: Tensor,
    node_table: Tensor,
    edge_table: Tensor | None,
    nbr_row: Tensor,
    edge_row: Tensor,
    dt: Tensor,
    count: Tensor,
    time_w: Tensor,
    time_b: Tensor,
    scale: float,
    slope: float,
    dropout: float,
    seed: int,
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    (R, H, F), K = u.shape, nbr_row.shape[1]
    Dn, T = node_table.shape[1], time_w.shape[0]
    De = F - Dn - T
    u = dense_last(u)
    z, s, logit = forward_results(u, K)
    if R == 0 or H == 0:
        return z, s, logit
    node_table, nbr_row = node_table.contiguous(), nbr_row.contiguous()
    has_edge = edge_table is not None and De > 0
    temporal_attention_fwd_kernel[(R,)](
        u,
        c.contiguous(),
        node_table,
        edge_table.contiguous() if has_edge and edge_table is not None else node_table,
        nbr_row,
        edge_row.contiguous() if has_edge else nbr_row,
        dt.contiguous(),
        count.contiguous(),
        time_w.contiguous(),
        time_b.contiguous(),
        z,
        s,
        logit,
        u.stride(0),
        u.stride(1),
        K,
        H,
        Dn,
        De,
        T,
        seed,
        **options(u.dtype, scale, slope, dropout),
        HAS_EDGE=has_edge,
        **blocks(K, H, Dn, De, T, u.device),
    )
    return z, s, logit


def temporal_attention_bwd(
    grad_z: Tensor,
    grad_s: Tensor,
    u: Tensor,
    node_table: Tensor,
    edge_table: Tensor | None,
    nbr_row: Tensor,
    edge_row: Tensor,
    dt: Tensor,
    count: Tensor,
    time_w: Tensor,
    time_b: Tensor,
    logit: Tensor,
    scale: float,
    slope: float,
    dropout: float,
    seed: int,
    deterministic: bool,
    need_node: bool,
    need_edge: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    (R, H, F), K = u.shape, nbr_row.shape[1]
    Dn, T = node_table.shape[1], time_w.shape[0]
    De = F - Dn - T
    u, grad_z = dense_last(u), dense_last(grad_z)
    node_table, nbr_row, count = node_table.contiguous(), nbr_row.contiguous(), count.contiguous()
    has_edge = edge_table is not None and De > 0
    edges = edge_table.contiguous() if has_edge and edge_table is not None else node_table
    edge_rows = edge_row.contiguous() if has_edge else nbr_row
    acc = logit.dtype
    atomic = not deterministic
    d_node = torch.zeros(node_table.shape if need_node else (0,), dtype=acc, device=u.device)
    edge_like = node_table if edge_table is None else edge_table
    d_edge = torch.zeros(edge_like.shape if need_edge else (0,), dtype=acc, device=u.device)
    by_row = [need_node and not atomic, need_edge and not atomic and has_edge]
    weight = torch.empty((R * K, 2, H) if any(by_row) else (0,), dtype=acc, device=u.device)
    each = roots(u.device)
    programs = triton.cdiv(R, each)
    du, dc, partial_w, partial_b = backward_results(u, T, programs)
    if R > 0 and H > 0:
        temporal_attention_bwd_kernel[(programs,)](
            grad_z,
            grad_s.contiguous(),
            u,
            node_table,
            edges,
            nbr_row,
            edge_rows,
            dt.contiguous(),
            count,
            time_w.contiguous(),
            time_b.contiguous(),
            logit,
            du,
            dc,
            d_node,
            d_edge,
            weight,
            partial_w,
            partial_b,
            u.stride(0),
            u.stride(1),
            grad_z.stride(0),
            grad_z.stride(1),
            R,
            K,
            H,
            Dn,
            De,
            T,
            seed,
            **options(u.dtype, scale, slope, dropout),
            HAS_EDGE=has_edge,
            STORE_WEIGHT=any(by_row),
            ATOMIC_NODE=need_node and atomic,
            ATOMIC_EDGE=need_edge and atomic and has_edge,
            ROOTS=each,
            BLOCK_KP=pow2(K),
            **blocks(K, H, Dn, De, T, u.device),
        )
    else:
        partial_w.zero_()
        partial_b.zero_()
    for wanted, grad, rows, column in zip(by_row, (d_node, d_edge), (nbr_row, edge_rows), (0, Dn), strict=True):
        if wanted and weight.numel():
            _table_gradient(grad, grad_z, u, weight, rows, count, column)
    return (
        du,
        dc,
        d_node.to(node_table.dtype),
        d_edge.to(edge_like.dtype),
        partial_w.sum(0).to(time_w.dtype),
        partial_b.sum(0).to(time_b.dtype),
    )


def _table_gradient(
    grad: Tensor, grad_z: Tensor, u: Tensor, weight: Tensor, rows: Tensor, count: Tensor, column: int
) -> None:
    """Fill `grad` `[U, D]`: occurrences sorted by row (a stable sort, so in the order of the roots), one program a row."""
    K, (U, D) = rows.shape[1], grad.shape
    if grad.numel() == 0:
        return
    live = torch.arange(K, device=rows.device) < count.unsqueeze(1)
    ordered, order = torch.sort(torch.where(live, rows, U).reshape(-1), stable=True)
    start = torch.searchsorted(ordered, torch.arange(U + 1, device=rows.device, dtype=ordered.dtype))
    sizes = tuned("temporal_attention_table", grad.device)
    temporal_attention_table_kernel[(U, triton.cdiv(D, sizes["BLOCK_D"]))](
        grad_z,
        u,
        weight,
        order,
        start,
        grad,
        u.stride(0),
        u.stride(1),
        grad_z.stride(0),
        grad_z.stride(1),
        K,
        u.shape[1],
        D,
        column,
        ACC=acc_type(u.dtype),
        **sizes,
    )


_IN = {
    "node_table": "*fp32",
    "edge_table": "*fp32",
    "nbr_row": "*i64",
    "edge_row": "*i64",
    "dt": "*i64",
    "count": "*i32",
    "time_w": "*fp32",
    "time_b": "*fp32",
}
_SIZES = {name: "i32" for name in ("K", "H", "Dn", "De", "T", "stride_ur", "stride_uh", "stride_gr", "stride_gh", "R")}
_SIZES |= {"seed": "i64"}
_TILES = blocks(10, 2, 100, 172, 100)
_WARPS = _TILES.pop("num_warps")
_FLAGS = {"HAS_EDGE": True, **options(torch.float32, 1.0, 0.2, 0.1)}
_PASS = {"STORE_WEIGHT": True, "ATOMIC_NODE": False, "ATOMIC_EDGE": False, "ROOTS": roots(), "BLOCK_KP": 16}
_FLOATS = ("u", "c", "dz", "ds", "z", "s", "logit", "du", "dc", "d_node", "d_edge", "weight", "grad")
_SIGNATURE = {**_IN, **_SIZES, **{name: "*fp32" for name in _FLOATS}}
_SIGNATURE |= {
    "partial_w": "*fp64",
    "partial_b": "*fp64",
    "order": "*i64",
    "start": "*i64",
    "D": "i32",
    "column": "i32",
}
KERNELS = [
    KernelSpec(
        "temporal_attention_fwd", temporal_attention_fwd_kernel, _SIGNATURE, {**_FLAGS, **_TILES}, num_warps=_WARPS
    ),
    KernelSpec(
        "temporal_attention_bwd",
        temporal_attention_bwd_kernel,
        _SIGNATURE,
        {**_FLAGS, **_PASS, **_TILES},
        num_warps=_WARPS,
    ),
    KernelSpec(
        "temporal_attention_bwd_atomics",
        temporal_attention_bwd_kernel,
        _SIGNATURE,
        {**_FLAGS, **_PASS, **_TILES, "STORE_WEIGHT": False, "ATOMIC_NODE": True},
        num_warps=_WARPS,
    ),
    *(
        KernelSpec(f"{name}_keyed", kernel, {**_SIGNATURE, "seed": "*i64"}, {**more, **_TILES}, num_warps=_WARPS)
        for name, kernel, more in (
            ("temporal_attention_fwd", temporal_attention_fwd_kernel, _FLAGS),
            ("temporal_attention_bwd", temporal_attention_bwd_kernel, {**_FLAGS, **_PASS}),
        )
    ),
    KernelSpec(
        "temporal_attention_table",
        temporal_attention_table_kernel,
        _SIGNATURE,
        {"ACC": tl.float32, "BLOCK_J": _TABLE["BLOCK_J"], "BLOCK_D": _TABLE["BLOCK_D"]},
    ),
]
