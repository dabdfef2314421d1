"""Reference for `temporal_attention_layer`: keys and values of one neighbour at a time."""

import torch
from torch import Tensor

from gnnaccel.baselines.reference.relu_norm import relu_norm
from gnnaccel.baselines.reference.temporal_attention import dropout_mask


def temporal_attention_layer(
    node_table: Tensor,
    root_table: Tensor | None,
    root_row: Tensor | None,
    wq: Tensor,
    bq: Tensor,
    wk: Tensor,
    bk: Tensor,
    wv: Tensor,
    bv: Tensor,
    wo: Tensor,
    bo: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
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
    eps: float = 1e-5,
) -> Tensor:
    """`[R, D]` in float64."""
    (R, K), D = nbr_row.shape, wq.shape[0]
    mask = dropout_mask(R, heads, K, dropout, seed)
    roots = node_table if root_table is None else root_table
    floating = (node_table, roots, wq, bq, wk, bk, wv, bv, wo, bo, edge_table, time_w, time_b)
    # so that every input is part of the graph even when there is no neighbour at all
    nothing = sum(t.double().sum() * 0 for t in floating if t is not None)
    out = []
    for r in range(R):
        own = roots[r if root_row is None else root_row[r]].double()
        q = (wq.double() @ torch.cat([own, torch.cos(time_b.double())]) + bq.double()).reshape(heads, D // heads)
        keys, values = [], []
        for k in range(int(count[r])):
            x = [node_table[nbr_row[r, k]].double()]
            if edge_table is not None:
                x.append(edge_table[edge_row[r, k]].double())
            x.append(torch.cos(dt[r, k].double() * time_w.double() + time_b.double()))
            row = torch.cat(x)
            keys.append((wk.double() @ row + bk.double()).reshape(q.shape))
            values.append((wv.double() @ row + bv.double()).reshape(q.shape))
        attended = torch.zeros(q.shape, dtype=torch.float64)
        if keys:
            logit = torch.stack([(q * key).sum(-1) for key in keys])
            p = torch.softmax(torch.where(logit > 0, logit, 0.2 * logit), dim=0)
            for k, value in enumerate(values):
                attended = attended + (p[k] * mask[r, :, k]).unsqueeze(-1) * value
        out.append(wo.double() @ torch.cat([attended.reshape(D), own]) + bo.double())
    rows = torch.stack(out) if out else torch.zeros(0, D, dtype=torch.float64)
    return relu_norm(rows + nothing, norm_weight, norm_bias, dropout=dropout, seed=seed, eps=eps)
