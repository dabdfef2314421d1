"""Attention of nodes over their mails, with absorbed projections: one program a row, mails read where they lie.

The slots of a mailbox are consecutive rows of one table, so a tile of mails needs no row numbers; empty slots are masked.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gnnaccel.kernels.aot import KernelSpec
from gnnaccel.kernels.triton._attention import (
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


@triton.jit
def _mails(mail, base, o_k, m_k, o_n, M, ACC: tl.constexpr):
    """Mails [BLOCK_K, BLOCK_N] of slots that have one, else zero; `base`: the node's first row of the table."""
    m = m_k[:, None] & (o_n < M)[None, :]
    return tl.load(mail + (base + o_k)[:, None] * M + o_n[None, :], mask=m, other=0.0).to(ACC)


@triton.jit
def _ages(mail_time, base, t, o_k, m_k):
    """How old each mail is, [BLOCK_K], float64; the difference is taken in the dtype of the times."""
    return tl.where(m_k, (t - tl.load(mail_time + base + o_k, mask=m_k, other=0)).to(tl.float64), 0.0)


@triton.jit(do_not_specialize=["seed"])
def mailbox_attention_fwd_kernel(
    u,
    c,
    mail,
    mail_time,
    has_mail,
    nodes,
    times,
    time_w,
    time_b,
    z,
    s,
    logit,
    stride_ur,
    stride_uh,
    S,
    H,
    M,
    T,
    seed,
    SCALE: tl.constexpr,
    SLOPE: tl.constexpr,
    THRESHOLD: tl.constexpr,
    KEEP_SCALE: tl.constexpr,
    ACC: tl.constexpr,
    DROPOUT: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    i_p = tl.program_id(0).to(tl.int64)
    base = tl.load(nodes + i_p).to(tl.int64) * S
    t = tl.load(times + i_p)
    F = M + T
    o_h, o_n, o_t = tl.arange(0, BLOCK_H), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_T)
    m_h = o_h < H
    p_u, p_z = u + i_p * stride_ur, z + i_p * H * F
    b_un = part(p_u, stride_uh, o_h, o_n, m_h, M, ACC)
    b_ut = part(p_u + M, stride_uh, o_h, o_t, m_h, T, ACC)
    b_c = tl.load(c + i_p * H + o_h, mask=m_h, other=0.0).to(ACC)
    b_w, b_b = frequencies(time_w, time_b, o_t, T)
    b_zn = tl.zeros([BLOCK_H, BLOCK_N], dtype=ACC)
    b_zt = tl.zeros([BLOCK_H, BLOCK_T], dtype=ACC)
    b_max = tl.full([BLOCK_H], float("-inf"), dtype=ACC)
    b_sum = tl.zeros([BLOCK_H], dtype=ACC)
    b_s = tl.zeros([BLOCK_H], dtype=ACC)
    for k in range(0, S, BLOCK_K):
        o_k = k + tl.arange(0, BLOCK_K)
        m_k = tl.load(has_mail + base + o_k, mask=o_k < S, other=0) != 0
        b_xn = _mails(mail, base, o_k, m_k, o_n, M, ACC)
        b_xt = cos_turns(turns(_ages(mail_time, base, t, o_k, m_k)[:, None], b_w[None, :], b_b[None, :]).to(ACC), ACC)
        b_l = dot(b_xn, b_un) + dot(b_xt, b_ut) + b_c[None, :]
        tl.store(logit + (i_p * H + o_h[None, :]) * S + o_k[:, None], b_l, mask=m_k[:, None] & m_h[None, :])
        b_p, b_fade, b_max, b_sum, b_s = online_softmax(
            b_l, m_k, b_max, b_sum, b_s, seed, i_p, o_k, o_h, SCALE, SLOPE, THRESHOLD, KEEP_SCALE, DROPOUT, ACC
        )
        b_zn = b_zn * b_fade[:, None] + mix(b_p, b_xn)
        b_zt = b_zt * b_fade[:, None] + mix(b_p, b_xt)
    b_inv = tl.where(b_sum > 0, 1.0 / tl.where(b_sum > 0, b_sum, 1.0), 0.0)
    put(p_z, F, o_h, o_n, m_h, M, b_zn * b_inv[:, None])
    put(p_z + M, F, o_h, o_t, m_h, T, b_zt * b_inv[:, None])
    tl.store(s + i_p * H + o_h, (b_s * b_inv).to(s.dtype.element_ty), mask=m_h)


