"""Softmax over neighbours and the weighted sum of their rows: one program a root and head, then one a source and head."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gnnaccel.kernels.aot import KernelSpec
from gnnaccel.kernels.triton._attention import acc_type, keep, online_softmax, options, pow2
from gnnaccel.kernels.triton._tuning import tuned, without_warps
from gnnaccel.kernels.triton.gather_aggregate import Transposed, span


@triton.jit
def _edges(nbr, src_logit, b_dst, begin, o_k, end, i_h, num_rows, H, ACC: tl.constexpr):
    """Neighbours [BLOCK_K] in slots o_k, whether there is one, and logits [BLOCK_K, 1]."""
    b_id = tl.load(nbr + begin + o_k, mask=begin + o_k < end, other=-1).to(tl.int64)
    m_k = (b_id >= 0) & (b_id < num_rows)
    b_l = tl.load(src_logit + b_id * H + i_h, mask=m_k, other=0.0).to(ACC) + b_dst
    return b_id, m_k, b_l[:, None]


@triton.jit
def _values(x, b_id, m_k, i_h, o_d, H, D, ACC: tl.constexpr):
    p_x = x + (b_id[:, None] * H + i_h) * D + o_d[None, :]
    return tl.load(p_x, mask=m_k[:, None] & (o_d < D)[None, :], other=0.0).to(ACC)


@triton.jit(do_not_specialize=["seed"])
def edge_softmax_aggregate_fwd_kernel(
    x,
    src_logit,
    dst_logit,
    nbr,
    start,
    count,
    out,
    stat,
    num_rows,
    K,
    H,
    D,
    seed,
    SCALE: tl.constexpr,
    SLOPE: tl.constexpr,
    THRESHOLD: tl.constexpr,
    KEEP_SCALE: tl.constexpr,
    DROPOUT: tl.constexpr,
    ACC: tl.constexpr,
    CSR: tl.constexpr,
    HAS_COUNT: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    i_r, i_h = tl.program_id(0).to(tl.int64), tl.program_id(1)
    o_h, o_d = i_h + tl.arange(0, 1), tl.arange(0, BLOCK_D)
    begin, end = span(start, count, i_r, K, CSR, HAS_COUNT)
    b_dst = tl.load(dst_logit + i_r * H + i_h).to(ACC)
    b_acc = tl.zeros([BLOCK_D], dtype=ACC)
    b_max = tl.full([1], float("-inf"), dtype=ACC)
    b_sum = tl.zeros([1], dtype=ACC)
    b_s = tl.zeros([1], dtype=ACC)
    for k in range(0, end - begin, BLOCK_K):
        o_k = k + tl.arange(0, BLOCK_K)
        b_id, m_k, b_l = _edges(nbr, src_logit, b_dst, begin, o_k, end, i_h, num_rows, H, ACC)
        b_x = _values(x, b_id, m_k, i_h, o_d, H, D, ACC)
        b_p, b_fade, b_max, b_sum, b_s = online_softmax(
            b_l, m_k, b_max, b_sum, b_s, seed, i_r, o_k, o_h, SCALE, SLOPE, THRESHOLD, KEEP_SCALE, DROPOUT, ACC
        )
        b_acc = b_acc * b_fade + tl.sum(b_p * b_x, axis=0)
    b_acc = tl.where(b_sum > 0, b_acc / tl.where(b_sum > 0, b_sum, 1.0), 0.0)
    tl.store(out + (i_r * H + i_h) * D + o_d, b_acc.to(out.dtype.element_ty), mask=o_d < D)
    p_stat = stat + i_r * 2 * H + o_h
    tl.store(p_stat, tl.where(b_sum > 0, b_max, 0.0))
    tl.store(p_stat + H, b_sum)


@triton.jit(do_not_specialize=["seed"])
def edge_softmax_aggregate_bwd_kernel(
    grad,
    x,
    src_logit,
    dst_logit,
    nbr,
    start,
    count,
    stat,
    kept,
    d_logit,
    d_dst,
    num_rows,
    K,
    H,
    D,
    seed,
    SCALE: tl.constexpr,
    SLOPE: tl.constexpr,
    THRESHOLD: tl.constexpr,
    KEEP_SCALE: tl.constexpr,
    DROPOUT: tl.constexpr,
    ACC: tl.constexpr,
    CSR: tl.constexpr,
    HAS_COUNT: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Weights after dropout and gradients of the logits, an edge and head each; gradients of the roots' logits."""
    i_r, i_h = tl.program_id(0).to(tl.int64), tl.program_id(1)
    o_h, o_d = i_h + tl.arange(0, 1), tl.arange(0, BLOCK_D)
    begin, end = span(start, count, i_r, K, CSR, HAS_COUNT)
    b_dst = tl.load(dst_logit + i_r * H + i_h).to(ACC)
    b_top, b_sum = tl.load(stat + i_r * 2 * H + i_h), tl.load(stat + i_r * 2 * H + H + i_h)
    b_g = tl.load(grad + (i_r * H + i_h) * D + o_d, mask=o_d < D, other=0.0).to(ACC)
    # sum_k p_k dp_k, the mean that the gradient of the softmax subtracts: a sweep of its own
    b_mean = tl.zeros([1], dtype=ACC)
    b_total = tl.zeros([1], dtype=ACC)
    for sweep in tl.static_range(2):
        for k in range(0, end - begin, BLOCK_K):
            o_k = k + tl.arange(0, BLOCK_K)
            b_id, m_k, b_l = _edges(nbr, src_logit, b_dst, begin, o_k, end, i_h, num_rows, H, ACC)
            b_slope = tl.where(b_l > 0, tl.full([], 1.0, ACC), tl.full([], SLOPE, ACC))
            b_p = tl.where(m_k[:, None], tl.exp(b_l * b_slope - b_top) / tl.where(b_sum > 0, b_sum, 1.0), 0.0)
            b_dp = tl.sum(_values(x, b_id, m_k, i_h, o_d, H, D, ACC) * b_g[None, :], axis=1)[:, None]
            b_kept = b_p
            if DROPOUT:
                b_keep = keep(seed, THRESHOLD, KEEP_SCALE, i_r, o_k, o_h, ACC)
                b_kept = b_p * b_keep
                b_dp *= b_keep
            if sweep == 0:
                b_mean += tl.sum(b_p * b_dp, axis=0)
            else:
                b_e = b_p * (b_dp - b_mean[None, :]) * b_slope
                b_total += tl.sum(b_e, axis=0)
                o = (begin + o_k)[:, None] * H + o_h[None, :]
                tl.store(kept + o, b_kept, mask=m_k[:, None])
                tl.store(d_logit + o, b_e, mask=m_k[:, None])
    tl.store(d_dst + i_r * H + o_h, b_total.to(d_dst.dtype.element_ty))


