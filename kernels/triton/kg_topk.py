"""The best k of each query: tiles of scores as numbers that order candidates totally, of which `topk` keeps the greatest.

A number has the score's bits above and the position's below, so that equal scores go by the smaller position and no two are
equal. A block of scores of fixed size exists at a time.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gnnaccel.kernels.triton._kg_tiles import SIGNATURE, accumulator, columns, specs, tile_scores, tiles

#: Below every key: nobody.
NOBODY = -(1 << 63)
_LAST = (1 << 32) - 1


@triton.jit
def kg_keys_kernel(
    q,
    n,
    index,
    out,
    B,
    N,
    K,
    first,
    blocks_n,
    HAS_INDEX: tl.constexpr,
    KEYS: tl.constexpr,
    KIND: tl.constexpr,
    GAMMA: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Keys, or (float64) scores, [B, N] of the N candidates; `first` is the position of the first one."""
    pid = tl.program_id(0)
    o_s = (pid // blocks_n).to(tl.int64) * BLOCK_S + tl.arange(0, BLOCK_S)
    o_n = pid % blocks_n * BLOCK_N + tl.arange(0, BLOCK_N)
    m_s, m_n = o_s < B, o_n < N
    r_n = tl.load(index + o_n, mask=m_n, other=0) if HAS_INDEX else o_n.to(tl.int64)
    b_score = tile_scores(q, n, o_s, r_n, m_s, m_n, K, KIND, GAMMA, ACC, BLOCK_S, BLOCK_N, BLOCK_K)
    p_out, mask = out + o_s[:, None] * N + o_n[None, :], m_s[:, None] & m_n[None, :]
    if KEYS:
        b_bits = tl.where(b_score == 0, 0.0, b_score).to(tl.int32, bitcast=True)  # -0 is 0
        b_bits = tl.where(b_bits < 0, b_bits ^ 0x7FFFFFFF, b_bits).to(tl.int64)
        b_place = 0xFFFFFFFF - (first + o_n.to(tl.int64))
        b_key = tl.where(b_score == b_score, b_bits * 4294967296 + b_place[None, :], -9223372036854775808)
        tl.store(p_out, b_key, mask=mask)
    else:
        tl.store(p_out, b_score, mask=mask)


def _launch(q: Tensor, n: Tensor, index: Tensor | None, kind: int, gamma: float, first: int, out: Tensor) -> Tensor:
    (B, D), N = q.shape, out.shape[1]
    blocks = tiles(kind, q.dtype, q.device)
    blocks_n = triton.cdiv(N, blocks["BLOCK_N"])
    if out.numel():
        kg_keys_kernel[(triton.cdiv(B, blocks["BLOCK_S"]) * blocks_n,)](
            q,
            n,
            index,
            out,
            B,
            N,
            columns(D, kind),
            first,
            blocks_n,
            HAS_INDEX=index is not None,
            KEYS=out.dtype == torch.int64,
            KIND=kind,
            GAMMA=gamma,
            ACC=accumulator(q.dtype),
            **blocks,
        )
    return out


def kg_keys(q: Tensor, n: Tensor, index: Tensor | None, kind: int, gamma: float, first: int) -> Tensor:
    """Keys int64 [B, N] of float32 queries [B, D] and candidates: rows of `n`, those of the index or all."""
    N = len(n) if index is None else len(index)
    return _launch(q, n, index, kind, gamma, first, torch.empty((len(q), N), dtype=torch.int64, device=q.device))


def kg_scores(q: Tensor, n: Tensor, index: Tensor | None, kind: int, gamma: float) -> Tensor:
    """Scores [B, N], dtype of q."""
    N = len(n) if index is None else len(index)
    return _launch(q, n, index, kind, gamma, 0, torch.empty((len(q), N), dtype=q.dtype, device=q.device))


def decoded(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Positions and scores of keys; -1 and -inf of nobody."""
    bits = keys >> 32
    bits = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(torch.int32)
    nobody = keys == NOBODY
    scores = torch.where(nobody, -torch.inf, bits.view(torch.float32))
    return torch.where(nobody, -1, _LAST - (keys & _LAST)), scores


KERNELS = specs(
    "kg_topk",
    kg_keys_kernel,
    {**SIGNATURE, "out": "*i64", "first": "i64", "blocks_n": "i32"},
    HAS_INDEX=True,
    KEYS=True,
)