@triton.jit(do_not_specialize=["seed"])
def mailbox_attention_bwd_kernel(
    dz,
    ds,
    u,
    mail,
    mail_time,
    has_mail,
    nodes,
    times,
    time_w,
    time_b,
    logit,
    du,
    dc,
    partial_w,
    partial_b,
    stride_ur,
    stride_uh,
    stride_gr,
    stride_gh,
    P,
    S,
    H,
    M,
    T,
    seed,
    SCALE: tl.constexpr,
    SLOPE: tl.constexpr,
    THRESHOLD: tl.constexpr,
    KEEP_SCALE: tl.constexpr,
    ACC: tl.constexpr,
    DROPOUT: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    i_b = tl.program_id(0).to(tl.int64)
    F = M + T
    o_h, o_n, o_t = tl.arange(0, BLOCK_H), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_T)
    o_a = tl.arange(0, BLOCK_S)
    m_h = o_h < H
    b_w, b_b = frequencies(time_w, time_b, o_t, T)
    b_dw = tl.zeros([BLOCK_T], dtype=tl.float64)
    b_db = tl.zeros([BLOCK_T], dtype=tl.float64)
    for i in range(0, tl.minimum(ROWS, P - i_b * ROWS)):
        i_p = i_b * ROWS + i
        base = tl.load(nodes + i_p).to(tl.int64) * S
        t = tl.load(times + i_p)
        p_u, p_g, p_d = u + i_p * stride_ur, dz + i_p * stride_gr, du + i_p * H * F
        b_gn = part(p_g, stride_gh, o_h, o_n, m_h, M, ACC)
        b_gt = part(p_g + M, stride_gh, o_h, o_t, m_h, T, ACC)
        b_ds = tl.load(ds + i_p * H + o_h, mask=m_h, other=0.0).to(ACC)
        b_dun = tl.zeros([BLOCK_H, BLOCK_N], dtype=ACC)
        b_dut = tl.zeros([BLOCK_H, BLOCK_T], dtype=ACC)
        b_dc = tl.zeros([BLOCK_H], dtype=ACC)
        p_l = logit + i_p * H * S
        m_a = tl.load(has_mail + base + o_a, mask=o_a < S, other=0) != 0
        b_top, b_sum = normaliser(p_l, S, o_a, o_h, m_a, m_h, SCALE, SLOPE)
        # sum_k p_k dp_k, the mean that the gradient of the softmax subtracts; see temporal_attention
        b_mean = tl.zeros([BLOCK_H], dtype=ACC)
        for k in range(0, S, BLOCK_K):
            o_k = k + tl.arange(0, BLOCK_K)
            m_k = tl.load(has_mail + base + o_k, mask=o_k < S, other=0) != 0
            m_kh = m_k[:, None] & m_h[None, :]
            b_turns = turns(_ages(mail_time, base, t, o_k, m_k)[:, None], b_w[None, :], b_b[None, :]).to(ACC)
            b_xn = _mails(mail, base, o_k, m_k, o_n, M, ACC)
            # added up as below: of one mail, whose weight is 1, the gradient is then exactly zero
            b_dp = dot(b_xn, b_gn) + dot(cos_turns(b_turns, ACC), b_gt) + b_ds[None, :]
            b_p, _, b_dp, _ = weights(
                p_l, S, b_dp, b_top, b_sum, seed, i_p, o_k, o_h, m_kh, SCALE, SLOPE, THRESHOLD, KEEP_SCALE, DROPOUT, ACC
            )
            b_mean += tl.sum(b_p * b_dp, axis=0)
        for k in range(0, S, BLOCK_K):
            o_k = k + tl.arange(0, BLOCK_K)
            m_k = tl.load(has_mail + base + o_k, mask=o_k < S, other=0) != 0
            m_kh = m_k[:, None] & m_h[None, :]
            b_xn = _mails(mail, base, o_k, m_k, o_n, M, ACC)
            b_dt = _ages(mail_time, base, t, o_k, m_k)
            b_turns = turns(b_dt[:, None], b_w[None, :], b_b[None, :]).to(ACC)
            b_xt = cos_turns(b_turns, ACC)
            b_dp = dot(b_xn, b_gn) + dot(b_xt, b_gt) + b_ds[None, :]
            b_p, b_kept, b_dp, b_slope = weights(
                p_l, S, b_dp, b_top, b_sum, seed, i_p, o_k, o_h, m_kh, SCALE, SLOPE, THRESHOLD, KEEP_SCALE, DROPOUT, ACC
            )
            b_e = b_p * (b_dp - b_mean[None, :]) * SCALE * b_slope
            b_dc += tl.sum(b_e, axis=0)
            b_dun += mix(b_e, b_xn)
            b_dut += mix(b_e, b_xt)
            b_ut = part(p_u + M, stride_uh, o_h, o_t, m_h, T, ACC)
            b_angle = (-sin_turns(b_turns, ACC) * back(b_kept, b_gt, b_e, b_ut)).to(tl.float64)
            b_db += tl.sum(b_angle, axis=0)
            b_dw += tl.sum(b_angle * b_dt[:, None], axis=0)
        put(p_d, F, o_h, o_n, m_h, M, b_dun)
        put(p_d + M, F, o_h, o_t, m_h, T, b_dut)
        tl.store(dc + i_p * H + o_h, b_dc.to(dc.dtype.element_ty), mask=m_h)
    tl.store(partial_w + i_b * T + o_t, b_dw, mask=o_t < T)
    tl.store(partial_b + i_b * T + o_t, b_db, mask=o_t < T)


