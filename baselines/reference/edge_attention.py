"""Reference for `edge_attention`: key and value of one edge at a time."""

import math

import torch
from torch import Tensor

from gnnaccel.baselines.reference.temporal_attention import dropout_mask


def edge_attention(
    node_table: Tensor,
    root_table: Tensor | None,
    wq: Tensor,
    bq: Tensor,
    wk: Tensor,
    bk: Tensor,
    wv: Tensor,
    bv: Tensor,
    ws: Tensor,
    bs: Tensor,
    we: Tensor,
    edge_table: Tensor | None,
    nbr_row: Tensor,
    edge_row: Tensor,
    dt: Tensor,
    count: Tensor,
    time_w: Tensor,
    time_b: Tensor,
    heads: int,
    dropout: float = 0.0,
    seed: int = 0,
    time_first: bool = False,
) -> Tensor:
    """`[R, D]` in float64."""
    (R, K), D = nbr_row.shape, wq.shape[0]
    C = D // heads
    mask = dropout_mask(R, heads, K, dropout, seed)
    roots = node_table if root_table is None else root_table
    floating = (node_table, roots, wq, bq, wk, bk, wv, bv, ws, bs, we, edge_table, time_w, time_b)
    # so that every input is part of the graph even when there is no edge at all
    nothing = sum(t.double().sum() * 0 for t in floating if t is not None)
    out = []
    for r in range(R):
        own = roots[r].double()
        query = wq.double() @ own + bq.double()
        keys, values = [], []
        for k in range(int(count[r])):
            edge = [torch.cos(dt[r, k].double() * time_w.double() + time_b.double())]
            if edge_table is not None:
                edge.insert(1 if time_first else 0, edge_table[edge_row[r, k]].double())
            projected = we.double() @ torch.cat(edge)
            row = node_table[nbr_row[r, k]].double()
            keys.append(wk.double() @ row + bk.double() + projected)
            values.append(wv.double() @ row + bv.double() + projected)
        attended = []
        for h in range(heads):
            of = slice(h * C, (h + 1) * C)
            total = torch.zeros(C, dtype=torch.float64)
            if keys:
                p = torch.softmax(torch.stack([query[of] @ key[of] / math.sqrt(C) for key in keys]), dim=0)
                for k, value in enumerate(values):
                    total = total + p[k] * mask[r, h, k] * value[of]
            attended.append(total)
        out.append(torch.cat(attended) + ws.double() @ own + bs.double())
    return (torch.stack(out) if out else torch.zeros(0, D, dtype=torch.float64)) + nothing
