"""Reference for `temporal_attention_projected`: keys and values of one neighbour at a time."""

import torch
from torch import Tensor

from gnnaccel.baselines.reference.temporal_attention import dropout_mask


def temporal_attention_projected(
    q: Tensor,
    wk: Tensor,
    bk: Tensor,
    wv: Tensor,
    bv: Tensor,
    node_table: Tensor,
    edge_table: Tensor | None,
    nbr_row: Tensor,
    edge_row: Tensor,
    dt: Tensor,
    count: Tensor,
    time_w: Tensor,
    time_b: Tensor,
    scale: float = 1.0,
    activation: str = "none",
    dropout: float = 0.0,
    seed: int = 0,
    deterministic: bool = True,
) -> Tensor:
    """`[R, H, d]` in float64."""
    R, H, d = q.shape
    mask = dropout_mask(R, H, nbr_row.shape[1], dropout, seed)
    floating = (q, wk, bk, wv, bv, node_table, edge_table, time_w, time_b)
    # so that every input is part of the graph even when there is no neighbour at all
    nothing = sum(t.double().sum() * 0 for t in floating if t is not None)
    out = []
    for r in range(R):
        keys, values = [], []
        for k in range(int(count[r])):
            x = [node_table[nbr_row[r, k]].double()]
            if edge_table is not None:
                x.append(edge_table[edge_row[r, k]].double())
            x.append(torch.cos(dt[r, k].double() * time_w.double() + time_b.double()))
            row = torch.cat(x)
            keys.append((wk.double() @ row + bk.double()).reshape(H, d))
            values.append((wv.double() @ row + bv.double()).reshape(H, d))
        for h in range(H):
            total = torch.zeros(d, dtype=torch.float64)
            if keys:
                logit = scale * torch.stack([torch.dot(q[r, h].double(), key[h]) for key in keys])
                if activation == "leaky_relu":
                    logit = torch.where(logit > 0, logit, 0.2 * logit)
                p = torch.softmax(logit, dim=0)
                for k, value in enumerate(values):
                    total = total + p[k] * mask[r, h, k] * value[h]
            out.append(total)
    return (torch.stack(out) if out else torch.zeros(0, dtype=torch.float64)).reshape(R, H, d) + nothing