def _tiles(S: int, H: int, M: int, T: int, device: torch.device | None = None) -> dict[str, int]:
    tiles = blocks(S, H, M, 0, T, device)
    del tiles["BLOCK_E"]
    return tiles


def _state(
    mail: Tensor, mail_time: Tensor, has_mail: Tensor, nodes: Tensor, times: Tensor, time_w: Tensor, time_b: Tensor
) -> tuple[Tensor, ...]:
    has = has_mail.contiguous().view(torch.uint8)
    return (
        mail.contiguous(),
        mail_time.contiguous(),
        has,
        *(t.contiguous() for t in (nodes, times, time_w, time_b)),
    )


def mailbox_attention_fwd(
    u: Tensor,
    c: Tensor,
    mail: Tensor,
    mail_time: Tensor,
    has_mail: Tensor,
    nodes: Tensor,
    times: Tensor,
    time_w: Tensor,
    time_b: Tensor,
    scale: float,
    slope: float,
    dropout: float,
    seed: int,
) -> tuple[Tensor, Tensor, Tensor]:
    (P, H), (S, M), T = u.shape[:2], mail.shape[1:], time_w.shape[0]
    u = dense_last(u)
    z, s, logit = forward_results(u, S)
    if P > 0 and H > 0:
        mailbox_attention_fwd_kernel[(P,)](
            u,
            c.contiguous(),
            *_state(mail, mail_time, has_mail, nodes, times, time_w, time_b),
            z,
            s,
            logit,
            u.stride(0),
            u.stride(1),
            S,
            H,
            M,
            T,
            seed,
            **options(u.dtype, scale, slope, dropout),
            **_tiles(S, H, M, T, u.device),
        )
    return z, s, logit


def mailbox_attention_bwd(
    grad_z: Tensor,
    grad_s: Tensor,
    u: Tensor,
    mail: Tensor,
    mail_time: Tensor,
    has_mail: Tensor,
    nodes: Tensor,
    times: Tensor,
    time_w: Tensor,
    time_b: Tensor,
    logit: Tensor,
    scale: float,
    slope: float,
    dropout: float,
    seed: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    (P, H), (S, M), T = u.shape[:2], mail.shape[1:], time_w.shape[0]
    u, grad_z = dense_last(u), dense_last(grad_z)
    each = roots(u.device)
    programs = triton.cdiv(P, each) if H > 0 else 0
    du, dc, partial_w, partial_b = backward_results(u, T, programs)
    if programs > 0:
        mailbox_attention_bwd_kernel[(programs,)](
            grad_z,
            grad_s.contiguous(),
            u,
            *_state(mail, mail_time, has_mail, nodes, times, time_w, time_b),
            logit,
            du,
            dc,
            partial_w,
            partial_b,
            u.stride(0),
            u.stride(1),
            grad_z.stride(0),
            grad_z.stride(1),
            P,
            S,
            H,
            M,
            T,
            seed,
            **options(u.dtype, scale, slope, dropout),
            ROWS=each,
            BLOCK_S=pow2(S),
            **_tiles(S, H, M, T, u.device),
        )
    return du, dc, partial_w.sum(0).to(time_w.dtype), partial_b.sum(0).to(time_b.dtype)


_FLOATS = ("u", "c", "mail", "time_w", "time_b", "dz", "ds", "z", "s", "logit", "du", "dc")
_SIZES = ("S", "H", "M", "T", "P", "stride_ur", "stride_uh", "stride_gr", "stride_gh")
_SIGNATURE = {name: "*fp32" for name in _FLOATS} | {name: "i32" for name in _SIZES}
_SIGNATURE |= {"mail_time": "*i64", "has_mail": "*u8", "nodes": "*i64", "times": "*i64", "seed": "i64"}
_SIGNATURE |= {"partial_w": "*fp64", "partial_b": "*fp64"}
_TILES = _tiles(10, 2, 372, 100)
_WARPS = _TILES.pop("num_warps")
_FLAGS = {**options(torch.float32, 1.0, 0.2, 0.1), **_TILES}
KERNELS = [
    KernelSpec("mailbox_attention_fwd", mailbox_attention_fwd_kernel, _SIGNATURE, _FLAGS, num_warps=_WARPS),
    KernelSpec(
        "mailbox_attention_bwd",
        mailbox_attention_bwd_kernel,
        _SIGNATURE,
        {**_FLAGS, "ROWS": roots(), "BLOCK_S": 16},
        num_warps=_WARPS,
    ),
]