@triton.jit
def edge_softmax_aggregate_source_kernel(
    grad,
    root,
    place,
    start,
    kept,
    d_logit,
    d_x,
    d_src,
    H,
    D,
    ACC: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Gradients of one source: sums over the roots it is a neighbour of, in their order."""
    i_u, i_h = tl.program_id(0).to(tl.int64), tl.program_id(1)
    o_d = tl.arange(0, BLOCK_D)
    end = tl.load(start + i_u + 1)
    b_dx = tl.zeros([BLOCK_D], dtype=ACC)
    b_ds = tl.zeros([BLOCK_K], dtype=ACC)
    for e in range(tl.load(start + i_u), end, BLOCK_K):
        o_e = e + tl.arange(0, BLOCK_K)
        m_e = o_e < end
        b_root = tl.load(root + o_e, mask=m_e, other=0)
        o = tl.load(place + o_e, mask=m_e, other=0) * H + i_h
        b_ds += tl.load(d_logit + o, mask=m_e, other=0.0)
        b_g = _values(grad, b_root, m_e, i_h, o_d, H, D, ACC)
        b_dx += tl.sum(tl.load(kept + o, mask=m_e, other=0.0)[:, None] * b_g, axis=0)
    tl.store(d_x + (i_u * H + i_h) * D + o_d, b_dx.to(d_x.dtype.element_ty), mask=o_d < D)
    tl.store(d_src + i_u * H + i_h, tl.sum(b_ds, axis=0).to(d_src.dtype.element_ty))


def _blocks(D: int, device: torch.device | None = None) -> dict[str, int]:
    sizes, columns = tuned("edge_softmax_aggregate", device), pow2(D, 16)
    slots = max(min(sizes["TILE"] // columns, sizes["SLOTS"]), 1)
    return {"BLOCK_K": slots, "BLOCK_D": columns, "num_warps": sizes["num_warps"]}


def edge_softmax_aggregate_fwd(
    x: Tensor,
    src_logit: Tensor,
    dst_logit: Tensor,
    nbr: Tensor,
    count: Tensor | None,
    indptr: Tensor | None,
    negative_slope: float,
    dropout: float,
    seed: int,
) -> tuple[Tensor, Tensor]:
    (S, H, D), R = x.shape, dst_logit.shape[0]
    out = x.new_empty((R, H, D))
    stat = x.new_empty((R, 2, H), dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
    if R == 0 or H == 0:
        return out, stat
    edge_softmax_aggregate_fwd_kernel[(R, H)](
        x.contiguous(),
        src_logit.contiguous(),
        dst_logit.contiguous(),
        nbr.contiguous(),
        None if indptr is None else indptr.contiguous(),
        None if count is None else count.contiguous(),
        out,
        stat,
        S,
        nbr.shape[1] if indptr is None else 0,
        H,
        D,
        seed,
        **options(x.dtype, 1.0, negative_slope, dropout),
        CSR=indptr is not None,
        HAS_COUNT=count is not None,
        **_blocks(D, x.device),
    )
    return out, stat


def edge_softmax_aggregate_bwd(
    grad: Tensor,
    x: Tensor,
    src_logit: Tensor,
    dst_logit: Tensor,
    nbr: Tensor,
    count: Tensor | None,
    indptr: Tensor | None,
    out: Tensor,
    stat: Tensor,
    negative_slope: float,
    dropout: float,
    seed: int,
) -> tuple[Tensor, Tensor, Tensor]:
    (S, H, D), R = x.shape, dst_logit.shape[0]
    d_x, d_src, d_dst = (torch.zeros_like(t).contiguous() for t in (x, src_logit, dst_logit))
    if R == 0 or H == 0 or nbr.numel() == 0 or S == 0:
        return d_x, d_src, d_dst
    grad, nbr = grad.contiguous(), nbr.contiguous()
    count = None if count is None else count.contiguous()
    indptr = None if indptr is None else indptr.contiguous()
    kept, d_logit = (torch.empty((nbr.numel(), H), dtype=stat.dtype, device=x.device) for _ in range(2))
    edge_softmax_aggregate_bwd_kernel[(R, H)](
        grad,
        x.contiguous(),
        src_logit.contiguous(),
        dst_logit.contiguous(),
        nbr,
        indptr,
        count,
        stat,
        kept,
        d_logit,
        d_dst,
        S,
        nbr.shape[1] if indptr is None else 0,
        H,
        D,
        seed,
        **options(x.dtype, 1.0, negative_slope, dropout),
        CSR=indptr is not None,
        HAS_COUNT=count is not None,
        **_blocks(D, x.device),
    )
    edges = Transposed(nbr, count, indptr, S)
    edge_softmax_aggregate_source_kernel[(S, H)](
        grad,
        edges.root,
        edges.at,
        edges.start,
        kept,
        d_logit,
        d_x,
        d_src,
        H,
        D,
        ACC=acc_type(x.dtype),
        **_blocks(D, x.device),
    )
    return d_x, d_src, d_dst


_INPUTS = {
    **dict.fromkeys(("grad", "x", "src_logit", "dst_logit", "stat", "out", "kept", "d_logit", "d_dst"), "*fp32"),
    **dict.fromkeys(("d_x", "d_src"), "*fp32"),
    **dict.fromkeys(("nbr", "start", "root", "place"), "*i64"),
    **{"count": "*i32", "num_rows": "i32", "K": "i32", "H": "i32", "D": "i32", "seed": "i64"},
}
_OPTIONS = {**options(torch.float32, 1.0, 0.2, 0.5), "CSR": False, "HAS_COUNT": True}
KERNELS = [
    KernelSpec(
        f"edge_softmax_aggregate_{name}_{D}",
        kernel,
        _INPUTS,
        {**constants, **without_warps(_blocks(D))},
        aligned=("D",),
    )
    for name, kernel, constants in (
        ("fwd", edge_softmax_aggregate_fwd_kernel, _OPTIONS),
        ("bwd", edge_softmax_aggregate_bwd_kernel, _OPTIONS),
        ("source", edge_softmax_aggregate_source_kernel, {"ACC": tl.float32}),
    )
    for D in (16, 128)
]
