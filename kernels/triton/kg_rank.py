"""How many candidates stand above and below the true entity: tiles of scores that are counted and forgotten.

What a query leaves out is counted with the rest, then taken off: its scores are made once more, in tiles of their own.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gnnaccel.kernels.triton._kg_tiles import (
    PROJECT,
    SIGNATURE,
    accumulator,
    columns,
    specs,
    tile_scores,
    tiles,
)


@triton.jit
def kg_rank_kernel(
    q,
    n,
    index,
    answers,
    answer_index,
    drop_row,
    drop_index,
    drop_ptr,
    above,
    below,
    B,
    N,
    K,
    splits,
    HAS_INDEX: tl.constexpr,
    KIND: tl.constexpr,
    GAMMA: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    pid = tl.program_id(0)
    i_s, i_split = pid // splits, pid % splits
    o_s = i_s.to(tl.int64) * BLOCK_S + tl.arange(0, BLOCK_S)
    m_s = o_s < B

    # each query's own answer: the diagonal of as many tiles as it takes
    b_true = tl.zeros([BLOCK_S], ACC)
    for j in range(0, BLOCK_S, BLOCK_N):
        o_n = i_s.to(tl.int64) * BLOCK_S + j + tl.arange(0, BLOCK_N)
        m_n = o_n < B
        r_n = tl.load(answer_index + o_n, mask=m_n, other=0)
        b_score = tile_scores(q, answers, o_s, r_n, m_s, m_n, K, KIND, GAMMA, ACC, BLOCK_S, BLOCK_N, BLOCK_K)
        own = o_s[:, None] == o_n[None, :]
        b_true += tl.sum(tl.where(own, b_score, 0.0), axis=1)

    b_above = tl.zeros([BLOCK_S], tl.int32)
    b_below = tl.zeros([BLOCK_S], tl.int32)
    for j in range(i_split * BLOCK_N, N, splits * BLOCK_N):
        o_n = j + tl.arange(0, BLOCK_N)
        m_n = o_n < N
        r_n = tl.load(index + o_n, mask=m_n, other=0) if HAS_INDEX else o_n.to(tl.int64)
        b_score = tile_scores(q, n, o_s, r_n, m_s, m_n, K, KIND, GAMMA, ACC, BLOCK_S, BLOCK_N, BLOCK_K)
        b_above += tl.sum(((b_score > b_true[:, None]) & m_n[None, :]).to(tl.int32), axis=1)
        b_below += tl.sum(((b_score < b_true[:, None]) & m_n[None, :]).to(tl.int32), axis=1)

    end = tl.load(drop_ptr + i_s + 1)
    for j in range(tl.load(drop_ptr + i_s) + i_split * BLOCK_N, end, splits * BLOCK_N):
        o_n = j + tl.arange(0, BLOCK_N)
        m_n = o_n < end
        r_n = tl.load(drop_index + o_n, mask=m_n, other=0)
        own = o_s[:, None] == tl.load(drop_row + o_n, mask=m_n, other=-1)[None, :]
        b_score = tile_scores(q, n, o_s, r_n, m_s, m_n, K, KIND, GAMMA, ACC, BLOCK_S, BLOCK_N, BLOCK_K)
        b_above -= tl.sum(((b_score > b_true[:, None]) & own).to(tl.int32), axis=1)
        b_below -= tl.sum(((b_score < b_true[:, None]) & own).to(tl.int32), axis=1)

    # a split may take off more than it counted, but never this many: the answer is no number
    b_above = tl.where(b_true == b_true, b_above, -2147483648)
    tl.store(above + i_split.to(tl.int64) * B + o_s, b_above, mask=m_s)
    tl.store(below + i_split.to(tl.int64) * B + o_s, b_below, mask=m_s)


_PROGRAMS = 1024  # enough for any GPU


def kg_rank_counts(
    q: Tensor,
    n: Tensor,
    index: Tensor | None,
    answers: Tensor,
    answer_index: Tensor,
    drop_row: Tensor,
    drop_index: Tensor,
    kind: int,
    gamma: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Candidates above and below each query's answer, int64 [B], and whether the answer's score is NaN.

    Candidates are rows of `n`, those of the index or all; the answer of query b is row `answer_index[b]` of `answers`. Row
    `drop_index[i]` of `n`, a candidate, is not counted for query `drop_row[i]`; by ascending query.
    """
    (B, D), N = q.shape, len(n) if index is None else len(index)
    blocks = tiles(kind, q.dtype, q.device)
    per, own = triton.cdiv(B, blocks["BLOCK_S"]), torch.arange(B, device=q.device)
    splits = max(1, min(_PROGRAMS // max(per, 1), triton.cdiv(N, blocks["BLOCK_N"])))
    above, below = (torch.empty((splits, B), dtype=torch.int32, device=q.device) for _ in range(2))
    starts = torch.searchsorted(drop_row, torch.arange(per + 1, device=q.device) * blocks["BLOCK_S"])
    if B:
        kg_rank_kernel[(per * splits,)](
            q,
            n,
            own if index is None else index,
            answers,
            answer_index,
            drop_row,
            drop_index,
            starts,
            above,
            below,
            B,
            N,
            columns(D, kind),
            splits,
            HAS_INDEX=index is not None,
            KIND=kind,
            GAMMA=gamma,
            ACC=accumulator(q.dtype),
            **blocks,
        )
    return above.sum(0), below.sum(0), above[0] == torch.iinfo(torch.int32).min


KERNELS = [
    *specs("kg_rank", kg_rank_kernel, {**SIGNATURE, "above": "*i32", "below": "*i32"}, HAS_INDEX=True),
    PROJECT,
]
